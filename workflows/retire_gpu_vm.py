"""`RetireGpuVm`: a VM is shut down by its guest, its GPUs are given back, and it is deleted, with approval."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.provision import GpuVmReport, RetireGpuVmInput, VmWork

from workflows.machine_work import MachineWorkflow

__all__ = ["RetireGpuVm"]


@workflow.defn(name=names.RETIRE_GPU_VM)
class RetireGpuVm(MachineWorkflow):
    """Shuts a VM down, frees its GPUs and deletes it."""

    @workflow.init
    def __init__(self, order: RetireGpuVmInput) -> None:
        vm = order.vm
        self._begin(VmWork.RETIRE, vm.vcenter, vm.name, order.requester, order.reason, vm=vm)

    @workflow.run
    async def run(self, order: RetireGpuVmInput) -> GpuVmReport:
        """Run until the VM is gone, a person says no, or something fails for good.

        Fails with the class of the error as type and the report as its detail.
        """
        return await self._work_to_the_end()
