"""Rules that ask for GPU VMs: grouping, handing over to a Temporal server, and from the simulator's event to a run."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.provision import ProvisionGpuVmInput, VmWork
from contracts.rules import RulesFile
from listeners.hand_over import Delivery, HandOver
from listeners.rules import Group, RuleBook, group_by_target
from listeners.targets import HostToPrepare, VmToProvision
from tests.listeners.conftest import Watched, until
from tests.listeners.posting import PostingSimulator
from tests.support.recording import FINISH, RecordingProvisionGpuVm
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost
from workers.assembly import Parts, build_workers

HOSTS = {
    f"host-{n}": IndexedHost(HostRef(vcenter="v", key=f"uuid-{n}", moid=f"host-{n}", name=f"esx-{n}.example.com"))
    for n in range(4)
}
GPUS = [{"kind": "dynamic", "model": "A100"}]
ON = {"own": "ExitMaintenanceModeEvent", "same": "HostConnectedEvent", "host": "HostAddedEvent"}


def rules(name: str = "infer-{host}", **more: str) -> dict[str, Any]:
    """A VM for each host that leaves maintenance mode, one for all that connect; added ones are prepared."""
    own = {"name": name, "cluster": "gpu-01", "source": {"template": "ubuntu-24.04"}, "gpus": GPUS, **more}
    return {
        "rules": [
            {"name": "own", "on": [ON["own"]], "start": "ProvisionGpuVm", "with": {"request": "own"}},
            {"name": "same", "on": [ON["same"]], "start": "ProvisionGpuVm", "with": {"request": "same"}},
            {"name": "host", "on": [ON["host"]], "start": "PrepareGpuHost", "with": {"profile": "p"}},
        ],
        "profiles": {"p": {"gpus": [{"match": "10de:20f1", "mode": "passthrough"}]}},
        "vms": {"own": own, "same": {**own, "name": "infer-esx-1"}},
    }


def event(key: int, kind: str = "own", host: str = "host-1") -> RawEvent:
    return RawEvent(key=key, created=datetime(2030, 1, 1, tzinfo=UTC), type_name=ON[kind], host_moid=host)


def grouped(*events: RawEvent, of: str = "v", **more: str) -> tuple[Group, ...]:
    file = RulesFile.model_validate(rules(**more))
    book = RuleBook(of, file.rules)
    hosts = {moid: IndexedHost(host.ref.model_copy(update={"vcenter": of})) for moid, host in HOSTS.items()}
    matches = [found for each in events for found in book.matches(each)]
    groups, unresolved = group_by_target(of, matches, hosts, file.vms)
    assert not unresolved
    return groups


def test_each_host_gets_a_vm_of_its_own_that_had_rather_run_there() -> None:
    first, second = grouped(event(1), event(2, host="host-2"), event(3))
    assert [each.key for each in first.events] == [1, 3]
    assert isinstance(first.target, VmToProvision)
    assert first.target.request.name == "infer-esx-1"
    assert first.target.prefer_host == HOSTS["host-1"].ref
    assert first.workflow_id == ids.provision_gpu_vm("v", "infer-esx-1")
    assert second.workflow_id == ids.provision_gpu_vm("v", "infer-esx-2")


def test_one_name_is_one_vm_whatever_hosts_and_rules_lead_there() -> None:
    for events in ((event(1), event(2, "same", "host-2")), (event(1, "same", "host-2"), event(2))):
        [group] = grouped(*events)
        assert group.workflow_id == ids.provision_gpu_vm("v", "infer-esx-1")
        assert [each.key for each in group.events] == [1, 2]


def test_a_vm_in_another_vcenter_prefers_no_host_of_this_one() -> None:
    [group] = grouped(event(1), of="east", vcenter="west")
    assert isinstance(group.target, VmToProvision)
    assert group.target.prefer_host is None
    assert group.workflow_id == ids.provision_gpu_vm("west", "infer-esx-1")


@given(st.lists(st.builds(event, st.integers(1, 60), st.sampled_from(list(ON)), st.sampled_from([*HOSTS, "gone"]))))
def test_every_match_is_in_exactly_one_group_of_its_kind_or_unresolved(page: list[RawEvent]) -> None:
    file = RulesFile.model_validate(rules())
    book = RuleBook("v", file.rules)
    matches = [found for each in page for found in book.matches(each)]
    groups, unresolved = group_by_target("v", matches, HOSTS, file.vms)
    handed = [each for group in groups for each in group.events] + [match.event for match in unresolved]
    assert sorted(map(repr, handed)) == sorted(map(repr, page))
    assert len({group.workflow_id for group in groups}) == len(groups)
    for group in groups:
        kinds = {each.type_name == ON["host"] for each in group.events}
        assert kinds == {isinstance(group.target, HostToPrepare)}


def test_a_host_that_gives_the_vm_no_name_leaves_its_neighbours_alone() -> None:
    file = RulesFile.model_validate(rules())
    long = IndexedHost(HOSTS["host-1"].ref.model_copy(update={"name": "e" * 79}))
    book = RuleBook("v", file.rules)
    found = [match for each in (event(1), event(2, host="host-2")) for match in book.matches(each)]
    [group], [left] = group_by_target("v", found, HOSTS | {"host-1": long}, file.vms)
    assert group.workflow_id == ids.provision_gpu_vm("v", "infer-esx-2")
    assert left.event.key == 1
    assert left.trouble.startswith("rule 'own', host eee")
    assert "is no VM name" in left.trouble


@pytest_asyncio.fixture
async def hand_over(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[HandOver]:
    """Hands over to a worker in this process that records what it is given."""
    [worker] = build_workers(temporal_client, queues, Parts(workflows=[RecordingProvisionGpuVm]))
    async with worker:
        yield HandOver(temporal_client, queues.main)


class Handed:
    """Events of one vCenter of its own, handed over one group at a time."""

    def __init__(self, hand_over: HandOver, client: Client) -> None:
        self._hand_over, self._client = hand_over, client
        self._vcenter = f"vc-{uuid.uuid4().hex[:8]}"

    async def deliver(self, *keys: int, maybe_repeated: bool = False) -> Delivery:
        [group] = grouped(*map(event, keys), of=self._vcenter)
        return await self._hand_over.deliver(group, "uuid.0", maybe_repeated=maybe_repeated, still_here=lambda: None)

    @property
    def run(self) -> WorkflowHandle[Any, Any]:
        """The latest run."""
        return self._client.get_workflow_handle(ids.provision_gpu_vm(self._vcenter, "infer-esx-1"))

    async def order(self) -> ProvisionGpuVmInput:
        return await self.run.query(RecordingProvisionGpuVm.order)

    async def finish(self) -> None:
        await self.run.signal(FINISH)
        await self.run.result()


@pytest_asyncio.fixture
async def handed(hand_over: HandOver, temporal_client: Client) -> AsyncIterator[Handed]:
    handed = Handed(hand_over, temporal_client)
    yield handed
    if (await handed.run.describe()).status is WorkflowExecutionStatus.RUNNING:
        await handed.run.terminate("the test is over")


def _keys(*keys: int) -> tuple[EventKey, ...]:
    return tuple(EventKey(epoch="uuid.0", key=key) for key in keys)


async def test_a_vm_is_asked_for_with_the_events_and_the_rule(handed: Handed) -> None:
    assert await handed.deliver(1, 2) is Delivery.STARTED
    order = await handed.order()
    assert (order.work, order.requester, order.events) == (VmWork.PROVISION, "rule:own", _keys(1, 2))
    assert order.reason.startswith("event 1 ExitMaintenanceModeEvent")
    assert order.request.name == "infer-esx-1"
    described = await handed.run.describe()
    assert await described.static_summary() == "Provision infer-esx-1 in gpu-01 after ExitMaintenanceModeEvent"


async def test_a_live_run_is_joined_without_a_word(handed: Handed) -> None:
    await handed.deliver(1)
    run_id = (await handed.run.describe()).run_id
    assert await handed.deliver(2) is Delivery.JOINED
    described = await handed.run.describe()
    assert (described.run_id, described.status) == (run_id, WorkflowExecutionStatus.RUNNING)
    signals = [
        each
        async for each in handed.run.fetch_history_events()
        if each.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert signals == []


@pytest.mark.parametrize("closed", [True, False])
async def test_events_that_a_run_was_started_for_are_recognised_when_read_again(handed: Handed, closed: bool) -> None:
    """A VM that was retired meanwhile is not made again by them."""
    await handed.deliver(1, 2)
    run_id = (await handed.run.describe()).run_id
    if closed:
        await handed.finish()
    assert await handed.deliver(1, 2, maybe_repeated=True) is Delivery.REPEATED
    assert (await handed.run.describe()).run_id == run_id


async def test_a_new_event_among_repeated_ones_asks_again_after_the_run(handed: Handed) -> None:
    await handed.deliver(1)
    await handed.finish()
    assert await handed.deliver(1, 2, maybe_repeated=True) is Delivery.STARTED
    assert (await handed.order()).events == _keys(2)


async def test_a_host_that_leaves_maintenance_mode_has_a_vm_asked_for_by_its_rule(simulated: Watched) -> None:
    server, host = simulated.server, simulated.hosts[0]
    assert isinstance(server, PostingSimulator)
    name = f"infer-{host.name.partition('.')[0]}"
    run = simulated.client.get_workflow_handle(ids.provision_gpu_vm(simulated.vcenter, name))

    async def order() -> ProvisionGpuVmInput | None:
        try:
            return await run.query(RecordingProvisionGpuVm.order)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return None

    async with simulated.workers(rules()):
        await simulated.start()
        await simulated.begun()
        for on in (True, False):
            await asyncio.to_thread(server.act, "set_maintenance", host=host.name, on=on)
        found = await until(order, bool, 60)
        assert found is not None
        expected = RulesFile.model_validate(rules()).vms["own"].request(simulated.vcenter, host.name)
        assert found.request == expected
        assert (found.request.name, found.request.vcenter) == (name, simulated.vcenter)
        assert (found.requester, len(found.events)) == ("rule:own", 1)
        assert found.prefer_host is not None
        assert found.prefer_host.moid == host._moId
        assert "ExitMaintenanceModeEvent" in found.reason
        status = await until(simulated.status, lambda status: status.counters.started == 1, 60)
        assert status.quarantined == ()
        assert not await simulated.exists(host)
