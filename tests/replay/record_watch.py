"""Record histories of watches for the replay test: `python -m tests.replay.record_watch FOLDER` (one a release).

Each is a real watch of a vcsim; the open ones are what an upgrade meets.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from pyVmomi import vim
from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from contracts import names
from contracts.names import TaskQueues
from contracts.reconcile import LookAfterGap
from contracts.watch import Redrive, RedriveResult, WatchInput, WatchProgress
from tests.listeners.conftest import Watched, rules, until, watch_of
from tests.listeners.posting import PostingVcsim
from tests.replay.record import save
from workers.temporal_server import temporal_server

__all__ = ["SCENES"]


async def open_following(watched: Watched) -> None:
    await hand_over(watched, 1)


async def stopped(watched: Watched) -> None:
    await hand_over(watched, 1)
    await watched.watch.signal(names.STOP)
    await watched.watch.result()


async def open_continued(watched: Watched) -> None:
    await hand_over(watched, 1)
    first_run = (await watched.watch.describe()).run_id
    # Temporal suggests a new run at 4 MB of history. Nobody believes these: they are of an older round.
    for _ in range(6):
        await watched.watch.signal(names.WATCH_PROGRESS, WatchProgress(round=0, attempt=0, trouble="x" * 1_300_000))

    async def run() -> str:
        return str((await watched.watch.describe()).run_id)

    await until(run, lambda run: run != first_run)
    await hand_over(watched, 2)


async def hand_over(watched: Watched, count: int) -> None:
    """An event that is quarantined, one that starts a run, and the watch knows of both."""
    await watched.post_about(vim.event.HostAddedEvent, vim.HostSystem("host-9999"), "esx-gone")
    await watched.post(vim.event.HostAddedEvent, watched.hosts[count])
    await until(watched.status, lambda status: status.counters.started == count and len(status.quarantined) == count)


@activity.defn(name="look_after_gap")
async def look_after_gap(order: LookAfterGap) -> str:
    return "looks at the whole fleet"


async def open_after_gap(watched: Watched) -> None:
    """A watch that goes on where one of another vCenter ended."""
    await watched.watch.signal(names.STOP)
    ended = await watched.watch.result()
    assert ended.cursor is not None
    async with Worker(watched.client, task_queue=watched.queues.wait, activities=[look_after_gap]):
        await watched.client.start_workflow(
            names.WATCH_VCENTER,
            WatchInput(vcenter=watched.vcenter, cursor=ended.cursor.model_copy(update={"epoch": "another.0"})),
            id=watched.watch.id,
            task_queue=watched.queues.main,
        )
        await until(watched.status, lambda status: bool(status.looked) and status.unseen == ())
    await hand_over(watched, 1)


async def open_redriven(watched: Watched) -> None:
    """A quarantined event fails again, and is kept."""
    await hand_over(watched, 1)
    async with watched.redriver(rules()):
        [became] = (await watched.watch.execute_update(names.REDRIVE, Redrive(), result_type=RedriveResult)).events
    assert not became.settled


async def open_unreachable(watched: Watched) -> None:
    """vCenter does not answer for longer than its limit, and people are told."""
    await watched.watch.signal(names.WATCH_PROGRESS, WatchProgress(round=2, attempt=1, unreachable_after_s=2))
    await asyncio.to_thread(watched.server.stop)
    await watched.watch.signal(
        names.WATCH_PROGRESS, WatchProgress(round=2, attempt=999, unreachable_after_s=2, trouble="no answer")
    )
    await until(watched.status, lambda status: status.outage is not None and bool(status.outage.notice_id))


SCENES: tuple[Callable[[Watched], Awaitable[None]], ...] = (
    open_following,
    stopped,
    open_continued,
    open_after_gap,
    open_redriven,
    open_unreachable,
)


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        async with temporal_server(Path(scratch), print) as (address, _):
            # The reader's identity is told in its messages, too, and is to be nobody's machine.
            client = await Client.connect(address, identity="recorder", data_converter=pydantic_data_converter)
            for scene in SCENES:
                with PostingVcsim() as vcsim:
                    async with watch_of(client, address, vcsim, TaskQueues(f"record-{scene.__name__}")) as watched:
                        # Of its own: what runs of another scene were given would be known.
                        watched.vcenter = "recorded-" + scene.__name__.replace("_", "-")
                        async with watched.workers(rules()):
                            await watched.start()
                            await watched.begun()
                            await scene(watched)
                            history = await watched.watch.fetch_history()
                        save(folder / f"watch_vcenter.{scene.__name__}.json", history)
                        print(scene.__name__, len(history.events), "events")


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
