"""A lab for GPU VMs: hosts whose GPUs are ready, requests for VMs, and what vCenter shows of them."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from contracts import ids, search_attributes
from contracts.approvals import Approval
from contracts.host import HostRef
from contracts.machine import VmRef
from contracts.provision import GpuVmReport, ProvisionGpuVmInput, RetireGpuVmInput, VmStage, VmWork
from contracts.vms import DynamicGpu, GpuWish, StaticGpu, VgpuGpu, VmRequest, VmSource
from tests.support.lab import A100, Lab
from vsphere.graphics import set_graphics_type, set_host_graphics
from vsphere.inventory import read_host
from vsphere.passthrough import set_passthrough
from workflows.machine_work import MachineWorkflow
from workflows.provision_gpu_vm import ProvisionGpuVm
from workflows.retire_gpu_vm import RetireGpuVm

__all__ = ["PROFILE", "TEMPLATE", "VmHandle", "VmLab"]

VmHandle = WorkflowHandle[Any, GpuVmReport]
TEMPLATE = "ubuntu-efi"
PROFILE = "grid_a100-20c"
_MANAGER = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"
"""The depot whose vGPU Manager offers `PROFILE` on an A100."""


@dataclass
class VmLab:
    """What a test about GPU VMs needs; each uses labels, names and hosts of its own."""

    lab: Lab

    def ready_host(self, label: str, gpus: int = 1, cluster: str = "gpu-01") -> HostRef:
        """A host whose GPUs are in passthrough with this label."""
        host = self.lab.add_host(gpus=[A100] * gpus, cluster=cluster, rebind_without_reboot=True)
        with self.lab.pool.session() as si:
            for graphics in read_host(si, host).graphics:
                assert set_passthrough(si, host, graphics.sbdf, True, label, apply_now=True)
        return host

    def vgpu_host(self, cluster: str, gpus: int = 1) -> HostRef:
        """A host that shares its GPUs by the vGPU Manager."""
        host = self.lab.add_host(gpus=[A100] * gpus, cluster=cluster)
        with self.lab.pool.session() as si:
            for graphics in read_host(si, host).graphics:
                set_graphics_type(si, host, graphics.sbdf, "sharedDirect")
            set_host_graphics(si, host, "sharedDirect")
        self.lab.simulator.act("set_package", host=host.name, depot=_MANAGER)
        return host

    def sbdfs(self, host: HostRef) -> list[str]:
        """The addresses of a host's GPUs."""
        with self.lab.pool.session() as si:
            return sorted(graphics.sbdf for graphics in read_host(si, host).graphics)

    def request(self, *gpus: GpuWish, **more: Any) -> VmRequest:
        """A request for a small VM from the lab's template."""
        fields: dict[str, Any] = {
            "name": f"vm-{uuid.uuid4().hex[:8]}",
            "vcenter": self.lab.vcenter,
            "cluster": "gpu-01",
            "source": VmSource(template=TEMPLATE),
            "cpus": 2,
            "memory_mib": 4096,
            "gpus": gpus,
        }
        return VmRequest.model_validate(fields | more)

    def dynamic(self, label: str, count: int = 1, **more: Any) -> VmRequest:
        """A request for whole GPUs with a label."""
        return self.request(DynamicGpu(match=A100, label=label, count=count), **more)

    def static(self, host: HostRef, sbdf: str, **more: Any) -> VmRequest:
        """A request for that very GPU."""
        return self.request(StaticGpu(host=host.name, sbdf=sbdf), **more)

    def vgpu(self, cluster: str, count: int = 1, **more: Any) -> VmRequest:
        """A request for shares of cards."""
        return self.request(VgpuGpu(profile=PROFILE, count=count), cluster=cluster, **more)

    async def provision(self, request: VmRequest, work: VmWork = VmWork.PROVISION) -> VmHandle:
        """Start a run that makes, or changes, a VM."""
        return await self.lab.client.start_workflow(
            ProvisionGpuVm.run,
            ProvisionGpuVmInput(request=request, requester="cli:requester", work=work),
            id=ids.provision_gpu_vm(request.vcenter, request.name),
            task_queue=self.lab.queues.main,
            search_attributes=search_attributes.of_vm(request.vcenter, request.name, request.cluster),
        )

    async def retire(self, vm: VmRef) -> VmHandle:
        """Start a run that retires a VM."""
        return await self.lab.client.start_workflow(
            RetireGpuVm.run,
            RetireGpuVmInput(vm=vm, requester="cli:requester"),
            id=ids.retire_gpu_vm(vm.vcenter, vm.instance_uuid),
            task_queue=self.lab.queues.main,
        )

    async def provisioned(self, request: VmRequest) -> GpuVmReport:
        """The report of a VM that is made without anybody being asked."""
        handle = await self.provision(request)
        return await handle.result()

    async def until(self, handle: VmHandle, holds: Callable[[GpuVmReport], bool], timeout_s: float = 60) -> GpuVmReport:
        """The report, as soon as `holds(report)`; raises `AssertionError` with the last one otherwise."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            report = await handle.query(MachineWorkflow.report)
            if holds(report):
                return report
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"not within {timeout_s} s; the run says: {report.stage}: {report.detail}")
            await asyncio.sleep(0.1)

    async def asked(self, handle: VmHandle) -> Approval:
        """The approval that the run waits for."""
        report = await self.until(handle, lambda report: report.stage is VmStage.AWAITING_APPROVAL)
        return report.approvals[-1]

    async def approved(self, handle: VmHandle) -> GpuVmReport:
        """The report of a run whose question is answered with yes."""
        await self.lab.decide(handle, await self.asked(handle))
        return await handle.result()

    async def failed(self, handle: VmHandle) -> GpuVmReport:
        """The report in the failure of a run that must fail with the class of its error."""
        try:
            report = await handle.result()
        except WorkflowFailureError as error:
            cause = error.cause
            assert isinstance(cause, ApplicationError), cause
            report = GpuVmReport.model_validate(cause.details[0])
            assert cause.type == report.error
            assert cause.message == report.detail
            return report
        raise AssertionError(f"it ended well: {report.outcome}: {report.detail}")

    def seen(self, name: str) -> dict[str, Any] | None:
        """The VM as the simulated world has it; None without one."""
        found = [vm for vm in self.lab.simulator.act("list_vms", prefix=name) if vm["name"] == name]
        assert len(found) <= 1, found
        return found[0] if found else None

    def ledger(self, name: str) -> list[str]:
        """What came and went under this name."""
        return [entry["what"] for entry in self.lab.simulator.act("vm_ledger", prefix=name)]
