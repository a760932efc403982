"""`PrepareGpuHost`: look → plan → ask → converge → prove, around one host.

The workflow interprets plans: it never computes one. A plan comes from the activity `look_and_plan_host`, a person
approves exactly that plan, and only its steps run. After each step the host is looked at again; the run ends when a
look finds nothing left to do.
"""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.approvals import ApprovalState, Resolution, Resolve
    from contracts.errors import Conflict
    from contracts.gate import LeaseGrant
    from contracts.prepare import (
        HostEvents,
        HostPlan,
        Outcome,
        PrepareGpuHostInput,
        PrepareGpuHostReport,
        Stage,
    )

from workflows.approval_desk import ApprovalDesk
from workflows.asking import AskingWorkflow
from workflows.host_looks import HostLooks
from workflows.host_work import HostWork, StepFailed
from workflows.lease import LeaseHolder
from workflows.story import tell

__all__ = ["PrepareGpuHost"]


@workflow.defn(name=names.PREPARE_GPU_HOST)
class PrepareGpuHost(AskingWorkflow):
    """Brings the GPUs of one host to what a profile says, asking before anything disruptive."""

    @workflow.init
    def __init__(self, order: PrepareGpuHostInput) -> None:
        self._order = order
        self._seen = set(order.events)
        self._desk = ApprovalDesk(
            f"prepare {order.host.name} for profile {order.profile}",
            order.requester,
            order.reason,
            ask_always=order.ask_always,
        )
        self._work = HostWork(order.host, self._desk, self._tell)
        self._looks = HostLooks(order, self._work, self._tell)
        self._cluster_grant = order.cluster_grant
        self._lease = LeaseHolder()
        self._resolve: Resolve | None = None
        self._stage = Stage.LOOKING
        self._outcome: Outcome | None = None
        self._detail = ""
        self._finished_at: datetime | None = None

    # -- what others may say and ask ------------------------------------------------------------------------------

    @workflow.signal(name=names.HOST_EVENTS)
    def host_events(self, message: HostEvents) -> None:
        """More events of this host: known ones change nothing, new ones make the run look again before it ends."""
        fresh = set(message.events) - self._seen
        self._seen |= fresh
        self._looks.news = self._looks.news or bool(fresh)

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """Look again now instead of at the next interval."""
        self._looks.news = True

    # A run that fails waits for nobody: a lease that it had no time to give back is found by the gate's sweep.
    @workflow.signal(name=names.LEASE_GRANTED, unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def lease_granted(self, message: LeaseGrant) -> None:
        """The cluster's gate lets the host go down."""
        await self._lease.granted(message)

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> PrepareGpuHostReport:
        """Where the run stands."""
        look = self._looks.last
        return PrepareGpuHostReport(
            host=self._order.host,
            profile=self._order.profile,
            requester=self._order.requester,
            stage=self._stage,
            outcome=self._outcome,
            detail=self._detail,
            plan=look.plan if look else None,
            steps=tuple(self._work.records),
            gpus=look.gpus if look else (),
            iommu=look.iommu if look else "",
            host_in_maintenance=look.state.in_maintenance if look else None,
            vms_left_off=self._work.vms_left_off,
            approvals=self._desk.all,
            events=tuple(sorted(self._seen, key=lambda event: (event.epoch, event.key))),
            started_at=workflow.info().start_time,
            finished_at=self._finished_at,
        )

    @workflow.update(name=names.RESOLVE)
    def resolve(self, message: Resolve) -> None:
        """Say what to do about the failed step."""
        self._resolve = message

    @resolve.validator
    def _check_resolve(self, message: Resolve) -> None:
        if self._stage is not Stage.AWAITING_RESOLUTION or self._resolve is not None:
            raise Conflict(f"no failed step waits for a resolution; the run is {self._stage}")

    # -- the loop -------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, order: PrepareGpuHostInput) -> PrepareGpuHostReport:
        """Run until the host is as wanted, or a person says no, or something fails for good."""
        workflow.upsert_search_attributes(
            [
                search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.host.vcenter)),
                search_attributes.GPU_HOST.value_set(search_attributes.cut(order.host.name)),
                search_attributes.GPU_APPROVAL.value_set(ApprovalState.NONE),
            ]
        )
        try:
            outcome = await self._converge()
        except (asyncio.CancelledError, ActivityError) as error:
            if is_cancelled_exception(error):
                self._tell(Stage.FINISHED, f"Cancelled. {self._work.left()}")
            await self._give_lease_back()
            raise
        except ApplicationError as error:
            self._tell(Stage.FINISHED, f"{error.type}: {error.message}")
            await self._give_lease_back()
            raise
        await self._lease.release()
        self._outcome, self._finished_at = outcome, workflow.now()
        self._tell(Stage.FINISHED, self._ending(outcome))
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.report()

    async def _converge(self) -> Outcome:
        while True:
            look = await self._looks.look()
            if look.depot_unread:
                self._tell(self._stage, "Reading the depot of the vGPU Manager.")
                await self._looks.inspect_depot()
                continue
            if not look.plan.steps:
                if self._looks.news:
                    continue
                return self._reached()
            if not self._desk.covers(look.plan):
                if self._covered_by_cluster(look):
                    continue
                # What was allowed is not what is needed: others may go first while a person thinks.
                if not self._work.halfway:
                    await self._lease.release()
                answer = await self._ask(look)
                if answer is not ApprovalState.APPROVED:
                    if self._work.records:
                        raise self._work.end("NeedsHuman", f"a changed plan was {answer}.")
                    return Outcome(answer)
                continue
            if look.plan.needs_approval and not await self._may_disrupt(look):
                continue
            try:
                await self._work.run_step(look, look.plan.steps[0], ssh_ran=self._looks.ssh_ran)
            except StepFailed as failure:
                await self._await_resolution(failure)

    def _reached(self) -> Outcome:
        if self._looks.restoring:
            look = self._looks.last
            whole = not self._looks.skipped and not (look and look.not_restored)
            return Outcome.RESTORED if whole else Outcome.RESTORED_IN_PART
        if self._looks.skipped:
            return Outcome.PREPARED_IN_PART
        return Outcome.PREPARED if self._work.records else Outcome.ALREADY_RIGHT

    async def _may_disrupt(self, look: HostPlan) -> bool:
        """True with an open window and the lease; False after a wait for either, because the host may have changed."""
        opens = look.window_opens_at
        if opens is not None and not self._work.halfway:
            self._tell(Stage.AWAITING_WINDOW, f"Waiting for the window that opens at {opens:%Y-%m-%d %H:%M} UTC.")
            await self._looks.pause((opens - workflow.now()).total_seconds(), "until the window opens")
            return False
        if self._lease.held:
            return True
        self._tell(Stage.AWAITING_LEASE, "Waiting for the lease that lets this host of the cluster go down.")
        await self._lease.acquire(self._order.host, look.state.cluster)
        return False

    async def _give_lease_back(self) -> None:
        """Release the lease of a run that ends without having come to work on the host.

        One that failed or was cancelled in the middle keeps it, because its last call may still be on its way: the gate
        sees the holder gone and frees the lease once the host is back.
        """
        if not self._work.records:
            await self._lease.release()

    # -- asking ---------------------------------------------------------------------------------------------------

    async def _ask(self, look: HostPlan) -> ApprovalState:
        """Open an approval bound to the plan's hash and wait for the answer."""
        self._work.may_repeat()
        text = f"Waiting for a person's decision. {self._work.left()}"
        return await self._answer_to(
            look.plan, look.plan_hash, look.terms, lambda: self._tell(Stage.AWAITING_APPROVAL, text)
        )

    def _covered_by_cluster(self, look: HostPlan) -> bool:
        """Whether the approval of the whole cluster's plan was there to take, which it is once."""
        grant, self._cluster_grant = self._cluster_grant, None
        approved = self._order.approved_plan
        if grant is None or approved is None:
            return False
        if not self._desk.accept(self._order.host.key, grant, approved, look.plan):
            return False
        self._say_approval(ApprovalState.APPROVED)
        return True

    async def _await_resolution(self, failure: StepFailed) -> None:
        """Wait for a person to say how to go on; give up, or silence until the deadline, ends the run."""
        self._resolve = None
        choices = "|".join(Resolution)
        self._tell(
            Stage.AWAITING_RESOLUTION,
            f"{failure.kind}: {failure} {self._work.left()} Decide: "
            f"`gpuwright runs resolve {workflow.info().workflow_id} {choices}`",
        )
        try:
            await workflow.wait_condition(
                lambda: self._resolve is not None,
                timeout=timedelta(seconds=self._looks.limits.resolve_deadline_s),
                timeout_summary="deadline for a resolution",
            )
        except TimeoutError:
            raise self._work.end(failure.kind, f"{failure} Nobody resolved it in time.") from failure
        self._work.may_repeat()
        match self._resolve and self._resolve.resolution:
            case Resolution.SKIP:
                self._looks.skipped = (*self._looks.skipped, failure.step.id)
                self._work.skip(failure.step, self._resolve.by if self._resolve else "")
            case Resolution.RESTORE:
                self._looks.restore()
            case Resolution.GIVE_UP:
                by = self._resolve.by if self._resolve else ""
                raise self._work.end(failure.kind, f"{failure} {by} gave up.") from failure

    # -- telling --------------------------------------------------------------------------------------------------

    def _end(self, kind: str, text: str) -> ApplicationError:
        return self._work.end(kind, text)

    def _ending(self, outcome: Outcome) -> str:
        match outcome:
            case Outcome.ALREADY_RIGHT:
                return "The host is as the profile wants it; nothing was changed."
            case Outcome.PREPARED:
                return "The host is as the profile wants it, read back from vCenter."
            case Outcome.PREPARED_IN_PART:
                return f"Everything but the skipped steps is as the profile wants it. {self._work.left()}"
            case Outcome.RESTORED:
                return "A person gave up; the host is configured as it was before this run, read back from vCenter."
            case Outcome.RESTORED_IN_PART:
                look = self._looks.last
                left = (*(look.not_restored if look else ()), *(f"skipped: {step}" for step in self._looks.skipped))
                return f"A person gave up; all that could be put back was. Not put back: {'; '.join(left)}."
            case Outcome.DENIED | Outcome.EXPIRED:
                return f"The approval was {outcome}. {self._work.left()}"

    def _tell(self, stage: Stage, detail: str) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage, self._detail = stage, detail
        workflow.set_current_details(tell(self.report()))
