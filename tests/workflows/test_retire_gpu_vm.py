"""RetireGpuVm gives GPUs back, with approval, against a simulated vCenter and a real Temporal server."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from temporalio.client import Client

from contracts.machine import VmRef
from contracts.names import TaskQueues
from contracts.provision import VmLimits, VmOutcome
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import TEMPLATE, VmLab
from vsphere.vm_state import find_vm


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=1, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        simulator.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vms(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VmLab]:
    folder = tmp_path_factory.mktemp("retire")
    limits = VmLimits(shutdown_timeout_s=20)
    async with open_lab(vcenter, temporal_client, TaskQueues("retire"), folder, vm_limits=limits) as lab:
        yield VmLab(lab)


async def test_a_retired_vm_is_gone_and_another_gets_its_gpu(vms: VmLab) -> None:
    host = vms.ready_host("retired")
    request = vms.dynamic("retired")
    made = await vms.provisioned(request)
    assert made.vm is not None
    handle = await vms.retire(made.vm)
    approval = await vms.asked(handle)
    assert [step.kind for step in approval.plan.steps] == ["shut-down-guest", "set-vm-gpus", "delete-vm"]
    seen = vms.seen(request.name)
    assert seen is not None
    assert seen["power_state"] == "poweredOn"
    report = await vms.approved(handle)
    assert report.outcome is VmOutcome.RETIRED
    assert [line.split()[:2] for line in report.freed] == [[host.name, vms.sbdfs(host)[0]]]
    assert vms.seen(request.name) is None
    again = await vms.provisioned(vms.dynamic("retired"))
    assert again.outcome is VmOutcome.PROVISIONED


async def test_a_retirement_that_is_denied_changes_nothing(vms: VmLab) -> None:
    vms.ready_host("stays")
    made = await vms.provisioned(vms.dynamic("stays"))
    assert made.vm is not None
    handle = await vms.retire(made.vm)
    await vms.lab.decide(handle, await vms.asked(handle), verdict="deny")
    report = await handle.result()
    assert report.outcome is VmOutcome.DENIED
    seen = vms.seen(made.name)
    assert seen is not None
    assert seen["power_state"] == "poweredOn"


async def test_a_vm_that_is_gone_already_is_retired_without_asking(vms: VmLab) -> None:
    gone = VmRef(
        vcenter=vms.lab.vcenter, instance_uuid="00000000-0000-0000-0000-000000000000", moid="vm-1", name="gone"
    )
    handle = await vms.retire(gone)
    report = await handle.result()
    assert report.outcome is VmOutcome.ALREADY_RIGHT
    assert not report.approvals


async def test_a_vm_of_an_extension_is_refused(vms: VmLab) -> None:
    vms.lab.simulator.act("add_vm", host="esx-01-01.gpu.test", name="owned", managed_by="com.vmware.vim.eam", on=False)
    report = await vms.failed(await vms.retire(found(vms, "owned")))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "NotSupported")
    assert "com.vmware.vim.eam" in report.detail
    assert vms.seen("owned") is not None


async def test_a_guest_that_cannot_be_asked_to_shut_down_keeps_its_vm(vms: VmLab) -> None:
    host = vms.ready_host("deaf")
    vms.lab.simulator.act("no_tools", vm="deaf")
    vms.lab.simulator.act("add_vm", host=host.name, name="deaf")
    handle = await vms.retire(found(vms, "deaf"))
    await vms.lab.decide(handle, await vms.asked(handle))
    report = await vms.failed(handle)
    assert (report.outcome, report.error) == (VmOutcome.KEPT, "NeedsHuman")
    assert "gpuwright does not cut power" in report.detail
    seen = vms.seen("deaf")
    assert seen is not None
    assert seen["power_state"] == "poweredOn"


def found(vms: VmLab, name: str) -> VmRef:
    with vms.lab.pool.session() as si:
        return find_vm(si, vms.lab.vcenter, name)
