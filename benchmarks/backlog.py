"""How fast a backlog of 100,000 events is worked off, and how fast events that were handed over before are dropped.

The project's simulator has the backlog, of which 1 % matches a rule and is about one of 500 hosts. Listener and worker
are in one process, Temporal's dev server and the simulator are processes of their own, all on one machine.

- `backlog_events_per_s`: from the start of the watch until all matching events are counted, which they are when their
  hand-over is durable and the cursor behind them. All events are read. The peer does what people do today: it reads
  pages with pyVmomi and starts the workflow of each matching event, one after the other; 10,000 events.
- `backlog_events_per_s_narrowed`: the same where vCenter is asked for the matching events only.
- `backlog_events_per_cpu_s`: the same by the CPU seconds of listener, worker and Temporal, whatever else is going on.
- `duplicates_dropped_per_s`: a reader whose cursor is at the last event reads another 100,000 again, all of which
  match, as a new collector shows them that were created within its overlap, and drops them by key.
- `repeated_backlog_events_per_s`: a reader whose cursor is before the backlog, as after a take-over whose heartbeats
  were lost, asks the runs which events they were given, and starts nothing anew.

`make bench` runs it.
"""

from __future__ import annotations

import asyncio
import time
import uuid

from pyVmomi import vim
from temporalio.common import WorkflowIDConflictPolicy

from benchmarks.listening import VCENTER, Listening, listening, until
from benchmarks.results import keep
from contracts import ids, names
from contracts.events import Cursor
from contracts.host import HostRef
from contracts.prepare import PrepareGpuHostInput
from contracts.watch import WatchStatus
from tests.listeners.posting import PostingSimulator
from tests.support.recording import RecordingPrepareGpuHost

EVENTS, MATCHING, PEER_EVENTS = 100_000, 0.01, 10_000
CLUSTERS, HOSTS = 10, 50


async def _worked_off(bench: Listening, cursor: Cursor, matching: int) -> tuple[float, WatchStatus]:
    """Seconds until so many matching events after the cursor are handed over, and the watch's end."""
    before, started = await bench.handed_over(), time.perf_counter()
    await bench.start(cursor)
    await until(bench.handed_over, lambda events: events >= before + matching)
    seconds = time.perf_counter() - started
    return seconds, await bench.stop()


async def _dropped(bench: Listening, vcenter: PostingSimulator, cursor: Cursor) -> float:
    """Seconds until a reader has seen all there is."""

    async def behind() -> list[int]:
        log = await asyncio.to_thread(vcenter.act, "event_log")
        return [collector["behind"] for collector in log["collectors"]]

    started = time.perf_counter()
    await bench.start(cursor)
    await until(behind, lambda behind: behind == [0])
    seconds = time.perf_counter() - started
    await bench.stop()
    return seconds


async def _plainly(bench: Listening, vcenter: PostingSimulator, begin: Cursor) -> float:
    """Seconds of a reader as people write it, for the first `PEER_EVENTS` events after `begin`."""
    hosts = await bench.hosts()
    by_time = vim.event.EventFilterSpec.ByTime(beginTime=begin.created)
    started = time.perf_counter()
    collector = vcenter.si.content.eventManager.CreateCollectorForEvents(vim.event.EventFilterSpec(time=by_time))
    read, run = 0, uuid.uuid4().hex
    while read < PEER_EVENTS:
        page = [event for event in collector.ReadNextEvents(1000) if event.key > begin.key]
        for event in page:
            if isinstance(event, vim.event.HostAddedEvent) and event.host is not None:
                host: HostRef = hosts.by_moid[event.host.host._moId].ref
                await bench.client.start_workflow(
                    names.PREPARE_GPU_HOST,
                    PrepareGpuHostInput(host=host, profile="open", requester="plain"),
                    id=f"{run}/{ids.prepare_gpu_host(VCENTER, host.key)}",
                    task_queue=bench.queues.main,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                )
        read += len(page)
    seconds = time.perf_counter() - started
    collector.DestroyCollector()
    return seconds * PEER_EVENTS / read


async def main() -> None:
    """Measure, print and keep."""
    with PostingSimulator(clusters=CLUSTERS, hosts=HOSTS, gpus=1, vms=0) as vcenter:
        async with listening(vcenter, [RecordingPrepareGpuHost], narrow="never") as bench:
            before = await bench.newest()
            posted = await asyncio.to_thread(vcenter.act, "post_backlog", count=EVENTS, matching=MATCHING)
            print(f"a backlog of {EVENTS} events, {len(posted['matching'])} of which match")
            used_s = bench.cpu_s()
            seconds, status = await _worked_off(bench, before, len(posted["matching"]))
            cpu_s = bench.cpu_s() - used_s
            if status.counters.matched != len(posted["matching"]):
                raise RuntimeError(f"{status.counters.matched} events matched, not {len(posted['matching'])}")
            used_s = bench.cpu_s()
            plain_s = await _plainly(bench, vcenter, before)
            plain_cpu_s = bench.cpu_s() - used_s
            again_s, again = await _worked_off(bench, before, len(posted["matching"]))
            if again.counters.started or again.counters.joined:
                raise RuntimeError(f"events were handed over again: {again.counters}")
            await asyncio.to_thread(vcenter.act, "post_backlog", count=EVENTS, matching=1.0)
            dropped_s = await _dropped(bench, vcenter, await bench.newest())
        async with listening(vcenter, [RecordingPrepareGpuHost]) as bench:
            before = await bench.newest()
            posted = await asyncio.to_thread(vcenter.act, "post_backlog", count=EVENTS, matching=MATCHING)
            narrowed_s, _ = await _worked_off(bench, before, len(posted["matching"]))
    rate = EVENTS / seconds
    plainly = "a plain pyVmomi reader that starts them one by one"
    for name, unit, value, peer, against in (
        ("backlog_events_per_s", "events/s", rate, PEER_EVENTS / plain_s, plainly),
        ("backlog_events_per_s_narrowed", "events/s", EVENTS / narrowed_s, PEER_EVENTS / plain_s, plainly),
        ("backlog_events_per_cpu_s", "events/CPU s", EVENTS / cpu_s, PEER_EVENTS / plain_cpu_s, plainly),
        ("duplicates_dropped_per_s", "events/s", EVENTS / dropped_s, rate * MATCHING, "handing matching events over"),
        ("repeated_backlog_events_per_s", "events/s", EVENTS / again_s, rate, "handing the same backlog over"),
    ):
        keep(name, value=value, unit=unit, peer=peer, against=against, higher_is_better=True)


if __name__ == "__main__":
    asyncio.run(main())
