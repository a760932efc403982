"""What looking at a whole vCenter needs done: one read, a snapshot of each cluster, and what is not as expected."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.client import Client, ScheduleOverlapPolicy, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from activities import snapshots
from activities.heartbeats import in_thread
from contracts import ids, names, search_attributes
from contracts.activities import FleetActivities
from contracts.audit import HaRecoveryAuditReport
from contracts.errors import Unreachable
from contracts.fleet import GpuFleet
from contracts.reconcile import (
    LONGEST,
    MOST_TOLD,
    Finding,
    FindingKind,
    FleetLook,
    LookAfterGap,
    LookAtFleet,
    Proposal,
    ReconcileFleetInput,
    ReconcileFleetReport,
)
from contracts.rules import RulesFile
from contracts.snapshots import ClusterSnapshot
from planning.differences import acts, counts, differences, known_labels, lasting
from planning.snapshots import by_subject, snapshot_of
from vsphere.connection import calls_made
from vsphere.fleet import read_fleet
from vsphere.sessions import SessionPool, pool_named

__all__ = ["VCenterFleetActivities"]

_KEPT_AT_ONCE = 10
_CALL_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True)
class _Seen:
    fleet: GpuFleet
    at: datetime
    snapshots: Sequence[ClusterSnapshot]
    findings: Sequence[Finding]
    acted: tuple[str, ...]
    calls: int


class VCenterFleetActivities(FleetActivities):
    """`FleetActivities` through vCenter and the worker's own Temporal client; `queue` is the service's main one."""

    def __init__(self, pools: Mapping[str, SessionPool], rules: RulesFile, queue: str) -> None:
        self._pools = pools
        self._rules = rules
        self._queue = queue

    @activity.defn(name="look_at_fleet")
    async def look_at_fleet(self, order: LookAtFleet) -> FleetLook:
        """See `FleetActivities`."""
        seen = await in_thread(lambda: self._look(order))
        troubles = await self._keep(activity.client(), seen.snapshots)
        fleet = seen.fleet
        told = [await _audited(each, order.since) for each in _told(seen.findings, set(order.acted))]
        return FleetLook(
            at=seen.at,
            hosts=len(fleet.hosts),
            gpus=sum(len(host.gpus) for host in fleet.hosts),
            vms=len(fleet.vms),
            snapshots=len(seen.snapshots) - len(troubles),
            findings=tuple(told),
            counts=counts(seen.findings),
            acted=seen.acted,
            calls=seen.calls,
            unread=_cut((*troubles, *fleet.unread)),
        )

    def _look(self, order: LookAtFleet) -> _Seen:
        pool, before = pool_named(self._pools, order.vcenter), calls_made()
        with pool.session() as si:
            fleet = read_fleet(si, order.vcenter)
        calls = calls_made() - before
        labels = known_labels(self._rules.profiles.values())
        found = acts(differences(fleet, order.prepared, order.live, labels), self._rules.rules, order.vcenter)
        parts = by_subject(fleet)
        taken = [snapshot_of(part, subject) for subject, part in parts.items()]
        return _Seen(fleet, fleet.seen_at, taken, found, lasting(order.acted, fleet, order.prepared), calls)

    async def _keep(self, client: Client, taken: Sequence[ClusterSnapshot]) -> list[str]:
        """Keep them side by side; what could not be kept, in words: the next look tries again."""
        slots = asyncio.Semaphore(_KEPT_AT_ONCE)
        troubles: list[str] = []

        async def keep(snapshot: ClusterSnapshot) -> None:
            async with slots:
                activity.heartbeat()
                try:
                    await snapshots.keep(client, self._queue, snapshot)
                except Unreachable as error:
                    troubles.append(str(error))

        await asyncio.gather(*map(keep, taken))
        return sorted(troubles)

    @activity.defn(name="look_after_gap")
    async def look_after_gap(self, order: LookAfterGap) -> str:
        """See `FleetActivities`."""
        client = activity.client()
        schedule = client.get_schedule_handle(ids.reconcile_fleet(order.vcenter))
        try:
            # After a look that runs already, which may have begun before the gap; triggered twice, it looks once.
            await schedule.trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE, rpc_timeout=_CALL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise Unreachable(f"the schedule {schedule.id} was not triggered: {error.message}") from error
        else:
            return f"{schedule.id} looks at the whole fleet"
        try:
            return await self._look_without_schedule(client, order)
        except RPCError as error:
            raise Unreachable(f"no look at {order.vcenter} was started: {error.message}") from error

    async def _look_without_schedule(self, client: Client, order: LookAfterGap) -> str:
        workflow_id = ids.reconcile_fleet(order.vcenter)
        await client.start_workflow(
            names.RECONCILE_FLEET,
            # Whoever switched the schedule off wants no proposals.
            ReconcileFleetInput(vcenter=order.vcenter, propose=False, memory=await _memory(client, workflow_id)),
            id=workflow_id,
            task_queue=self._queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            execution_timeout=LONGEST,
            static_summary=f"Look at {order.vcenter}: {order.reason}"[:200],
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(order.vcenter))]
            ),
            rpc_timeout=_CALL_TIMEOUT,
        )
        return f"{workflow_id} looks at the whole fleet; there is no schedule"


async def _audited(finding: Finding, since: datetime | None) -> Finding:
    """A host that is down with the audit that accounts for it already, where a rule would start one."""
    if finding.kind is not FindingKind.HOST_DOWN or not finding.rule or finding.host is None:
        return finding
    subject = finding.cluster_moid or finding.host.key
    audit: WorkflowHandle[object, HaRecoveryAuditReport] = activity.client().get_workflow_handle(
        ids.ha_recovery_audit(finding.host.vcenter, subject), result_type=HaRecoveryAuditReport
    )
    activity.heartbeat()
    try:
        latest = await audit.describe(rpc_timeout=_CALL_TIMEOUT)
        found = finding.model_copy(update={"run_id": latest.run_id})
        if latest.status is WorkflowExecutionStatus.RUNNING:
            return found.model_copy(update={"action": Proposal.OPEN})
        if latest.status is WorkflowExecutionStatus.COMPLETED:
            report = await audit.result(rpc_timeout=_CALL_TIMEOUT)
            told = any(each.host.key == finding.host.key and each.back_at is None for each in report.hosts)
            # An older one is about an earlier failure: the look since then found nothing to remember.
            if told and (since is None or latest.close_time is None or latest.close_time >= since):
                return found.model_copy(update={"action": Proposal.DECLINED})
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise Unreachable(f"{audit.id} could not be described: {error.message}") from error
    return finding


async def _memory(client: Client, workflow_id: str) -> str:
    """What the last such run knew; empty where there is none, or it came to nothing."""
    run: WorkflowHandle[object, ReconcileFleetReport] = client.get_workflow_handle(
        workflow_id, result_type=ReconcileFleetReport
    )
    try:
        if (await run.describe(rpc_timeout=_CALL_TIMEOUT)).status is not WorkflowExecutionStatus.COMPLETED:
            return ""
        return (await run.result(rpc_timeout=_CALL_TIMEOUT)).memory
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return ""
        raise


def _told(findings: Sequence[Finding], acted: set[str]) -> tuple[Finding, ...]:
    """At most `MOST_TOLD` of each kind; what was acted on before must not hide what was not."""
    told: list[Finding] = []
    for kind in FindingKind:
        of_kind = [each for each in findings if each.kind is kind]
        told += sorted(of_kind, key=lambda each: each.key in acted)[:MOST_TOLD]
    return tuple(told)


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    rest = len(lines) - MOST_TOLD
    return tuple(lines) if rest <= 0 else (*lines[:MOST_TOLD], f"and {rest} more")
