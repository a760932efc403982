"""A vCenter, a Temporal server, and in this process a worker that listens and runs what events start."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
from temporalio.client import Client, WorkflowHandle

from benchmarks.processes import cpu_s
from contracts import ids, names
from contracts.events import Cursor
from contracts.names import TaskQueues
from contracts.rules import RulesFile
from contracts.watch import WatchInput, WatchStatus
from listeners.follow_events import Listener
from listeners.narrowing import Narrow
from tests.listeners.posting import Posting
from vsphere.events import EventReader
from vsphere.inventory import HostIndex, host_index
from vsphere.sessions import SessionPool
from workers import temporal_server
from workers.assembly import Parts, build_workers
from workers.client import connect, runtime_for
from workers.search_attributes import ensure_search_attributes
from workers.settings import MetricsSettings, TemporalSettings
from workers.temporal_binary import obtain
from workers.temporal_server import DevServer
from workflows.deliver_notice import DeliverNotice
from workflows.watch_vcenter import WatchVCenter

__all__ = ["Listening", "listening", "until"]

VCENTER = "bench"
_MATCHED = re.compile(r"^gpuwright_events_matched_total\S* (\d+)", re.MULTILINE)


class Listening:
    """The watch of one vCenter in this process."""

    def __init__(
        self, client: Client, queues: TaskQueues, pool: SessionPool, metrics: str, processes: Sequence[int]
    ) -> None:
        self.client = client
        self.queues = queues
        self._pool = pool
        self._metrics = metrics
        self._processes = processes

    def cpu_s(self) -> float:
        """CPU seconds of this process and of Temporal's so far."""
        return sum(map(cpu_s, self._processes))

    @property
    def watch(self) -> WorkflowHandle[Any, WatchStatus]:
        """Its workflow."""
        return self.client.get_workflow_handle(ids.watch(VCENTER), result_type=WatchStatus)

    async def start(self, cursor: Cursor | None = None) -> None:
        """Start the watch behind `cursor`, or at the newest event, and return when a reader is at work."""
        await self.client.start_workflow(
            WatchVCenter.run,
            WatchInput(vcenter=VCENTER, cursor=cursor),
            id=ids.watch(VCENTER),
            task_queue=self.queues.main,
        )
        rounds = 1 if cursor else 2
        await until(self.status, lambda status: status.cursor is not None and status.round >= rounds)

    async def status(self) -> WatchStatus:
        """What the watch knows, which may be seconds old."""
        status: WatchStatus = await self.watch.query(names.QUERY_STATUS, result_type=WatchStatus)
        return status

    async def stop(self) -> WatchStatus:
        """Stop it; how far it came."""
        await self.watch.signal(names.STOP)
        status: WatchStatus = await self.watch.result()
        return status

    async def handed_over(self) -> int:
        """How many matching events were handed over durably in this process, by the metric that operators see."""
        text = await asyncio.to_thread(self._scrape)
        found = _MATCHED.search(text)
        return int(found[1]) if found else 0

    async def newest(self) -> Cursor:
        """A cursor at vCenter's newest event."""

        def look() -> Cursor:
            with self._pool.session() as si:
                reader = EventReader(si)
                latest = reader.latest()
                if latest is None:
                    raise RuntimeError("the vCenter has no event")
                return Cursor(epoch=f"{reader.instance_uuid}.0", key=latest.key, created=latest.created)

        return await asyncio.to_thread(look)

    async def hosts(self) -> HostIndex:
        """The hosts of the vCenter."""

        def look() -> HostIndex:
            with self._pool.session() as si:
                return host_index(si, VCENTER)

        return await asyncio.to_thread(look)

    def _scrape(self) -> str:
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8")


@asynccontextmanager
async def listening(
    vcenter: Posting,
    workflows: Sequence[type],
    profile: str = "open",
    shard_reads_per_s: int = temporal_server.SHARD_READS_PER_S,
    narrow: Narrow = "types",
) -> AsyncIterator[Listening]:
    """Hosts that are added start `PrepareGpuHost` with this profile; its stand-in is among `workflows`.

    The Temporal server is the project's dev server; as it comes it has 20 for `shard_reads_per_s`. With `never` for
    `narrow` vCenter is asked for every event.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rule = {"name": "prepare", "on": ["HostAddedEvent"], "start": "PrepareGpuHost", "with": {"profile": profile}}
    profiles = {profile: {"gpus": [{"match": "10de:20f1", "mode": "passthrough"}]}}
    rules = RulesFile.model_validate({"rules": [rule], "profiles": profiles})
    queues, metrics = TaskQueues("bench"), f"127.0.0.1:{_free_port()}"
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch.object(temporal_server, "SHARD_READS_PER_S", shard_reads_per_s))
        server = DevServer(obtain(print), folder / "temporal.log")
        await stack.enter_async_context(server)
        runtime = runtime_for(MetricsSettings(listen=metrics))
        client = await connect(TemporalSettings(address=server.address), runtime=runtime)
        await ensure_search_attributes(client)
        pool = stack.enter_context(SessionPool(vcenter.settings(VCENTER, narrow_events=narrow)))
        listener = Listener({VCENTER: pool}, rules, queues.main)
        parts = Parts(
            workflows=[WatchVCenter, DeliverNotice, *workflows], listen=[listener.follow_events], vcenters=[VCENTER]
        )
        for worker in build_workers(client, queues, parts):
            await stack.enter_async_context(worker)
        yield Listening(client, queues, pool, metrics, [os.getpid(), server.pid or 0])


async def until(look: Callable[[], Any], wanted: Callable[[Any], bool], timeout_s: float = 120) -> Any:
    """Look again and again until it is as wanted; raises `TimeoutError`."""
    async with asyncio.timeout(timeout_s):
        while not wanted(seen := await look()):  # noqa: ASYNC110 - what is looked at sends no news
            await asyncio.sleep(0.02)
    return seen


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
