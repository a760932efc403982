"""What Prometheus scrapes of the listener, from the endpoint of a real worker's runtime."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from urllib.request import urlopen

import pytest
from pyVmomi import vim

from listeners import metrics
from listeners.metrics import EventMetrics
from tests.listeners.conftest import Watched, rules, until
from tests.listeners.proxy import proxy_to
from workers.client import connect, runtime_for
from workers.settings import MetricsSettings, TemporalSettings

_LINE = re.compile(r"^(gpuwright_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Scraped:
    """Values by metric, of one vCenter, all labels but its own ignored unless asked for."""

    def __init__(self, text: str, vcenter: str) -> None:
        self.text = text
        lines = ((name, dict(_LABEL.findall(labels)), value) for name, labels, value in _LINE.findall(text))
        self._lines = [line for line in lines if line[1].get("vcenter") == vcenter]

    def __repr__(self) -> str:
        return self.text

    def __call__(self, name: str, **labels: str) -> float | None:
        found = [float(v) for n, has, v in self._lines if n == f"gpuwright_{name}" and labels.items() <= has.items()]
        return sum(found) if found else None


def scrape(address: str, vcenter: str) -> Scraped:
    """What the endpoint at `host:port` serves now."""
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return Scraped(answer.read().decode(), vcenter)


class Endpoint:
    """A runtime as the service makes it, and its `/metrics`."""

    def __init__(self, vcenter: str) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        self._vcenter = vcenter
        self.runtime = runtime_for(MetricsSettings(listen=self._address))

    async def scraped(self, wanted: Callable[[Scraped], bool]) -> Scraped:
        """Scrape until it is as wanted."""
        return await until(lambda: asyncio.to_thread(scrape, self._address, self._vcenter), wanted, 60)


async def test_what_the_listener_does_is_scraped(watched: Watched) -> None:
    endpoint = Endpoint(watched.vcenter)
    client = await connect(TemporalSettings(address=watched.address), runtime=endpoint.runtime)
    host = watched.hosts[0]
    async with (
        proxy_to(watched.server.port) as proxy,
        watched.workers(rules(), client=client, url=f"https://127.0.0.1:{proxy.port}"),
    ):
        await watched.start()
        await watched.begun()
        before = await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 0)
        # Totals are there before anything happened.
        assert before("event_gaps_total") == before("events_quarantined_total") == before("events_redriven_total") == 0
        await watched.post(vim.event.HostAddedEvent, host)
        await until(lambda: watched.keys(host), bool)
        await watched.post(vim.event.HostAddedEvent, host)
        await until(lambda: watched.keys(host), lambda keys: len(keys) == 2)
        await watched.post_about(vim.event.HostAddedEvent, vim.HostSystem("host-9999"), "esx-gone")

        seen = await endpoint.scraped(
            lambda seen: seen("events_quarantined_total") == 1 and seen("events_matched_total") == 3
        )
        assert seen("runs_started_total", rule="prepare") == 1
        assert seen("groups_joined_total", rule="prepare") == 1
        assert (seen("events_read_total") or 0) >= 3
        assert seen("hand_over_seconds_count") == 2
        assert 0 < (seen("hand_over_seconds_sum") or 0) < 60
        assert seen("hand_over_seconds_bucket", le="0.005") is not None
        lag = seen("event_lag_seconds")
        assert lag is not None
        assert 0 <= lag < 60
        cursor = (await watched.status()).cursor
        assert cursor is not None
        assert seen("event_cursor_key") == max(await watched.keys(host)) + 1 >= cursor.key
        assert "# TYPE gpuwright_events_read_total counter" in seen.text
        assert "# TYPE gpuwright_hand_over_seconds histogram" in seen.text

        await proxy.down()
        await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 1)
        await proxy.up()
        await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 0)


async def test_a_reader_that_went_elsewhere_leaves_no_alarm_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_STALE_S", 2)
    endpoint = Endpoint("vc-left")
    ours = EventMetrics(endpoint.runtime.metric_meter, "vc-left")
    ours.unreachable()
    await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 1)
    await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 0)


async def test_a_refused_login_stays_an_alarm_until_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_STALE_S", 0.1)
    endpoint = Endpoint("vc-refusing")
    ours = EventMetrics(endpoint.runtime.metric_meter, "vc-refusing")
    ours.unreachable(tried_again_soon=False)
    await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 1)
    await asyncio.sleep(1)
    await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 1)
    ours.reachable()
    await endpoint.scraped(lambda seen: seen("vcenter_unreachable") == 0)
