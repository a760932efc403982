"""The small changes of a VM's power that other laws share."""

from __future__ import annotations

from simulator.laws.guests import went_down
from simulator.world import Host, VirtualMachine, World

__all__ = ["die", "move", "stop"]


def stop(world: World, vm: VirtualMachine) -> None:
    """The VM is off: its guest is gone and its devices are free."""
    vm.power_state = "poweredOff"
    vm.booted = False
    vm.boot_time = None
    vm.ip_address = None
    if vm.question is not None:
        # Whoever waits for the answer waits no more.
        vm.question.answered.set()
        vm.question = None
    went_down(vm)
    vm.protected = False
    for gpu in vm.gpus:
        gpu.assigned_id = None
    world.changed(vm, vm.host)


def die(world: World, vm: VirtualMachine) -> None:
    """The VM's host is gone: it is off, though vCenter goes on showing what it saw last."""
    if vm.power_state == "poweredOn":
        protected = vm.protected
        held = {gpu.key: gpu.assigned_id for gpu in vm.gpus if gpu.assigned_id}
        stop(world, vm)
        vm.protected = protected
        vm.last_seen, vm.last_ids = "poweredOn", held


def move(world: World, vm: VirtualMachine, target: Host) -> None:
    """Register the VM on another host."""
    source = vm.host
    del source.vms[vm.moid]
    target.vms[vm.moid] = vm
    vm.host = target
    vm.last_seen, vm.last_ids = None, {}
    if vm.pool is not None and vm.pool.compute is not target.compute:
        vm.pool.vms.pop(vm.moid, None)
        world.changed(vm.pool)
        vm.pool = target.compute.pool
        vm.pool.vms[vm.moid] = vm
        world.changed(vm.pool)
    world.changed(vm, source, target)
