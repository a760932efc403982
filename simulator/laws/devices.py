"""The virtual devices of a VM: the standard set, and what a reconfiguration adds and removes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pyVmomi import vim, vmodl

from simulator.laws.passthrough import capable
from simulator.world import VirtualMachine, VmGpu, World

__all__ = ["apply", "check", "gpu_limit", "shown_devices", "standard_devices", "thick_bytes", "touches_gpus"]

_FIRST_GPU_KEY = 13000
_Passthrough = vim.vm.device.VirtualPCIPassthrough
DYNAMIC_HARDWARE_VERSION = 17


def gpu_limit(hardware_version: int) -> int:
    """How many passthrough devices a VM may have: grows with the hardware version."""
    if hardware_version >= 21:
        return 64
    if hardware_version >= 20:
        return 32
    return 16 if hardware_version >= 14 else 6


def touches_gpus(vm: VirtualMachine, spec: Any) -> bool:
    """Whether a `ConfigSpec` changes GPU devices, or any device of a VM with static ones: that cannot be done hot."""
    changes = spec.deviceChange or []
    static = any(gpu.kind == "static" for gpu in vm.gpus)
    return any(static or isinstance(change.device, _Passthrough) for change in changes)


def check(vm: VirtualMachine, spec: Any) -> None:
    """Raise what vSphere says against GPU devices: unknown static devices, too old hardware, too many."""
    version = int(spec.version.removeprefix("vmx-")) if spec.version else vm.hardware_version
    count = len(vm.gpus)
    for index, change in enumerate(spec.deviceChange or []):
        if not isinstance(change.device, _Passthrough):
            continue
        count += {"add": 1, "remove": -1}.get(str(change.operation), 0)
        backing = change.device.backing
        if change.operation == "remove":
            continue
        _gpu(0, backing)
        if isinstance(backing, _Passthrough.DynamicBackingInfo) and version < DYNAMIC_HARDWARE_VERSION:
            raise vim.fault.DeviceUnsupportedForVmVersion(
                deviceIndex=index,
                currentVersion=f"vmx-{version}",
                expectedVersion=f"vmx-{DYNAMIC_HARDWARE_VERSION}",
                msg=f"Dynamic DirectPath I/O needs hardware version 17; {vm.name} has {version}.",
            )
        if isinstance(backing, _Passthrough.DeviceBackingInfo):
            function = vm.host.pci.get(backing.id)
            if function is None or not capable(vm.host, function):
                raise vim.fault.InvalidDeviceSpec(
                    deviceIndex=index, msg=f"{vm.host.name} has no passthrough device {backing.id}."
                )
    if count > gpu_limit(version):
        raise vim.fault.InvalidDeviceSpec(
            deviceIndex=0, msg=f"{count} passthrough devices are more than hardware version {version} allows."
        )


def thick_bytes(vm: VirtualMachine) -> int:
    """What new disks take at once: all of a thick one, nothing of a thin one."""
    disks = [found for found in vm.devices or [] if isinstance(found, vim.vm.device.VirtualDisk)]
    return sum(
        (disk.capacityInBytes or disk.capacityInKB * 1024)
        for disk in disks
        if not getattr(disk.backing, "thinProvisioned", False)
    )


def apply(world: World, vm: VirtualMachine, changes: list[Any], *, standard: bool = True) -> None:
    """Carry out `deviceChange`; a VM that is being created starts with `standard=False`, the bare controllers."""
    if not standard:
        vm.devices = [device for device in standard_devices(vm) if isinstance(device, _BARE)]
    # Devices of one request name a new controller by its temporary key.
    renamed: dict[int, int] = {}
    for change in changes:
        operation = str(change.operation or "edit")
        if isinstance(change.device, _Passthrough):
            _apply_gpu(vm, operation, change.device)
        else:
            _apply_device(vm, operation, change.device, renamed)


_BARE = (
    vim.vm.device.VirtualIDEController,
    vim.vm.device.VirtualPS2Controller,
    vim.vm.device.VirtualPCIController,
    vim.vm.device.VirtualSIOController,
    vim.vm.device.VirtualKeyboard,
    vim.vm.device.VirtualPointingDevice,
    vim.vm.device.VirtualVideoCard,
)


def _apply_gpu(vm: VirtualMachine, operation: str, device: Any) -> None:
    index = next((at for at, gpu in enumerate(vm.gpus) if gpu.key == device.key), None)
    if operation == "add":
        used = {gpu.key for gpu in vm.gpus}
        key = next(key for key in range(_FIRST_GPU_KEY, _FIRST_GPU_KEY + 999) if key not in used)
        vm.gpus.append(_gpu(key, device.backing))
        return
    if index is None:
        raise vim.fault.InvalidDeviceSpec(deviceIndex=0, msg=f"{vm.name} has no device with key {device.key}.")
    if operation == "remove":
        del vm.gpus[index]
    else:
        vm.gpus[index] = _gpu(device.key, device.backing)


def _gpu(key: int, backing: Any) -> VmGpu:
    if isinstance(backing, _Passthrough.DynamicBackingInfo):
        allowed = tuple((device.vendorId & 0xFFFF, device.deviceId & 0xFFFF) for device in backing.allowedDevice or [])
        return VmGpu(key, "dynamic", allowed=allowed, label=backing.customLabel or "")
    if isinstance(backing, _Passthrough.VmiopBackingInfo):
        return VmGpu(key, "vgpu", profile=backing.vgpu or "")
    if isinstance(backing, _Passthrough.DeviceBackingInfo):
        return VmGpu(
            key,
            "static",
            pci_id=backing.id,
            device_name=backing.deviceName or "",
            vendor_id=(backing.vendorId or 0) & 0xFFFF,
            device_id=int(backing.deviceId or "0", 16),
            system_id=backing.systemId or "",
        )
    raise vmodl.fault.InvalidArgument(
        invalidProperty="device.backing", msg=f"A PCI passthrough device cannot have {type(backing).__name__}."
    )


def _apply_device(vm: VirtualMachine, operation: str, device: Any, renamed: dict[int, int]) -> None:
    if vm.devices is None:
        vm.devices = standard_devices(vm)
    index = next((at for at, known in enumerate(vm.devices) if known.key == device.key), None)
    if operation == "add":
        device.controllerKey = renamed.get(device.controllerKey, device.controllerKey)
        used = {known.key for known in vm.devices}
        if device.key in used or device.key < 0:
            first = _first_key(device)
            fresh = next(key for key in range(first, first + 999) if key not in used)
            renamed[device.key] = fresh
            device.key = fresh
        if device.deviceInfo is None:
            name = type(device).__name__.rpartition(".")[2].removeprefix("Virtual")
            device.deviceInfo = vim.Description(label=f"{name} {device.key}", summary=name)
        if isinstance(device, vim.vm.device.VirtualEthernetCard) and not device.macAddress:
            device.macAddress = f"00:50:56:{vm.uuid[0:2]}:{vm.uuid[2:4]}:{device.key % 256:02x}"
            device.addressType = "assigned"
        vm.devices.append(device)
    elif index is None:
        raise vim.fault.InvalidDeviceSpec(deviceIndex=0, msg=f"{vm.name} has no device with key {device.key}.")
    elif operation == "remove":
        del vm.devices[index]
    else:
        vm.devices[index] = device


def _first_key(device: Any) -> int:
    if isinstance(device, vim.vm.device.VirtualDisk):
        return 2000
    if isinstance(device, vim.vm.device.VirtualEthernetCard):
        return 4000
    if isinstance(device, vim.vm.device.VirtualSCSIController):
        return 1000
    return 3000 if isinstance(device, vim.vm.device.VirtualCdrom) else 15000


def standard_devices(vm: VirtualMachine) -> list[Any]:
    """What a VM gets from a wizard: controllers, a video card, one disk and one NIC, with vSphere's keys."""
    return _wizard_devices(*_traits(vm))


def shown_devices(vm: VirtualMachine) -> list[Any]:
    """The same to look at and not to change: made once for VMs that stay as they are."""
    return list(_shown(*_traits(vm)))


def _traits(vm: VirtualMachine) -> tuple[str, str, int, str, str, bool]:
    """What the standard devices depend on."""
    store = vm.datastores[0].name if vm.datastores else ""
    network = vm.networks[0].name if vm.networks else ""
    return vm.name, store, vm.disk_gib, network, vm.uuid, vm.power_state == "poweredOn"


@lru_cache(maxsize=1000)
def _shown(*traits: Any) -> tuple[Any, ...]:
    return tuple(_wizard_devices(*traits))


def _wizard_devices(name: str, store: str, disk_gib: int, network: str, uuid: str, powered_on: bool) -> list[Any]:
    device = vim.vm.device
    found = [
        device.VirtualIDEController(key=200, busNumber=0, deviceInfo=_info("IDE 0", "IDE 0")),
        device.VirtualIDEController(key=201, busNumber=1, deviceInfo=_info("IDE 1", "IDE 1")),
        device.VirtualPS2Controller(
            key=300, busNumber=0, device=[600, 700], deviceInfo=_info("PS2 controller 0", "PS2 controller 0")
        ),
        device.VirtualPCIController(
            key=100, busNumber=0, device=[500, 1000, 4000], deviceInfo=_info("PCI controller 0", "PCI controller 0")
        ),
        device.VirtualSIOController(key=400, busNumber=0, deviceInfo=_info("SIO controller 0", "SIO controller 0")),
        device.VirtualKeyboard(key=600, controllerKey=300, unitNumber=0, deviceInfo=_info("Keyboard", "Keyboard")),
        device.VirtualPointingDevice(
            key=700, controllerKey=300, unitNumber=1, deviceInfo=_info("Pointing device", "Pointing device; Device")
        ),
        device.VirtualVideoCard(
            key=500, controllerKey=100, unitNumber=0, videoRamSizeInKB=4096,
            deviceInfo=_info("Video card", "Video card"),
        ),
        device.ParaVirtualSCSIController(
            key=1000, controllerKey=100, unitNumber=3, busNumber=0, sharedBus="noSharing", device=[2000],
            deviceInfo=_info("SCSI controller 0", "VMware paravirtual SCSI"),
        ),
        device.VirtualDisk(
            key=2000, controllerKey=1000, unitNumber=0, capacityInKB=disk_gib * 2**20,
            deviceInfo=_info("Hard disk 1", f"{disk_gib * 2**20:,} KB"),
            backing=device.VirtualDisk.FlatVer2BackingInfo(
                fileName=f"[{store}] {name}/{name}.vmdk", diskMode="persistent", thinProvisioned=True
            ),
        ),
    ]  # fmt: skip
    if network:
        found.append(
            device.VirtualVmxnet3(
                key=4000, controllerKey=100, unitNumber=7, addressType="assigned",
                macAddress=f"00:50:56:{uuid[0:2]}:{uuid[2:4]}:{uuid[4:6]}",
                deviceInfo=_info("Network adapter 1", network),
                backing=device.VirtualEthernetCard.NetworkBackingInfo(deviceName=network),
                connectable=device.VirtualDevice.ConnectInfo(
                    startConnected=True, allowGuestControl=True, connected=powered_on
                ),
            )
        )  # fmt: skip
    return found


def _info(label: str, summary: str) -> Any:
    return vim.Description(label=label, summary=summary)
