"""From the posting of an event to vcsim to the first code of the workflow that it starts, against a plain start.

Prints p50 and p99 in ms over 100 events, and the ratios to starting the same workflow from a client without any event
(not eagerly, as is the default). `make bench` runs it, and `benchmarks/results.json` keeps what it measured. The time
begins right before `PostEvent` is called, so vcsim's answer is part of it, and ends with the workflow's own stamp: one
machine, one clock. Temporal is the project's dev server; `make tools` builds vcsim.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
import uuid
from contextlib import AsyncExitStack
from math import ceil
from pathlib import Path
from statistics import median

import structlog
from pyVmomi import vim
from temporalio.client import Client
from temporalio.service import RPCError

from benchmarks.results import keep
from benchmarks.stamped import StampedPrepareGpuHost
from contracts import ids, names
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import PrepareGpuHostInput
from contracts.rules import RulesFile
from contracts.watch import WatchInput, WatchStatus
from listeners.follow_events import Listener
from tests.listeners.posting import PostingVcsim
from vsphere.sessions import SessionPool
from workers.assembly import Parts, build_workers
from workers.client import connect
from workers.search_attributes import ensure_search_attributes
from workers.settings import TemporalSettings
from workers.temporal_binary import obtain
from workers.temporal_server import DevServer
from workflows.watch_vcenter import WatchVCenter

EVENTS = 100


async def _by_event(client: Client, vcsim: PostingVcsim, vcenter: str) -> list[float]:
    """Seconds from creation to workflow, one event after the other."""
    host = vcsim.hosts()[0]
    workflow_id = ids.prepare_gpu_host(vcenter, str(host.summary.hardware.uuid).lower())
    handle = client.get_workflow_handle(workflow_id, result_type=float)
    seconds, last_run = [], ""
    for _ in range(EVENTS):
        posted_at = time.time()
        await asyncio.to_thread(vcsim.post, vim.event.HostAddedEvent, host)
        while last_run == (run := await _latest_run(client, workflow_id)):  # noqa: ASYNC110 - the server sends no news
            await asyncio.sleep(0.005)
        last_run = run
        seconds.append(await handle.result() - posted_at)
    return seconds


async def _latest_run(client: Client, workflow_id: str) -> str:
    try:
        return str((await client.get_workflow_handle(workflow_id).describe()).run_id)
    except RPCError:
        return ""


async def _plain(client: Client, queue: str) -> list[float]:
    """Seconds from a client's start to workflow."""
    host = HostRef(vcenter="plain", key="plain", moid="host-1", name="plain")
    order = PrepareGpuHostInput(host=host, profile="p", requester="benchmark")
    seconds = []
    for _ in range(EVENTS):
        started_at = time.time()
        handle = await client.start_workflow(
            StampedPrepareGpuHost.run, order, id=f"plain-{uuid.uuid4().hex}", task_queue=queue
        )
        seconds.append(await handle.result() - started_at)
    return seconds


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99 (nearest rank), in ms."""
    ordered = sorted(seconds)
    return median(ordered) * 1000, ordered[ceil(len(ordered) * 0.99) - 1] * 1000


async def main() -> None:
    """Measure and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    queues, vcenter = TaskQueues("benchmark"), "vcsim"
    rule = {"name": "r", "on": ["HostAddedEvent"], "start": "PrepareGpuHost", "with": {"profile": "p"}}
    profile = {"gpus": [{"match": "10de:20f1", "mode": "passthrough"}]}
    rules = RulesFile.model_validate({"rules": [rule], "profiles": {"p": profile}})
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        vcsim = stack.enter_context(PostingVcsim())
        server = await stack.enter_async_context(DevServer(obtain(print), folder / "temporal.log"))
        client = await connect(TemporalSettings(address=server.address))
        await ensure_search_attributes(client)
        pool = stack.enter_context(SessionPool(vcsim.settings(vcenter)))
        listener = Listener({vcenter: pool}, rules, queues.main)
        parts = Parts(
            workflows=[WatchVCenter, StampedPrepareGpuHost], listen=[listener.follow_events], vcenters=[vcenter]
        )
        for worker in build_workers(client, queues, parts):
            await stack.enter_async_context(worker)
        plain = await _plain(client, queues.main)
        watch = await client.start_workflow(
            WatchVCenter.run, WatchInput(vcenter=vcenter), id=ids.watch(vcenter), task_queue=queues.main
        )
        while (await watch.query(names.QUERY_STATUS, result_type=WatchStatus)).round < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        by_event = await _by_event(client, vcsim, vcenter)
        await watch.signal(names.STOP)
        await watch.result()
    for name, here, there in zip(("p50", "p99"), _percentiles(by_event), _percentiles(plain), strict=True):
        print(
            f"event to workflow, {name} of {EVENTS}: {here:.1f} ms; plain start: {there:.1f} ms; {here / there:.2f} x"
        )
        keep(f"event_to_workflow_{name}", value=here, unit="ms", peer=there, higher_is_better=False)


if __name__ == "__main__":
    asyncio.run(main())
