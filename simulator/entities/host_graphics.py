"""A host's passthrough and graphics state as vSphere data objects."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.laws.graphics import offered_profiles
from simulator.laws.passthrough import capable
from simulator.world import Host, World

__all__ = [
    "graphics_config",
    "graphics_info",
    "hardware_bindings",
    "offered_profiles",
    "passthru_info",
    "profile_capabilities",
]


def passthru_info(host: Host) -> list[Any]:
    return [
        vim.host.PciPassthruInfo(
            id=function.id,
            dependentDevice=function.dependent_device,
            passthruEnabled=function.passthru_enabled,
            passthruCapable=capable(host, function),
            passthruActive=function.passthru_active,
            hardwareLabel=function.hardware_label or None,
        )
        for function in host.pci.values()
    ]


def graphics_info(world: World, host: Host) -> list[Any]:
    users: dict[str, list[Any]] = {}
    for vm in host.vms.values():
        for gpu in vm.gpus:
            if vm.power_state == "poweredOn" and gpu.assigned_id:
                users.setdefault(gpu.assigned_id, []).append(world.ref(vm))
    return [
        vim.host.GraphicsInfo(
            deviceName=card.name,
            vendorName="NVIDIA Corporation",
            pciId=card.pci_id,
            graphicsType=card.active_type,
            vgpuMode=card.active_vgpu_mode if card.active_type == "sharedDirect" else None,
            memorySizeInKB=card.framebuffer_mib * 1024,
            vm=users.get(card.pci_id, []),
        )
        for card in host.gpus.values()
    ]


def graphics_config(host: Host) -> Any:
    return vim.host.GraphicsConfig(
        hostDefaultGraphicsType=host.default_graphics_type,
        sharedPassthruAssignmentPolicy=host.assignment_policy,
        deviceType=[
            vim.host.GraphicsConfig.DeviceType(
                deviceId=card.pci_id,
                graphicsType=card.configured_type,
                vgpuMode=card.configured_vgpu_mode if card.configured_type == "sharedDirect" else None,
            )
            for card in host.gpus.values()
        ],
    )


def profile_capabilities(host: Host) -> list[Any]:
    return [
        vim.host.SharedGpuCapabilities(
            vgpu=profile,
            diskSnapshotSupported=True,
            memorySnapshotSupported=True,
            suspendSupported=True,
            migrateSupported=True,
        )
        for profile in offered_profiles(host)
    ]


def hardware_bindings(world: World, host: Host) -> list[Any]:
    """Which running VM holds which assignable device: DirectPath devices and vGPU slices."""
    return [
        vim.host.AssignableHardwareBinding(
            instanceId=f"{'vgpu' if gpu.kind == 'vgpu' else 'pciPassthru'}:{gpu.assigned_id}",
            vm=world.ref(vm),
            pciId=gpu.assigned_id,
            deviceKey=gpu.key,
        )
        for vm in host.vms.values()
        if vm.power_state == "poweredOn"
        for gpu in vm.gpus
        if gpu.assigned_id
    ]
