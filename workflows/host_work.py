"""What a preparation does to its host: one approved step at a time, each written down."""

from collections.abc import Callable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts.activities import HostActivities, PackageActivities
    from contracts.evacuation import ShutDownVm, StoppedVm
    from contracts.host import BiosFeature, HostRef
    from contracts.plan import Step, StepKind
    from contracts.prepare import (
        AwaitHostBack,
        AwaitTask,
        AwaitVmOff,
        HostPlan,
        Stage,
        StepOrder,
        StepOutcome,
        StepRecord,
        StepStatus,
    )

from workflows import policies
from workflows.approval_desk import ApprovalDesk
from workflows.asking import cause

__all__ = ["HostWork", "StepFailed"]

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
    StepKind.SHUT_DOWN_GUEST: HostActivities.shut_down_guest,
    StepKind.MIGRATE_COLD: HostActivities.migrate_cold,
    StepKind.POWER_ON_VM: HostActivities.power_on_vm,
}
_SLOW_ACTIVITIES: dict[StepKind, Any] = {
    StepKind.INSTALL_MANAGER: PackageActivities.install_vgpu_manager,
    StepKind.REMOVE_MANAGER: PackageActivities.remove_vgpu_manager,
    StepKind.REMEDIATE_IMAGE: PackageActivities.remediate_image,
    StepKind.SET_MIG: PackageActivities.set_mig,
    StepKind.SET_BIOS: PackageActivities.set_bios,
}
"""They take minutes, so they run on the queue for waits and heartbeat."""


class StepFailed(Exception):
    """A step did not do what it should; `kind` is the name of the error."""

    def __init__(self, step: Step, kind: str, text: str) -> None:
        super().__init__(text)
        self.step = step
        self.kind = kind


class HostWork:
    """The steps that a run took, and how it leaves its host."""

    def __init__(self, host: HostRef, desk: ApprovalDesk, tell: Callable[[Stage, str], None]) -> None:
        self._host, self._desk, self._tell = host, desk, tell
        self._ran: set[str] = set()
        self.records: list[StepRecord] = []
        self.entered_maintenance = False
        self._shut_down: dict[str, ShutDownVm] = {}
        self._running: set[str] = set()

    @property
    def shut_down(self) -> tuple[ShutDownVm, ...]:
        """VMs that this run shut down, or was about to when it was last heard of: they are to run at the end."""
        return tuple(self._shut_down.values())

    @property
    def vms_left_off(self) -> tuple[str, ...]:
        """Names of those that were not seen running since."""
        return tuple(sorted(vm.name for moid, vm in self._shut_down.items() if moid not in self._running))

    @property
    def halfway(self) -> bool:
        """The host or its VMs wait for this run to go on."""
        return self.entered_maintenance or bool(self.vms_left_off)

    def saw(self, vms: tuple[StoppedVm, ...]) -> None:
        """Take in how these VMs are at a look; one that somebody deleted is nobody's concern any more."""
        self._running = {vm.moid for vm in vms if vm.powered_on or vm.gone}

    @property
    def bios_ordered(self) -> tuple[BiosFeature, ...]:
        """What the run has ordered of the BIOS, or tried to, since it last rebooted the host."""
        ordered: list[BiosFeature] = []
        for record in self.records:
            if record.step.kind is StepKind.REBOOT and record.status is StepStatus.DONE:
                ordered.clear()
            elif record.step.kind is StepKind.SET_BIOS and record.status is not StepStatus.SKIPPED:
                features = record.step.params.get("features", "")
                ordered += [BiosFeature(name) for name in features.split(",") if name]
        return tuple(ordered)

    def may_repeat(self) -> None:
        """A person decided anew: steps that ran already may run again."""
        self._ran.clear()

    async def run_step(self, look: HostPlan, step: Step, *, ssh_ran: bool | None) -> None:
        """Run one step and follow it to its end; raises `StepFailed`. `ssh_ran` is for `StepOrder.ssh_ran_before`."""
        if step.id in self._ran:
            raise self._failed(step, "NeedsHuman", f"{step.kind} ran, but the host still needs it: {step.reason}")
        self.records.append(StepRecord(step=step, status=StepStatus.RUNNING, started_at=workflow.now()))
        self._tell(Stage.WORKING, f"{step.kind} on {step.target}.")
        self._ran.add(step.id)
        if step.kind is StepKind.SHUT_DOWN_GUEST:
            # Before it is tried: an attempt whose answer is lost may have shut it down all the same.
            params = step.params
            vm = ShutDownVm(moid=params["moid"], name=step.target, destination=params.get("destination", ""))
            self._shut_down[vm.moid] = vm
            self._running.discard(vm.moid)
        try:
            text = await self._carry_out(look, step, ssh_ran)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise self._failed(step, *cause(error)) from error
        if step.kind is StepKind.ENTER_MAINTENANCE:
            self.entered_maintenance = True
        elif step.kind is StepKind.EXIT_MAINTENANCE:
            self.entered_maintenance = False
        self._record(StepStatus.DONE, text)

    def skip(self, step: Step, by: str) -> None:
        """Write down that a person skipped a step."""
        now = workflow.now()
        self.records.append(
            StepRecord(step=step, status=StepStatus.SKIPPED, text=f"skipped by {by}", started_at=now, finished_at=now)
        )

    def left(self) -> str:
        """How the host and its VMs stand now, as far as this run knows."""
        text = "This run left the host's maintenance mode as it found it."
        if self.entered_maintenance:
            text = "This run put the host into maintenance mode and has not taken it out."
        if off := self.vms_left_off:
            text += f" It shut down these VMs and has not seen them running since: {', '.join(off)}."
        return text

    def end(self, kind: str, text: str) -> ApplicationError:
        """The error to end the run with: what went wrong, and how the host was left."""
        left = f" {self.left()}" if self.records else " Nothing was changed."
        return ApplicationError(text + left, type=kind, non_retryable=True)

    async def _carry_out(self, look: HostPlan, step: Step, ssh_ran: bool | None) -> str:
        limits = look.limits
        approved = self._desk.current if self._desk.grant else None
        order = StepOrder(
            host=self._host,
            step=step,
            plan=approved.plan if approved else look.plan,
            plan_hash=approved.plan_hash if approved else look.plan_hash,
            grant=self._desk.grant,
            cluster_grant=self._desk.cluster_grant,
            timeout_s=limits.maintenance_timeout_s,
            boot_time_before=look.state.boot_time,
            ssh_ran_before=ssh_ran,
        )
        outcome: StepOutcome
        if slow := _SLOW_ACTIVITIES.get(step.kind):
            outcome = await workflow.execute_activity(
                slow,
                order,
                **policies.wait(limits.package_timeout_s),
                task_queue=policies.wait_queue(),
                summary=f"{step.kind} {step.target}",
            )
        else:
            outcome = await workflow.execute_activity(
                _ACTIVITIES[step.kind], order, **policies.change(), summary=f"{step.kind} {step.target}"
            )
        if outcome.task:
            timeout_s = max(limits.maintenance_timeout_s, limits.package_timeout_s) + 60
            await self._follow(step, outcome.task, timeout_s)
        if step.kind is StepKind.SHUT_DOWN_GUEST:
            timeout_s = limits.guest_shutdown_timeout_s
            await workflow.execute_activity_method(
                HostActivities.await_vm_off,
                AwaitVmOff(
                    vcenter=self._host.vcenter, vm_moid=step.params["moid"], name=step.target, timeout_s=timeout_s
                ),
                **policies.wait(timeout_s),
                task_queue=policies.wait_queue(),
                summary=f"wait for {step.target} to be off",
            )
        if step.kind is StepKind.REBOOT:
            back = await workflow.execute_activity_method(
                HostActivities.await_host_back,
                AwaitHostBack(
                    host=self._host, boot_time_before=look.state.boot_time, timeout_s=limits.reboot_timeout_s
                ),
                **policies.wait(limits.reboot_timeout_s),
                task_queue=policies.wait_queue(),
                summary=f"wait for {self._host.name} to come back",
            )
            return f"{outcome.text}; up since {back.boot_time}"
        return outcome.text

    async def _follow(self, step: Step, task: str, timeout_s: int) -> None:
        """Follow a vCenter task; a forgotten one is no failure, because the next look tells."""
        end = await workflow.execute_activity_method(
            HostActivities.await_task,
            AwaitTask(vcenter=self._host.vcenter, task=task, what=f"{step.kind} {step.target}", timeout_s=timeout_s),
            **policies.wait(timeout_s),
            task_queue=policies.wait_queue(),
            summary=f"follow {task} ({step.kind})",
        )
        # A reboot's task can fail only because the host, and its task, went away: the wait for the host decides.
        if end.state == "error" and step.kind is not StepKind.REBOOT:
            raise self._failed(step, "NeedsHuman", end.error)

    def _failed(self, step: Step, kind: str, text: str) -> StepFailed:
        if self.records and self.records[-1].status is StepStatus.RUNNING:
            self._record(StepStatus.FAILED, text)
        return StepFailed(step, kind, f"{step.kind} on {step.target} failed: {text}")

    def _record(self, status: StepStatus, text: str) -> None:
        self.records[-1] = self.records[-1].model_copy(
            update={"status": status, "text": text, "finished_at": workflow.now()}
        )
