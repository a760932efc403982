"""Where VMs that cannot move while on could go, and where those that a run shut down are."""

from collections.abc import Sequence
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest
from contracts.evacuation import FreeDevice, Neighbour, ShutDownVm, StoppedVm
from contracts.host import HostRef
from vsphere.faults import translated
from vsphere.host_vms import held_devices, wanted_devices
from vsphere.properties import Read, read_properties, traversal

__all__ = ["read_neighbours", "read_stopped"]

_HOST_PATHS = (
    "name",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "runtime.standbyMode",
    "config.pciPassthruInfo",
    "hardware.pciDevice",
    "datastore",
    "summary.hardware",
    "summary.quickStats",
)
_VM_PATHS = (
    "name",
    "runtime.powerState",
    "runtime.host",
    "config.hardware.device",
    "config.hardware.memoryMB",
    "datastore",
)


def read_neighbours(si: vim.ServiceInstance, cluster_moid: str, but: HostRef) -> tuple[Neighbour, ...]:
    """The cluster's other hosts that take VMs now, with their free devices in passthrough.

    One read, and one more for each host that has devices in passthrough.

    Raises `BadRequest` when there is no such cluster, `Unreachable` when vCenter does not answer.
    """
    with translated(f"read the hosts beside {but.name} of {but.vcenter}"):
        try:
            found = read_properties(
                si,
                vim.ClusterComputeResource(cluster_moid, si._stub),
                {vim.HostSystem: _HOST_PATHS},
                [traversal(vim.ComputeResource, "host")],
                skip_start=True,
            )
        except vmodl.fault.ManagedObjectNotFound as fault:
            raise BadRequest(f"cluster {cluster_moid} is no longer in the inventory") from fault
        others = {moid: read for moid, read in sorted(found.items()) if moid != but.moid and _takes_vms(read)}
        held = {moid: _held(si, read) for moid, read in others.items() if _active(read)}
    return tuple(_neighbour(moid, read, held.get(moid, set())) for moid, read in others.items())


def read_stopped(si: vim.ServiceInstance, vcenter: str, vms: Sequence[ShutDownVm]) -> tuple[StoppedVm, ...]:
    """These VMs as they are now, wherever they are."""
    return tuple(_stopped(si, vcenter, vm) for vm in vms)


def _takes_vms(host: Read) -> bool:
    return (
        str(host.get("runtime.connectionState")) == "connected"
        and not host.get("runtime.inMaintenanceMode")
        and str(host.get("runtime.standbyMode") or "none") == "none"
    )


def _active(host: Read) -> list[Any]:
    """Functions in passthrough."""
    return [info for info in host.get("config.pciPassthruInfo") or () if info.passthruActive]


def _held(si: vim.ServiceInstance, host: Read) -> set[str]:
    """SBDFs that running VMs of the host hold."""
    paths: dict[Any, Any] = {vim.VirtualMachine: ("runtime.powerState", "config.hardware.device")}
    vms = read_properties(si, host.obj, paths, [traversal(vim.HostSystem, "vm")], skip_start=True)
    running = [vm for vm in vms.values() if str(vm.get("runtime.powerState")) == "poweredOn"]
    return {sbdf for vm in running for sbdf in held_devices(vm.values)}


def _neighbour(moid: str, host: Read, held: set[str]) -> Neighbour:
    ids = {device.id.lower(): device for device in host.get("hardware.pciDevice") or ()}
    hardware, stats = host.get("summary.hardware"), host.get("summary.quickStats")
    used_mib = getattr(stats, "overallMemoryUsage", None)
    return Neighbour(
        moid=moid,
        name=str(host.get("name", moid)),
        free=tuple(
            FreeDevice(sbdf=info.id.lower(), vendor_device=_pair(ids[info.id.lower()]), label=info.hardwareLabel or "")
            for info in _active(host)
            if info.id.lower() in ids and info.id.lower() not in held
        ),
        datastores=tuple(sorted(store._moId for store in host.get("datastore") or ())),
        free_memory_mib=hardware.memorySize // 2**20 - used_mib
        if hardware is not None and used_mib is not None
        else None,
    )


def _pair(device: Any) -> str:
    # PCI ids come as signed 16-bit numbers.
    return f"{device.vendorId & 0xFFFF:04x}:{device.deviceId & 0xFFFF:04x}"


def _stopped(si: vim.ServiceInstance, vcenter: str, vm: ShutDownVm) -> StoppedVm:
    machine = vim.VirtualMachine(vm.moid, si._stub)
    with translated(f"read VM {vm.name} of {vcenter}"):
        try:
            found = read_properties(
                si,
                machine,
                {vim.VirtualMachine: _VM_PATHS, vim.HostSystem: ("name",)},
                [traversal(vim.VirtualMachine, "runtime.host")],
            )
        except vmodl.fault.ManagedObjectNotFound:
            return StoppedVm(**vm.model_dump(), gone=True)
    read = found[vm.moid]
    host = read.get("runtime.host")
    host_moid = host._moId if host is not None else ""
    return StoppedVm(
        **vm.model_dump(),
        powered_on=str(read.get("runtime.powerState")) == "poweredOn",
        host_moid=host_moid,
        host_name=str(found[host_moid].get("name", host_moid)) if host_moid in found else host_moid,
        datastores=tuple(sorted(store._moId for store in read.get("datastore") or ())),
        wants=wanted_devices(read.values),
        memory_mib=int(read.get("config.hardware.memoryMB") or 0),
    )
