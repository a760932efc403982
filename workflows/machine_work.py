"""The loop that every run about a VM shares: look → plan → ask → converge → prove, and undo where that fails.

The workflow interprets plans: it never computes one. What cannot be had is refused before anything is made; what could
not be made right is removed again, or kept for inspection if the request says so.
"""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.approvals import ApprovalState
    from contracts.host import HostRef
    from contracts.machine import Placement, VmRef
    from contracts.plan import Blocker, StepKind
    from contracts.provision import GpuVmReport, VmOutcome, VmPlan, VmStage, VmWork
    from contracts.vms import VmRequest

from workflows.approval_desk import ApprovalDesk
from workflows.asking import AskingWorkflow
from workflows.machine_steps import MachineSteps, Trouble
from workflows.machine_story import tell_vm

__all__ = ["MachineWorkflow"]

_WAITED_FOR = {"question", "vm-unreachable"}
"""Blockers that somebody in vCenter ends while a VM is half done; the run goes on by itself."""
_RECHECK_S = (5, 10, 20, 40, 60)
_UNREACHABLE = {"Unreachable", "Busy"}
_UNDO_LOOKS = 3
_UNDO_PAUSE_S = 5
_UNDO_COPIES = 50
"""So many tasks of others are followed in search of this run's own."""


class MachineWorkflow(AskingWorkflow):
    """Base class of the workflows about one VM; its subclass calls `_begin` when it is made."""

    def _begin(
        self,
        work: VmWork,
        vcenter: str,
        name: str,
        requester: str,
        reason: str,
        *,
        request: VmRequest | None = None,
        vm: VmRef | None = None,
        prefer_host: HostRef | None = None,
    ) -> None:
        self._machine_work, self._vcenter, self._name, self._requester = work, vcenter, name, requester
        self._request = request
        self._desk = ApprovalDesk(f"{work} {name}", requester, reason)
        self._steps = MachineSteps(work, vcenter, name, request, vm, self._desk, self._say_working)
        self._steps.prefer_host = prefer_host
        self._stage = VmStage.LOOKING
        self._outcome: VmOutcome | None = None
        self._detail = self._error = self._host = self._address = ""
        self._freed: tuple[str, ...] = ()
        self._proof: tuple[str, ...] = ()
        self._news = False
        self._finished_at: datetime | None = None

    # -- what others may say and ask ------------------------------------------------------------------------------

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """Look again now instead of at the next interval."""
        self._news = True

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> GpuVmReport:
        """Where the run stands."""
        look = self._steps.last
        return GpuVmReport(
            work=self._machine_work,
            name=self._name,
            vcenter=self._vcenter,
            requester=self._requester,
            stage=self._stage,
            outcome=self._outcome,
            detail=self._detail,
            error=self._error,
            request=self._request,
            vm=self._steps.vm,
            host=self._host,
            ip_address=self._address,
            placement=look.placement if look else Placement(),
            plan=look.plan if look else None,
            steps=tuple(self._steps.records),
            cannot=look.cannot if look else (),
            proof=self._proof,
            freed=self._freed,
            approvals=self._desk.all,
            started_at=workflow.info().start_time,
            finished_at=self._finished_at,
        )

    # -- the loop -------------------------------------------------------------------------------------------------

    async def _work_to_the_end(self) -> GpuVmReport:
        """Run until the VM is as wanted, a person says no, or it cannot be had."""
        pairs = [
            search_attributes.GPU_VCENTER.value_set(search_attributes.cut(self._vcenter)),
            search_attributes.GPU_VM.value_set(search_attributes.cut(self._name)),
            search_attributes.GPU_APPROVAL.value_set(ApprovalState.NONE),
        ]
        if self._request is not None:
            pairs.append(search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(self._request.cluster)))
            pairs.append(search_attributes.GPU_MODE.value_set("vgpu" if self._request.vgpu else "passthrough"))
        workflow.upsert_search_attributes(pairs)
        try:
            outcome = await self._converge()
        except Trouble as trouble:
            raise await self._end_badly(trouble) from trouble
        except (asyncio.CancelledError, ActivityError) as error:
            if is_cancelled_exception(error):
                await self._end_badly(Trouble("Cancelled", "The run was cancelled."))
            raise
        self._finish(outcome, self._ending(outcome))
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.report()

    async def _converge(self) -> VmOutcome:
        while True:
            look = await self._look()
            if look.guest_unread:
                self._tell(VmStage.PROVING, "Asking nvidia-smi in the guest.")
                await self._steps.ask_guest()
                continue
            if look.plan.blockers:
                await self._blocked(look.plan.blockers)
                continue
            if not look.plan.steps:
                self._proof = look.proof
                return self._reached()
            if not self._covered(look):
                answer = await self._ask(look)
                if answer is not ApprovalState.APPROVED:
                    if self._steps.records:
                        raise Trouble("NeedsHuman", f"A changed plan was {answer}.")
                    return VmOutcome(answer)
                continue
            step = look.plan.steps[0]
            if self._steps.failure is not None:
                # Others are at it as well: the pause lets them come to an end.
                await asyncio.sleep(1 + workflow.random().random() * 2)
            await self._steps.run(look, step)

    async def _look(self) -> VmPlan:
        """Look; once something was made or changed, vCenter's return is waited for."""
        began, pauses = workflow.now(), iter(_RECHECK_S)
        stage = VmStage.WORKING if self._steps.records else VmStage.LOOKING
        self._tell(stage, f"Looking at {self._name}.")
        while True:
            try:
                look = await self._steps.look()
                break
            except Trouble as trouble:
                waited = workflow.now() - began
                late = waited >= timedelta(seconds=self._steps.limits.resolve_deadline_s)
                if trouble.type not in _UNREACHABLE or not self._steps.records or late:
                    raise
                self._tell(VmStage.AWAITING_RESOLUTION, f"{trouble.message}. Looking again by itself.")
                await self._pause(next(pauses, _RECHECK_S[-1]))
        self._note(look)
        return look

    def _note(self, look: VmPlan) -> None:
        state = look.state
        if state is None:
            return
        if state.powered_on and state.host_name:
            if state.host_name != self._host:
                workflow.upsert_search_attributes(
                    [search_attributes.GPU_HOST.value_set(search_attributes.cut(state.host_name))]
                )
            self._host, self._address = state.host_name, state.ip_address
        if self._machine_work is VmWork.RETIRE and state.assigned_gpus:
            self._freed = tuple(f"{state.host_name} {sbdf} {pair}" for sbdf, pair in state.assigned_gpus.items())

    async def _blocked(self, blockers: tuple[Blocker, ...]) -> None:
        """Wait for what somebody else ends; raises `Trouble` for the rest, and when nobody did in time."""
        before = f"{self._steps.failure.message}. " if self._steps.failure else ""
        text = " ".join(f"{blocker.text}. Fix: {blocker.fix}." for blocker in blockers)
        final = next((blocker for blocker in blockers if blocker.code not in _WAITED_FOR), None)
        if final is not None or not self._steps.records:
            raise Trouble((final or blockers[0]).error, before + text)
        deadline_s = self._steps.limits.resolve_deadline_s
        began, pauses = workflow.now(), iter(_RECHECK_S)
        while True:
            self._tell(VmStage.AWAITING_RESOLUTION, f"{text} Looking again by itself.")
            left = deadline_s - (workflow.now() - began).total_seconds()
            if left <= 0:
                raise Trouble("NeedsHuman", f"{text} Nobody did within {deadline_s} s.")
            await self._pause(min(next(pauses, _RECHECK_S[-1]), left))
            look = await self._look()
            if look.plan.blockers != blockers:
                return

    async def _pause(self, seconds: float) -> None:
        """Wait for the signal to look again, at most so long."""
        self._news = False
        try:
            await workflow.wait_condition(
                lambda: self._news, timeout=timedelta(seconds=seconds), timeout_summary="until the next look"
            )
        except TimeoutError:
            return

    def _reached(self) -> VmOutcome:
        if not self._steps.records:
            return VmOutcome.ALREADY_RIGHT
        match self._machine_work:
            case VmWork.CHANGE:
                return VmOutcome.CHANGED
            case VmWork.RETIRE:
                return VmOutcome.RETIRED
            case _:
                return VmOutcome.PROVISIONED

    # -- asking ---------------------------------------------------------------------------------------------------

    def _covered(self, look: VmPlan) -> bool:
        if look.ask_always and not self._desk.grant:
            return False
        return self._desk.covers(look.plan)

    async def _ask(self, look: VmPlan) -> ApprovalState:
        self._steps.subject = look.subject
        return await self._answer_to(
            look.plan,
            look.plan_hash,
            look.terms,
            lambda: self._tell(VmStage.AWAITING_APPROVAL, "Waiting for a person's decision."),
        )

    def _end(self, kind: str, text: str) -> ApplicationError:
        return Trouble(kind, text)

    # -- ending ---------------------------------------------------------------------------------------------------

    async def _end_badly(self, trouble: Trouble) -> ApplicationError:
        """Undo what this run made, and say what went wrong and what is left; the error to end the run with."""
        kind = trouble.type or "NeedsHuman"
        outcome, left = await self._undo(trouble.message)
        self._error = kind
        self._finish(outcome, f"{trouble.message} {left}")
        return ApplicationError(self._detail, self.report(), type=kind, non_retryable=True)

    async def _undo(self, why: str) -> tuple[VmOutcome, str]:
        if self._machine_work is not VmWork.PROVISION:
            if not self._steps.records:
                return VmOutcome.REFUSED, "Nothing was changed."
            return VmOutcome.KEPT, self._left_by_work()
        if not self._steps.created:
            return VmOutcome.REFUSED, "Nothing was made."
        if self._request is not None and self._request.keep_on_failure:
            return VmOutcome.KEPT, f"{self._name} is kept for inspection, as asked; it holds its GPUs while it is on."
        self._tell(VmStage.UNDOING, f"{why} Removing what this run made.")
        try:
            return await self._remove()
        except (Trouble, ActivityError) as error:
            text = error.message if isinstance(error, Trouble) else str(error)
            return VmOutcome.KEPT, f"It could not be removed: {text} Remove {self._name} by hand."

    async def _remove(self) -> tuple[VmOutcome, str]:
        try:
            await self._steps.settle()
        except Trouble as trouble:
            workflow.logger.info("what was submitted last failed: %s", trouble.message)
        removed, followed, empty = False, set[str](), 0
        while empty < _UNDO_LOOKS:
            look = await self._steps.look(VmWork.UNDO)
            copies = [task for task in look.copies if task not in followed]
            if look.plan.steps:
                await self._steps.run(look, look.plan.steps[0], VmWork.UNDO)
                removed = True
            elif removed or self._steps.vm is not None:
                return VmOutcome.UNDONE, f"{self._name} is removed; nothing is left of it."
            elif copies and len(followed) < _UNDO_COPIES:
                # The answer to its creation may be lost, and one of these be it.
                followed.add(copies[0])
                await self._steps.follow(copies[0])
            elif (empty := empty + 1) < _UNDO_LOOKS:
                await asyncio.sleep(_UNDO_PAUSE_S)
        return VmOutcome.UNDONE, f"vCenter shows no VM {self._name} of this run; nothing is left of it."

    def _left_by_work(self) -> str:
        look = self._steps.last
        state = look.state if look else None
        if state is None:
            return f"{self._name} is no longer in vCenter."
        off = " This run shut it down." if self._steps.shut_down and not state.powered_on else ""
        return f"{self._name} stays as it is now: {state.power_state}, {len(state.gpus)} GPU devices.{off}"

    def _ending(self, outcome: VmOutcome) -> str:
        match outcome:
            case VmOutcome.PROVISIONED | VmOutcome.CHANGED:
                return f"{self._name} is as asked for, read back from vCenter."
            case VmOutcome.RETIRED:
                return f"{self._name} is deleted, and its GPUs are free."
            case VmOutcome.ALREADY_RIGHT if self._machine_work is VmWork.RETIRE:
                return f"{self._name} is gone already; nothing was changed."
            case VmOutcome.ALREADY_RIGHT:
                return f"{self._name} is as asked for; nothing was changed."
            case _:
                return f"The approval was {outcome}. Nothing was changed."

    def _finish(self, outcome: VmOutcome, text: str) -> None:
        self._outcome, self._finished_at = outcome, workflow.now()
        self._tell(VmStage.FINISHED, text)

    # -- telling --------------------------------------------------------------------------------------------------

    def _say_working(self, text: str) -> None:
        waits = self._steps.records and self._steps.records[-1].step.kind is StepKind.AWAIT_GUEST
        undoing = self._stage is VmStage.UNDOING
        self._tell(VmStage.UNDOING if undoing else VmStage.PROVING if waits else VmStage.WORKING, text)

    def _tell(self, stage: VmStage, detail: str) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage, self._detail = stage, detail
        workflow.set_current_details(tell_vm(self.report()))
