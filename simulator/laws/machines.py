"""VMs are created, reconfigured, cloned, moved and destroyed."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Managed
from simulator.laws import devices, vm_storage
from simulator.laws.adding import forget_vm, put_vm
from simulator.laws.maintenance import MIGRATION_SECONDS, migrate_now
from simulator.laws.mobility import can_migrate
from simulator.laws.notices import host_argument, post_vm_event
from simulator.laws.passthrough import require_connected
from simulator.laws.placement import fit, hosts_for
from simulator.laws.power import check_reachable
from simulator.world import Folder, Host, ResourcePool, VirtualMachine, World

__all__ = [
    "any_host",
    "apply_settings",
    "blank_vm",
    "create",
    "destroy",
    "mark_as_template",
    "mark_as_vm",
    "reconfigure",
    "refuse_duplicate",
    "relocate",
    "upgrade_hardware",
]

CREATE_SECONDS = 3.0
RECONFIGURE_SECONDS = 1.0
DESTROY_SECONDS = 2.0
NEWEST_HARDWARE = 21


async def create(world: World, folder: Folder, spec: Any, pool: ResourcePool, host: Host | None) -> Managed:
    """`CreateVM_Task`: nothing is installed on its disk, so that it runs and no guest comes up.

    Raises `DuplicateName`, `InvalidState` when no host can take it, `NoDiskSpace`, and device faults.
    """
    refuse_duplicate(world, folder, spec.name)
    target = host or any_host(pool)
    require_connected(world, target)
    vm = blank_vm(world, folder, spec.name, pool, target)
    vm.blank = True
    if spec.files is not None and (store := vm_storage.datastore_of_path(target, spec.files.vmPathName)):
        vm.datastores = [vm_storage.reachable(store, target)]
    apply_settings(vm, spec)
    devices.check(vm, spec)
    devices.apply(world, vm, spec.deviceChange or [], standard=False)
    vm_storage.follow_adapters(world, vm)
    vm.disk_bytes = devices.thick_bytes(vm)
    await world.sleep(CREATE_SECONDS)
    refuse_duplicate(world, folder, spec.name)
    vm_storage.take(world, vm.datastores[0], vm.committed_bytes, vm.name)
    put_vm(world, vm)
    post_vm_event(world, vim.event.VmCreatedEvent, vm, f"Created virtual machine {vm.name} on {target.name}")
    return world.managed(vm)


def blank_vm(world: World, folder: Folder, name: str, pool: ResourcePool, host: Host) -> VirtualMachine:
    cluster = pool.compute
    return VirtualMachine(
        world.moid("vm-"),
        name,
        world.uuid(),
        world.uuid(),
        host,
        folder,
        cluster.datastores[:1],
        cluster.networks[:1],
        pool,
        world.registry.clock.now(),
        firmware="bios",
    )


def refuse_duplicate(world: World, folder: Folder, name: str) -> None:
    for moid in folder.children:
        if moid in world.vms and world.vms[moid].name == name:
            raise vim.fault.DuplicateName(
                name=name, object=world.ref(world.vms[moid]), msg=f"The name '{name}' already exists."
            )


def any_host(pool: ResourcePool) -> Host:
    usable = [host for host in pool.compute.hosts.values() if host.up and not host.in_maintenance]
    if not usable:
        raise vim.fault.InvalidState(msg=f"{pool.compute.name} has no connected host outside of maintenance mode.")
    return min(usable, key=lambda host: len(host.vms))


def apply_settings(vm: VirtualMachine, spec: Any) -> None:
    """What a `ConfigSpec` says apart from devices; what it leaves out stays."""
    vm.name = spec.name or vm.name
    vm.cpus = spec.numCPUs or vm.cpus
    vm.memory_mib = spec.memoryMB or vm.memory_mib
    vm.guest_id = spec.guestId or vm.guest_id
    vm.firmware = spec.firmware or vm.firmware
    vm.annotation = vm.annotation if spec.annotation is None else spec.annotation
    if spec.version:
        vm.hardware_version = int(spec.version.removeprefix("vmx-"))
    if spec.memoryReservationLockedToMax is not None:
        vm.memory_reserved_all = spec.memoryReservationLockedToMax
    if spec.memoryAllocation is not None and spec.memoryAllocation.reservation is not None:
        vm.memory_reservation_mib = spec.memoryAllocation.reservation
    if spec.bootOptions is not None and spec.bootOptions.efiSecureBootEnabled is not None:
        vm.secure_boot = spec.bootOptions.efiSecureBootEnabled
    if spec.managedBy is not None:
        vm.managed_by = (spec.managedBy.extensionKey, spec.managedBy.type) if spec.managedBy.extensionKey else None
    for option in spec.extraConfig or []:
        # An empty value removes the key.
        if option.value in (None, ""):
            vm.extra_config.pop(option.key, None)
        else:
            vm.extra_config[option.key] = str(option.value)
    vm.change_version += 1


async def reconfigure(world: World, vm: VirtualMachine, spec: Any) -> None:
    """`ReconfigVM_Task`.

    Raises `InvalidPowerState` for what a running VM cannot change (devices, firmware, memory, hardware version),
    `InvalidArgument` for a change made on older news (`changeVersion`), `InvalidArgument` for a static device
    that the host does not have, `InvalidHostConnectionState` while its host does not answer.
    """
    check_reachable(world, vm)
    if spec.changeVersion and spec.changeVersion != str(vm.change_version):
        raise vim.fault.ConcurrentAccess(msg=f"{vm.name} has been changed since version {spec.changeVersion}.")
    needs_off = spec.firmware or spec.memoryMB or spec.numCPUs or spec.version or devices.touches_gpus(vm, spec)
    if needs_off and vm.power_state != "poweredOff":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff",
            existingState=vm.power_state,
            msg=f"The operation cannot be performed in the current state: {vm.name} is powered on.",
        )
    if spec.version and int(spec.version.removeprefix("vmx-")) < vm.hardware_version:
        raise vmodl.fault.InvalidArgument(invalidProperty="spec.version", msg="Hardware versions only go up.")
    devices.check(vm, spec)
    await world.sleep(RECONFIGURE_SECONDS)
    devices.apply(world, vm, spec.deviceChange or [])
    vm_storage.follow_adapters(world, vm)
    apply_settings(vm, spec)
    post_vm_event(
        world, vim.event.VmReconfiguredEvent, vm, f"Reconfigured {vm.name} on {vm.host.name}", configSpec=spec
    )
    world.changed(vm, vm.host)


async def relocate(world: World, vm: VirtualMachine, host: Host | None, pool: ResourcePool | None = None) -> None:
    """`MigrateVM_Task` and `RelocateVM_Task`; without a host DRS picks one, of the pool's cluster if one is named.

    A running VM cannot move with passthrough devices, or with a vGPU that does not migrate: raises `MigrationFault`.
    Off, one with a static device moves too, and its device stays behind.
    """
    check_reachable(world, vm)
    if vm.power_state == "poweredOn" and vm.passthrough:
        raise vim.fault.MigrationFault(
            msg=f"{vm.name} uses a PCI passthrough device, which prevents migration while it is powered on."
        )
    if vm.power_state == "poweredOn" and not can_migrate(world, vm):
        raise vim.fault.MigrationFault(
            msg=f"{vm.name} cannot migrate while it is powered on: it is fault tolerant, or has a vGPU and "
            "vgpu.hotmigrate.enabled or its profile does not allow it."
        )
    if host is None and pool is not None and pool.compute is not vm.host.compute:
        host = any_host(pool)
    target = host or next(iter(hosts_for(world, vm, without=vm.host)), None)
    if target is None:
        raise vim.fault.NoCompatibleHost(msg=f"No host is compatible with {vm.name}.")
    require_connected(world, target)
    if target.in_maintenance and vm.power_state == "poweredOn":
        raise vim.fault.InvalidState(msg=f"{target.name} is in maintenance mode.")
    if vm.power_state == "poweredOn" and (missing := fit(target, vm).missing):
        raise vim.fault.MigrationFault(msg=f"{target.name} cannot take {vm.name}: {missing}.")
    await world.sleep(MIGRATION_SECONDS)
    if target is not vm.host:
        migrate_now(world, vm, target)


async def destroy(world: World, vm: VirtualMachine) -> None:
    """`Destroy_Task`: its files are deleted too; raises `InvalidPowerState` while the VM runs."""
    check_reachable(world, vm)
    if vm.power_state != "poweredOff":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState=vm.power_state, msg=f"{vm.name} is not powered off."
        )
    await world.sleep(DESTROY_SECONDS)
    post_vm_event(world, vim.event.VmRemovedEvent, vm, f"Removed {vm.name} on {vm.host.name}")
    vm_storage.give_back(world, vm)
    forget_vm(world, vm)


def mark_as_template(world: World, vm: VirtualMachine) -> None:
    """`MarkAsTemplate`; raises `InvalidPowerState` while the VM runs."""
    if vm.power_state != "poweredOff":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState=vm.power_state, msg=f"{vm.name} is not powered off."
        )
    vm.template = True
    if vm.pool is not None:
        vm.pool.vms.pop(vm.moid, None)
        world.changed(vm.pool)
        vm.pool = None
    world.changed(vm)


def mark_as_vm(world: World, vm: VirtualMachine, pool: ResourcePool, host: Host | None) -> None:
    """`MarkAsVirtualMachine`; raises `InvalidState` for what is no template."""
    if not vm.template:
        raise vim.fault.InvalidState(msg=f"{vm.name} is not a template.")
    vm.template = False
    vm.pool = pool
    pool.vms[vm.moid] = vm
    if host is not None and host is not vm.host:
        source = host_argument(world, vm.host)
        migrate_now(world, vm, host)
        post_vm_event(world, vim.event.VmRelocatedEvent, vm, f"Relocated {vm.name}", sourceHost=source)
    world.changed(vm, pool)


async def upgrade_hardware(world: World, vm: VirtualMachine, version: str | None) -> None:
    """`UpgradeVM_Task`: there is no way back; raises `InvalidPowerState`, `AlreadyUpgraded`."""
    if vm.power_state != "poweredOff":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState=vm.power_state, msg=f"{vm.name} is not powered off."
        )
    wanted = int(version.removeprefix("vmx-")) if version else NEWEST_HARDWARE
    if wanted <= vm.hardware_version:
        raise vim.fault.AlreadyUpgraded(msg=f"{vm.name} has hardware version {vm.hardware_version} already.")
    await world.sleep(RECONFIGURE_SECONDS)
    vm.hardware_version = wanted
    vm.change_version += 1
    world.changed(vm)
