"""A host's passthrough and graphics state as vSphere data objects."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.laws.passthrough import capable
from simulator.laws.profiles import offered, profiles_of
from simulator.world import GpuCard, Host, PciFunction, World

__all__ = [
    "graphics_config",
    "graphics_info",
    "hardware_bindings",
    "offered_profiles",
    "passthru_info",
    "profile_capabilities",
    "profile_info",
]


def passthru_info(host: Host) -> list[Any]:
    return [_sriov_info(host, function) if function.sriov_capable else _passthru(host, function)
            for function in host.pci.values()]  # fmt: skip


def _passthru(host: Host, function: PciFunction, kind: Any = vim.host.PciPassthruInfo, **more: Any) -> Any:
    return kind(
        id=function.id,
        dependentDevice=function.dependent_device,
        passthruEnabled=function.passthru_enabled,
        passthruCapable=capable(host, function),
        passthruActive=function.passthru_active,
        hardwareLabel=function.hardware_label or None,
        **more,
    )


def _sriov_info(host: Host, function: PciFunction) -> Any:
    """The vGPU Manager makes a card's virtual functions itself, so that none are requested here."""
    return _passthru(
        host,
        function,
        vim.host.SriovInfo,
        sriovEnabled=False,
        sriovCapable=host.bios_sriov,
        sriovActive=False,
        numVirtualFunctionRequested=0,
        numVirtualFunction=0,
        maxVirtualFunctionSupported=16 if host.bios_sriov else 0,
    )


def offered_profiles(host: Host) -> list[str]:
    return sorted(offered(host))


def graphics_info(world: World, host: Host) -> list[Any]:
    users: dict[str, list[Any]] = {}
    for vm in host.vms.values():
        for gpu in vm.gpus:
            if vm.shown_power_state == "poweredOn" and (pci_id := vm.shown_id(gpu)):
                users.setdefault(pci_id, []).append(world.ref(vm))
    return [
        vim.host.GraphicsInfo(
            deviceName=card.name,
            vendorName="NVIDIA Corporation",
            pciId=card.pci_id,
            graphicsType=card.active_type,
            vgpuMode=_vgpu_mode(host, card),
            memorySizeInKB=card.framebuffer_mib * 1024,
            vm=users.get(card.pci_id, []),
        )
        for card in host.gpus.values()
    ]


def _vgpu_mode(host: Host, card: GpuCard) -> str | None:
    """Releases before 8.0.3 do not say."""
    if card.active_type != "sharedDirect" or host.release < (8, 0, 3):
        return None
    return "multiInstanceGpu" if card.mig else card.active_vgpu_mode


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
            vgpu=name,
            diskSnapshotSupported=True,
            memorySnapshotSupported=profile.migrates,
            suspendSupported=profile.migrates,
            migrateSupported=profile.migrates,
        )
        for name, profile in sorted(offered(host).items())
    ]


def profile_info(host: Host) -> list[Any]:
    """What `RetrieveVgpuProfileInfo` tells: each profile with the card it is of and how it shares it."""
    found: dict[str, Any] = {}
    for pci_id in host.gpus:
        function = host.pci[pci_id]
        for name, profile in profiles_of(host, pci_id).items():
            found[name] = vim.vm.VgpuProfileInfo(
                name=name,
                profileName=name,
                deviceVendorId=function.device_id << 16 | function.vendor_id,
                fbSizeInGib=profile.framebuffer_mib // 1024,
                profileSharing="mig" if profile.slices else "timeSliced",
                profileClass="compute" if profile.series == "c" else "quadro",
            )
    return list(found.values())


def hardware_bindings(world: World, host: Host) -> list[Any]:
    """Which running VM holds which assignable device: DirectPath devices and vGPU slices."""
    return [
        vim.host.AssignableHardwareBinding(
            instanceId=f"{'vgpu' if gpu.kind == 'vgpu' else 'pciPassthru'}:{pci_id}",
            vm=world.ref(vm),
            pciId=pci_id,
            deviceKey=gpu.key,
        )
        for vm in host.vms.values()
        if vm.shown_power_state == "poweredOn"
        for gpu in vm.gpus
        if (pci_id := vm.shown_id(gpu))
    ]
