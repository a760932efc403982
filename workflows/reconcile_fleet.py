"""`ReconcileFleet`: is every host that was prepared still so? Started by a schedule, one a vCenter.

What was prepared with what is known from the result of the schedule's run before and from the preparations that closed
since; so it outlives the runs themselves. What differs is proposed: as a preparation that asks for approval.

Beside that the whole vCenter is looked at once: a snapshot of each cluster is kept for when its hosts fail, and what is
not as expected is told. A rule may act on it: prepare a host that never was, or audit hosts that are down.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import ids, names, search_attributes
    from contracts.activities import FleetActivities, ReconcileActivities
    from contracts.audit import HaRecoveryAuditInput
    from contracts.packing import packed
    from contracts.prepare import PrepareGpuHostInput, PrepareGpuHostReport
    from contracts.reconcile import (
        MOST_TOLD,
        REQUESTER,
        DriftFound,
        Finding,
        FindingKind,
        FleetLook,
        FleetMemory,
        FleetStage,
        HostDrift,
        HostGroup,
        LookAtFleet,
        LookForDrift,
        Proposal,
        Recalled,
        RecallPreparations,
        ReconcileFleetInput,
        ReconcileFleetReport,
        RememberedHost,
        Standing,
        recollect,
    )

from workflows import policies
from workflows.asking import cause
from workflows.fleet_story import tell_fleet

__all__ = ["ReconcileFleet"]

_RECALL_S = 900
_GROUP_S = 900
"""Hosts that do not answer cost the time-outs of several calls each."""
_FLEET_S = 900
_GROUPS_AT_ONCE = 3
_ORDER = list(Standing)
_LONGEST_REASON = 500


@workflow.defn(name=names.RECONCILE_FLEET)
class ReconcileFleet:
    """Looks at every host that was prepared, and proposes to put right what changed behind our back."""

    @workflow.init
    def __init__(self, order: ReconcileFleetInput) -> None:
        self._order = order
        self._stage = FleetStage.LOOKING
        self._hosts: dict[str, RememberedHost] = {}
        self._found: dict[str, HostDrift] = {}
        self._looked = 0
        self._recalled: Recalled | None = None
        self._memory = ""
        self._finished_at: datetime | None = None
        self._fleet: FleetLook | None = None
        self._fleet_trouble = ""
        self._findings: list[Finding] = []
        self._acted: tuple[str, ...] = ()
        self._audits: list[str] = []

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> ReconcileFleetReport:
        """What is known so far."""
        found = sorted(self._found.values(), key=lambda each: (_ORDER.index(each.standing), each.host.name))
        count = {standing: sum(each.standing is standing for each in found) for standing in Standing}
        return ReconcileFleetReport(
            vcenter=self._order.vcenter,
            stage=self._stage,
            remembered=len(self._hosts),
            right=self._looked - len(found),
            drifted=count[Standing.DRIFTED],
            unknown=count[Standing.UNKNOWN],
            busy=count[Standing.BUSY],
            hosts=tuple(found[:MOST_TOLD]),
            left=self._recalled.left[:MOST_TOLD] if self._recalled else (),
            proposed=(
                *(each.run_id for each in found if each.proposal is Proposal.STARTED),
                *(each.run_id for each in self._findings if _to_prepare(each) and each.action is Proposal.STARTED),
            ),
            fleet=self._fleet.model_copy(update={"findings": tuple(self._findings)}) if self._fleet else None,
            audits=tuple(self._audits),
            fleet_trouble=self._fleet_trouble,
            started_at=workflow.info().start_time,
            finished_at=self._finished_at,
            memory=self._memory,
        )

    @workflow.run
    async def run(self, order: ReconcileFleetInput) -> ReconcileFleetReport:
        """Run until every remembered host and the whole fleet were looked at, and what is to be proposed is."""
        workflow.upsert_search_attributes(
            [
                search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter)),
                search_attributes.GPU_STAGE.value_set(self._stage),
            ]
        )
        before = workflow.get_last_completion_result(ReconcileFleetReport)
        known = before.memory if before else order.memory
        recalled = self._recalled = await self._recall(known)
        memory = recollect(recalled.memory)
        self._hosts = {each.host.key: each for each in memory.hosts if not each.left}
        slots = asyncio.Semaphore(_GROUPS_AT_ONCE)
        await asyncio.gather(
            self._look_at_fleet(memory, recalled, recollect(known).read_at),
            *(self._look(group, recalled, slots) for group in recalled.groups),
        )
        wanted = sorted(
            (each for each in self._found.values() if each.proposal is Proposal.WANTED), key=lambda each: each.host.name
        )
        room = max(order.max_open - len(recalled.live), 0)
        self._tell(FleetStage.PROPOSING)
        if order.propose:
            for drift in wanted[:room]:
                await self._propose(drift)
            room -= len(wanted[:room])
        else:
            self._found |= {each.host.key: each.model_copy(update={"proposal": Proposal.NONE}) for each in wanted}
        for index in [number for number, each in enumerate(self._findings) if _to_prepare(each)]:
            room -= await self._act_on(index, room)
        kept = [each.after(self._found.get(each.host.key)) if not each.left else each for each in memory.hosts]
        self._memory = packed(memory.model_copy(update={"hosts": tuple(kept), "acted": self._acted}))
        self._finished_at = workflow.now()
        self._tell(FleetStage.FINISHED)
        return self.report()

    async def _recall(self, memory: str) -> Recalled:
        try:
            return await workflow.execute_activity_method(
                ReconcileActivities.recall_preparations,
                RecallPreparations(vcenter=self._order.vcenter, memory=memory),
                **policies.wait(_RECALL_S),
                task_queue=policies.wait_queue(),
                summary="recall who was prepared with what",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            kind, text = cause(error)
            # The schedule keeps the result of the run before, so nothing is forgotten.
            raise ApplicationError(f"{text} Nothing was looked at.", type=kind, non_retryable=True) from error

    async def _look(self, group: HostGroup, recalled: Recalled, slots: asyncio.Semaphore) -> None:
        hosts = tuple(self._hosts[key] for key in group.hosts)
        async with slots:
            found = await self._look_at(group, hosts, recalled)
        self._found |= {each.host.key: each for each in found}
        self._looked += len(hosts)
        self._tell(FleetStage.LOOKING)

    async def _look_at(
        self, group: HostGroup, hosts: Sequence[RememberedHost], recalled: Recalled
    ) -> Sequence[HostDrift]:
        try:
            answer: DriftFound = await workflow.execute_activity_method(
                ReconcileActivities.look_for_drift,
                LookForDrift(
                    vcenter=self._order.vcenter,
                    name=group.name,
                    hosts=tuple(hosts),
                    live=tuple(each for each in recalled.live if each.host_key in group.hosts),
                ),
                **policies.wait(_GROUP_S),
                task_queue=policies.wait_queue(),
                summary=f"look at {len(hosts)} of {group.name}",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            why = ": ".join(cause(error))
            return [each.stands(Standing.UNKNOWN, why) for each in hosts]
        return answer.hosts

    async def _propose(self, drift: HostDrift) -> None:
        """Start a preparation, which asks a person."""
        changed = f"changed since it was prepared on {drift.prepared_at:%Y-%m-%d %H:%M} UTC: {drift.words}"
        order = PrepareGpuHostInput(
            host=drift.host, profile=drift.profile, requester=REQUESTER, reason=_cut(changed), ask_always=True
        )
        if run_id := await self._prepare(order, drift.cluster_name, "it drifted"):
            changes: dict[str, object] = {"proposal": Proposal.STARTED, "run_id": run_id}
        else:
            changes = {"proposal": Proposal.NONE, "why": "a preparation was started meanwhile"}
        self._found[drift.host.key] = drift.model_copy(update=changes)
        self._tell(FleetStage.PROPOSING)

    async def _prepare(self, order: PrepareGpuHostInput, cluster_name: str, why: str) -> str:
        """Start a preparation; its run ID, or nothing where one runs already."""
        try:
            child = await workflow.start_child_workflow(
                names.PREPARE_GPU_HOST,
                order,
                id=ids.prepare_gpu_host(order.host.vcenter, order.host.key),
                result_type=PrepareGpuHostReport,
                # It waits for a person, and works, long after this run.
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"prepare {order.host.name} for {order.profile}: {why}",
                search_attributes=search_attributes.of_host(order.host, cluster_name),
            )
        except WorkflowAlreadyStartedError:
            return ""
        return child.first_execution_run_id or ""

    async def _look_at_fleet(self, memory: FleetMemory, recalled: Recalled, since: datetime | None) -> None:
        """Look at the whole vCenter, and have hosts that are down audited at once where a rule says so.

        That this look comes to nothing stops no other.
        """
        try:
            look: FleetLook = await workflow.execute_activity_method(
                FleetActivities.look_at_fleet,
                LookAtFleet(
                    vcenter=self._order.vcenter,
                    prepared=tuple(self._hosts),
                    live=recalled.live,
                    acted=memory.acted,
                    since=since,
                ),
                **policies.wait(_FLEET_S),
                task_queue=policies.wait_queue(),
                summary="look at the whole fleet",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            self._fleet_trouble, self._acted = ": ".join(cause(error)), memory.acted
            return
        self._acted = look.acted
        self._findings = [_remembered(each, look.acted) for each in look.findings]
        # What is remembered stays with the memory, not with each report too.
        self._fleet = look.model_copy(update={"findings": (), "acted": ()})
        # Of the hosts of one cluster the first finding starts the audit of all.
        for index in [number for number, each in enumerate(self._findings) if _to_audit(each)]:
            await self._audit(index)
        self._tell(self._stage)

    async def _act_on(self, index: int, room: int) -> int:
        """Have a host prepared that never was, as its rule says, while there is room; how many were started."""
        finding = self._findings[index]
        if finding.host is None or finding.action is not Proposal.NONE:
            return 0
        if room <= 0:
            self._came_of(index, Proposal.WANTED)
            return 0
        order = PrepareGpuHostInput(
            host=finding.host,
            profile=finding.profile,
            requester=REQUESTER,
            reason=_cut(f"rule {finding.rule}: {finding.text}"),
        )
        run_id = await self._prepare(order, finding.cluster_name, "it never was")
        self._came_of(index, Proposal.STARTED if run_id else Proposal.OPEN, run_id)
        return 1 if run_id else 0

    async def _audit(self, index: int) -> None:
        """Have the GPU VMs of a host that is down accounted for, as its rule says."""
        finding = self._findings[index]
        if finding.host is None or finding.action is not Proposal.NONE:
            if finding.action is Proposal.DECLINED and finding.key not in self._acted:
                self._acted = (*self._acted, finding.key)
            return
        subject = _about(finding)
        started = next(
            (each for each in self._findings if each.run_id in self._audits and _about(each) == subject), None
        )
        if started is not None:
            self._came_of(index, Proposal.STARTED, started.run_id)
            return
        order = HaRecoveryAuditInput(
            vcenter=self._order.vcenter,
            cluster_moid=finding.cluster_moid,
            cluster_name=finding.cluster_name,
            host=None if finding.cluster_moid else finding.host,
            requester=REQUESTER,
            reason=_cut(f"rule {finding.rule}: {finding.host.name} is down: {finding.text}"),
        )
        try:
            child = await workflow.start_child_workflow(
                names.HA_RECOVERY_AUDIT,
                order,
                id=ids.ha_recovery_audit(order.vcenter, subject),
                # It waits for the cluster to settle, and for people, long after this run.
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"account for the GPU VMs of {order.name}: a host was found down",
                search_attributes=search_attributes.of_host(finding.host, finding.cluster_name),
            )
        except WorkflowAlreadyStartedError:
            self._came_of(index, Proposal.OPEN)
            return
        self._audits.append(child.first_execution_run_id or "")
        self._came_of(index, Proposal.STARTED, self._audits[-1])

    def _came_of(self, index: int, action: Proposal, run_id: str = "") -> None:
        finding = self._findings[index]
        if action is Proposal.STARTED:
            self._acted = (*self._acted, finding.key)
        self._findings[index] = finding.model_copy(update={"action": action, "run_id": run_id or finding.run_id})
        self._tell(self._stage)

    def _tell(self, stage: FleetStage) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage = stage
        workflow.set_current_details(tell_fleet(self.report()))


def _remembered(finding: Finding, acted: Sequence[str]) -> Finding:
    """The finding, marked where it was acted on before."""
    before = finding.rule and finding.action is Proposal.NONE and finding.key in acted
    return finding.model_copy(update={"action": Proposal.DECLINED}) if before else finding


def _to_prepare(finding: Finding) -> bool:
    return bool(finding.rule) and finding.kind is FindingKind.HOST_NEVER_PREPARED


def _to_audit(finding: Finding) -> bool:
    return bool(finding.rule) and finding.kind is FindingKind.HOST_DOWN


def _about(finding: Finding) -> str:
    return finding.cluster_moid or (finding.host.key if finding.host else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
