"""A watch of a vcsim or a simulator with its workers in this process, and worker processes to kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from contracts import ids, names
from contracts.names import TaskQueues
from contracts.rules import RulesFile
from contracts.watch import UNREACHABLE_AFTER_S, WatchInput, WatchStatus
from listeners import following
from listeners.redrive import Redriver
from tests.listeners.posting import Posting, PostingSimulator, PostingVcsim
from tests.support.listen_worker import listening_parts
from vsphere.sessions import SessionPool
from workers.assembly import build_workers
from workers.search_attributes import ensure_search_attributes
from workers.temporal_server import DevServer

T = TypeVar("T")


def rules(profile: str = "open", **where: str) -> dict[str, Any]:
    """Rules that prepare hosts when they are added, or when an event ID tells of a GPU."""
    on = ["HostAddedEvent", "esx.test.gpu.found"]
    rule = {"name": "prepare", "on": on, "where": where, "start": "PrepareGpuHost", "with": {"profile": profile}}
    gpus = [{"match": "10de:20f1", "mode": "passthrough"}]
    return {"rules": [rule], "profiles": {name: {"gpus": gpus} for name in ("open", "quick")}}


async def until(look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], timeout_s: float = 30) -> T:
    """Look again and again until it is as wanted."""
    ends_at = time.monotonic() + timeout_s
    while not wanted(seen := await look()):
        assert time.monotonic() < ends_at, f"after {timeout_s} s it still is {seen}"
        await asyncio.sleep(0.05)
    return seen


class Watched:
    """One watch of one vCenter, with everything of its own: vCenter name, task queues, hosts."""

    def __init__(self, client: Client, address: str, server: Posting, queues: TaskQueues) -> None:
        self.client, self.address, self.server, self.queues = client, address, server, queues
        self.vcenter = f"vc-{uuid.uuid4().hex[:8]}"
        self.hosts = server.hosts()
        self.processes: list[subprocess.Popen[str]] = []
        self._uuids = {host._moId: str(host.summary.hardware.uuid).lower() for host in self.hosts}

    @property
    def watch(self) -> WorkflowHandle[Any, WatchStatus]:
        return self.client.get_workflow_handle(ids.watch(self.vcenter), result_type=WatchStatus)

    def workflow_id(self, host: Any) -> str:
        if host._moId not in self._uuids:
            self._uuids[host._moId] = str(host.summary.hardware.uuid).lower()
        return ids.prepare_gpu_host(self.vcenter, self._uuids[host._moId])

    # On a thread: the workers that are tested share this event loop.

    async def post(self, kind: Any, *hosts: Any, **fields: Any) -> None:
        await asyncio.to_thread(lambda: self.server.post(kind, *hosts, **fields))

    async def post_about(self, kind: Any, host: Any, name: str) -> None:
        await asyncio.to_thread(self.server.post_about, kind, host, name)

    async def start(self) -> None:
        """Start the watch and wait until it knows where to begin."""
        await self.client.start_workflow(
            names.WATCH_VCENTER,
            WatchInput(vcenter=self.vcenter),
            id=ids.watch(self.vcenter),
            task_queue=self.queues.main,
        )

    async def begun(self) -> WatchStatus:
        """Wait until a reader is at work."""
        return await until(self.status, lambda status: status.cursor is not None and status.round >= 2)

    async def status(self) -> WatchStatus:
        return await self.watch.query(names.QUERY_STATUS, result_type=WatchStatus)

    async def keys(self, host: Any) -> list[int]:
        """The events that the host's latest run was given; empty while there is none."""
        try:
            return await self.client.get_workflow_handle(self.workflow_id(host)).query("keys", result_type=list[int])
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return []
            raise

    async def exists(self, host: Any) -> bool:
        """Whether the host's workflow was started, asked without its worker."""
        try:
            await self.client.get_workflow_handle(self.workflow_id(host)).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def runs(self, host: Any) -> list[list[int]]:
        """The events that each run of the host's workflow was given, newest run first; from histories."""
        found = []
        async for run in self.client.list_workflows(f"WorkflowId = '{self.workflow_id(host)}'"):
            handle = self.client.get_workflow_handle(run.id, run_id=run.run_id)
            found.append(await handle.query("keys", result_type=list[int]))
        return found

    @asynccontextmanager
    async def workers(
        self,
        rules_: dict[str, Any],
        *,
        client: Client | None = None,
        only: Literal["workflows", "listen"] | None = None,
        unreachable_after_s: float = UNREACHABLE_AFTER_S,
        **settings: Any,
    ) -> AsyncIterator[SessionPool]:
        """Workers in this process, all or some, and their sessions; `settings` differ from the usual ones.

        A workflow worker that ends costs its workflows ten seconds until another one has them, so tests of readers
        that come and go keep one.
        """
        pool = SessionPool(self.server.settings(self.vcenter, **settings))
        rules_file = RulesFile.model_validate(rules_)
        parts = listening_parts({self.vcenter: pool}, rules_file, self.queues, unreachable_after_s)
        if only == "workflows":
            parts = replace(parts, listen=())
        elif only == "listen":
            parts = replace(parts, workflows=(), main=())
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, pool.close)
            for worker in build_workers(client or self.client, self.queues, parts):
                await stack.enter_async_context(worker)
            yield pool

    @asynccontextmanager
    async def redriver(self, rules_: dict[str, Any]) -> AsyncIterator[None]:
        """A worker, beside those, that hands quarantined events over after all."""
        pool = SessionPool(self.server.settings(self.vcenter))
        redriver = Redriver({self.vcenter: pool}, RulesFile.model_validate(rules_), self.queues.main)
        try:
            async with Worker(self.client, task_queue=self.queues.wait, activities=[redriver.redrive_events]):
                yield
        finally:
            await asyncio.to_thread(pool.close)

    async def worker_process(
        self, rules_: dict[str, Any], also: Sequence[Watched] = (), **more: Any
    ) -> subprocess.Popen[str]:
        """A worker in a process of its own, ready; it listens to the vCenters of `also`, too."""
        order = {
            "address": self.address,
            "queue": self.queues.base,
            "vcenters": [json.loads(each.server.settings(each.vcenter).model_dump_json()) for each in (self, *also)],
            "rules": rules_,
            **more,
        }
        process = await asyncio.to_thread(
            subprocess.Popen[str],
            [sys.executable, "-m", "tests.support.listen_worker", json.dumps(order)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        return process

    async def close(self) -> None:
        """End the watch and the processes."""
        for process in self.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            await asyncio.to_thread(process.communicate, timeout=10)
        async for run in self.client.list_workflows(
            f"TaskQueue = '{self.queues.main}' AND ExecutionStatus = 'Running'"
        ):
            await self.client.get_workflow_handle(run.id).terminate("the test is over")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is told to end waits for its call to vCenter, so here it asks for news each second."""
    monkeypatch.setattr(following, "_WAIT_S", 1)


@pytest.fixture
def vcsim() -> Iterator[PostingVcsim]:
    with PostingVcsim() as running:
        yield running


@pytest.fixture(scope="session")
def simulator() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=2, gpus=1, vms=0, time_scale=300, seed=7) as running:
        yield running


@asynccontextmanager
async def watch_of(client: Client, address: str, server: Posting, queues: TaskQueues) -> AsyncIterator[Watched]:
    """A watch that is not started yet; closed at the end."""
    await ensure_search_attributes(client)
    watched = Watched(client, address, server, queues)
    try:
        yield watched
    finally:
        await watched.close()


@pytest_asyncio.fixture
async def watched(
    temporal_client: Client, temporal_server: DevServer, vcsim: PostingVcsim, queues: TaskQueues
) -> AsyncIterator[Watched]:
    """A watch of a vcsim."""
    async with watch_of(temporal_client, temporal_server.address, vcsim, queues) as watched:
        yield watched


@pytest_asyncio.fixture
async def simulated(
    temporal_client: Client, temporal_server: DevServer, simulator: PostingSimulator, queues: TaskQueues
) -> AsyncIterator[Watched]:
    """A watch of the simulator, which the tests of this process share."""
    async with watch_of(temporal_client, temporal_server.address, simulator, queues) as watched:
        yield watched
