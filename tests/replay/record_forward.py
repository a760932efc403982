"""Record histories of forwards for the replay test: `python -m tests.replay.record_forward FOLDER` (one a release).

Each is a real forward from the simulator to a webhook; the open ones are what an upgrade meets.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from contracts import names
from contracts.names import TaskQueues
from contracts.watch import UNREACHABLE_AFTER_S, WatchProgress
from tests.listeners.conftest import until, watch_of
from tests.listeners.posting import PostingSimulator
from tests.listeners.test_forward_events import Forwarding
from tests.replay.record import save
from tests.support.webhook_receiver import Receiver
from workers.temporal_server import temporal_server

__all__ = ["SCENES"]


async def open_forwarding(forwarding: Forwarding) -> None:
    """One event is refused, and its neighbours are taken."""
    forwarding.receiver.behaviour = lambda request: (
        web.Response(status=422) if request.events[0]["subject"] == "HostAddedEvent" else None
    )
    await forwarding.act("post_backlog", count=10, matching=0.1)
    await until(forwarding.status, lambda status: len(status.quarantined) == 1 and status.counters.matched >= 9)


async def open_waiting(forwarding: Forwarding) -> None:
    """The webhook is in trouble."""
    forwarding.receiver.behaviour = lambda _: web.Response(status=503)
    await forwarding.act("post_backlog", count=10)
    await until(forwarding.status, lambda status: bool(status.trouble))


async def open_told(forwarding: Forwarding) -> None:
    """People were told that the webhook is in trouble, and that it is over, and are told of the next."""
    await open_waiting(forwarding)
    await until(forwarding.status, lambda status: bool(status.outage and status.outage.notice_id), 60)
    forwarding.receiver.behaviour = lambda _: None
    await until(forwarding.status, lambda status: status.outage is None, 60)
    await open_waiting(forwarding)
    await until(forwarding.status, lambda status: bool(status.outage and status.outage.notice_id), 60)


async def open_after_gap(forwarding: Forwarding) -> None:
    await forwarding.act("post_backlog", count=10)
    await forwarding.act("restore_vcenter", lose=8)
    await until(forwarding.status, lambda status: bool(status.gaps) and status.round >= 3, 60)


async def open_continued(forwarding: Forwarding) -> None:
    await open_forwarding(forwarding)
    first_run = (await forwarding.handle.describe()).run_id
    # Temporal suggests a new run at 4 MB of history. Nobody believes these: they are of an older round.
    for _ in range(6):
        message = WatchProgress(round=0, attempt=0, trouble="x" * 1_300_000)
        await forwarding.handle.signal(names.WATCH_PROGRESS, message)

    async def run() -> str:
        return str((await forwarding.handle.describe()).run_id)

    await until(run, lambda run: run != first_run)
    await until(forwarding.status, lambda status: status.round >= 3)


async def stopped(forwarding: Forwarding) -> None:
    await open_forwarding(forwarding)
    await forwarding.handle.signal(names.STOP)
    await forwarding.handle.result()


SCENES: tuple[Callable[[Forwarding], Awaitable[None]], ...] = (
    open_forwarding,
    open_waiting,
    open_told,
    open_after_gap,
    open_continued,
    stopped,
)


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        async with temporal_server(Path(scratch), print) as (address, _):
            # The reader's identity is told in its messages, too, and is to be nobody's machine.
            client = await Client.connect(address, identity="recorder", data_converter=pydantic_data_converter)
            for scene in SCENES:
                with PostingSimulator(clusters=1, hosts=1, gpus=1, vms=0, time_scale=300, seed=5) as simulator:
                    queues = TaskQueues(f"record-{scene.__name__}")
                    async with (
                        watch_of(client, address, simulator, queues) as watched,
                        Receiver(Path(scratch)) as receiver,
                    ):
                        watched.vcenter = "recorded"
                        forwarding = Forwarding(watched, receiver)
                        forwarding.unreachable_after_s = 2 if scene is open_told else UNREACHABLE_AFTER_S
                        async with forwarding.sending():
                            await scene(forwarding)
                            history = await forwarding.handle.fetch_history()
                        save(folder / f"forward_events.{scene.__name__}.json", history)
                        print(scene.__name__, len(history.events), "events")
                        await forwarding.close()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
