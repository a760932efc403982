"""The cursor tells the truth: whatever becomes of vCenter's log, each event is handed over once or a gap says so."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.fleet import VCenterFleetActivities
from contracts import ids
from contracts.events import EventKey
from contracts.names import TaskQueues
from contracts.notices import Severity
from contracts.rules import RulesFile
from contracts.watch import Gap, QuarantinedEvent, WatchStatus
from listeners import following
from tests.listeners.conftest import Watched, rules, until, watch_of
from tests.listeners.posting import PostingSimulator
from tests.listeners.scenes import LONG_S, Scene, whatever_is_asked_for
from tests.listeners.test_metrics import Endpoint
from tests.support.ledger import account
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import DevServer


@pytest.fixture(scope="module")
def logging() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=3, gpus=1, vms=2, time_scale=300, seed=12) as running:
        yield running


@pytest_asyncio.fixture
async def watched(
    temporal_client: Client, temporal_server: DevServer, logging: PostingSimulator, queues: TaskQueues
) -> AsyncIterator[Watched]:
    """A watch of the simulator that the tests of this file share, without what the test before left in its log.

    Events of a life before, with keys that are still to come, would be there for a collector that begins just now.
    """
    logging.act("purge_events", keep=1)
    async with watch_of(temporal_client, temporal_server.address, logging, queues) as watched:
        yield watched


@asynccontextmanager
async def looks(watched: Watched) -> AsyncIterator[WorkflowHandle[object, object]]:
    """Somebody who has the fleet looked at after gaps: the run that is started then, which nobody carries out."""
    fleet = VCenterFleetActivities({}, RulesFile(), f"{watched.queues.main}-fleet")
    run: WorkflowHandle[object, object] = watched.client.get_workflow_handle(ids.reconcile_fleet(watched.vcenter))
    async with Worker(watched.client, task_queue=watched.queues.wait, activities=[fleet.look_after_gap]):
        yield run
        # It fails where there is none.
        await run.terminate("the test is over")


async def looked(watched: Watched) -> WatchStatus:
    """Wait until the fleet is looked at after all gaps there were."""
    return await until(watched.status, lambda status: bool(status.looked) and not status.unseen, LONG_S)


def test_the_account_tells_what_is_lost_doubled_and_in_a_gap() -> None:
    def events(epoch: int, *keys: int) -> list[EventKey]:
        return [EventKey(epoch=f"uuid.{epoch}", key=key) for key in keys]

    now = datetime.now(UTC)
    gaps = [
        Gap(epoch="uuid.0", after_key=3, before_key=5, since=now, reason=""),
        Gap(epoch="uuid.0", after_key=9, before_key=0, since=now, reason=""),
    ]
    kept = [QuarantinedEvent(epoch="uuid.0", key=6, reason="")]
    said = account(
        {"a": [[1, 2, 3, 4, 5, 6, 8, 10, 11], [10, 11]], "b": [[7], []]},
        {"a": {"1": events(0, 1, 2, 3, 3, 8), "2": events(0, 2) + events(1, 8, 10)}, "b": {"3": events(0, 7, 1)}},
        gaps,
        kept,
    )
    assert said.given == {"a 0 1", "a 0 2", "a 0 3", "a 0 8", "a 1 10", "b 0 7"}
    assert said.in_gaps == {"a 0 4", "a 0 10", "a 0 11"}
    assert said.quarantined == {"a 0 6"}
    assert said.lost == {"a 0 5", "a 1 11"}
    assert said.doubled == {"a 0 2"}
    assert said.repeated == {"a 0 3"}
    assert said.shown_again == {"a 0 8"}
    assert said.unknown == {"b 0 1"}


async def test_thousands_of_events_of_one_moment_outlive_a_take_over_amid_them(watched: Watched) -> None:
    async with watched.workers(rules(), only="workflows"):
        async with watched.workers(rules(), only="listen"):
            scene = await Scene.begin(watched)
            await scene.backlog(50)
            before = (await scene.settled()).given
        # All created in the same moment: five pages of 1,000, begun and ended amid them.
        await scene.backlog(300)
        await scene.backlog(5000)
        doomed = await watched.worker_process(rules(), die=len(scene.hosts) + 1)
        async with scene.storm():
            async with scene.trouble():
                await asyncio.to_thread(doomed.wait, LONG_S)
                assert doomed.returncode == -signal.SIGKILL
                amid = (await scene.account()).given
                assert before < amid
                assert (await scene.account()).lost
            async with watched.workers(rules(), only="listen"):
                await scene.settled()
        async with watched.workers(rules(), only="listen"):
            said, status = await scene.end()
        assert amid < said.given
        assert len(said.given) > 500
        assert status.counters.pages >= 5
        assert status.gaps == ()


@whatever_is_asked_for
@pytest.mark.parametrize("how", ["restored", "unnoticed"])
async def test_keys_that_go_back_while_events_come_are_a_new_epoch_a_gap_and_a_look(
    watched: Watched, how: str, ruled: dict[str, Any]
) -> None:
    """Restored, vCenter comes back without sessions and without its newest events; else only its keys go back."""
    async with watched.workers(ruled), looks(watched) as look:
        scene = await Scene.begin(watched)
        await scene.backlog(500)
        async with scene.storm():
            newest = await scene.newest_handed_over()
            async with scene.trouble():
                if how == "restored":
                    log = await scene.act("event_log")
                    begins = await scene.act("restore_vcenter", lose=log["next_key"] - newest + 200)
                else:
                    begins = newest - 200
                    await scene.act("set_next_event_key", key=begins)
                assert begins < newest
                await until(watched.status, lambda status: bool(status.gaps), LONG_S)
        status = await looked(watched)
        assert ids.reconcile_fleet(watched.vcenter) in status.looked
        assert (await look.describe()).id == ids.reconcile_fleet(watched.vcenter)
        _, status = await scene.end()
        [gap] = status.gaps
        assert "vCenter was restored from a backup" in gap.reason
        assert gap.epoch == scene.begun_at.epoch
        assert gap.after_key >= newest
        [notice] = await scene.notices()
        assert (notice.kind, notice.severity) == ("events_missing", Severity.CRITICAL)
        assert status.cursor is not None
        assert status.cursor.epoch == f"{gap.epoch.rpartition('.')[0]}.1"


@pytest.mark.parametrize("read", [True, False], ids=["while read", "while nobody reads"])
async def test_keys_that_went_back_and_are_past_the_cursor_again_are_noticed(watched: Watched, read: bool) -> None:
    """By the newest key alone nothing happened."""
    async with watched.workers(rules(), only="workflows"), looks(watched):
        async with watched.workers(rules(), only="listen"):
            scene = await Scene.begin(watched)
            await scene.backlog(500)
            await scene.settled()
            newest = await scene.newest_handed_over()
            if read:
                await scene.act("set_next_event_key", key=newest - 300)
                await scene.backlog(2000)
                await until(watched.status, lambda status: bool(status.gaps), LONG_S)
                async with scene.storm():
                    await looked(watched)
        if not read:
            log = await scene.act("event_log")
            await scene.act("restore_vcenter", lose=log["next_key"] - newest + 300)
            await scene.backlog(2000)
        async with watched.workers(rules(), only="listen"):
            async with scene.storm():
                status = await looked(watched)
            _, status = await scene.end()
        [gap] = status.gaps
        assert "vCenter was restored from a backup" in gap.reason
        assert gap.after_key >= newest


@whatever_is_asked_for
@pytest.mark.parametrize("taken_over", [False, True], ids=["by the same reader", "by another one"])
async def test_events_behind_a_step_back_of_the_clock_are_handed_over(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, taken_over: bool, ruled: dict[str, Any]
) -> None:
    """They are older than the cursor's event, and older than what the collector began with."""
    monkeypatch.setattr(following, "_SILENCE_S", 2)
    async with AsyncExitStack() as stack, watched.workers(ruled, only="workflows"):
        async with watched.workers(ruled, only="listen"):
            scene = await Scene.begin(watched)
            await scene.backlog(200)
            async with scene.storm():
                if not taken_over:
                    async with scene.trouble():
                        stack.push_async_callback(scene.act, "step_clock", seconds=600)
                        await scene.act("step_clock", seconds=-600)
                        behind = await scene.posted()
                        await until(scene.handed_over, lambda count: count > behind, LONG_S)
        if taken_over:
            stack.push_async_callback(scene.act, "step_clock", seconds=600)
            await scene.act("step_clock", seconds=-600)
        async with watched.workers(ruled, only="listen"):
            async with scene.storm():
                pass
            _, status = await scene.end()
        assert status.gaps == ()


async def test_a_backlog_of_20000_events_is_read_after_downtime(watched: Watched) -> None:
    async with watched.workers(rules(), only="workflows"):
        async with watched.workers(rules(), only="listen"):
            scene = await Scene.begin(watched)
            async with scene.storm():
                pass
            await scene.settled()
        await scene.backlog(20_000, matching=0.02, over_s=600.0)
        async with watched.workers(rules(), only="listen"):
            async with scene.storm():
                pass
            said, status = await scene.end()
        assert len(said.given) >= 400
        assert status.gaps == ()


@whatever_is_asked_for
async def test_purged_history_is_a_gap_a_metric_a_look_a_notice_and_never_silence(
    watched: Watched, ruled: dict[str, Any]
) -> None:
    endpoint = Endpoint(watched.vcenter)
    client = await connect(TemporalSettings(address=watched.address), runtime=endpoint.runtime)
    async with watched.workers(ruled, only="workflows"), looks(watched) as look:
        async with watched.workers(ruled, only="listen"):
            scene = await Scene.begin(watched)
            async with scene.storm():
                pass
            await scene.settled()
        newest = await scene.newest_handed_over()
        await scene.backlog(3000)
        await scene.act("purge_events", keep=1000)
        first = (await scene.act("event_log"))["first_key"]
        async with watched.workers(ruled, only="listen", client=client):
            async with scene.storm():
                status = await looked(watched)
            await endpoint.scraped(lambda seen: seen("event_gaps_total") == 1)
            described = await look.describe()
            assert "no longer kept by vCenter" in str(await described.static_summary())
            said, status = await scene.end()
        [gap] = status.gaps
        assert (gap.after_key >= newest, gap.before_key) == (True, first)
        [notice] = await scene.notices()
        assert (notice.kind, notice.severity) == ("events_missing", Severity.WARNING)
        assert gap.reason in notice.happened
        assert said.in_gaps
        assert max(int(name.split()[-1]) for name in said.in_gaps) < first
