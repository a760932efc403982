"""Carrying out the approved remedies of an audit: side by side for different VMs, in order for each."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts.activities import HostActivities, RemedyActivities, VmActivities
    from contracts.approvals import Approval
    from contracts.audit import RemedyOrder
    from contracts.machine import VmRef
    from contracts.plan import Plan, Step, StepKind
    from contracts.prepare import AwaitTask, StepRecord, StepStatus
    from contracts.provision import AwaitPowerOn, VmStepOutcome

from workflows import policies
from workflows.asking import cause

__all__ = ["Remedies"]

_ACTIVITIES: dict[StepKind, Any] = {
    StepKind.REGISTER_VM: RemedyActivities.register_lost_vm,
    StepKind.CONFIGURE_VM: RemedyActivities.configure_lost_vm,
    StepKind.SET_VM_GPUS: RemedyActivities.convert_lost_vm,
    StepKind.POWER_ON_VM: RemedyActivities.power_on_lost_vm,
    StepKind.APPLY_RECOMMENDATION: RemedyActivities.apply_recommendation,
    StepKind.MOVE_VM: RemedyActivities.move_vm,
    StepKind.SUSPEND_VM: RemedyActivities.suspend_vm,
}
_GROUPS_AT_ONCE = 8
_TIMES = 2
"""How often a step may run in one audit: somebody may have changed the VM between the look and the step."""


class _Failed(Exception):
    """A step did not do what it is for; the message says why."""


class Remedies:
    """The steps that an audit ran, and how each ended."""

    def __init__(self, vcenter: str, tell: Callable[[str], None]) -> None:
        self._vcenter, self._tell = vcenter, tell
        self._times: dict[str, int] = {}
        self.records: list[StepRecord] = []

    @property
    def unregistered(self) -> tuple[str, ...]:
        """Instance UUIDs of the VMs that were to be registered on another host, however that ended."""
        vms = (each.step.params["vm"] for each in self.records if each.step.kind is StepKind.REGISTER_VM)
        return tuple(dict.fromkeys(vms))

    def left(self, plan: Plan) -> Plan:
        """The plan without the steps that had all their turns, and without what would have come after them."""
        stopped = {_group(step) for step in plan.steps if self._times.get(step.id, 0) >= _TIMES}
        return plan.model_copy(update={"steps": tuple(step for step in plan.steps if _group(step) not in stopped)})

    async def carry_out(
        self, steps: Sequence[Step], approved: Approval, subject: str, grant: str, timeout_s: int
    ) -> None:
        """Run these steps of the approved plan. A step that fails ends the steps for the same VM, and is recorded."""
        groups: dict[str, list[Step]] = {}
        # As they were approved: a later look may give other reasons for the same effect.
        wanted = {step.id for step in steps}
        for step in approved.plan.steps:
            if step.id in wanted:
                groups.setdefault(_group(step), []).append(step)
        slots = asyncio.Semaphore(_GROUPS_AT_ONCE)

        async def one_after_another(group: Sequence[Step]) -> None:
            async with slots:
                for step in group:
                    order = RemedyOrder(
                        vcenter=self._vcenter,
                        step=step,
                        plan=approved.plan,
                        plan_hash=approved.plan_hash,
                        subject=subject,
                        grant=grant,
                        timeout_s=timeout_s,
                    )
                    if not await self._run(order, group):
                        return

        await asyncio.gather(*(one_after_another(group) for group in groups.values()))

    async def _run(self, order: RemedyOrder, group: Sequence[Step]) -> bool:
        """Run one step to its end; whether it did what it is for."""
        step = order.step
        self._times[step.id] = self._times.get(step.id, 0) + 1
        place = len(self.records)
        self.records.append(StepRecord(step=step, status=StepStatus.RUNNING, started_at=workflow.now()))
        self._tell(f"{step.kind} of {step.target}.")
        try:
            text = await self._act(order, group)
        except ActivityError as error:
            if is_cancelled_exception(error):
                self._record(place, StepStatus.FAILED, "cancelled with the audit; vCenter may still finish it")
                raise
            kind, why = cause(error)
            self._record(place, StepStatus.FAILED, f"{kind}: {why}")
            return False
        except _Failed as error:
            self._record(place, StepStatus.FAILED, str(error))
            return False
        self._record(place, StepStatus.DONE, text)
        return True

    async def _act(self, order: RemedyOrder, group: Sequence[Step]) -> str:
        step = order.step
        outcome: VmStepOutcome = await workflow.execute_activity(
            _ACTIVITIES[step.kind],
            order,
            **policies.wait(order.timeout_s),
            task_queue=policies.wait_queue(),
            summary=f"{step.kind} {step.target}",
        )
        if outcome.task is None:
            return outcome.text
        registered = any(each.kind is StepKind.REGISTER_VM for each in group)
        if step.kind is StepKind.POWER_ON_VM and not registered:
            await self._await_power_on(order, outcome.task)
        else:
            # A VM that was registered by this very plan has a moid that nobody wrote down; its task is known.
            await self._await_task(order, outcome.task)
        return outcome.text

    async def _await_task(self, order: RemedyOrder, task: str) -> None:
        end = await workflow.execute_activity_method(
            HostActivities.await_task,
            AwaitTask(vcenter=self._vcenter, task=task, what=order.step.target, timeout_s=order.timeout_s),
            **policies.wait(order.timeout_s),
            task_queue=policies.wait_queue(),
            summary=f"follow {task}",
        )
        if end.state == "error":
            raise _Failed(f"{end.kind}: {end.error}")

    async def _await_power_on(self, order: RemedyOrder, task: str) -> None:
        step = order.step
        vm = VmRef(
            vcenter=self._vcenter,
            instance_uuid=step.params.get("vm", ""),
            moid=step.params.get("moid", ""),
            name=step.target,
        )
        end = await workflow.execute_activity_method(
            VmActivities.await_power_on,
            AwaitPowerOn(vm=vm, task=task, timeout_s=order.timeout_s),
            **policies.wait(order.timeout_s),
            task_queue=policies.wait_queue(),
            summary=f"follow the power-on of {step.target}",
        )
        if end.state == "failed":
            raise _Failed(f"{end.error}: {end.text}")
        if end.state == "question":
            raise _Failed(f"it waits for an answer: {end.text}")

    def _record(self, place: int, status: StepStatus, text: str) -> None:
        self.records[place] = self.records[place].model_copy(
            update={"status": status, "text": text, "finished_at": workflow.now()}
        )


def _group(step: Step) -> str:
    """Whom a step is done for."""
    return step.params.get("for") or step.params.get("vm") or step.target
