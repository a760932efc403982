"""VMs are made as copies of others: where to, what of, and who the guest of the copy is to be."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Managed
from simulator.laws import customization, devices, vm_storage
from simulator.laws.adding import put_vm
from simulator.laws.machines import any_host, apply_settings, blank_vm, refuse_duplicate
from simulator.laws.notices import post_vm_event, vm_argument
from simulator.laws.passthrough import require_connected
from simulator.laws.power import power_on
from simulator.world import Datastore, Folder, Host, ResourcePool, VirtualMachine, VmGpu, World

__all__ = ["clone", "customize"]

CLONE_SECONDS = 30.0
_MOVES = (
    "moveAllDiskBackingsAndAllowSharing", "moveAllDiskBackingsAndDisallowSharing", "moveChildMostDiskBacking",
    "createNewChildDiskBacking", "moveAllDiskBackingsAndConsolidate",
)  # fmt: skip
_LINKED = "createNewChildDiskBacking"


async def clone(world: World, source: VirtualMachine, folder: Folder, name: str, spec: Any) -> Managed:
    """`CloneVM_Task`: the copy has the source's settings and devices, GPUs included, its disk, and new identities.

    Raises `DuplicateName`, `InvalidDatastore` for one that the host cannot reach, `NoDiskSpace`, what
    `customization.demanded` raises, device faults, and, with `powerOn`, what a power-on raises: the copy stays then.
    """
    refuse_duplicate(world, folder, name)
    host, pool = _destination(world, source, spec.location)
    require_connected(world, host)
    store = _datastore(world, source, host, spec.location)
    vm = blank_vm(world, folder, name, pool, host)
    vm.datastores = [store]
    _copy(source, vm)
    linked = spec.location.diskMoveType == _LINKED
    if linked and not source.snapshots:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="spec.location.diskMoveType", msg=f"{source.name} has no snapshot to link the copy to."
        )
    if spec.config is not None:
        devices.check(vm, spec.config)
        apply_settings(vm, spec.config)
        vm.name = name
        devices.apply(world, vm, spec.config.deviceChange or [])
    devices.apply(world, vm, spec.location.deviceChange or [])
    vm_storage.follow_adapters(world, vm)
    if spec.customization is not None:
        vm.customization = customization.demanded(vm, spec.customization, vm_storage.network_adapters(vm))
    vm.disk_bytes = 0 if linked else source.committed_bytes
    await world.sleep(CLONE_SECONDS)
    refuse_duplicate(world, folder, name)
    vm_storage.take(world, store, vm.committed_bytes, name)
    vm.template = bool(spec.template)
    put_vm(world, vm)
    post_vm_event(
        world, vim.event.VmClonedEvent, vm, f"Cloned {source.name} to {name}", sourceVm=vm_argument(world, source)
    )
    if spec.powerOn and not vm.template:
        await power_on(world, vm)
    return world.managed(vm)


def _copy(source: VirtualMachine, vm: VirtualMachine) -> None:
    for setting in ("cpus", "memory_mib", "disk_gib", "firmware", "hardware_version", "guest_id", "annotation",
                    "memory_reserved_all", "memory_reservation_mib", "secure_boot", "blank"):  # fmt: skip
        setattr(vm, setting, getattr(source, setting))
    vm.networks = list(source.networks)
    vm.extra_config = dict(source.extra_config)
    vm.devices = None if source.devices is None else list(source.devices)
    vm.gpus = [
        VmGpu(**{slot: getattr(gpu, slot) for slot in VmGpu.__slots__} | {"assigned_id": None}) for gpu in source.gpus
    ]
    vm.guest = None if source.guest is None else source.guest.cloned()
    quirks = source.quirks
    vm.quirks = type(quirks)(quirks.no_tools, quirks.question, quirks.customization_error, quirks.robbed)


def _destination(world: World, vm: VirtualMachine, location: Any) -> tuple[Host, ResourcePool]:
    """The host and pool that a relocation names; each can be told by the other, else they are the VM's own."""
    pool = _known(world.pools, location.pool)
    host = _known(world.hosts, location.host)
    if vm.template and pool is None:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="spec.location.pool", msg="A template is in no resource pool: name one for its copy."
        )
    if host is not None and pool is not None and pool.compute is not host.compute:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="spec.location.pool", msg=f"{host.name} is not in the cluster of the pool {pool.name}."
        )
    if host is None:
        wanted = pool or vm.pool or vm.host.compute.pool
        here = wanted.compute is vm.host.compute and vm.host.up and not vm.host.in_maintenance
        host = vm.host if here else any_host(wanted)
    return host, pool or host.compute.pool


def _known(states: dict[str, Any], ref: Any) -> Any:
    if ref is None:
        return None
    if ref._moId not in states:
        raise vmodl.fault.ManagedObjectNotFound(obj=ref, msg=f"The object {ref} has already been deleted.")
    return states[ref._moId]


def _datastore(world: World, source: VirtualMachine, host: Host, location: Any) -> Datastore:
    """The datastore that is named, else the source's own if the host reaches it, else the host's first."""
    if location.diskMoveType and location.diskMoveType not in _MOVES:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="spec.location.diskMoveType", msg=f"{location.diskMoveType!r} is no way to move disks."
        )
    ref = location.datastore or next((disk.datastore for disk in location.disk or []), None)
    if (named := _known(world.datastores, ref)) is not None:
        found: Datastore = named
        return vm_storage.reachable(found, host)
    own = next((store for store in source.datastores if host.moid in store.hosts), None)
    return own or host.compute.datastores[0]


def customize(vm: VirtualMachine, spec: Any) -> None:
    """`CustomizeVM_Task`: at the next boot; raises `InvalidPowerState` while the VM runs, `CustomizationPending`."""
    if vm.power_state != "poweredOff":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState=vm.power_state, msg=f"{vm.name} is not powered off."
        )
    if vm.customization is not None and vm.customization.status == "TOOLSDEPLOYPKG_PENDING":
        raise vim.fault.CustomizationPending(msg=f"{vm.name} has a customization that is still to come.")
    vm.customization = customization.demanded(vm, spec, vm_storage.network_adapters(vm))
