"""Events that a reader hands over again are known as such, whichever of their target's runs was given them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest_asyncio
from temporalio.client import Client

from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.rules import RulesFile
from listeners.hand_over import Delivery, HandOver
from listeners.rules import Group, RuleBook, group_by_target
from tests.listeners.conftest import rules, until
from tests.support.recording import FINISH, RecordingPrepareGpuHost
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost
from workers.assembly import Parts, build_workers


@dataclass
class Site:
    """One host of a vCenter, whose runs record what they are given and end when they are told to."""

    client: Client
    queue: str
    vcenter: str

    def group(self, *keys: int) -> Group:
        host = HostRef(vcenter=self.vcenter, key="uuid-1", moid="host-1", name="esx-1.example.com")
        file = RulesFile.model_validate(rules())
        events = [
            RawEvent(key=key, created=datetime(2030, 1, 1, tzinfo=UTC), type_name="HostAddedEvent", host_moid="host-1")
            for key in keys
        ]
        found = [match for event in events for match in RuleBook(self.vcenter, file.rules).matches(event)]
        [group], _ = group_by_target(self.vcenter, found, {"host-1": IndexedHost(host)})
        return group

    async def deliver(self, *keys: int, by: HandOver) -> Delivery:
        return await by.deliver(self.group(*keys), "uuid.0", maybe_repeated=True, still_here=lambda: None)

    async def finish(self) -> None:
        run = self.client.get_workflow_handle(self.group(1).workflow_id)
        await run.signal(FINISH)
        await run.result()

    async def runs(self) -> list[list[int]]:
        """What each run was given, oldest first."""
        listed = self.client.list_workflows(f"WorkflowId = '{self.group(1).workflow_id}'")
        runs = sorted([run async for run in listed], key=lambda run: run.start_time)
        return [
            await self.client.get_workflow_handle(run.id, run_id=run.run_id).query("keys", result_type=list[int])
            for run in runs
        ]

    def reader(self) -> HandOver:
        """A new one, which knows nothing."""
        return HandOver(self.client, self.queue)


@pytest_asyncio.fixture
async def site(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[Site]:
    [worker] = build_workers(temporal_client, queues, Parts(workflows=[RecordingPrepareGpuHost]))
    async with worker:
        yield Site(temporal_client, queues.main, f"vc-{uuid.uuid4().hex[:8]}")


async def test_what_runs_before_the_latest_were_given_is_given_to_nobody_again(site: Site) -> None:
    """A reader dies before its cursor leaves, after three pages whose runs each ended at once."""
    first = site.reader()
    for keys in ((1, 2), (3,), (4, 5)):
        assert await site.deliver(*keys, by=first) is Delivery.STARTED
        await site.finish()
    await until(site.runs, lambda runs: len(runs) == 3)
    second = site.reader()
    assert await site.deliver(1, 2, 3, by=second) is Delivery.REPEATED
    assert await site.deliver(4, 5, by=second) is Delivery.REPEATED
    assert await site.deliver(6, by=second) is Delivery.STARTED
    assert await site.runs() == [[1, 2], [3], [4, 5], [6]]
    await site.finish()


async def test_what_is_left_of_a_group_goes_to_a_new_run_alone(site: Site) -> None:
    first = site.reader()
    for keys in ((1,), (3,)):
        await site.deliver(*keys, by=first)
        await site.finish()
    await until(site.runs, lambda runs: len(runs) == 2)
    assert await site.deliver(1, 2, 3, 4, by=site.reader()) is Delivery.STARTED
    assert (await until(site.runs, lambda runs: len(runs) == 3))[-1] == [2, 4]
    await site.finish()


async def test_a_run_that_somebody_started_by_hand_hides_none_before_it(site: Site) -> None:
    await site.deliver(1, by=site.reader())
    await site.finish()
    group = site.group(1)
    order = group.target.order("cli:alice", "", "uuid.0", [])
    await site.client.start_workflow(group.target.workflow_type, order, id=group.workflow_id, task_queue=site.queue)
    await until(site.runs, lambda runs: len(runs) == 2)
    assert await site.deliver(1, by=site.reader()) is Delivery.REPEATED
    assert await site.runs() == [[1], []]
    await site.finish()
