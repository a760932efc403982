"""What people are told of a vCenter, by a service from end to end: its log, a webhook, the commands, the metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cli.main import run
from contracts import ids
from tests.listeners.conftest import until
from tests.listeners.posting import PostingSimulator
from tests.listeners.proxy import Proxy, proxy_to
from tests.listeners.test_metrics import Scraped, free_port, scrape
from tests.support.webhook_receiver import Receiver
from tests.workers.conftest import PATIENCE_S, Service, new_name

LIMIT_S = 4

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def simulator() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=2, gpus=1, vms=0, time_scale=300, seed=7) as running:
        yield running


class Told:
    """A service whose vCenter is behind a network that fails, and who is told of it."""

    def __init__(
        self,
        service: Service,
        simulator: PostingSimulator,
        proxy: Proxy,
        receiver: Receiver,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.service, self.proxy, self.receiver, self._simulator = service, proxy, receiver, simulator
        self._capsys = capsys
        self.vcenter = new_name()
        self._metrics = f"127.0.0.1:{free_port()}"

    def configure(self) -> Path:
        settings = self._simulator.settings(self.vcenter, url=f"https://127.0.0.1:{self.proxy.port}")
        webhook = self.receiver.settings("alerts")
        self.path = self.service.write(
            settings.model_dump(mode="json", exclude_none=True),
            webhooks=[webhook.model_dump(mode="json", exclude_none=True)],
            watch={"unreachable_after_s": LIMIT_S},
            metrics={"listen": self._metrics},
        )
        return self.path

    def notices(self) -> list[dict[str, Any]]:
        """What the webhook took, each once."""
        return list({event["id"]: event["data"] for event in self.receiver.taken}.values())

    async def told(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The newest notice of this kind with these fields, once the webhook has it."""

        async def look() -> list[dict[str, Any]]:
            return [each for each in self.notices() if each["kind"] == kind and each.items() >= fields.items()]

        return (await until(look, bool, PATIENCE_S))[-1]

    async def text(self, *arguments: str, status: int) -> str:
        """What a command prints."""
        ended = await asyncio.to_thread(run, [*arguments, "--config", str(self.path)])
        said = self._capsys.readouterr()
        assert ended == status, said.out + said.err
        return said.out

    async def command(self, *arguments: str, status: int) -> Any:
        """The document that a command prints."""
        return json.loads(await self.text(*arguments, "--json", status=status))

    async def scraped(self) -> Scraped:
        return await asyncio.to_thread(scrape, self._metrics, self.vcenter)

    async def act(self, action: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(self._simulator.act, action, **arguments)


@pytest_asyncio.fixture
async def told(
    service: Service, simulator: PostingSimulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Told]:
    folder = tmp_path / "webhook"
    folder.mkdir()
    async with proxy_to(simulator.port) as proxy, Receiver(folder) as receiver:
        yield Told(service, simulator, proxy, receiver, capsys)


async def test_a_vcenter_that_is_down_is_told_and_then_that_it_is_back(told: Told) -> None:
    async with told.service.running(told.configure()):
        await told.service.followed(told.vcenter)
        assert await told.command("notices", status=0) == []
        # The webhook is out of order at first.
        told.receiver.behaviour = lambda _: web.Response(status=503) if len(told.receiver.requests) < 3 else None
        await told.proxy.down()
        raised = await told.told("vcenter_unreachable", vcenter=told.vcenter, severity="critical")
        assert "cannot be read since" in raised["happened"]
        assert raised["workflow_id"] == ids.watch(told.vcenter)
        assert (await told.service.logged("notice", id=raised["id"]))["level"] == "error"
        assert (await told.scraped())("vcenter_unreachable") == 1
        [status] = await told.command("watch", "status", status=2)
        assert status["status"]["outage"]["notice_id"] == raised["id"]
        assert "UTC; people were told" in await told.text("watch", "status", status=2)
        assert f"{told.vcenter}\tcritical\t{raised['happened']}\topen" in await told.text("notices", status=2)
        [listed] = await told.command("notices", "--open", "--vcenter", told.vcenter, status=2)
        assert (listed["id"], listed["state"]) == (raised["id"], "open")
        await told.proxy.up()
        over = await told.told("vcenter_unreachable", vcenter=told.vcenter, clears=raised["id"])
        assert (over["severity"], "no event was missed" in over["means"]) == ("info", True)
        await until(told.scraped, lambda seen: seen("vcenter_unreachable") == 0, PATIENCE_S)
        assert (await told.service.status(told.vcenter)).outage is None
        assert await told.command("notices", "--open", status=0) == []

        async def states() -> Any:
            listed = await told.command("notices", "--vcenter", told.vcenter, status=0)
            return [(each["id"], each["state"], sorted(c["channel"] for c in each["channels"])) for each in listed]

        both = ["log", "webhook/alerts"]
        await until(states, lambda seen: seen == [(over["id"], "clears", both), (raised["id"], "cleared", both)], 60)
        assert len(told.notices()) == 2


async def test_purged_events_are_told_and_the_fleet_is_looked_at(told: Told) -> None:
    async with told.service.running(told.configure()):
        begun = await told.service.followed(told.vcenter)
        await told.proxy.down()
        await told.act("post_backlog", count=50)
        await told.act("purge_events", keep=10)
        await told.proxy.up()
        missing = await told.told("events_missing", vcenter=told.vcenter)
        status = await until(
            lambda: told.service.status(told.vcenter), lambda s: bool(s.looked) and not s.unseen, PATIENCE_S
        )
        [gap] = status.gaps
        assert begun.cursor is not None
        assert gap.after_key >= begun.cursor.key
        assert gap.before_key > gap.after_key + 1
        assert f"after event {gap.after_key} of" in missing["happened"]
        assert f"events {gap.after_key + 1} to {gap.before_key - 1} are no longer kept" in missing["happened"]
        assert "looks at the whole fleet" in status.looked
        assert (await told.scraped())("event_gaps_total") == 1
        listed = await told.command("notices", status=0)
        assert (missing["id"], "told") in [(each["id"], each["state"]) for each in listed]
