"""VMs that cannot move while on: named, shut down with approval, and running again at the end, here or beside."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from pyVmomi import vim
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from contracts.approvals import Resolution, Resolve
from contracts.evacuation import StuckVms
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import HostLimits, Outcome, PrepareGpuHostReport, Stage
from tests.support.lab import TRAINING, Handle, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.neighbours import read_neighbours
from workflows.prepare_gpu_host import PrepareGpuHost

A40, A100 = "10de:2235", "10de:20f1"
PASSTHROUGH = vim.vm.device.VirtualPCIPassthrough


@pytest.fixture(scope="module")
def own_vcenter() -> Iterator[SimulatorProcess]:
    """A cluster whose free devices are those of these tests alone."""
    with SimulatorProcess(clusters=1, hosts=1, gpus=0, vms=1, time_scale=120) as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(
    own_vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    profiles = tuple(TRAINING.model_copy(update={"name": policy, "stuck_vms": policy}) for policy in StuckVms)
    limits = HostLimits(blocked_recheck_s=1, maintenance_timeout_s=60, reboot_timeout_s=60, guest_shutdown_timeout_s=30)
    async with open_lab(
        own_vcenter,
        temporal_client,
        TaskQueues("evacuation"),
        tmp_path_factory.mktemp("evacuation"),
        profiles=profiles,
        limits=limits,
    ) as made:
        yield made


@dataclass
class Ward:
    """What plain pyVmomi does and sees beside the run."""

    lab: Lab
    si: Any

    def finish(self, task: Any) -> Any:
        self.until(lambda: task.info.state in ("success", "error"), f"end of {task._moId}")
        assert task.info.state == "success", task.info.error
        return task.info.result

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + 60
        while not holds():
            assert asyncio.get_running_loop().time() < deadline, f"no {what} within 60 s"

    def offer(self, host: HostRef, label: str, at: int = 0) -> str:
        """The host's A40, or another `at` its place, is in passthrough from now on; its address."""
        system = self.lab.system(host, self.si)
        gpu = [device.id for device in system.hardware.pciDevice if device.deviceId & 0xFFFF == 0x2235][at]
        config = vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True, hardwareLabel=label, applyNow=True)
        system.configManager.pciPassthruSystem.UpdatePassthruConfig([config])
        if not self._active(system, gpu):
            self.finish(system.RebootHost_Task(True))
            self.until(
                lambda: system.runtime.connectionState == "connected" and self._active(system, gpu), "active device"
            )
        return gpu

    @staticmethod
    def _active(system: Any, gpu: str) -> bool:
        return any(info.id == gpu and info.passthruActive for info in system.config.pciPassthruInfo)

    def gpu_vm(self, host: HostRef, backing: Any, *, boots: bool = True, on: bool = True) -> Any:
        """A VM with that device; without room for its memory-mapped I/O it never boots, and VMware Tools never run."""
        system = self.lab.system(host, self.si)
        room = {"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": "128"} if boots else {}
        spec = vim.vm.ConfigSpec(
            version="vmx-19",
            guestId="ubuntu64Guest",
            firmware="efi",
            memoryMB=1024,
            memoryReservationLockedToMax=True,
            extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in room.items()],
            deviceChange=[
                vim.vm.device.VirtualDeviceSpec(operation="add", device=PASSTHROUGH(key=-1, backing=backing))
            ],
        )
        folder = self.si.content.rootFolder.childEntity[0].vmFolder
        installed = next(child for child in folder.childEntity if child.name == "app-00001")
        place = vim.vm.RelocateSpec(host=system, pool=system.parent.resourcePool)
        clone = vim.vm.CloneSpec(location=place, config=spec, template=False, powerOn=False)
        vm = self.finish(installed.CloneVM_Task(folder, f"vm-{uuid.uuid4().hex[:8]}", clone))
        if on:
            self.power_on(vm, wait_for_tools=boots)
        return vm

    def power_on(self, vm: Any, *, wait_for_tools: bool) -> None:
        self.finish(vm.PowerOnVM_Task(None))
        if wait_for_tools:
            self.until(lambda: vm.guest.toolsRunningStatus == "guestToolsRunning", f"VMware Tools in {vm.name}")

    def happened(self, host: HostRef) -> list[str]:
        """The types of the host's and its VMs' events, in order."""
        by = vim.event.EventFilterSpec.ByEntity(entity=self.lab.system(host, self.si), recursion="self")
        found = self.si.content.eventManager.QueryEvents(vim.event.EventFilterSpec(entity=by))
        return [type(event).__name__.rpartition(".")[2] for event in sorted(found, key=lambda event: event.key)]


@pytest.fixture
def ward(lab: Lab) -> Iterator[Ward]:
    si = lab.simulator.connect()
    try:
        yield Ward(lab, si)
    finally:
        lab.simulator.clear_faults()
        lab.simulator.disconnect(si)


def static(gpu: str) -> Any:
    return PASSTHROUGH.DeviceBackingInfo(deviceName="A40", id=gpu, deviceId="2235", systemId="", vendorId=0x10DE)


def dynamic(label: str) -> Any:
    allowed = [PASSTHROUGH.AllowedDevice(vendorId=0x10DE, deviceId=0x2235)]
    return PASSTHROUGH.DynamicBackingInfo(deviceName="", allowedDevice=allowed, customLabel=label)


async def asked_and_approved(lab: Lab, host: HostRef, policy: StuckVms) -> Handle:
    handle = await lab.start(host, policy)
    await lab.decide(handle, await lab.asked(handle))
    return handle


def steps(report: PrepareGpuHostReport) -> list[tuple[str, str]]:
    return [(record.step.kind, record.step.target) for record in report.steps]


async def test_by_default_the_vm_is_named_and_nobody_touches_it(lab: Lab, ward: Ward) -> None:
    host = lab.add_host(gpus=[A40, A100], rebind_without_reboot=True)
    vm = ward.gpu_vm(host, static(ward.offer(host, "Inference")))
    handle = await lab.start(host, StuckVms.WAIT)
    report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
    assert f"VMs that cannot be moved while on: {vm.name} (it has a DirectPath I/O device)" in report.detail
    assert not report.approvals
    assert vm.runtime.powerState == "poweredOn"
    vm.ShutdownGuest()
    approval = await lab.asked(handle)
    assert "power-on-vm" not in [step.kind for step in approval.plan.steps], "what others shut down stays off"
    await handle.cancel()


async def test_a_vm_is_shut_down_for_the_work_and_runs_again_after_it(lab: Lab, ward: Ward) -> None:
    host = lab.add_host(gpus=[A40, A100])
    gpu = ward.offer(host, "Inference")
    vm, off = ward.gpu_vm(host, static(gpu)), ward.gpu_vm(host, static(gpu), on=False)
    handle = await lab.start(host, StuckVms.SHUT_DOWN)
    approval = await lab.asked(handle)
    told = next(step.change for step in approval.plan.steps if step.kind == "shut-down-guest")
    assert told.startswith(f"VM {vm.name} is shut down by its guest, stays off until")
    assert vm.runtime.powerState == "poweredOn", "nothing happens before the approval"
    await lab.decide(handle, approval)
    report = await handle.result()
    assert report.outcome is Outcome.PREPARED
    assert steps(report)[:2] == [("shut-down-guest", vm.name), ("enter-maintenance", host.name)]
    assert steps(report)[-2:] == [("exit-maintenance", host.name), ("power-on-vm", vm.name)]
    assert (vm.runtime.powerState, vm.runtime.host._moId) == ("poweredOn", host.moid)
    assert off.runtime.powerState == "poweredOff", "only what this run shut down is powered on"
    assert not report.vms_left_off
    assert lab.reboots(host) == 2, "the test's own and the run's"
    order = ward.happened(host)
    assert order.index("VmGuestShutdownEvent") < order.index("EnteringMaintenanceModeEvent")
    assert order.index("ExitMaintenanceModeEvent") < len(order) - 1 - order[::-1].index("VmPoweredOnEvent")


async def test_a_vm_moves_cold_to_a_free_device_and_one_that_is_bound_here_waits_off(lab: Lab, ward: Ward) -> None:
    host = lab.add_host(gpus=[A40, A40, A100], rebind_without_reboot=True)
    beside = lab.add_host(gpus=[A40], rebind_without_reboot=True)
    ward.offer(host, "Moves")
    here, free = ward.offer(host, "Stays", at=1), ward.offer(beside, "Moves")
    moving, bound = ward.gpu_vm(host, dynamic("Moves")), ward.gpu_vm(host, static(here))
    report = await (await asked_and_approved(lab, host, StuckVms.COLD_MIGRATE)).result()
    assert report.outcome is Outcome.PREPARED
    on_moving = [kind for kind, target in steps(report) if target == moving.name]
    assert on_moving == ["shut-down-guest", "migrate-cold", "power-on-vm"]
    entered = steps(report).index(("enter-maintenance", host.name))
    assert steps(report).index(("power-on-vm", moving.name)) < entered, "it runs there before the host goes"
    assert (moving.runtime.powerState, moving.runtime.host._moId) == ("poweredOn", beside.moid)
    gpus = [device for device in moving.config.hardware.device if isinstance(device, PASSTHROUGH)]
    assert [gpu.backing.assignedId for gpu in gpus] == [free]
    with lab.pool.session() as si:
        there = read_neighbours(si, lab.system(host, ward.si).parent._moId, but=host)
    assert [each.free for each in there if each.moid == beside.moid] == [()], "it is free no more"
    assert (bound.runtime.powerState, bound.runtime.host._moId) == ("poweredOn", host.moid)
    assert steps(report)[-1] == ("power-on-vm", bound.name)


async def test_without_vmware_tools_the_vm_is_waited_for_with_the_reason(lab: Lab, ward: Ward) -> None:
    host = lab.add_host(gpus=[A40, A100], rebind_without_reboot=True)
    vm = ward.gpu_vm(host, static(ward.offer(host, "Inference")), boots=False)
    handle = await lab.start(host, StuckVms.SHUT_DOWN)
    report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
    assert f"{vm.name} (it has a DirectPath I/O device; VMware Tools do not run in it)" in report.detail
    assert vm.runtime.powerState == "poweredOn"
    await handle.cancel()


async def test_a_vm_that_does_not_come_back_is_named_until_it_does(lab: Lab, ward: Ward) -> None:
    host = lab.add_host(gpus=[A40, A100], rebind_without_reboot=True)
    vm = ward.gpu_vm(host, static(ward.offer(host, "Inference")))
    handle = await lab.start(host, StuckVms.SHUT_DOWN)
    approval = await lab.asked(handle)
    lab.simulator.add_fault(method="PowerOnVM_Task", error="NotEnoughLicenses", times=1)
    await lab.decide(handle, approval)
    report = await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    assert report.vms_left_off == (vm.name,)
    assert f"It shut down these VMs and has not seen them running since: {vm.name}." in report.detail
    assert not lab.witness(host)["maintenance"], "the host itself was given back"
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.RETRY, by="cli:test"))
    report = await handle.result()
    assert (report.outcome, report.vms_left_off) == (Outcome.PREPARED, ())
    assert vm.runtime.powerState == "poweredOn"


async def test_giving_up_says_which_vms_are_off(lab: Lab, ward: Ward) -> None:
    host = lab.add_host(gpus=[A40, A100], rebind_without_reboot=True)
    vm = ward.gpu_vm(host, static(ward.offer(host, "Inference")))
    handle = await lab.start(host, StuckVms.SHUT_DOWN)
    approval = await lab.asked(handle)
    lab.simulator.add_fault(method="EnterMaintenanceMode_Task", error="NotEnoughLicenses", times=1)
    await lab.decide(handle, approval)
    await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.GIVE_UP, by="cli:test"))
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, ApplicationError)
    assert f"has not seen them running since: {vm.name}." in raised.value.cause.message
    assert (await handle.query(PrepareGpuHost.report)).vms_left_off == (vm.name,)


async def test_restoring_powers_the_vms_on_again(lab: Lab, ward: Ward) -> None:
    host = lab.add_host(gpus=[A40, A100], rebind_without_reboot=True)
    vm = ward.gpu_vm(host, static(ward.offer(host, "Inference")))
    handle = await lab.start(host, StuckVms.SHUT_DOWN)
    approval = await lab.asked(handle)
    lab.simulator.add_fault(method="UpdatePassthruConfig", error="NotEnoughLicenses", times=1)
    await lab.decide(handle, approval)
    await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.RESTORE, by="cli:test"))
    report = await handle.result()
    assert report.outcome is Outcome.RESTORED
    assert (vm.runtime.powerState, lab.witness(host)["maintenance"]) == ("poweredOn", False)
    assert not report.vms_left_off
