"""Snapshots of VMs: one behind the other, and none with memory for a VM with GPUs."""

from __future__ import annotations

from pyVmomi import vim, vmodl

from simulator.core import Managed
from simulator.world import Snapshot, VirtualMachine, World

__all__ = ["create", "remove"]

SNAPSHOT_SECONDS = 2.0


async def create(
    world: World, vm: VirtualMachine, name: str, description: str, *, memory: bool, quiesce: bool
) -> Managed:
    """`CreateSnapshot_Task`.

    Raises `SnapshotIncompatibleDeviceInVm` for the memory of a running VM with GPUs, `InvalidState` for a template.
    """
    if vm.template:
        raise vim.fault.InvalidState(msg=f"{vm.name} is a template.")
    if memory and vm.power_state == "poweredOn" and vm.gpus:
        why = f"{vm.name} has PCI devices whose state cannot be saved."
        raise vim.fault.SnapshotIncompatibleDeviceInVm(
            fault=vmodl.fault.NotSupported(msg=why), msg=f"Cannot take a memory snapshot: {why}"
        )
    await world.sleep(SNAPSHOT_SECONDS)
    number = 1 + max((found.number for found in vm.snapshots), default=0)
    state = vm.power_state if memory else "poweredOff"
    moid = world.moid("snapshot-")
    found = Snapshot(moid, name, description, vm, world.registry.clock.now(), number, state, quiesce)
    vm.snapshots.append(found)
    world.show(found)
    world.changed(vm)
    return world.managed(found)


async def remove(world: World, vm: VirtualMachine, gone: list[Snapshot]) -> None:
    """`RemoveSnapshot_Task` and `RemoveAllSnapshots_Task`."""
    await world.sleep(SNAPSHOT_SECONDS)
    for found in list(gone):
        if found in vm.snapshots:
            vm.snapshots.remove(found)
            world.hide(found)
    world.changed(vm)
