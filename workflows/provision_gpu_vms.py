"""`ProvisionGpuVms`: several GPU VMs of one shape, each made and proven by a `ProvisionGpuVm` of its own.

It looks how many fit and where, starts the runs of as many, a few at a time, and looks again for the others when these
have ended. It makes nothing itself, and keeps no GPU for anybody: who powers on first has it, and a VM that finds its
GPU taken is undone by its own run. What was made stays, whatever becomes of the others.
"""

import asyncio
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
    from contracts.activities import VmActivities
    from contracts.host import HostRef
    from contracts.provision import GpuVmReport, ProvisionGpuVmInput, VmOutcome
    from contracts.vm_fleet import (
        GpuVmsReport,
        LookForRoom,
        ProvisionGpuVmsInput,
        RoomFound,
        VmProgress,
        VmsOutcome,
        VmsStage,
        VmTurn,
    )

from workflows import policies
from workflows.asking import cause
from workflows.vms_story import tell_vms

__all__ = ["ProvisionGpuVms"]

_LONGEST_TEXT = 1000
_THERE = {VmOutcome.PROVISIONED, VmOutcome.ALREADY_RIGHT}


@workflow.defn(name=names.PROVISION_GPU_VMS)
class ProvisionGpuVms:
    """Makes as many of the VMs as there is room for, and tells of each of the others why not."""

    @workflow.init
    def __init__(self, order: ProvisionGpuVmsInput) -> None:
        self._order = order
        self._vms = {name: VmProgress(name=name) for name in order.names}
        self._stage = VmsStage.LOOKING
        self._detail = ""
        self._fit: int | None = None
        self._outcome: VmsOutcome | None = None
        self._finished_at: datetime | None = None

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> GpuVmsReport:
        """Where the run stands."""
        order = self._order
        return GpuVmsReport(
            request=order.request,
            count=order.count,
            arrangement=order.arrangement,
            requester=order.requester,
            stage=self._stage,
            outcome=self._outcome,
            detail=self._detail,
            fit=self._fit,
            vms=tuple(self._vms.values()),
            started_at=workflow.info().start_time,
            finished_at=self._finished_at,
        )

    @workflow.run
    async def run(self, order: ProvisionGpuVmsInput) -> GpuVmsReport:
        """Run until every VM had its turn, or there is no room for another.

        Fails with the class of the error where it cannot look; a lack of room is told in the report.
        """
        request = order.request
        workflow.upsert_search_attributes(
            [
                search_attributes.GPU_VCENTER.value_set(search_attributes.cut(request.vcenter)),
                search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(request.cluster)),
                search_attributes.GPU_VM.value_set(search_attributes.cut(request.name)),
                search_attributes.GPU_MODE.value_set("vgpu" if request.vgpu else "passthrough"),
            ]
        )
        try:
            await self._provision()
        except (asyncio.CancelledError, ActivityError) as error:
            if not is_cancelled_exception(error):
                raise
            self._leave_out("", "the run was cancelled")
            self._finish("Cancelled, and the runs of its VMs with it; those that were proven before that stay.")
            raise
        there = self._count(VmTurn.DONE)
        self._outcome = (
            VmsOutcome.PROVISIONED
            if there == order.count
            else VmsOutcome.PROVISIONED_IN_PART
            if there
            else VmsOutcome.REFUSED
        )
        self._finish(self._ending(there))
        return self.report()

    async def _provision(self) -> None:
        """Give each VM its turn, as many as fit at a time of looking; the others wait for what these leave."""
        waiting = self._order.names
        while waiting:
            room = await self._look(waiting)
            new = [name for name in waiting if name not in room.there]
            if self._fit is None:
                self._fit = len(room.there) + len(room.hosts)
            turns: list[tuple[str, HostRef | None]] = [(name, None) for name in room.there]
            turns += [(name, host if room.named else None) for name, host in zip(new, room.hosts, strict=False)]
            if not turns:
                self._leave_out(room.error, room.why)
                return
            await self._roll(turns)
            waiting = tuple(new[len(room.hosts) :])

    async def _look(self, waiting: tuple[str, ...]) -> RoomFound:
        self._tell(VmsStage.LOOKING, f"Looking where {len(waiting)} of {self._order.count} VMs could run.")
        order = self._order
        try:
            return await workflow.execute_activity_method(
                VmActivities.look_for_room,
                LookForRoom(request=order.request, names=waiting, arrangement=order.arrangement),
                **policies.look(),
                summary=f"look for room for {len(waiting)} VMs",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            kind, text = cause(error)
            self._leave_out(kind, text)
            self._finish(f"{kind}: {text} {self._count(VmTurn.DONE)} of {order.count} VMs were made.")
            raise ApplicationError(self._detail, self.report(), type=kind, non_retryable=True) from error

    # -- turns ----------------------------------------------------------------------------------------------------

    async def _roll(self, turns: list[tuple[str, HostRef | None]]) -> None:
        """Start the runs of these VMs, a few at a time, and wait for all of them."""
        tasks: list[asyncio.Task[None]] = []
        try:
            for name, host in turns:
                await workflow.wait_condition(lambda: self._count(VmTurn.RUNNING) < self._order.at_once)
                workflow_id = ids.provision_gpu_vm(self._order.request.vcenter, name)
                self._set(name, state=VmTurn.RUNNING, host=host.name if host else "", workflow_id=workflow_id)
                tasks.append(asyncio.create_task(self._turn(name, host)))
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _turn(self, name: str, host: HostRef | None) -> None:
        """Run the VM's own workflow and write down how it ended."""
        order, request = self._order, self._order.each(name)
        workflow_id = self._vms[name].workflow_id
        try:
            report: GpuVmReport = await workflow.execute_child_workflow(
                names.PROVISION_GPU_VM,
                ProvisionGpuVmInput(
                    request=request,
                    requester=order.requester,
                    reason=order.reason or f"part of {workflow.info().workflow_id}",
                    prefer_host=host,
                ),
                id=workflow_id,
                result_type=GpuVmReport,
                # A half-made VM is finished, or removed, even if this run is terminated. To end it too, cancel this.
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"provision {name}",
                search_attributes=search_attributes.of_vm(request.vcenter, name, request.cluster),
            )
        except WorkflowAlreadyStartedError:
            text = f"another run is at work on a VM of this name: gpuwright runs show {workflow_id}"
            self._set(name, state=VmTurn.NOT_STARTED, error="Conflict", text=text, host="")
        except (asyncio.CancelledError, ChildWorkflowError) as error:
            if workflow.cancellation_reason() is not None:
                text = "cancelled; its own run has removed what it made, or says what is left"
                self._set(name, state=VmTurn.FAILED, text=text, host="")
                raise asyncio.CancelledError from error
            if isinstance(error, asyncio.CancelledError):
                raise
            self._set(name, **_failure(error))
        else:
            there = report.outcome in _THERE
            self._set(
                name,
                state=VmTurn.DONE if there else VmTurn.FAILED,
                outcome=report.outcome,
                text=_cut(report.detail),
                host=report.host,
                ip_address=report.ip_address,
            )

    # -- telling --------------------------------------------------------------------------------------------------

    def _count(self, state: VmTurn) -> int:
        return sum(each.state is state for each in self._vms.values())

    def _set(self, name: str, **changes: Any) -> None:
        self._vms[name] = self._vms[name].model_copy(update=changes)
        running, done, failed = map(self._count, (VmTurn.RUNNING, VmTurn.DONE, VmTurn.FAILED))
        fit = "" if self._fit in (None, self._order.count) else f" There was room for {self._fit} at first."
        self._tell(
            VmsStage.PROVISIONING, f"{running} running, {done} of {self._order.count} there, {failed} failed.{fit}"
        )

    def _leave_out(self, error: str, why: str) -> None:
        """Write down that the VMs which have not begun will not have their turn."""
        for name, each in self._vms.items():
            if each.state in (VmTurn.WAITING, VmTurn.RUNNING):
                update = {"state": VmTurn.NOT_STARTED, "error": error, "text": _cut(why), "host": ""}
                self._vms[name] = each.model_copy(update=update)

    def _ending(self, there: int) -> str:
        count = self._order.count
        if there == count:
            return f"All {count} VMs are as asked for, read back from vCenter."
        others = [each for each in self._vms.values() if each.state is not VmTurn.DONE]
        unsure = [
            each.name
            for each in others
            if each.outcome is VmOutcome.KEPT or (each.state is VmTurn.FAILED and each.outcome is None)
        ]
        left = f"of {', '.join(unsure)} something may be left" if unsure else "nothing is left of the others"
        told = f"{there} of {count} VMs are as asked for, read back from vCenter" if there else f"None of {count} VMs"
        return f"{told}; {left}. {others[0].name}: {others[0].text}"

    def _finish(self, text: str) -> None:
        self._finished_at = workflow.now()
        self._tell(VmsStage.FINISHED, text)

    def _tell(self, stage: VmsStage, detail: str) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage, self._detail = stage, detail
        workflow.set_current_details(tell_vms(self.report()))


def _failure(error: ChildWorkflowError) -> dict[str, Any]:
    """How a VM's run failed, from its own report where it left one."""
    found = error.cause
    failed: dict[str, Any] = {"state": VmTurn.FAILED, "host": ""}
    if isinstance(found, ApplicationError):
        failed |= {"error": found.type or "", "text": _cut(found.message)}
        if found.details:
            report = GpuVmReport.model_validate(found.details[0])
            failed |= {"outcome": report.outcome, "host": report.host if report.outcome is VmOutcome.KEPT else ""}
        return failed
    text = "its run was cancelled" if isinstance(found, CancelledError) else str(found or error)
    return failed | {"text": _cut(text)}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
