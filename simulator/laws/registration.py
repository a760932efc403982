"""VMs leave vCenter's inventory and come back to it while their files stay where they are."""

from __future__ import annotations

from dataclasses import replace

from pyVmomi import vim

from simulator.core import Managed
from simulator.laws.adding import forget_vm, put_vm
from simulator.laws.machines import any_host, refuse_duplicate
from simulator.laws.notices import post_vm_event
from simulator.laws.passthrough import require_connected
from simulator.laws.vm_states import move
from simulator.laws.vm_storage import datastore_of_path, reachable
from simulator.world import Folder, Host, ResourcePool, VirtualMachine, World

__all__ = ["reappear", "register", "unregister"]

REGISTER_SECONDS = 2.0


def unregister(world: World, vm: VirtualMachine) -> None:
    """`UnregisterVM`; what a host that does not answer has goes from vCenter's inventory alone.

    Raises `InvalidPowerState` for a VM that runs on a host that answers.
    """
    answers = vm.host.connection_state == "connected" and vm.host.responding
    if answers and vm.power_state != "poweredOff":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState=vm.power_state, msg=f"{vm.name} is not powered off."
        )
    post_vm_event(world, vim.event.VmRemovedEvent, vm, f"Removed {vm.name} on {vm.host.name} from the inventory")
    vm.path = vm.vmx
    world.files[vm.path] = vm
    if not answers:
        vm.host.orphans.append(vm)
    forget_vm(world, vm)


async def register(
    world: World,
    folder: Folder,
    path: str,
    name: str | None,
    as_template: bool,
    pool: ResourcePool | None,
    host: Host | None,
) -> Managed:
    """`RegisterVM_Task`: the VM gets a new moid and keeps what its files say: UUIDs, devices, settings, disks.

    Settings that a cluster had for it (HA, DRS, groups) are gone. Raises `AlreadyExists` when it is in the
    inventory, `NotFound` for a path without such a file, `InvalidDatastore` where the host does not have it,
    `DuplicateName`, `InvalidArgument` without a host or pool to run it, `HostNotConnected`, `InvalidState`.
    """
    target = host or (any_host(pool) if pool is not None else None)
    if target is None:
        raise vim.fault.InvalidState(msg="A VM is registered on a host, or in a resource pool.")
    require_connected(world, target)
    store = datastore_of_path(target, path)
    if store is None:
        raise vim.fault.InvalidDatastorePath(datastorePath=path, msg=f"{path!r} is no path such as [store] vm/vm.vmx.")
    reachable(store, target)
    await world.sleep(REGISTER_SECONDS)
    registered = next((vm for vm in world.vms.values() if vm.vmx == path), None)
    if registered is not None:
        raise vim.fault.AlreadyExists(name=registered.name, msg=f"{path} is in the inventory: {registered.name}.")
    found = world.files.get(path)
    if found is None or found.stray == "inaccessible":
        raise vim.fault.NotFound(msg=f"The file {path} was not found.")
    refuse_duplicate(world, folder, name or found.name)
    vm = _again(world, found, target, folder=folder, name=name or found.name)
    vm.pool = None if as_template else pool or target.compute.pool
    vm.template = as_template
    put_vm(world, vm)
    _show_snapshots(world, vm, found)
    post_vm_event(world, vim.event.VmRegisteredEvent, vm, f"Registered {vm.name} on {target.name}")
    return world.managed(vm)


def _again(world: World, gone: VirtualMachine, host: Host, *, folder: Folder, name: str) -> VirtualMachine:
    """The VM that a path's files describe, off and under a new moid."""
    world.files.pop(gone.vmx)
    return replace(
        gone,
        moid=world.moid("vm-"),
        name=name,
        host=host,
        folder=folder,
        gpus=[replace(gpu, assigned_id=None) for gpu in gone.gpus],
        extra_config=dict(gone.extra_config),
        snapshots=[],
        power_state="poweredOff",
        last_seen=None,
        last_ids={},
        stray="",
        locked_by=gone if gone in gone.host.orphans else None,
        booted=False,
        boot_time=None,
        ip_address=None,
        question=None,
        protected=False,
        restart_priority=None,
        isolation_response=None,
        drs_override=None,
    )


def _show_snapshots(world: World, vm: VirtualMachine, gone: VirtualMachine) -> None:
    for snapshot in gone.snapshots:
        shown = replace(snapshot, moid=world.moid("snapshot-"), vm=vm)
        vm.snapshots.append(shown)
        world.show(shown)


def reappear(world: World, host: Host) -> None:
    """The host answers again, with VMs that left the inventory meanwhile.

    One that nobody registered elsewhere is discovered, under a new moid; one that runs is shown where it runs, also
    when it was registered elsewhere.
    """
    orphans, host.orphans = host.orphans, []
    for gone in orphans:
        if world.files.get(gone.vmx) is gone:
            vm = _again(world, gone, host, folder=gone.folder, name=gone.name)
            vm.pool = None if vm.template else gone.pool
            put_vm(world, vm)
            _show_snapshots(world, vm, gone)
            post_vm_event(world, vim.event.VmDiscoveredEvent, vm, f"Discovered {vm.name} on {host.name}")
        else:
            vm = next((vm for vm in world.vms.values() if vm.locked_by is gone), None)  # type: ignore[assignment]
        if vm is not None:
            vm.locked_by = None
            if gone.power_state == "poweredOn":
                _runs_here(world, vm, gone, host)


def _runs_here(world: World, vm: VirtualMachine, gone: VirtualMachine, host: Host) -> None:
    if vm.host is not host:
        move(world, vm, host)
    for gpu, held in zip(vm.gpus, gone.gpus, strict=False):
        gpu.assigned_id = held.assigned_id
    vm.power_state, vm.boot_time = "poweredOn", gone.boot_time
    vm.booted, vm.ip_address, vm.protected = gone.booted, gone.ip_address, True
    world.changed(vm, host)
