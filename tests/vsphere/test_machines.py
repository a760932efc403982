"""VMs that cannot be moved while on: shut down by their guest, and moved cold."""

from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, Conflict, NeedsHuman, Unreachable
from contracts.evacuation import ShutDownVm
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from tests.vsphere.targets import Target
from vsphere.inventory import find_host, read_host
from vsphere.machines import await_off, migrate_cold, power_on, shut_down_guest
from vsphere.neighbours import read_stopped
from vsphere.properties import read_properties, watching
from vsphere.tasks import TaskOutcome, await_task


class Vm:
    """A VM of the simulated cluster, and the host it is not on."""

    def __init__(self, simulator: SimulatorProcess, si: vim.ServiceInstance, world: World) -> None:
        self.si, self.simulator = si, simulator
        hosts = [find_host(si, world.name, name) for name in world.hosts]
        self.home, self.moid = next(
            (host, vm.moid) for host in hosts for vm in read_host(si, host).vms if vm.powered_on and vm.can_move
        )
        self.name = next(vm.name for vm in read_host(si, self.home).vms if vm.moid == self.moid)
        self.elsewhere = next(host for host in hosts if host.moid != self.home.moid)

    def read(self, path: str) -> Any:
        machine = vim.VirtualMachine(self.moid, self.si._stub)
        return read_properties(self.si, machine, {vim.VirtualMachine: [path]})[self.moid].get(path)

    def finish(self, task: str | None) -> TaskOutcome:
        assert task is not None
        return await_task(self.si, task, lambda _: None, 60)

    def wait_for(self, power_state: str) -> None:
        machine = vim.VirtualMachine(self.moid, self.si._stub)
        with watching(self.si, machine, ["runtime.powerState", "guest.toolsRunningStatus"]) as watch:
            assert watch.until(
                lambda values: (
                    values.get("runtime.powerState") == power_state
                    and (power_state == "poweredOff" or values.get("guest.toolsRunningStatus") == "guestToolsRunning")
                ),
                lambda _: None,
                30,
            )


@pytest.fixture
def vm(simulator: SimulatorProcess, gpu_si: vim.ServiceInstance, simulated: World) -> Iterator[Vm]:
    made = Vm(simulator, gpu_si, simulated)
    made.wait_for("poweredOn")
    yield made
    simulator.clear_faults()
    if (task := power_on(gpu_si, "simulated", made.moid)) is not None:
        made.finish(task)


def test_a_vm_is_shut_down_moved_cold_and_powered_on_once(vm: Vm) -> None:
    with pytest.raises(Conflict, match="it is poweredOn; only a VM that is off is moved cold"):
        migrate_cold(vm.si, "simulated", vm.moid, vm.elsewhere)
    assert shut_down_guest(vm.si, "simulated", vm.moid)
    vm.wait_for("poweredOff")
    assert not shut_down_guest(vm.si, "simulated", vm.moid)
    assert vm.finish(migrate_cold(vm.si, "simulated", vm.moid, vm.elsewhere)) == TaskOutcome("success")
    assert vm.read("runtime.host")._moId == vm.elsewhere.moid
    assert migrate_cold(vm.si, "simulated", vm.moid, vm.elsewhere) is None
    assert vm.finish(power_on(vm.si, "simulated", vm.moid)) == TaskOutcome("success")
    assert power_on(vm.si, "simulated", vm.moid) is None


def test_a_vm_is_waited_for_until_it_is_off_and_told_when_it_stays_on(vm: Vm) -> None:
    beats: list[dict[str, Any]] = []
    with pytest.raises(NeedsHuman, match=rf"{vm.name} .* is still on after 0 s"):
        await_off(vm.si, "simulated", vm.moid, beats.append, 0)
    shut_down_guest(vm.si, "simulated", vm.moid)
    await_off(vm.si, "simulated", vm.moid, beats.append, 60)
    assert vm.read("runtime.powerState") == "poweredOff"
    assert beats[-1] == {"vm": vm.moid, "power_state": "poweredOff"}
    with pytest.raises(BadRequest, match="there is no VM vm-999999 any more"):
        await_off(vm.si, "simulated", "vm-999999", beats.append, 1)


def test_a_vm_that_was_shut_down_is_found_again_wherever_it_is(vm: Vm) -> None:
    records = [ShutDownVm(moid=vm.moid, name=vm.name), ShutDownVm(moid="vm-999999", name="gone")]
    on, gone = read_stopped(vm.si, "simulated", records)
    assert (on.powered_on, on.host_moid, on.host_name) == (True, vm.home.moid, vm.home.name)
    assert (gone.gone, gone.powered_on) == (True, False)
    shut_down_guest(vm.si, "simulated", vm.moid)
    vm.wait_for("poweredOff")
    vm.finish(migrate_cold(vm.si, "simulated", vm.moid, vm.elsewhere))
    (off,) = read_stopped(vm.si, "simulated", records[:1])
    assert (off.powered_on, off.host_moid, off.gone) == (False, vm.elsewhere.moid, False)
    assert off.memory_mib > 0
    assert off.datastores


def test_a_lost_answer_of_a_move_is_looked_after(vm: Vm) -> None:
    shut_down_guest(vm.si, "simulated", vm.moid)
    vm.wait_for("poweredOff")
    vm.simulator.add_fault(method="RelocateVM_Task", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        migrate_cold(vm.si, "simulated", vm.moid, vm.elsewhere)
    task = migrate_cold(vm.si, "simulated", vm.moid, vm.elsewhere)
    if task is not None:
        assert vm.finish(task) == TaskOutcome("success")
    assert vm.read("runtime.host")._moId == vm.elsewhere.moid


def test_a_guest_without_tools_is_not_cut_off(vm: Vm) -> None:
    vm.simulator.add_fault(method="ShutdownGuest", error="ToolsUnavailable", times=1)
    with pytest.raises(NeedsHuman, match="ToolsUnavailable"):
        shut_down_guest(vm.si, "simulated", vm.moid)
    assert vm.read("runtime.powerState") == "poweredOn"


def test_a_vm_that_an_extension_owns_is_left_alone(vm: Vm) -> None:
    machine = vim.VirtualMachine(vm.moid, vm.si._stub)

    def own(key: str) -> None:
        spec = vim.vm.ConfigSpec(managedBy=vim.ext.ManagedByInfo(extensionKey=key, type="x" if key else ""))
        assert vm.finish(machine.ReconfigVM_Task(spec)._moId) == TaskOutcome("success")

    own("com.example.product")
    try:
        with pytest.raises(Conflict, match=r"the extension com\.example\.product owns it"):
            shut_down_guest(vm.si, "simulated", vm.moid)
    finally:
        own("")


def test_a_vm_that_is_gone_is_told(gpu_si: vim.ServiceInstance, simulator: SimulatorProcess) -> None:
    host = Target(simulator, gpu_si).ref
    for call in (
        lambda: shut_down_guest(gpu_si, "simulated", "vm-999999"),
        lambda: migrate_cold(gpu_si, "simulated", "vm-999999", host),
        lambda: power_on(gpu_si, "simulated", "vm-999999"),
    ):
        with pytest.raises(BadRequest, match="there is no VM vm-999999 any more"):
            call()
