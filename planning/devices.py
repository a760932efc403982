"""Which PCI functions matter to a profile, and what else hangs on them."""

from contracts.host import HostState, PciFunction
from contracts.prepare import GpuStatus
from contracts.profiles import GpuMode, GpuWanted, Profile

__all__ = ["functions_behind", "gpu_statuses", "gpus", "relevant_functions", "users_of", "wanted_gpus"]

_DISPLAY_CLASS = 0x03
# The BMC's own VGA controller is a display device too, but nobody's GPU.
_BMC_VENDORS = {"1a03", "102b"}


def gpus(state: HostState) -> list[PciFunction]:
    """Every GPU of the host: PCI base class 03 (display), less the BMC's VGA controller."""
    return [
        device
        for device in state.pci
        if device.class_id >> 8 == _DISPLAY_CLASS and device.vendor_device[:4] not in _BMC_VENDORS
    ]


def wanted_gpus(state: HostState, profile: Profile) -> list[tuple[PciFunction, GpuWanted]]:
    """The host's GPUs that the profile speaks of, with what it wants; the first matching entry counts."""
    pairs = []
    for gpu in gpus(state):
        wanted = next((entry for entry in profile.gpus if entry.match == gpu.vendor_device), None)
        if wanted:
            pairs.append((gpu, wanted))
    return pairs


def functions_behind(state: HostState, gpu: PciFunction) -> list[PciFunction]:
    """Every function that passthrough of `gpu` takes from ESXi.

    `UpdatePassthruConfig` is called for `dependentDevice`, which may be a bridge: then all functions below it go,
    those below bridges below it too.
    """
    root = gpu.dependent_device or gpu.sbdf
    taken = {root, gpu.sbdf}
    grown = True
    while grown:
        below = {device.sbdf for device in state.pci if device.parent_bridge in taken} - taken
        taken |= below
        grown = bool(below)
    return [d for d in state.pci if d.sbdf in taken or (d.dependent_device or d.sbdf) == root]


def relevant_functions(state: HostState, profile: Profile) -> tuple[PciFunction, ...]:
    """GPUs, what hangs on the wanted ones, and devices whose passthrough waits for a reboot."""
    keep = {gpu.sbdf for gpu in gpus(state)}
    for gpu, _ in wanted_gpus(state, profile):
        keep |= {device.sbdf for device in functions_behind(state, gpu)}
    keep |= {device.sbdf for device in state.pci if device.passthru_enabled != device.passthru_active}
    return tuple(device for device in state.pci if device.sbdf in keep)


def users_of(state: HostState, sbdfs: set[str]) -> list[str]:
    """Names of powered-on VMs that hold one of the devices, by passthrough or by vGPU."""
    by_vgpu = {moid for device in state.graphics if device.sbdf in sbdfs for moid in device.vm_moids}
    return sorted(vm.name for vm in state.vms if vm.powered_on and (sbdfs & set(vm.passthrough) or vm.moid in by_vgpu))


def gpu_statuses(state: HostState, profile: Profile) -> tuple[GpuStatus, ...]:
    """Each wanted GPU by its active values, never the requested ones."""
    active = {device.sbdf: device.active_type for device in state.graphics}
    return tuple(
        GpuStatus(
            sbdf=gpu.sbdf,
            name=gpu.name,
            vendor_device=gpu.vendor_device,
            mode=GpuMode.PASSTHROUGH if gpu.passthru_active else active.get(gpu.sbdf, "default"),
            label=gpu.hardware_label or None,
            right=_is_right(gpu, wanted),
        )
        for gpu, wanted in wanted_gpus(state, profile)
    )


def _is_right(gpu: PciFunction, wanted: GpuWanted) -> bool:
    return gpu.passthru_enabled and gpu.passthru_active and wanted.label in (None, gpu.hardware_label)
