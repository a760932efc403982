"""`ProvisionGpuVm`: a VM that boots with the GPUs it asked for, or a reason why not and nothing left behind."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.provision import GpuVmReport, ProvisionGpuVmInput

from workflows.machine_work import MachineWorkflow

__all__ = ["ProvisionGpuVm"]


@workflow.defn(name=names.PROVISION_GPU_VM)
class ProvisionGpuVm(MachineWorkflow):
    """Makes one GPU VM and proves it, or gives one that is there other GPUs."""

    @workflow.init
    def __init__(self, order: ProvisionGpuVmInput) -> None:
        request = order.request
        self._begin(
            order.work,
            request.vcenter,
            request.name,
            order.requester,
            order.reason,
            request=request,
            prefer_host=order.prefer_host,
        )

    @workflow.run
    async def run(self, order: ProvisionGpuVmInput) -> GpuVmReport:
        """Run until the VM is proven, a person says no, or it cannot be had.

        Fails with the class of the error as type and the report as its detail.
        """
        return await self._work_to_the_end()
