"""What a run does to its VM: looks, and one step of the plan at a time, each written down."""

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts.activities import GuestActivities, HostActivities, VmActivities
    from contracts.host import HostRef
    from contracts.machine import GuestEvidence, VmRef
    from contracts.plan import Step, StepKind
    from contracts.prepare import AwaitTask, AwaitVmOff, StepRecord, StepStatus
    from contracts.provision import (
        AwaitPowerOn,
        GuestOrder,
        LookAtVm,
        VmLimits,
        VmPlan,
        VmStepOrder,
        VmStepOutcome,
        VmWork,
    )
    from contracts.vms import VmRequest

from workflows import policies
from workflows.approval_desk import ApprovalDesk
from workflows.asking import cause

__all__ = ["MachineSteps", "Trouble"]

_QUICK: dict[StepKind, Any] = {
    StepKind.CONFIGURE_VM: VmActivities.configure_vm,
    StepKind.SET_VM_GPUS: VmActivities.set_vm_gpus,
    StepKind.UPGRADE_HARDWARE: VmActivities.upgrade_hardware,
    StepKind.SHUT_DOWN_GUEST: VmActivities.shut_down_gpu_vm,
}
_SLOW: dict[StepKind, Any] = {
    StepKind.CREATE_VM: VmActivities.create_vm,
    StepKind.POWER_ON_VM: VmActivities.power_on_gpu_vm,
    StepKind.DELETE_VM: VmActivities.delete_vm,
    StepKind.INSTALL_GUEST_DRIVER: GuestActivities.install_guest_driver,
}
"""They may take minutes by themselves, so they run on the queue for waits and heartbeat."""
_TIMES = {
    StepKind.CREATE_VM: 3,
    StepKind.CONFIGURE_VM: 3,
    StepKind.SET_VM_GPUS: 3,
    StepKind.POWER_ON_VM: 10,
    StepKind.AWAIT_GUEST: 5,
}
"""How often a step may run in one run; others once. Somebody may change the VM between a look and a step, guests boot
again when they are customised, and a power-on can lose its GPU to another VM while there are more."""
_PLACING = {StepKind.CREATE_VM, StepKind.POWER_ON_VM}
_PASSING = {"Conflict", "Busy"}
"""Failures after which another look can tell more."""


class Trouble(ApplicationError):
    """The VM cannot be made right: `type` is the class of the error, the message says why and how to fix it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text, type=kind, non_retryable=True)


class MachineSteps:
    """The looks and steps of one run, and what they leave behind."""

    def __init__(
        self,
        work: VmWork,
        vcenter: str,
        name: str,
        request: VmRequest | None,
        vm: VmRef | None,
        desk: ApprovalDesk,
        tell: Callable[[str], None],
    ) -> None:
        self._work, self._vcenter, self._name, self._request = work, vcenter, name, request
        self._desk, self._tell = desk, tell
        self._times: dict[str, int] = {}
        self._folder = self._template = ""
        self._task = ""
        self.vm = vm
        self.last: VmPlan | None = None
        self.limits = VmLimits()
        self.guest: GuestEvidence | None = None
        self.subject = ""
        """What the hash of the plan that was asked for is bound to."""
        self.shut_down = False
        self.created = False
        """A creation was ordered, whether its answer came or not."""
        self.failure: Trouble | None = None
        """The last step failed in a way about which another look can tell more."""
        self.records: list[StepRecord] = []
        self.prefer_host: HostRef | None = None
        """Where the VM is to run, for as long as that host has room."""

    # -- looking --------------------------------------------------------------------------------------------------

    async def look(self, work: VmWork | None = None) -> VmPlan:
        """Look and plan; raises `Trouble`."""
        try:
            look = await workflow.execute_activity_method(
                VmActivities.look_and_plan_vm,
                LookAtVm(
                    work=work or self._work,
                    request=self._request,
                    vm=self.vm,
                    folder=self._folder,
                    template=self._template,
                    run=f"{workflow.info().workflow_id}/{workflow.info().run_id}",
                    guest=self.guest,
                    shut_down=self.shut_down,
                ),
                **policies.look(),
                summary=f"look at {self._name}",
            )
        except ActivityError as error:
            raise _trouble(error) from error
        self.last, self.limits = look, look.limits
        if look.target is not None:
            self._folder, self._template = look.target.folder, look.target.template
        if look.state is not None and (self._work is not VmWork.PROVISION or self.created):
            self.vm = look.state.ref
        return look

    async def ask_guest(self) -> None:
        """See what the guest sees; the next look plans with it."""
        try:
            self.guest = await workflow.execute_activity_method(
                GuestActivities.inspect_guest,
                self._guest_order(policies.INSPECT_S),
                **policies.wait(policies.INSPECT_S),
                task_queue=policies.wait_queue(),
                summary=f"ask nvidia-smi in {self._name}",
            )
        except ActivityError as error:
            raise _trouble(error) from error

    # -- acting ---------------------------------------------------------------------------------------------------

    async def run(self, look: VmPlan, step: Step, work: VmWork | None = None) -> None:
        """Run one step to its end; raises `Trouble`, or leaves in `failure` what another look can tell more of."""
        times = self._times[step.id] = self._times.get(step.id, 0) + 1
        most = _TIMES.get(step.kind, 1)
        if times > most:
            why = f" {self.failure.message}" if self.failure else ""
            raise Trouble("NeedsHuman", f"{step.kind} ran, but {step.target} still needs it: {step.reason}.{why}")
        self.failure = None
        self.records.append(StepRecord(step=step, status=StepStatus.RUNNING, started_at=workflow.now()))
        self._tell(f"{step.kind} of {step.target}.")
        # Before they are tried: an attempt whose answer is lost may have done it all the same.
        self.created = self.created or step.kind is StepKind.CREATE_VM
        self.shut_down = self.shut_down or step.kind is StepKind.SHUT_DOWN_GUEST
        failed = f"{step.kind} of {step.target} failed: "
        try:
            text = await self._carry_out(look, step, work or self._work)
        except ActivityError as error:
            self._record(StepStatus.FAILED, str(cause(error)[1]))
            trouble = _trouble(error, failed)
            self._again_or_raise(trouble, times < most, work)
        except Trouble as trouble:
            self._record(StepStatus.FAILED, trouble.message)
            self._again_or_raise(Trouble(trouble.type or "", f"{failed}{trouble.message}"), times < most, work)
        else:
            self._record(StepStatus.DONE, text)
            if step.kind is StepKind.INSTALL_GUEST_DRIVER:
                # What the guest showed before proves nothing any more.
                self.guest = None
        if work is None and workflow.cancellation_reason() is not None:
            # It was followed to its end, so that what it made is known.
            raise asyncio.CancelledError

    def _again_or_raise(self, trouble: Trouble, again: bool, work: VmWork | None) -> None:
        if work is None and workflow.cancellation_reason() is not None:
            # Its worker was lost meanwhile, or it failed as well: the run is cancelled all the same.
            raise asyncio.CancelledError from trouble
        if not again or trouble.type not in _PASSING:
            raise trouble
        self.failure = trouble

    async def _carry_out(self, look: VmPlan, step: Step, work: VmWork) -> str:
        if step.kind is StepKind.AWAIT_GUEST:
            return await self._await_guest(step)
        order = self._order(look, step, work)
        outcome: VmStepOutcome
        if slow := _SLOW.get(step.kind):
            outcome = await workflow.execute_activity(
                slow,
                order,
                **policies.wait(order.timeout_s),
                task_queue=policies.wait_queue(),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=f"{step.kind} {step.target}",
            )
        else:
            outcome = await workflow.execute_activity(
                _QUICK[step.kind],
                order,
                **policies.change(),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=f"{step.kind} {step.target}",
            )
        if outcome.task and step.kind is StepKind.POWER_ON_VM:
            await self._await_power_on(step, outcome.task)
        elif outcome.task:
            self._task = outcome.task
            await self.settle()
        if step.kind is StepKind.SHUT_DOWN_GUEST:
            await self._await_off(step)
        return outcome.text

    def _order(self, look: VmPlan, step: Step, work: VmWork) -> VmStepOrder:
        # An approved plan stays the one that is shown, whatever later looks call it.
        approved = self._desk.current if self._desk.grant and work is not VmWork.UNDO else None
        limits, state = look.limits, look.state
        timeout_s = limits.driver_timeout_s if step.kind is StepKind.INSTALL_GUEST_DRIVER else limits.task_timeout_s
        return VmStepOrder(
            vcenter=self._vcenter,
            step=step,
            plan=approved.plan if approved else look.plan,
            plan_hash=approved.plan_hash if approved else look.plan_hash,
            subject=self.subject if approved else look.subject,
            work=work,
            request=self._request,
            target=look.target,
            vm=state.ref if state is not None else self.vm,
            run=f"{workflow.info().workflow_id}/{workflow.info().run_id}",
            change_version=state.change_version if state is not None else "",
            grant=self._desk.grant if approved else "",
            timeout_s=timeout_s,
            host_moid=self._host(look, step),
        )

    def _host(self, look: VmPlan, step: Step) -> str:
        """The host to name, where DRS places nothing or the run prefers one: that one at first, while it fits, and then
        any that fits."""
        fitting = [fit.host.moid for fit in look.placement.fitting]
        if step.kind not in _PLACING or not fitting:
            return ""
        if self.prefer_host is None:
            here = look.state.host_moid if look.state is not None else ""
            return "" if look.placement.drs_places else here if here in fitting else fitting[0]
        if self.prefer_host.moid in fitting and self._times[step.id] == 1:
            return self.prefer_host.moid
        # At random: others lost the same race and choose at the same time.
        return workflow.random().choice(fitting)

    async def follow(self, task: str) -> None:
        """Follow a task of somebody, perhaps of this run, to whatever end."""
        self._task = task
        try:
            await self.settle()
        except Trouble as trouble:
            workflow.logger.info("%s ended: %s", task, trouble.message)

    async def settle(self) -> None:
        """Follow the task that was submitted last, if its end is not known; raises `Trouble` when it failed."""
        task, self._task = self._task, ""
        if not task:
            return
        timeout_s = self.limits.task_timeout_s
        try:
            end = await workflow.execute_activity_method(
                HostActivities.await_task,
                AwaitTask(vcenter=self._vcenter, task=task, what=self._name, timeout_s=timeout_s),
                **policies.wait(timeout_s),
                task_queue=policies.wait_queue(),
                summary=f"follow {task}",
            )
        except (ActivityError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                self._task = task
            raise
        if end.state == "error":
            raise Trouble(end.kind or "NeedsHuman", end.error)

    async def _await_power_on(self, step: Step, task: str) -> None:
        if self.vm is None:
            raise Trouble("Conflict", f"{step.target} was powered on and is not known")
        timeout_s = self.limits.power_on_timeout_s
        end = await workflow.execute_activity_method(
            VmActivities.await_power_on,
            AwaitPowerOn(vm=self.vm, task=task, timeout_s=timeout_s),
            **policies.wait(timeout_s),
            task_queue=policies.wait_queue(),
            summary=f"follow the power-on of {step.target}",
        )
        if end.state == "failed":
            raise Trouble(end.error, end.text)
        if end.state == "question":
            raise Trouble("Busy", f"it waits for an answer: {end.text}")

    async def _await_guest(self, step: Step) -> str:
        timeout_s = self.limits.guest_timeout_s
        end = await workflow.execute_activity_method(
            GuestActivities.await_guest,
            self._guest_order(timeout_s),
            **policies.wait(timeout_s),
            task_queue=policies.wait_queue(),
            summary=f"wait for the guest of {step.target}",
        )
        if end.state == "up":
            return end.text or "its guest answers"
        # A question can be answered; then another look goes on. The rest does not heal by itself.
        raise Trouble("Busy" if end.state == "question" else "NeedsHuman", end.text)

    async def _await_off(self, step: Step) -> None:
        timeout_s = self.limits.shutdown_timeout_s
        await workflow.execute_activity_method(
            HostActivities.await_vm_off,
            AwaitVmOff(vcenter=self._vcenter, vm_moid=step.params["vm"], name=step.target, timeout_s=timeout_s),
            **policies.wait(timeout_s),
            task_queue=policies.wait_queue(),
            summary=f"wait for {step.target} to be off",
        )

    def _guest_order(self, timeout_s: int) -> GuestOrder:
        state = self.last.state if self.last else None
        if state is None:
            raise Trouble("Conflict", f"{self._name} is no longer in vCenter")
        return GuestOrder(vm=state.ref, request=self._request, boot_time=state.boot_time, timeout_s=timeout_s)

    def _record(self, status: StepStatus, text: str) -> None:
        self.records[-1] = self.records[-1].model_copy(
            update={"status": status, "text": text, "finished_at": workflow.now()}
        )


def _trouble(error: ActivityError, before: str = "") -> Trouble:
    """What made an activity fail; a cancellation is passed on as it is."""
    if is_cancelled_exception(error):
        raise error
    kind, text = cause(error)
    return Trouble(kind, f"{before}{text}")
