"""Which PCI functions matter to a profile, what mode they are in, and what else hangs on them."""

import re

from contracts.host import GraphicsDevice, HostState, PciFunction
from contracts.prepare import GpuStatus
from contracts.profiles import GpuMode, GpuWanted, Profile

__all__ = [
    "SHARED",
    "Pairs",
    "functions_behind",
    "gpu_statuses",
    "gpus",
    "graphics_of",
    "is_right",
    "mig_on",
    "mode_in_force",
    "pin",
    "relevant_functions",
    "users_of",
    "version",
    "wanted_gpus",
]

SHARED = (GpuMode.VGPU, GpuMode.VGPU_MIG)
"""Modes in which several VMs share a card, by the vGPU Manager."""
Pairs = list[tuple[PciFunction, GpuWanted]]

_DISPLAY_CLASS = 0x03
# The BMC's own VGA controller is a display device too, but nobody's GPU.
_BMC_VENDORS = {"1a03", "102b"}
# `nvidia_a100-3-20c`: slices, then framebuffer; a time-sliced profile has the framebuffer alone (`nvidia_a100-20c`).
_MIG_PROFILE = re.compile(r"-\d+-\d+[a-z]+$")


def gpus(state: HostState) -> list[PciFunction]:
    """Every GPU of the host: PCI base class 03 (display), less the BMC's VGA controller."""
    return [
        device
        for device in state.pci
        if device.class_id >> 8 == _DISPLAY_CLASS and device.vendor_device[:4] not in _BMC_VENDORS
    ]


def wanted_gpus(state: HostState, profile: Profile) -> Pairs:
    """The host's GPUs that the profile speaks of, by address, with what it wants.

    A GPU belongs to the first entry that chooses it. An entry with `count` prefers GPUs that are as it wants them
    already, so that cards do not change places from one look to the next; then it goes by address.
    """
    free = sorted(gpus(state), key=lambda gpu: gpu.sbdf)
    pairs: Pairs = []
    for entry in profile.gpus:
        chosen = [gpu for gpu in free if _chooses(entry, gpu)]
        if entry.count is not None:
            chosen.sort(
                key=lambda gpu: (
                    not _meant_for(state, gpu, entry),
                    (gpu.hardware_label or "") != (entry.label or ""),
                    gpu.sbdf,
                )
            )
            chosen = chosen[: entry.count]
        pairs += [(gpu, entry) for gpu in chosen]
        free = [gpu for gpu in free if gpu not in chosen]
    return sorted(pairs, key=lambda pair: pair[0].sbdf)


def pin(state: HostState, profile: Profile) -> Profile:
    """The profile with each GPU named by its address, as it is chosen now.

    A run pins its profile at its first look: while it works, states pass by in which `count` would choose otherwise.
    """
    entries = tuple(
        GpuWanted(sbdf=gpu.sbdf, mode=wanted.mode, label=wanted.label) for gpu, wanted in wanted_gpus(state, profile)
    )
    return profile.model_copy(update={"gpus": entries}) if entries else profile


def _chooses(entry: GpuWanted, gpu: PciFunction) -> bool:
    return (
        entry.match in (None, gpu.vendor_device)
        and entry.sbdf in (None, gpu.sbdf)
        and entry.has_label in (None, gpu.hardware_label)
    )


def _meant_for(state: HostState, gpu: PciFunction, entry: GpuWanted) -> bool:
    """The GPU is configured, if not yet in force, as the entry wants it."""
    if entry.mode is GpuMode.PASSTHROUGH:
        return gpu.passthru_enabled
    device = graphics_of(state, gpu)
    shared = device is not None and device.configured_type == "sharedDirect"
    if gpu.passthru_enabled or shared == (entry.mode is GpuMode.DEFAULT):
        return False
    return entry.mode is GpuMode.DEFAULT or bool(mig_on(device)) == (entry.mode is GpuMode.VGPU_MIG)


def graphics_of(state: HostState, gpu: PciFunction) -> GraphicsDevice | None:
    """The GPU as ESXi's graphics list shows it."""
    return next((device for device in state.graphics if device.sbdf == gpu.sbdf), None)


def mig_on(device: GraphicsDevice | None) -> bool | None:
    """Whether MIG is on, by the mode in force (8.0.3) or the profiles on offer; None where nothing tells.

    Below 8.0.3 profiles of both kinds mean that of several equal cards some have it.
    """
    if device is None:
        return None
    if device.vgpu_mode is not None:
        return device.vgpu_mode == "multiInstanceGpu"
    if device.profiles:
        found = {bool(_MIG_PROFILE.search(profile)) for profile in device.profiles}
        return found.pop() if len(found) == 1 else None
    return None


def mode_in_force(state: HostState, gpu: PciFunction) -> str:
    """A `GpuMode` by active values, or the active graphics type where it is none of them."""
    if gpu.passthru_active:
        return GpuMode.PASSTHROUGH
    device = graphics_of(state, gpu)
    if device is None or device.active_type in ("basic", "shared"):
        return GpuMode.DEFAULT
    if device.active_type == "sharedDirect":
        return GpuMode.VGPU_MIG if mig_on(device) else GpuMode.VGPU
    return device.active_type


def is_right(state: HostState, gpu: PciFunction, wanted: GpuWanted) -> bool:
    """Requested and in force what the profile wants, and for vGPU: profiles are on offer."""
    device = graphics_of(state, gpu)
    if mode_in_force(state, gpu) != wanted.mode:
        return False
    if wanted.mode is GpuMode.PASSTHROUGH:
        return gpu.passthru_enabled and wanted.label in (None, gpu.hardware_label or "")
    configured = device.configured_type if device else None
    if wanted.mode is GpuMode.DEFAULT:
        return not gpu.passthru_enabled and configured != "sharedDirect"
    return not gpu.passthru_enabled and configured == "sharedDirect" and bool(device and device.profiles)


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
    return tuple(
        GpuStatus(
            sbdf=gpu.sbdf,
            name=gpu.name,
            vendor_device=gpu.vendor_device,
            wanted=wanted.mode,
            mode=mode_in_force(state, gpu),
            label=gpu.hardware_label or None,
            profiles=graphics.profiles if (graphics := graphics_of(state, gpu)) else (),
            right=is_right(state, gpu, wanted),
        )
        for gpu, wanted in wanted_gpus(state, profile)
    )


def version(text: str) -> tuple[int, ...]:
    """`8.0.2` as a tuple that compares."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())
