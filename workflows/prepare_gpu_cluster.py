"""`PrepareGpuCluster`: rolling preparation of a cluster's hosts, each by a `PrepareGpuHost` of its own.

It looks at all hosts, asks once for the whole plan or leaves asking to each host's run, lets the canaries go first and
the others after, and stops when too many failed. It touches no host itself. How many hosts are down at once is decided
by the cluster's gate, whatever this run starts.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from contracts import ids, names, search_attributes
    from contracts.activities import ClusterActivities
    from contracts.approvals import ApprovalState
    from contracts.cluster import (
        ApprovalMode,
        AwaitPreparation,
        ClusterHost,
        ClusterOutcome,
        ClusterPlan,
        ClusterStage,
        Fit,
        HostProgress,
        HostState,
        LookAtCluster,
        Pause,
        PreparationEnd,
        PrepareGpuClusterInput,
        PrepareGpuClusterReport,
    )
    from contracts.cluster_grant import ClusterGrant
    from contracts.prepare import Outcome, PrepareGpuHostInput, PrepareGpuHostReport

from workflows import policies
from workflows.approval_desk import ApprovalDesk
from workflows.asking import AskingWorkflow, cause
from workflows.cluster_story import tell_cluster

__all__ = ["PrepareGpuCluster"]

_LOOK_S = 1800
_LONGEST_PREPARATION_S = 21 * 24 * 3600
"""Longer than a host's run can wait for people: in a blocked state, for an approval and for a resolution."""
_PROVEN = {Outcome.PREPARED, Outcome.ALREADY_RIGHT}
_FAILED = {None, Outcome.RESTORED, Outcome.RESTORED_IN_PART}
"""Outcomes that count as failures. A denied host is a decision, and so is a skipped step."""


@workflow.defn(name=names.PREPARE_GPU_CLUSTER)
class PrepareGpuCluster(AskingWorkflow):
    """Brings the GPUs of a cluster's hosts to what a profile says, a few hosts at a time."""

    @workflow.init
    def __init__(self, order: PrepareGpuClusterInput) -> None:
        self._order = order
        self._desk = ApprovalDesk(
            f"prepare {order.cluster_name} for profile {order.profile}", order.requester, order.reason
        )
        self._plan: ClusterPlan | None = None
        self._hosts: dict[str, HostProgress] = {}
        self._grant: ClusterGrant | None = None
        self._running = 0
        self._failures = 0
        self._paused_by: str | None = None
        self._phase = ClusterStage.LOOKING
        self._stage = ClusterStage.LOOKING
        self._detail = ""
        self._stopped = ""
        self._outcome: ClusterOutcome | None = None
        self._finished_at: datetime | None = None

    # -- what others may say and ask ------------------------------------------------------------------------------

    @workflow.signal(name=names.PAUSE)
    def pause(self, message: Pause) -> None:
        """Start no other host until `resume`; those that run go on."""
        self._paused_by = message.by or "somebody"
        self._tell_roll()

    @workflow.signal(name=names.RESUME)
    def resume(self, message: Pause) -> None:
        """Go on starting hosts."""
        self._paused_by = None
        self._tell_roll()

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> PrepareGpuClusterReport:
        """Where the run stands."""
        order = self._order
        return PrepareGpuClusterReport(
            vcenter=order.vcenter,
            cluster_moid=order.cluster_moid,
            cluster_name=self._plan.cluster_name if self._plan else order.cluster_name,
            profile=order.profile,
            requester=order.requester,
            stage=self._stage,
            outcome=self._outcome,
            detail=self._detail,
            plan_hash=self._plan.plan_hash if self._plan else "",
            hosts=tuple(self._hosts.values()),
            approvals=self._desk.all,
            started_at=workflow.info().start_time,
            finished_at=self._finished_at,
        )

    # -- the run --------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, order: PrepareGpuClusterInput) -> PrepareGpuClusterReport:
        """Run until every host had its turn, or a person says no, or too many failed."""
        workflow.upsert_search_attributes(
            [
                search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter)),
                search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(order.cluster_name)),
                search_attributes.GPU_APPROVAL.value_set(ApprovalState.NONE),
            ]
        )
        try:
            outcome = await self._roll_out()
        except (asyncio.CancelledError, ActivityError) as error:
            if not is_cancelled_exception(error):
                raise
            self._leave_out("the run was cancelled")
            self._tell(ClusterStage.FINISHED, "Cancelled, and the runs of its hosts with it; each says how it ended.")
            raise
        self._outcome, self._finished_at = outcome, workflow.now()
        self._tell(ClusterStage.FINISHED, self._ending(outcome))
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.report()

    async def _roll_out(self) -> ClusterOutcome:
        plan = await self._look()
        hosts = plan.lacking
        if not hosts:
            if all(each.fit is Fit.NO_GPU for each in plan.hosts):
                raise self._end("NotSupported", f"no host has a GPU of profile {self._order.profile!r}: {_why(plan)}")
            right = all(each.fit in (Fit.RIGHT, Fit.NO_GPU) for each in plan.hosts)
            return ClusterOutcome.ALREADY_RIGHT if right else ClusterOutcome.PREPARED_IN_PART
        if self._order.approval is ApprovalMode.WHOLE and plan.shown.needs_approval:
            answer = await self._ask(plan)
            if answer is not ApprovalState.APPROVED:
                self._leave_out(f"the plan was {answer}")
                return ClusterOutcome(answer)
            self._grant = plan.grant(self._desk.grant)
        canaries, others = hosts[: self._order.canary], hosts[self._order.canary :]
        await self._roll(ClusterStage.CANARY, canaries)
        if not self._stopped:
            await self._roll(ClusterStage.ROLLING, others)
        if self._stopped:
            return ClusterOutcome.STOPPED
        settled = all(
            progress.outcome in _PROVEN or progress.fit in (Fit.RIGHT, Fit.NO_GPU) for progress in self._hosts.values()
        )
        return ClusterOutcome.PREPARED if settled else ClusterOutcome.PREPARED_IN_PART

    async def _look(self) -> ClusterPlan:
        self._tell(ClusterStage.LOOKING, "Looking at every host of the cluster.")
        try:
            plan = await workflow.execute_activity_method(
                ClusterActivities.look_and_plan_cluster,
                LookAtCluster(
                    vcenter=self._order.vcenter, cluster_moid=self._order.cluster_moid, profile=self._order.profile
                ),
                **policies.wait(_LOOK_S),
                task_queue=policies.wait_queue(),
                summary=f"look at the hosts of {self._order.cluster_name}",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise self._end(*cause(error)) from error
        self._plan = plan
        canaries = {each.host.key for each in plan.lacking[: self._order.canary]}
        self._hosts = {
            each.host.key: HostProgress(
                host=each.host,
                fit=each.fit,
                canary=each.host.key in canaries,
                state=HostState.WAITING if each.fit is Fit.LACKS else HostState.SKIPPED,
                text=each.why,
            )
            for each in plan.hosts
        }
        return plan

    async def _ask(self, plan: ClusterPlan) -> ApprovalState:
        """Ask about the plans of all hosts at once."""
        text = f"Waiting for a person's decision about {len(plan.lacking)} hosts."
        return await self._answer_to(
            plan.shown, plan.plan_hash, plan.terms, lambda: self._tell(ClusterStage.AWAITING_APPROVAL, text)
        )

    # -- rolling --------------------------------------------------------------------------------------------------

    async def _roll(self, phase: ClusterStage, hosts: Sequence[ClusterHost]) -> None:
        """Take each host in turn, and wait for all that were started."""
        self._phase = phase
        tasks: list[asyncio.Task[None]] = []
        try:
            for each in hosts:
                self._tell_roll()
                await workflow.wait_condition(lambda: bool(self._stopped) or self._may_start())
                if self._stopped:
                    break
                self._running += 1
                tasks.append(asyncio.create_task(self._turn(each)))
            self._tell_roll()
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        if self._stopped:
            self._leave_out(self._stopped)

    def _may_start(self) -> bool:
        return self._paused_by is None and self._running < self._order.at_once

    async def _turn(self, each: ClusterHost) -> None:
        """Prepare one host and write down how it ended."""
        key = each.host.key
        try:
            end = await self._prepare(each)
        except (asyncio.CancelledError, CancelledError):
            self._set(key, state=HostState.FAILED, text="cancelled with the run of the cluster")
            raise
        finally:
            self._running -= 1
        failed = end.outcome in _FAILED
        self._set(key, state=HostState.FAILED if failed else HostState.DONE, outcome=end.outcome, text=end.text)
        if failed:
            self._failures += 1
        proven = end.outcome in _PROVEN
        if self._hosts[key].canary and not proven:
            self._stopped = self._stopped or f"canary {each.host.name} was not proven"
        elif self._failures >= self._order.max_failures:
            self._stopped = self._stopped or f"{self._failures} failed, the limit is {self._order.max_failures}"
        self._tell_roll()

    async def _prepare(self, each: ClusterHost) -> PreparationEnd:
        """Run the host's own workflow, or wait for the one that runs already and see what it leaves to do."""
        order = self._order
        workflow_id = ids.prepare_gpu_host(each.host.vcenter, each.host.key)
        while True:
            try:
                child = await workflow.start_child_workflow(
                    names.PREPARE_GPU_HOST,
                    PrepareGpuHostInput(
                        host=each.host,
                        profile=order.profile,
                        requester=order.requester,
                        reason=order.reason or f"part of {workflow.info().workflow_id}",
                        cluster_grant=self._grant,
                        approved_plan=each.plan if self._grant else None,
                    ),
                    id=workflow_id,
                    result_type=PrepareGpuHostReport,
                    # A host in the middle of its work is brought to the end, out of maintenance and its lease given
                    # back, even if this run is terminated or times out. To end the hosts' runs too, cancel this one.
                    parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                    static_summary=f"prepare {each.host.name} for {order.profile}",
                    search_attributes=search_attributes.of_host(each.host, self._order.cluster_name),
                )
            except WorkflowAlreadyStartedError:
                joined = await self._join(each, workflow_id)
                if joined.profile == order.profile and joined.outcome in _PROVEN:
                    return joined
                # What somebody else's run left undone, or did for another profile, is this run's to do.
                continue
            self._set(each.host.key, state=HostState.RUNNING, text="", workflow_id=workflow_id)
            self._tell_roll()
            try:
                report: PrepareGpuHostReport = await child
            except ChildWorkflowError as error:
                if workflow.cancellation_reason() is not None:
                    raise asyncio.CancelledError from error
                return PreparationEnd(profile=order.profile, text=_words(error))
            return PreparationEnd(profile=report.profile, outcome=report.outcome, text=report.detail)

    async def _join(self, each: ClusterHost, workflow_id: str) -> PreparationEnd:
        text = "waits for a preparation that was running already"
        self._set(each.host.key, state=HostState.JOINED, text=text, workflow_id=workflow_id)
        self._tell_roll()
        try:
            return await workflow.execute_activity_method(
                ClusterActivities.await_preparation,
                AwaitPreparation(workflow_id=workflow_id),
                **policies.wait(_LONGEST_PREPARATION_S),
                task_queue=policies.wait_queue(),
                summary=f"wait for the other preparation of {each.host.name}",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            kind, text = cause(error)
            return PreparationEnd(text=f"{kind}: {text}")

    # -- telling --------------------------------------------------------------------------------------------------

    def _set(self, key: str, **changes: Any) -> None:
        self._hosts[key] = self._hosts[key].model_copy(update=changes)

    def _leave_out(self, why: str) -> None:
        """Write down that the hosts which wait will not have their turn."""
        for key, progress in self._hosts.items():
            if progress.state is HostState.WAITING:
                self._set(key, state=HostState.NOT_STARTED, text=why)

    def _end(self, kind: str, text: str) -> ApplicationError:
        self._tell(ClusterStage.FINISHED, f"{kind}: {text}")
        return ApplicationError(f"{text} Nothing was changed.", type=kind, non_retryable=True)

    def _ending(self, outcome: ClusterOutcome) -> str:
        match outcome:
            case ClusterOutcome.ALREADY_RIGHT:
                return "Every host is as the profile wants it; nothing was changed."
            case ClusterOutcome.PREPARED:
                return "Every host is as the profile wants it, read back from vCenter."
            case ClusterOutcome.PREPARED_IN_PART:
                return "Not every host is as the profile wants it; see each."
            case ClusterOutcome.STOPPED:
                return f"Stopped: {self._stopped}. The hosts that were not started are as they were."
            case ClusterOutcome.DENIED | ClusterOutcome.EXPIRED:
                return f"The approval was {outcome}; nothing was changed."

    def _tell_roll(self) -> None:
        """Tell how far the rollout is; before and after it, a signal changes nothing that is told."""
        if self._phase not in (ClusterStage.CANARY, ClusterStage.ROLLING):
            return
        done = sum(progress.state in (HostState.DONE, HostState.FAILED) for progress in self._hosts.values())
        text = f"{self._running} running, {done} of {len(self._plan.lacking) if self._plan else 0} done."
        if self._stopped:
            self._tell(ClusterStage.STOPPING, f"No other host is started: {self._stopped}. {text}")
        elif self._paused_by is not None:
            self._tell(ClusterStage.PAUSED, f"Paused by {self._paused_by}: no other host is started. {text}")
        else:
            self._tell(self._phase, text)

    def _tell(self, stage: ClusterStage, detail: str) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage, self._detail = stage, detail
        workflow.set_current_details(tell_cluster(self.report()))


def _why(plan: ClusterPlan) -> str:
    return " ".join(each.why for each in plan.hosts[:8])


def _words(error: ChildWorkflowError) -> str:
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return f"{cause.type}: {cause.message}"
    if isinstance(cause, CancelledError):
        return "its run was cancelled"
    return str(cause or error)
