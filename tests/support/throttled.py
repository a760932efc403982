"""A throttle with its workers, and targets for it, without any vCenter."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle

from contracts import ids, names
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import PrepareGpuHostInput
from contracts.rules import RulesFile
from contracts.throttles import ThrottledEvents, ThrottledTarget, ThrottleInput, ThrottleStatus
from listeners.releasing import Releaser
from tests.support.recording import FINISH, RecordingPrepareGpuHost
from workers.assembly import Parts, build_workers
from workers.search_attributes import ensure_search_attributes
from workflows.rule_throttle import RuleThrottle

__all__ = ["Throttled", "most_at_once", "quiet_for", "throttled_rules"]


def throttled_rules(**throttles: Any) -> RulesFile:
    """One rule with these throttles."""
    rule = {"name": "r", "on": ["HostAddedEvent"], "start": "PrepareGpuHost", "with": {"profile": "open"}}
    profiles = {"open": {"gpus": [{"match": "10de:20f1", "mode": "passthrough"}]}}
    return RulesFile.model_validate({"rules": [rule | throttles], "profiles": profiles})


def quiet_for(seconds: float) -> list[dict[str, str]]:
    """Quiet hours that began a while ago and end so soon."""
    now = datetime.now(UTC)
    begin, end = now - timedelta(hours=1), now + timedelta(seconds=seconds)
    return [{"from": begin.strftime("%H:%M:%S"), "to": end.strftime("%H:%M:%S")}]


class Throttled:
    """The throttle of the rule `r` for a vCenter of its own."""

    def __init__(self, client: Client, queues: TaskQueues) -> None:
        self.client, self.queues = client, queues
        self.vcenter = f"vc-{uuid.uuid4().hex[:8]}"

    @property
    def throttle(self) -> WorkflowHandle[Any, ThrottleStatus]:
        return self.client.get_workflow_handle(ids.throttle(self.vcenter, "r"), result_type=ThrottleStatus)

    def target(self, host: int, *keys: int, group: str = "", profile: str = "open") -> ThrottledTarget:
        ref = HostRef(vcenter=self.vcenter, key=f"uuid-{host}", moid=f"host-{host}", name=f"esx-{host}")
        name = ids.prepare_gpu_host(self.vcenter, ref.key)
        events = tuple(EventKey(epoch="e.0", key=key) for key in keys)
        return ThrottledTarget(
            workflow_id=name,
            group=group or name,
            group_name=group or ref.name,
            summary=f"Prepare {ref.name}",
            prepare=PrepareGpuHostInput(host=ref, profile=profile, requester="rule:r", events=events),
        )

    async def give(self, *targets: ThrottledTarget, **settings: Any) -> None:
        """As the listener does."""
        await self.client.start_workflow(
            names.RULE_THROTTLE,
            ThrottleInput(vcenter=self.vcenter, rule="r", room_s=settings.pop("room_s", 0.2), **settings),
            id=self.throttle.id,
            task_queue=self.queues.main,
            start_signal=names.THROTTLED_EVENTS,
            start_signal_args=[ThrottledEvents(targets=targets)],
        )

    async def status(self) -> ThrottleStatus:
        return await self.throttle.query(names.QUERY_STATUS, result_type=ThrottleStatus)

    async def until(self, wanted: Callable[[ThrottleStatus], bool], timeout_s: float = 60) -> ThrottleStatus:
        ends_at = time.monotonic() + timeout_s
        while not wanted(status := await self.status()):
            assert time.monotonic() < ends_at, f"after {timeout_s} s it still is {status}"
            await asyncio.sleep(0.1)
        return status

    def run_of(self, host: int) -> WorkflowHandle[Any, list[int]]:
        return self.client.get_workflow_handle(
            ids.prepare_gpu_host(self.vcenter, f"uuid-{host}"), result_type=list[int]
        )

    async def keys(self, host: int) -> list[int]:
        """The events that the host's latest run was given."""
        return await self.run_of(host).query("keys", result_type=list[int])

    async def finish(self, host: int) -> None:
        await self.run_of(host).signal(FINISH)
        await self.run_of(host).result()

    async def runs(self) -> list[tuple[datetime, datetime | None, str]]:
        """Start, end and workflow ID of each run of a host, as the server knows them."""
        query = f"WorkflowType = 'PrepareGpuHost' AND TaskQueue = '{self.queues.main}'"
        return [(run.start_time, run.close_time, run.id) async for run in self.client.list_workflows(query)]

    async def all_ended(self, count: int, timeout_s: float = 60) -> None:
        """Wait until so many runs of hosts have ended, as lists show them."""
        ends_at = time.monotonic() + timeout_s
        while len([end for _, end, _ in await self.runs() if end is not None]) < count:
            assert time.monotonic() < ends_at
            await asyncio.sleep(0.2)

    @asynccontextmanager
    async def workers(self, rules: RulesFile) -> AsyncIterator[None]:
        parts = Parts(
            workflows=[RuleThrottle, RecordingPrepareGpuHost],
            main=[Releaser(rules, self.queues.main).release_throttled],
        )
        await ensure_search_attributes(self.client)
        async with AsyncExitStack() as stack:
            for worker in build_workers(self.client, self.queues, parts):
                await stack.enter_async_context(worker)
            yield

    async def close(self) -> None:
        """End what still runs."""
        async for run in self.client.list_workflows(
            f"TaskQueue = '{self.queues.main}' AND ExecutionStatus = 'Running'"
        ):
            await self.client.get_workflow_handle(run.id).terminate("the test is over")


def most_at_once(runs: Iterable[tuple[datetime, datetime | None, str]]) -> int:
    """How many were open at the same time at most. One that begins when another ends does not meet it."""
    turns = [(start, 1) for start, _, _ in runs] + [(end, -1) for _, end, _ in runs if end is not None]
    most = now = 0
    for _, turn in sorted(turns):
        now += turn
        most = max(most, now)
    return most
