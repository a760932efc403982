"""A VM's GPU devices as vSphere data objects."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.entities.host_hardware import signed
from simulator.laws.devices import shown_devices
from simulator.world import VirtualMachine, VmGpu

__all__ = ["extra_config", "hardware_devices"]

_Passthrough = vim.vm.device.VirtualPCIPassthrough


def hardware_devices(vm: VirtualMachine) -> list[Any]:
    devices = shown_devices(vm) if vm.devices is None else list(vm.devices)
    return devices + [_gpu_device(index, gpu, vm.shown_id(gpu)) for index, gpu in enumerate(vm.gpus)]


def _gpu_device(index: int, gpu: VmGpu, assigned: str | None) -> Any:
    if gpu.kind == "static":
        backing = _Passthrough.DeviceBackingInfo(
            deviceName=gpu.device_name,
            id=gpu.pci_id,
            deviceId=f"{gpu.device_id:x}",
            systemId=gpu.system_id,
            vendorId=signed(gpu.vendor_id, 16),
        )
        summary = gpu.device_name
    elif gpu.kind == "dynamic":
        backing = _Passthrough.DynamicBackingInfo(
            deviceName="",
            allowedDevice=[
                _Passthrough.AllowedDevice(vendorId=vendor_id, deviceId=device_id)
                for vendor_id, device_id in gpu.allowed
            ],
            customLabel=gpu.label or None,
            assignedId=assigned,
        )
        summary = "Dynamic DirectPath I/O device"
    else:
        backing = _Passthrough.VmiopBackingInfo(vgpu=gpu.profile, migrateSupported=True)
        summary = f"NVIDIA GRID vGPU {gpu.profile}"
    return _Passthrough(
        key=gpu.key,
        controllerKey=100,
        unitNumber=18 + index,
        backing=backing,
        deviceInfo=vim.Description(label=f"PCI device {index}", summary=summary),
    )


def extra_config(vm: VirtualMachine) -> list[Any]:
    """The VM's own settings and the keys that vSphere writes for its GPU devices."""
    written: dict[str, str] = {}
    for index, gpu in enumerate(vm.gpus):
        key = f"pciPassthru{index}"
        written[f"{key}.present"] = "TRUE"
        if gpu.kind == "static":
            written[f"{key}.id"] = gpu.pci_id
        elif gpu.kind == "dynamic":
            written[f"{key}.allowedDevices"] = ", ".join(
                f"0x{vendor:04x}:0x{device:04x}" for vendor, device in gpu.allowed
            )
            if gpu.label:
                written[f"{key}.customLabel"] = gpu.label
        else:
            written[f"{key}.vgpu"] = gpu.profile
    return [vim.option.OptionValue(key=key, value=value) for key, value in (written | vm.extra_config).items()]
