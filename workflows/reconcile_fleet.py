"""`ReconcileFleet`: is every host that was prepared still so? Started by a schedule, one a vCenter.

What was prepared with what is known from the result of the schedule's run before and from the preparations that closed
since; so it outlives the runs themselves. What differs is proposed: as a preparation that asks for approval.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import ids, names, search_attributes
    from contracts.activities import ReconcileActivities
    from contracts.prepare import PrepareGpuHostInput, PrepareGpuHostReport
    from contracts.reconcile import (
        MOST_TOLD,
        REQUESTER,
        DriftFound,
        FleetStage,
        HostDrift,
        HostGroup,
        LookForDrift,
        Proposal,
        Recalled,
        RecallPreparations,
        ReconcileFleetInput,
        ReconcileFleetReport,
        RememberedHost,
        Standing,
        pack,
        unpack,
    )

from workflows import policies
from workflows.asking import cause
from workflows.fleet_story import tell_fleet

__all__ = ["ReconcileFleet"]

_RECALL_S = 900
_GROUP_S = 900
"""Hosts that do not answer cost the time-outs of several calls each."""
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
            proposed=tuple(each.run_id for each in found if each.proposal is Proposal.STARTED),
            started_at=workflow.info().start_time,
            finished_at=self._finished_at,
            memory=self._memory,
        )

    @workflow.run
    async def run(self, order: ReconcileFleetInput) -> ReconcileFleetReport:
        """Run until every remembered host was looked at and what drifted is proposed."""
        workflow.upsert_search_attributes(
            [
                search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter)),
                search_attributes.GPU_STAGE.value_set(self._stage),
            ]
        )
        before = workflow.get_last_completion_result(ReconcileFleetReport)
        recalled = self._recalled = await self._recall(before.memory if before else "")
        memory = unpack(recalled.memory)
        self._hosts = {each.host.key: each for each in memory.hosts if not each.left}
        slots = asyncio.Semaphore(_GROUPS_AT_ONCE)
        await asyncio.gather(*(self._look(group, recalled, slots) for group in recalled.groups))
        wanted = sorted(
            (each for each in self._found.values() if each.proposal is Proposal.WANTED), key=lambda each: each.host.name
        )
        if order.propose:
            self._tell(FleetStage.PROPOSING)
            for drift in wanted[: max(order.max_open - len(recalled.live), 0)]:
                await self._propose(drift)
        else:
            self._found |= {each.host.key: each.model_copy(update={"proposal": Proposal.NONE}) for each in wanted}
        kept = [each.after(self._found.get(each.host.key)) if not each.left else each for each in memory.hosts]
        self._memory = pack(memory.model_copy(update={"hosts": tuple(kept)}))
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
        try:
            child = await workflow.start_child_workflow(
                names.PREPARE_GPU_HOST,
                PrepareGpuHostInput(
                    host=drift.host,
                    profile=drift.profile,
                    requester=REQUESTER,
                    reason=_reason(drift),
                    ask_always=True,
                ),
                id=ids.prepare_gpu_host(drift.host.vcenter, drift.host.key),
                result_type=PrepareGpuHostReport,
                # It waits for a person, and works, long after this run.
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"prepare {drift.host.name} for {drift.profile}: it drifted",
                search_attributes=search_attributes.of_host(drift.host, drift.cluster_name),
            )
        except WorkflowAlreadyStartedError:
            changes: dict[str, object] = {"proposal": Proposal.NONE, "why": "a preparation was started meanwhile"}
        else:
            changes = {"proposal": Proposal.STARTED, "run_id": child.first_execution_run_id or ""}
        self._found[drift.host.key] = drift.model_copy(update=changes)
        self._tell(FleetStage.PROPOSING)

    def _tell(self, stage: FleetStage) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage = stage
        workflow.set_current_details(tell_fleet(self.report()))


def _reason(drift: HostDrift) -> str:
    text = f"changed since it was prepared on {drift.prepared_at:%Y-%m-%d %H:%M} UTC: {drift.words}"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
