"""Whatever goes wrong while events are posted, each is handed over once, by the simulator's own ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client

from contracts import names
from contracts.names import TaskQueues
from listeners import following
from listeners.reading import Reading
from tests.listeners.conftest import Watched, rules, until, watch_of
from tests.listeners.posting import PostingSimulator
from tests.listeners.scenes import LONG_S, Scene, whatever_is_asked_for
from tests.listeners.test_take_over import reader_of
from workers.temporal_server import DevServer


@pytest.fixture(scope="module")
def troubled() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=3, gpus=1, vms=2, time_scale=300, seed=11) as running:
        yield running


@pytest_asyncio.fixture
async def watched(
    temporal_client: Client, temporal_server: DevServer, troubled: PostingSimulator, queues: TaskQueues
) -> AsyncIterator[Watched]:
    """A watch of the simulator that the tests of this file share."""
    async with watch_of(temporal_client, temporal_server.address, troubled, queues) as watched:
        yield watched


class Comparisons:
    """How often the reader held its collector against the newest event, until it made a new one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.until_rebuilt: int | None = None
        latest, reopen = Reading.latest, following.Follower._open

        async def counted(reading: Reading) -> object:
            self.number += 1
            return await latest(reading)

        async def noted(follower: following.Follower) -> None:
            await reopen(follower)
            if self.until_rebuilt is None:
                self.until_rebuilt = self.number

        monkeypatch.setattr(Reading, "latest", counted)
        monkeypatch.setattr(following.Follower, "_open", noted)


@whatever_is_asked_for
@pytest.mark.parametrize("silent", [False, True], ids=["loud", "silent"])
async def test_a_stalled_collector_is_rebuilt_within_two_comparisons(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, silent: bool, ruled: dict[str, Any]
) -> None:
    """Loud, it tells of news that it does not show; silent, it does not even tell."""
    monkeypatch.setattr(following, "_SILENCE_S", 2)
    async with watched.workers(ruled):
        scene = await Scene.begin(watched)
        async with scene.storm(), scene.trouble():
            assert await scene.act("stall_collectors", silent=silent) == 1
            compared = Comparisons(monkeypatch)
            stalled_at = await scene.posted()
            await until(scene.handed_over, lambda count: count > stalled_at, LONG_S)
        _, status = await scene.end()
        # The same with a collector that shows only what rules need.
        assert status.narrowed.startswith("narrowed to" if ruled["rules"][0]["on"] == ["HostAddedEvent"] else "not")
        # One that was under way as the collector stalled may have seen what it had read by then.
        assert compared.until_rebuilt is not None
        assert 1 <= compared.until_rebuilt <= 2
        assert status.counters.rebuilt == 1
        assert status.gaps == ()


@whatever_is_asked_for
@pytest.mark.parametrize("count", [3000, 12_000])
async def test_a_run_of_hidden_events_stalls_nothing(watched: Watched, count: int, ruled: dict[str, Any]) -> None:
    async with watched.workers(ruled):
        scene = await Scene.begin(watched)
        async with scene.storm(), scene.trouble():
            await scene.act("post_hidden_events", count=count)
        _, status = await scene.end()
        assert status.counters.rebuilt == 0
        assert status.gaps == ()


async def test_hidden_events_just_before_the_cursor_stall_nothing(watched: Watched) -> None:
    """A collector begins a little before the cursor, so that it shows them first."""
    assert isinstance(watched.server, PostingSimulator)
    for action, count in (("post_backlog", 200), ("post_hidden_events", 5000), ("post_backlog", 200)):
        await asyncio.to_thread(watched.server.act, action, count=count)
    async with watched.workers(rules()):
        scene = await Scene.begin(watched)
        async with scene.storm():
            pass
        _, status = await scene.end()
        assert status.counters.rebuilt == 0
        assert status.gaps == ()


async def test_hidden_events_at_the_end_of_the_log_are_nobodys_stall(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_SILENCE_S", 1)
    async with watched.workers(rules()):
        scene = await Scene.begin(watched)
        async with scene.storm():
            pass
        await scene.act("post_hidden_events", count=3000)
        compared = Comparisons(monkeypatch)

        async def often() -> bool:
            return compared.number >= 3

        await until(often, bool, LONG_S)
        async with scene.storm(matching=1.0):
            pass
        _, status = await scene.end()
        assert status.counters.rebuilt == 0
        assert status.gaps == ()


async def test_a_dead_session_costs_nothing(watched: Watched) -> None:
    async with watched.workers(rules()):
        scene = await Scene.begin(watched)
        async with scene.storm(), scene.trouble():
            assert await asyncio.to_thread(scene.server.kill_sessions) >= 1
        _, status = await scene.end()
        assert status.gaps == ()


async def test_a_watch_begins_also_where_the_pooled_session_is_dead(watched: Watched) -> None:
    """A look at the inventory opened it; the watch's first call needs nothing but the newest event."""
    async with watched.workers(rules()) as pool:
        assert isinstance(watched.server, PostingSimulator)
        await asyncio.to_thread(watched.server.hang_up)
        assert await asyncio.to_thread(lambda: pool.api_version) == "8.0.2.0"
        assert await asyncio.to_thread(watched.server.kill_sessions) >= 1
        scene = await Scene.begin(watched)
        async with scene.storm():
            pass
        await scene.end()


async def test_a_frozen_worker_is_replaced_and_thaws_beside_its_successor(watched: Watched) -> None:
    async with watched.workers(rules(), only="workflows"):
        for _ in range(2):
            await watched.worker_process(rules(), only="listen")
        scene = await Scene.begin(watched)
        async with scene.storm():
            async with scene.trouble():
                frozen = await reader_of(watched)
                os.kill(frozen, signal.SIGSTOP)
                stopped_at = await scene.posted()
                await until(scene.handed_over, lambda count: count > stopped_at, LONG_S)
            os.kill(frozen, signal.SIGCONT)
        _, status = await scene.end()
        assert status.gaps == ()


async def test_a_vcenter_that_restarts_is_read_on(watched: Watched) -> None:
    async with watched.workers(rules()):
        scene = await Scene.begin(watched)
        async with scene.storm(), scene.trouble():
            await scene.outage(3, restart=True)
        _, status = await scene.end()
        assert status.gaps == ()


@pytest.mark.parametrize("lossy", [False, True], ids=["whole", "without the last second"])
async def test_a_vcenter_that_fails_over_is_read_on(watched: Watched, lossy: bool) -> None:
    """VCHA: the passive node is the same vCenter without sessions, and maybe without what came last."""
    async with watched.workers(rules()):
        scene = await Scene.begin(watched)
        await scene.backlog(500)
        async with scene.storm():
            newest = await scene.newest_handed_over()
            async with scene.trouble():
                lose = (await scene.act("event_log"))["next_key"] - newest + 200 if lossy else 0
                await scene.outage(2, restart=True, lose=lose)
                if lossy:
                    # Its keys are given out again by now, and are past the cursor soon.
                    status = await until(watched.status, lambda status: bool(status.gaps), LONG_S)
                    assert status.gaps[0].after_key >= newest
        _, status = await scene.end()
        assert len(status.gaps) == int(lossy)


async def test_a_certificate_renewed_by_the_same_ca_is_trusted(watched: Watched) -> None:
    async with watched.workers(rules()):
        scene = await Scene.begin(watched)
        async with scene.storm(), scene.trouble():
            await scene.outage(1, renewed_certificate=True)
        _, status = await scene.end()
        assert status.gaps == ()


async def test_certificates_of_a_ca_in_the_same_bundle_are_trusted(watched: Watched, tmp_path: Path) -> None:
    """As it is put on disk before vCenter gets its new certificate: both CAs in one file."""
    assert isinstance(watched.server, PostingSimulator)
    bundle, old = tmp_path / "cas.pem", watched.server.ca_file.read_text()
    bundle.write_text(old)
    async with watched.workers(rules(), ca_file=bundle):
        scene = await Scene.begin(watched)
        async with scene.storm(), scene.trouble():
            away = asyncio.create_task(scene.outage(5, new_certificate=True))

            async def new() -> str:
                return scene.server.ca_file.read_text()

            bundle.write_text(old + await until(new, lambda new: new not in (old, ""), 4))
            await away
        _, status = await scene.end()
        assert status.gaps == ()


async def test_a_pinned_certificate_that_is_replaced_on_disk_is_trusted(watched: Watched, tmp_path: Path) -> None:
    pinned, there = tmp_path / "pinned.pem", (watched.server.host, watched.server.port)
    pinned.write_text(ssl.get_server_certificate(there))
    async with watched.workers(rules(), ca_file=None, server_cert_file=pinned):
        scene = await Scene.begin(watched)
        async with scene.storm(), scene.trouble():
            await scene.outage(1, new_certificate=True)
            # Nobody is trusted who is not the pinned one; it waits for a person.
            status = await until(watched.status, lambda status: "BadRequest" in status.trouble, LONG_S)
            assert str(pinned) in status.trouble
            pinned.write_text(await asyncio.to_thread(ssl.get_server_certificate, there))
            await watched.watch.signal(names.RECHECK)
        _, status = await scene.end()
        assert status.gaps == ()
