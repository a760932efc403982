"""The VMs that use GPUs, from the properties that a fleet read took of them."""

from collections.abc import Iterable, Sequence
from typing import Any

from pyVmomi import vim

from contracts.fleet import FleetGpu, FleetVm, VmGpu
from vsphere.fleet_ha import ClusterPolicy
from vsphere.properties import Read

__all__ = ["GPU_VM_PATHS", "VM_PATHS", "fleet_vm", "reserved_mib", "reserves_all", "vm_gpus"]

VM_PATHS = (
    "runtime.host",
    "runtime.powerState",
    "config.hardware.memoryMB",
    "config.memoryAllocation.reservation",
    "config.memoryReservationLockedToMax",
)
"""Of every VM."""
_USE_MMIO = tuple(f'config.extraConfig["pciPassthru.use64{bit}MMIO"]' for bit in ("bit", "Bit"))
_MMIO_SIZE = tuple(f'config.extraConfig["pciPassthru.64{bit}MMIOSizeGB"]' for bit in ("bit", "Bit"))
"""The spellings that guides use: ESXi compares keys without letter case, the property collector with it. Whole, the
extra configuration is as large as all other properties here together."""
GPU_VM_PATHS = (
    "name",
    "config.hardware.device",
    "config.instanceUuid",
    "config.template",
    "config.managedBy",
    "config.files.vmPathName",
    *_USE_MMIO,
    *_MMIO_SIZE,
    "guest.toolsRunningStatus",
    "parent",
    "resourcePool",
    "runtime.bootTime",
    "runtime.connectionState",
    "runtime.dasVmProtection",
    "runtime.question.text",
)
"""Of VMs that can have GPUs."""
_PASSTHROUGH = vim.vm.device.VirtualPCIPassthrough


def fleet_vm(
    moid: str, read: Read, cards: Sequence[FleetGpu], policy: ClusterPolicy, cluster_hosts: Sequence[str], wanted: bool
) -> FleetVm | None:
    """The VM, if it has GPU devices or is `wanted` anyway; `cards` are those of its host."""
    gpus = vm_gpus(read.get("config.hardware.device") or (), moid, cards)
    if not gpus and not wanted:
        return None
    power_state = str(read.get("runtime.powerState") or "")
    if power_state == "poweredOn":
        # A VM that runs holds its static device, or it would not run.
        gpus = tuple(gpu.model_copy(update={"assigned": gpu.sbdf}) if gpu.kind == "static" else gpu for gpu in gpus)
    managed_by, protection = read.get("config.managedBy"), read.get("runtime.dasVmProtection")
    return FleetVm(
        moid=moid,
        instance_uuid=str(read.get("config.instanceUuid") or ""),
        name=str(read.get("name", moid)),
        host_moid=_moid(read.get("runtime.host")),
        powered_on=power_state == "poweredOn",
        memory_mib=int(read.get("config.hardware.memoryMB") or 0),
        gpus=gpus,
        template=bool(read.get("config.template")),
        managed_by=managed_by.extensionKey if managed_by is not None else "",
        ha_protected=bool(protection.dasProtected) if protection is not None else None,
        connection_state=str(read.get("runtime.connectionState") or "connected"),
        power_state=power_state,
        restart_priority=policy.priority_of(moid),
        isolation_response=policy.response_of(moid),
        drs_automation=policy.automation_of(moid),
        memory_reserved=reserves_all(read) or not read.get("config.hardware.memoryMB"),
        mmio_gib=_mmio_gib(read),
        barred=policy.barred(moid, cluster_hosts),
        question=str(read.get("runtime.question.text") or ""),
        tools_running=str(read.get("guest.toolsRunningStatus") or "") == "guestToolsRunning",
        boot_time=read.get("runtime.bootTime"),
        path=str(read.get("config.files.vmPathName") or ""),
        folder_moid=_moid(read.get("parent")),
        pool_moid=_moid(read.get("resourcePool")),
    )


def _moid(reference: Any) -> str:
    return str(reference._moId) if reference is not None else ""


def _mmio_gib(read: Read) -> int | None:
    """See `FleetVm.mmio_gib`; None where the VM's configuration could not be read."""
    if read.get("config.hardware.device") is None or any(path in read.missing for path in (*_USE_MMIO, *_MMIO_SIZE)):
        return None
    if _option(read, _USE_MMIO).upper() != "TRUE":
        return 0
    size = _option(read, _MMIO_SIZE)
    return int(size) if size.isdecimal() else 0


def _option(read: Read, paths: Iterable[str]) -> str:
    found = next((option for path in paths if (option := read.get(path)) is not None), None)
    return str(found.value).strip() if found is not None else ""


def vm_gpus(devices: Iterable[Any], moid: str, cards: Sequence[FleetGpu] = ()) -> tuple[VmGpu, ...]:
    """The GPU devices of a VM; `cards` are those of its host, which tell where its vGPUs are.

    A vGPU counts as assigned only where one card alone names the VM: vSphere does not say which device is where.
    """
    naming = [card.sbdf for card in cards if moid in card.vm_moids and not card.passthru_active]
    found = []
    for device in devices:
        if not isinstance(device, _PASSTHROUGH):
            continue
        backing, key = device.backing, device.key
        if isinstance(backing, _PASSTHROUGH.DynamicBackingInfo):
            allowed = tuple(
                f"{each.vendorId & 0xFFFF:04x}:{each.deviceId & 0xFFFF:04x}" for each in backing.allowedDevice or ()
            )
            assigned = (backing.assignedId or "").lower()
            found.append(
                VmGpu(key=key, kind="dynamic", allowed=allowed, label=backing.customLabel or "", assigned=assigned)
            )
        elif isinstance(backing, _PASSTHROUGH.VmiopBackingInfo):
            assigned = naming[0] if len(naming) == 1 else ""
            found.append(VmGpu(key=key, kind="vgpu", profile=backing.vgpu or "", assigned=assigned))
        elif isinstance(backing, _PASSTHROUGH.DeviceBackingInfo):
            sbdf = (backing.id or "").lower()
            held = any(card.sbdf == sbdf and moid in card.vm_moids for card in cards)
            found.append(VmGpu(key=key, kind="static", sbdf=sbdf, assigned=sbdf if held else ""))
        else:
            found.append(VmGpu(key=key, kind="other"))
    return tuple(found)


def reserved_mib(read: Read) -> int:
    """Memory that the VM has reserved."""
    memory = int(read.get("config.hardware.memoryMB") or 0)
    if read.get("config.memoryReservationLockedToMax"):
        return memory
    return int(read.get("config.memoryAllocation.reservation") or 0)


def reserves_all(read: Read) -> bool:
    """It has reserved all of its memory, without which a VM with GPUs does not power on."""
    memory = int(read.get("config.hardware.memoryMB") or 0)
    return memory > 0 and reserved_mib(read) >= memory
