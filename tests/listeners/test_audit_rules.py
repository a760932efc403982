"""Rules that start audits: the events of one incident, in whatever order and however often, make one run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest_asyncio
from temporalio.client import Client

from contracts import ids
from contracts.audit import HaRecoveryAuditInput
from contracts.host import HostRef
from contracts.incidents import Meaning
from contracts.names import TaskQueues
from contracts.rules import RulesFile
from listeners.hand_over import Delivery, HandOver
from listeners.rules import RuleBook, group_by_target
from listeners.targets import HostToPrepare, IncidentToAudit
from tests.support.recording import FINISH, RecordingHaRecoveryAudit
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost
from workers.assembly import Parts, build_workers

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
ON = [
    "DasHostFailedEvent",
    "DasHostIsolatedEvent",
    "HostConnectionLostEvent",
    "HostConnectedEvent",
    "VmFailoverFailed",
    "VmRestartedOnAlternateHostEvent",
    "com.vmware.vc.HA.DasHostFailedEvent",
]
RULES: dict[str, Any] = {
    "rules": [
        {"name": "prepare", "on": ["HostConnectedEvent"], "start": "PrepareGpuHost", "with": {"profile": "p"}},
        {"name": "audit", "on": ON, "start": "HaRecoveryAudit"},
        {"name": "audit-again", "on": ON, "start": "HaRecoveryAudit"},
    ],
    "profiles": {"p": {"gpus": [{"match": "10de:20f1", "mode": "passthrough"}]}},
}
BOOK = RuleBook("v", RulesFile.model_validate(RULES).rules)


def host(name: str, cluster: str = "") -> IndexedHost:
    ref = HostRef(vcenter="v", key=f"uuid-{name}", moid=name, name=f"esx-{name}")
    return IndexedHost(ref, cluster, cluster and f"gpu-{cluster}")


HOSTS = {each.ref.moid: each for each in (host("h1", "c1"), host("h2", "c1"), host("h3", "c2"), host("alone"))}


def event(key: int, type_name: str = "HostConnectionLostEvent", host: str = "h1", **more: str) -> RawEvent:
    return RawEvent(key=key, created=NOON + timedelta(seconds=key), type_name=type_name, host_moid=host, **more)


def audits(*events: RawEvent) -> dict[str, list[int]]:
    """The audits' workflow IDs and their events' keys."""
    matches = [match for each in events for match in BOOK.matches(each)]
    groups, _ = group_by_target("v", matches, HOSTS)
    return {
        group.workflow_id: [each.key for each in group.events]
        for group in groups
        if isinstance(group.target, IncidentToAudit)
    }


def test_hosts_of_one_cluster_share_an_audit_and_a_host_in_none_has_its_own() -> None:
    events = [event(1), event(2, host="h3"), event(3, "DasHostFailedEvent", "h2"), event(4, host="alone")]
    assert audits(*events) == {
        ids.ha_recovery_audit("v", "c1"): [1, 3],
        ids.ha_recovery_audit("v", "c2"): [2],
        ids.ha_recovery_audit("v", "uuid-alone"): [4],
    }


def test_the_cluster_that_an_event_names_is_audited_where_its_host_is_not_known() -> None:
    cluster = {"cluster_moid": "c9", "cluster_name": "gpu-c9", "cluster_type": "ClusterComputeResource"}
    alone = {"cluster_moid": "domain-s7", "cluster_type": "ComputeResource"}
    found = audits(event(1, host="", **cluster), event(2, host="gone", **cluster), event(3, host="gone", **alone))
    assert found == {ids.ha_recovery_audit("v", "c9"): [1, 2]}
    matches = BOOK.matches(event(3, host="gone", **alone))
    assert group_by_target("v", matches, HOSTS) == ((), matches)


def test_an_event_may_start_one_thing_of_each_kind() -> None:
    matches = BOOK.matches(event(1, "HostConnectedEvent"))
    assert [match.rule.name for match in matches] == ["prepare", "audit"]
    groups, _ = group_by_target("v", matches, HOSTS)
    assert [type(group.target) for group in groups] == [HostToPrepare, IncidentToAudit]


def test_what_happens_every_day_begins_no_incident() -> None:
    target = IncidentToAudit("v", "c1")
    begin = {meaning for meaning in Meaning if target.starts_for(event(1, _type_of(meaning)))}
    assert begin == {
        Meaning.HOST_FAILED, Meaning.HOST_ISOLATED, Meaning.HOST_LOST, Meaning.VM_RESTARTED,
        Meaning.VM_RESTART_FAILED, Meaning.VM_NO_RESOURCES, Meaning.VM_OFF_ON_ISOLATION, Meaning.VM_LOST,
    }  # fmt: skip
    assert target.starts_for(event(1, "com.example.host.on.fire"))


def _type_of(meaning: Meaning) -> str:
    return {
        Meaning.HOST_FAILED: "COM.vmware.vc.ha.dasHostFailedEvent",
        Meaning.HOST_ISOLATED: "DasHostIsolatedEvent",
        Meaning.HOST_LOST: "HostConnectionLostEvent",
        Meaning.HOST_BACK: "HostConnectedEvent",
        Meaning.MAINTENANCE_BEGINS: "EnteredMaintenanceModeEvent",
        Meaning.MAINTENANCE_ENDS: "ExitMaintenanceModeEvent",
        Meaning.STANDBY_BEGINS: "EnteredStandbyModeEvent",
        Meaning.STANDBY_ENDS: "ExitedStandbyModeEvent",
        Meaning.VM_RESTARTED: "com.vmware.vc.ha.VmRestartedByHAEvent",
        Meaning.VM_RESTART_FAILED: "VmFailoverFailed",
        Meaning.VM_NO_RESOURCES: "NotEnoughResourcesToStartVmEvent",
        Meaning.VM_OFF_ON_ISOLATION: "VmPowerOffOnIsolationEvent",
        Meaning.VM_LOST: "VmOrphanedEvent",
        Meaning.VM_ON: "VmPoweredOnEvent",
        Meaning.VM_OFF: "VmPoweredOffEvent",
        Meaning.VM_MOVED: "VmMigratedEvent",
        Meaning.VM_GONE: "VmRemovedEvent",
        Meaning.VM_MADE: "VmCreatedEvent",
        Meaning.VM_CHANGED: "VmReconfiguredEvent",
    }[meaning]


class Handed:
    """Events of one incident in a cluster of its own, handed over page by page."""

    def __init__(self, hand_over: HandOver, client: Client) -> None:
        self._hand_over, self._client = hand_over, client
        self._cluster = f"domain-{uuid.uuid4().hex[:8]}"
        self._hosts = {"h1": host("h1", self._cluster)}

    async def deliver(self, *page: RawEvent, maybe_repeated: bool = False) -> Delivery:
        """Only what is for the audit."""
        matches = [match for each in page for match in BOOK.matches(each) if match.rule.name == "audit"]
        [group], _ = group_by_target("v", matches, self._hosts)
        return await self._hand_over.deliver(group, "uuid.0", maybe_repeated=maybe_repeated, still_here=lambda: None)

    @property
    def _id(self) -> str:
        return ids.ha_recovery_audit("v", self._cluster)

    async def order(self) -> HaRecoveryAuditInput:
        return await self._client.get_workflow_handle(self._id).query(RecordingHaRecoveryAudit.order)

    async def keys(self) -> list[int]:
        return await self._client.get_workflow_handle(self._id).query(RecordingHaRecoveryAudit.keys)

    async def finish(self) -> None:
        run = self._client.get_workflow_handle(self._id)
        await run.signal(FINISH)
        await run.result()

    async def run_id(self) -> str:
        return str((await self._client.get_workflow_handle(self._id).describe()).run_id)


@pytest_asyncio.fixture
async def hand_over(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[HandOver]:
    """Hands over to a worker in this process that records what it is given."""
    [worker] = build_workers(temporal_client, queues, Parts(workflows=[RecordingHaRecoveryAudit]))
    async with worker:
        yield HandOver(temporal_client, queues.main)
        async for run in temporal_client.list_workflows(f"TaskQueue = '{queues.main}' AND ExecutionStatus = 'Running'"):
            await temporal_client.get_workflow_handle(run.id).terminate("the test is over")


INCIDENT = ("DasHostFailedEvent", "HostConnectionLostEvent", "com.VMware.vc.ha.DasHostFailedEVENT", "VmFailoverFailed")


async def test_an_incident_is_one_run_that_is_told_each_event_once_in_every_order(
    hand_over: HandOver, temporal_client: Client
) -> None:
    for order in permutations(INCIDENT):
        handed = Handed(hand_over, temporal_client)
        events = [event(key, name) for key, name in enumerate(order, 1)]
        first_page, second_page = events[:2], events[2:]
        assert await handed.deliver(*first_page) is Delivery.STARTED
        run_id = await handed.run_id()
        # The next reader begins before the first page, and dies after the second; the one after it reads all again.
        assert await handed.deliver(*first_page, maybe_repeated=True) is Delivery.REPEATED
        assert await handed.deliver(*second_page, maybe_repeated=True) is Delivery.JOINED
        assert await handed.deliver(*events, maybe_repeated=True) is Delivery.REPEATED
        told = await handed.order()
        assert [(each.key.key, each.type_name) for each in told.incident] == list(enumerate(order, 1))
        assert await handed.run_id() == run_id


async def test_flapping_joins_and_a_host_that_comes_back_starts_nothing(
    hand_over: HandOver, temporal_client: Client
) -> None:
    handed = Handed(hand_over, temporal_client)
    assert await handed.deliver(event(1, "HostConnectedEvent")) is Delivery.UNNEEDED
    assert await handed.deliver(event(2), event(3, "HostConnectedEvent")) is Delivery.STARTED
    run_id = await handed.run_id()
    for key in (4, 6):
        assert await handed.deliver(event(key)) is Delivery.JOINED
        assert await handed.deliver(event(key + 1, "HostConnectedEvent")) is Delivery.JOINED
    assert await handed.keys() == [2, 3, 4, 5, 6, 7]
    assert await handed.run_id() == run_id
    # Two readers at once: the second sends the same again before it can know.
    assert await handed.deliver(event(7, "HostConnectedEvent")) is Delivery.JOINED
    assert await handed.keys() == [2, 3, 4, 5, 6, 7]
    await handed.finish()
    assert await handed.deliver(event(8, "HostConnectedEvent")) is Delivery.UNNEEDED
    assert await handed.deliver(event(9)) is Delivery.STARTED
    assert await handed.run_id() != run_id
    assert await handed.keys() == [9]


async def test_a_storm_is_handed_over_in_parts_that_a_payload_can_hold(
    hand_over: HandOver, temporal_client: Client
) -> None:
    """A page of events with the longest words there are, in a script of three bytes a letter."""
    handed = Handed(hand_over, temporal_client)
    words = "\u9ad8" * 5000
    vm = {"vm_name": "\u9ad8" * 80, "reason": words, "message": words}
    page = [event(key, "VmFailoverFailed", vm_moid=f"vm-{key}", **vm) for key in range(1, 1001)]
    assert await handed.deliver(*page) is Delivery.STARTED
    assert await handed.keys() == list(range(1, 1001))
    assert await handed.deliver(*page, maybe_repeated=True) is Delivery.REPEATED


async def test_an_audit_is_told_what_its_events_say(hand_over: HandOver, temporal_client: Client) -> None:
    handed = Handed(hand_over, temporal_client)
    failed = event(1, "VmFailoverFailed", vm_moid="vm-1", vm_name="train", reason="no host fits", message="m" * 900)
    await handed.deliver(failed)
    order = await handed.order()
    assert (order.vcenter, order.cluster_name, order.host) == ("v", f"gpu-{order.cluster_moid}", None)
    assert order.requester == "rule:audit"
    [told] = order.incident
    assert (told.host_moid, told.vm_name, told.reason) == ("h1", "train", "no host fits")
    assert (told.created, told.meaning) == (failed.created, Meaning.VM_RESTART_FAILED)
    assert len(told.message) <= 300
