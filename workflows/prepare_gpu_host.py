"""`PrepareGpuHost`: look → plan → ask → converge → prove, around one host.

The workflow interprets plans: it never computes one. A plan comes from the activity `look_and_plan_host`, a person
approves exactly that plan, and only its steps run. After each step the host is looked at again; the run ends when a
look finds nothing left to do.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.activities import HostActivities, PackageActivities
    from contracts.approvals import Approval, ApprovalState, Decision, Resolution, Resolve
    from contracts.errors import Conflict
    from contracts.gate import LeaseGrant
    from contracts.packages import DepotContent
    from contracts.plan import Blocker, Step, StepKind
    from contracts.prepare import (
        AwaitHostBack,
        AwaitTask,
        GrantOrder,
        HostEvents,
        HostLimits,
        HostPlan,
        LookAtHost,
        Outcome,
        PrepareGpuHostInput,
        PrepareGpuHostReport,
        Stage,
        StepOrder,
        StepOutcome,
        StepRecord,
        StepStatus,
    )
    from contracts.profiles import Profile

from workflows import policies
from workflows.approval_desk import ApprovalDesk
from workflows.lease import LeaseHolder
from workflows.story import tell

__all__ = ["PrepareGpuHost"]

_ACTIVITIES: dict[StepKind, Any] = {
    StepKind.ENTER_MAINTENANCE: HostActivities.enter_maintenance,
    StepKind.SET_HOST_GRAPHICS: HostActivities.set_host_graphics,
    StepKind.SET_GRAPHICS_TYPE: HostActivities.set_graphics_type,
    StepKind.DISABLE_PASSTHROUGH: HostActivities.disable_passthrough,
    StepKind.ENABLE_PASSTHROUGH: HostActivities.enable_passthrough,
    StepKind.SET_LABEL: HostActivities.set_hardware_label,
    StepKind.RESTART_XORG: HostActivities.restart_xorg,
    StepKind.REBOOT: HostActivities.reboot,
    StepKind.EXIT_MAINTENANCE: HostActivities.exit_maintenance,
}
_SLOW_ACTIVITIES: dict[StepKind, Any] = {
    StepKind.INSTALL_MANAGER: PackageActivities.install_vgpu_manager,
    StepKind.REMOVE_MANAGER: PackageActivities.remove_vgpu_manager,
    StepKind.REMEDIATE_IMAGE: PackageActivities.remediate_image,
    StepKind.SET_MIG: PackageActivities.set_mig,
    StepKind.SET_BIOS: PackageActivities.set_bios,
}
"""They take minutes, so they run on the queue for waits and heartbeat."""
_WAITABLE = {"NeedsHuman", "Unreachable", "Busy"}


class _StepFailed(Exception):
    """A step did not do what it should; `kind` is the name of the error."""

    def __init__(self, step: Step, kind: str, text: str) -> None:
        super().__init__(text)
        self.step = step
        self.kind = kind


@workflow.defn(name=names.PREPARE_GPU_HOST)
class PrepareGpuHost:
    """Brings the GPUs of one host to what a profile says, asking before anything disruptive."""

    @workflow.init
    def __init__(self, order: PrepareGpuHostInput) -> None:
        self._order = order
        self._seen = set(order.events)
        self._look: HostPlan | None = None
        self._limits = HostLimits()
        self._desk = ApprovalDesk(
            f"prepare {order.host.name} for profile {order.profile}", order.requester, order.reason
        )
        self._cluster_grant = order.cluster_grant
        self._lease = LeaseHolder()
        self._pinned: Profile | None = None
        self._before: Profile | None = None
        self._depot: DepotContent | None = None
        self._skipped: tuple[str, ...] = ()
        self._restoring = False
        self._ssh_ran: bool | None = None
        self._records: list[StepRecord] = []
        self._ran: set[str] = set()
        self._entered_maintenance = False
        self._resolve: Resolve | None = None
        self._news = False
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
        self._news = self._news or bool(fresh)

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """Look again now instead of at the next interval."""
        self._news = True

    @workflow.signal(name=names.LEASE_GRANTED)
    async def lease_granted(self, message: LeaseGrant) -> None:
        """The cluster's gate lets the host go down."""
        await self._lease.granted(message)

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> PrepareGpuHostReport:
        """Where the run stands."""
        look = self._look
        return PrepareGpuHostReport(
            host=self._order.host,
            profile=self._order.profile,
            requester=self._order.requester,
            stage=self._stage,
            outcome=self._outcome,
            detail=self._detail,
            plan=look.plan if look else None,
            steps=tuple(self._records),
            gpus=look.gpus if look else (),
            iommu=look.iommu if look else "",
            host_in_maintenance=look.state.in_maintenance if look else None,
            approvals=self._desk.all,
            events=tuple(sorted(self._seen, key=lambda event: (event.epoch, event.key))),
            started_at=workflow.info().start_time,
            finished_at=self._finished_at,
        )

    @workflow.query(name=names.QUERY_APPROVAL)
    def approval(self) -> Approval | None:
        """The question that waits for an answer, or the last one answered."""
        return self._desk.current

    @workflow.update(name=names.DECIDE)
    def decide(self, decision: Decision) -> Approval:
        """Approve or deny the plan. The validator has checked everything; here it is only written down."""
        return self._desk.decide(decision.token)

    @decide.validator
    def _check_decision(self, decision: Decision) -> None:
        self._desk.check(decision)

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
                self._tell(Stage.FINISHED, f"Cancelled. {self._host_left()}")
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
            look = await self._look_at_host()
            if look.depot_unread:
                self._depot = await self._inspect_depot()
                continue
            if not look.plan.steps:
                if self._news:
                    continue
                return self._reached()
            if not self._desk.covers(look.plan):
                if self._covered_by_cluster(look):
                    continue
                # What was allowed is not what is needed: others may go first while a person thinks.
                if not self._entered_maintenance:
                    await self._lease.release()
                answer = await self._ask(look)
                if answer is not ApprovalState.APPROVED:
                    if self._records:
                        raise self._end("NeedsHuman", f"a changed plan was {answer}.")
                    return Outcome(answer)
                continue
            if look.plan.needs_approval and not await self._may_disrupt(look):
                continue
            try:
                await self._run_step(look, look.plan.steps[0])
            except _StepFailed as failure:
                await self._await_resolution(failure)

    def _reached(self) -> Outcome:
        if self._restoring:
            return Outcome.RESTORED
        if self._skipped:
            return Outcome.PREPARED_IN_PART
        return Outcome.PREPARED if self._records else Outcome.ALREADY_RIGHT

    async def _may_disrupt(self, look: HostPlan) -> bool:
        """True with an open window and the lease; False after a wait for either, because the host may have changed."""
        opens = look.window_opens_at
        if opens is not None and not self._entered_maintenance:
            self._tell(Stage.AWAITING_WINDOW, f"Waiting for the window that opens at {opens:%Y-%m-%d %H:%M} UTC.")
            await self._pause((opens - workflow.now()).total_seconds(), "until the window opens")
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
        if not self._records:
            await self._lease.release()

    async def _look_at_host(self) -> HostPlan:
        """Look and plan; waits for as long as something outside this run's reach stands in the way."""
        self._tell(Stage.LOOKING if not self._records else Stage.WORKING, "Looking at the host.")
        order = self._look_order()
        waited_since = workflow.now()
        pause_s: float = 0
        while True:
            look, blockers = await self._try_look(order)
            if look and not blockers:
                return look
            # Once the host was touched, even a wrong password is waited for: giving up would leave it half-done.
            final = next((b for b in blockers if b.error not in _WAITABLE and not self._records), None)
            text = " ".join(f"{blocker.text}. Fix: {blocker.fix}." for blocker in blockers)
            if final:
                raise self._end(final.error, f"{final.text}. Fix: {final.fix}.")
            limits = self._limits
            if workflow.now() - waited_since >= timedelta(seconds=limits.blocked_deadline_s):
                raise self._end("NeedsHuman", f"{text} Nothing changed in {limits.blocked_deadline_s} s.")
            pause_s = min(max(pause_s * 2, limits.blocked_recheck_s), limits.blocked_recheck_s * 16)
            self._tell(Stage.BLOCKED, f"{text} Looking again by itself (signal `{names.RECHECK}` to look now).")
            await self._pause(pause_s, "until the next look")

    def _look_order(self) -> LookAtHost:
        return LookAtHost(
            host=self._order.host,
            profile=self._order.profile,
            entered_maintenance=self._entered_maintenance,
            pinned=self._pinned,
            depot=self._depot,
            skip=self._skipped,
        )

    async def _inspect_depot(self) -> DepotContent:
        self._tell(self._stage, "Reading the depot of the vGPU Manager.")
        try:
            return await workflow.execute_activity_method(
                PackageActivities.inspect_depot,
                self._look_order(),
                **policies.wait(self._limits.package_timeout_s),
                task_queue=self._wait_queue,
                summary="read the depot",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise self._end(*_cause(error)) from error

    async def _try_look(self, order: LookAtHost) -> tuple[HostPlan | None, tuple[Blocker, ...]]:
        self._news = False
        try:
            look = await workflow.execute_activity_method(
                HostActivities.look_and_plan_host,
                order,
                **policies.look(),
                summary=f"look at {order.host.name}",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            kind, text = _cause(error)
            return None, (Blocker(code="look-failed", text=text, fix="see the error", error=kind),)
        self._look, self._limits = look, look.limits
        if ssh := look.state.service("TSM-SSH"):
            # What an attempt that died has opened is running at a later look, but was not at the first.
            self._ssh_ran = ssh.running and self._ssh_ran is not False
        if not look.plan.blockers and self._pinned is None:
            self._pinned, self._before = look.pinned, look.before
        if look.state.cluster:
            workflow.upsert_search_attributes(
                [search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(look.state.cluster.name))]
            )
        if look.gpus:
            modes = ",".join(sorted({gpu.mode for gpu in look.gpus}))
            workflow.upsert_search_attributes([search_attributes.GPU_MODE.value_set(modes)])
        return look, look.plan.blockers

    async def _pause(self, seconds: float, summary: str) -> None:
        """Wait for a signal, at most so long."""
        try:
            await workflow.wait_condition(
                lambda: self._news, timeout=timedelta(seconds=seconds), timeout_summary=summary
            )
        except TimeoutError:
            return

    # -- asking ---------------------------------------------------------------------------------------------------

    async def _ask(self, look: HostPlan) -> ApprovalState:
        """Open an approval bound to the plan's hash and wait for the answer."""
        self._desk.open(look.plan, look.plan_hash, look.terms)
        self._ran.clear()
        if look.terms.automatic:
            self._desk.decide(await self._automatic_grant(look))
        else:
            self._say_approval(ApprovalState.PENDING)
            self._tell(Stage.AWAITING_APPROVAL, f"Waiting for a person's decision. {self._host_left()}")
        answer = await self._desk.answer()
        self._say_approval(answer)
        return answer

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

    async def _automatic_grant(self, look: HostPlan) -> str:
        try:
            return await workflow.execute_activity_method(
                HostActivities.grant_automatically,
                GrantOrder(plan_hash=look.plan_hash),
                **policies.change(),
                summary="approve by policy",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise self._end(*_cause(error)) from error

    # -- converging -----------------------------------------------------------------------------------------------

    async def _run_step(self, look: HostPlan, step: Step) -> None:
        """Run one step and follow it to its end; raises `_StepFailed`."""
        if step.id in self._ran:
            raise self._failed(step, "NeedsHuman", f"{step.kind} ran, but the host still needs it: {step.reason}")
        self._records.append(StepRecord(step=step, status=StepStatus.RUNNING, started_at=workflow.now()))
        self._tell(Stage.WORKING, f"{step.kind} on {step.target}.")
        self._ran.add(step.id)
        try:
            text = await self._carry_out(look, step)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise self._failed(step, *_cause(error)) from error
        if step.kind is StepKind.ENTER_MAINTENANCE:
            self._entered_maintenance = True
        elif step.kind is StepKind.EXIT_MAINTENANCE:
            self._entered_maintenance = False
        self._record(StepStatus.DONE, text)

    async def _carry_out(self, look: HostPlan, step: Step) -> str:
        host, limits = self._order.host, self._limits
        approved = self._desk.current if self._desk.grant else None
        order = StepOrder(
            host=host,
            step=step,
            plan=approved.plan if approved else look.plan,
            plan_hash=approved.plan_hash if approved else look.plan_hash,
            grant=self._desk.grant,
            cluster_grant=self._desk.cluster_grant,
            timeout_s=limits.maintenance_timeout_s,
            boot_time_before=look.state.boot_time,
            ssh_ran_before=self._ssh_ran,
        )
        outcome: StepOutcome
        if slow := _SLOW_ACTIVITIES.get(step.kind):
            outcome = await workflow.execute_activity(
                slow,
                order,
                **policies.wait(limits.package_timeout_s),
                task_queue=self._wait_queue,
                summary=f"{step.kind} {step.target}",
            )
        else:
            outcome = await workflow.execute_activity(
                _ACTIVITIES[step.kind], order, **policies.change(), summary=f"{step.kind} {step.target}"
            )
        if outcome.task:
            await self._follow(step, outcome.task)
        if step.kind is StepKind.REBOOT:
            back = await workflow.execute_activity_method(
                HostActivities.await_host_back,
                AwaitHostBack(host=host, boot_time_before=look.state.boot_time, timeout_s=limits.reboot_timeout_s),
                **policies.wait(limits.reboot_timeout_s),
                task_queue=self._wait_queue,
                summary=f"wait for {host.name} to come back",
            )
            return f"{outcome.text}; up since {back.boot_time}"
        return outcome.text

    async def _follow(self, step: Step, task: str) -> None:
        """Follow a vCenter task; a forgotten one is no failure, because the next look tells."""
        timeout_s = max(self._limits.maintenance_timeout_s, self._limits.package_timeout_s) + 60
        end = await workflow.execute_activity_method(
            HostActivities.await_task,
            AwaitTask(
                vcenter=self._order.host.vcenter, task=task, what=f"{step.kind} {step.target}", timeout_s=timeout_s
            ),
            **policies.wait(timeout_s),
            task_queue=self._wait_queue,
            summary=f"follow {task} ({step.kind})",
        )
        # A reboot's task can fail only because the host, and its task, went away: the wait for the host decides.
        if end.state == "error" and step.kind is not StepKind.REBOOT:
            raise self._failed(step, "NeedsHuman", end.error)

    @property
    def _wait_queue(self) -> str:
        return names.TaskQueues(workflow.info().task_queue).wait

    async def _await_resolution(self, failure: _StepFailed) -> None:
        """Wait for a person to say how to go on; give up, or silence until the deadline, ends the run."""
        self._resolve = None
        choices = "|".join(Resolution)
        self._tell(
            Stage.AWAITING_RESOLUTION,
            f"{failure.kind}: {failure} {self._host_left()} Decide: "
            f"`gpuwright runs resolve {workflow.info().workflow_id} {choices}`",
        )
        try:
            await workflow.wait_condition(
                lambda: self._resolve is not None,
                timeout=timedelta(seconds=self._limits.resolve_deadline_s),
                timeout_summary="deadline for a resolution",
            )
        except TimeoutError:
            raise self._end(failure.kind, f"{failure} Nobody resolved it in time.") from failure
        self._ran.clear()
        match self._resolve and self._resolve.resolution:
            case Resolution.SKIP:
                self._skipped = (*self._skipped, failure.step.id)
                self._records.append(
                    StepRecord(
                        step=failure.step,
                        status=StepStatus.SKIPPED,
                        text=f"skipped by {self._resolve.by if self._resolve else ''}",
                        started_at=workflow.now(),
                        finished_at=workflow.now(),
                    )
                )
            case Resolution.RESTORE:
                self._pinned, self._skipped, self._restoring = self._before, (), True
            case Resolution.GIVE_UP:
                by = self._resolve.by if self._resolve else ""
                raise self._end(failure.kind, f"{failure} {by} gave up.") from failure

    # -- telling --------------------------------------------------------------------------------------------------

    def _failed(self, step: Step, kind: str, text: str) -> _StepFailed:
        if self._records and self._records[-1].status is StepStatus.RUNNING:
            self._record(StepStatus.FAILED, text)
        return _StepFailed(step, kind, f"{step.kind} on {step.target} failed: {text}")

    def _record(self, status: StepStatus, text: str) -> None:
        self._records[-1] = self._records[-1].model_copy(
            update={"status": status, "text": text, "finished_at": workflow.now()}
        )

    def _host_left(self) -> str:
        """How the host stands now, as far as this run knows."""
        if self._entered_maintenance:
            return "This run put the host into maintenance mode and has not taken it out."
        return "This run left the host's maintenance mode as it found it."

    def _end(self, kind: str, text: str) -> ApplicationError:
        left = f" {self._host_left()}" if self._records else " Nothing was changed."
        return ApplicationError(text + left, type=kind, non_retryable=True)

    def _ending(self, outcome: Outcome) -> str:
        match outcome:
            case Outcome.ALREADY_RIGHT:
                return "The host is as the profile wants it; nothing was changed."
            case Outcome.PREPARED:
                return "The host is as the profile wants it, read back from vCenter."
            case Outcome.PREPARED_IN_PART:
                return f"Everything but the skipped steps is as the profile wants it. {self._host_left()}"
            case Outcome.RESTORED:
                return "A person gave up; the host is configured as it was before this run, read back from vCenter."
            case Outcome.DENIED | Outcome.EXPIRED:
                return f"The approval was {outcome}. {self._host_left()}"

    def _say_approval(self, state: ApprovalState) -> None:
        workflow.upsert_search_attributes([search_attributes.GPU_APPROVAL.value_set(state)])

    def _tell(self, stage: Stage, detail: str) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage, self._detail = stage, detail
        workflow.set_current_details(tell(self.report()))


def _cause(error: ActivityError) -> tuple[str, str]:
    """The name and words of what made an activity fail."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return cause.type or "ApplicationError", cause.message
    return "Unreachable", f"{error.activity_type} did not finish: {cause or error}"
