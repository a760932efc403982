"""From the posting of an event to the first code of the workflow that it starts, against a plain start.

100 events to the project's simulator, one after the other, from a process of their own; listener and worker are in
one process, so that starts are eager. The time begins right before `PostEvent` is sent, so vCenter's part and its push
are in it, and ends with the workflow's own stamp: one machine, one clock. The peer is the p50 of starting the same
workflow a hundred times from the client of the same process, without any event and not eagerly, as is the default.

Temporal is the dev server as it comes. It hands starts that follow on each other on 20 times a second only, which an
eager start does not wait for; so the same is measured with the server as the demo and the tests have it, which hands
on at once (`…_quick_server`). `make bench` runs it.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from math import ceil
from statistics import median

from benchmarks.listening import Listening, listening
from benchmarks.posters import ordered, poster_to
from benchmarks.results import keep
from benchmarks.stamped import StampedPrepareGpuHost
from benchmarks.stamps import STAMPS
from contracts.host import HostRef
from contracts.prepare import PrepareGpuHostInput
from tests.listeners.posting import PostingSimulator
from workers.temporal_server import SHARD_READS_PER_S

EVENTS, WARM_UP = 100, 5
AS_IT_COMES = 20
"""`history.transferProcessorMaxPollRPS`, Temporal's default."""


async def _by_event(poster: subprocess.Popen[str]) -> float:
    """Seconds from posting to workflow."""
    posted_at = await asyncio.to_thread(ordered, poster, "one")
    return await _stamp() - float(posted_at)


async def _plainly(bench: Listening) -> float:
    """Seconds from a client's start to workflow."""
    host = HostRef(vcenter="plain", key="plain", moid="host-1", name="plain")
    order = PrepareGpuHostInput(host=host, profile="open", requester="benchmark")
    started_at = time.time()
    await bench.client.start_workflow(
        StampedPrepareGpuHost.run, order, id=f"plain-{uuid.uuid4().hex}", task_queue=bench.queues.main
    )
    return await _stamp() - started_at


async def _stamp() -> float:
    return await asyncio.to_thread(STAMPS.get, timeout=60)


async def _measured(shard_reads_per_s: int) -> tuple[list[float], list[float]]:
    """Seconds from events, and from plain starts."""
    with PostingSimulator(clusters=1, hosts=2, gpus=1, vms=0) as vcenter, poster_to(vcenter) as poster:
        async with listening(vcenter, [StampedPrepareGpuHost], shard_reads_per_s=shard_reads_per_s) as bench:
            await bench.start()
            for _ in range(WARM_UP):
                await _by_event(poster)
                await _plainly(bench)
            plain = [await _plainly(bench) for _ in range(EVENTS)]
            by_event = [await _by_event(poster) for _ in range(EVENTS)]
            await bench.stop()
    return by_event, plain


async def main() -> None:
    """Measure, print and keep."""
    print(f"from event to first workflow code, {EVENTS} times")
    for shard_reads_per_s, which, server in (
        (AS_IT_COMES, "", "Temporal's dev server as it comes"),
        (SHARD_READS_PER_S, "_quick_server", "a dev server that hands on at once"),
    ):
        by_event, plain = await _measured(shard_reads_per_s)
        ordered = sorted(by_event)
        for name, seconds in (("p50", median(ordered)), ("p99", ordered[ceil(len(ordered) * 0.99) - 1])):
            keep(
                f"event_to_first_workflow_code_{name}_ms{which}",
                value=seconds * 1000,
                unit="ms",
                peer=median(plain) * 1000,
                against=f"p50 of plain starts in a row, on {server}",
                higher_is_better=False,
            )


if __name__ == "__main__":
    asyncio.run(main())
