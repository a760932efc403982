"""What a GPU VM must be to boot with its GPUs, and what it can then not do. Sources: domain.md §3, VMware's guides."""

from collections.abc import Sequence

from contracts.fleet import VmGpu
from contracts.machine import RUN_KEY, VmState
from contracts.vms import DynamicGpu, GpuWish, StaticGpu, VmRequest
from planning.gpu_models import GPU_MODELS
from planning.mmio import framebuffer_gib, mmio_settings, mmio_too_small
from planning.rooms import pairs_of

__all__ = [
    "DYNAMIC_HARDWARE",
    "RUN_KEY",
    "cannot_do",
    "devices_of",
    "extra_config_of",
    "framebuffers_of",
    "hardware_wanted",
    "same_devices",
    "silent_causes",
]

DYNAMIC_HARDWARE = 17
"""Dynamic DirectPath I/O needs this hardware version; vGPU is better with it."""


def devices_of(wishes: Sequence[GpuWish]) -> tuple[VmGpu, ...]:
    """The GPU devices that a VM gets, in the order of the wishes; keys are vCenter's to give."""
    found: list[VmGpu] = []
    for wish in wishes:
        if isinstance(wish, StaticGpu):
            found.append(VmGpu(key=0, kind="static", sbdf=wish.sbdf))
        elif isinstance(wish, DynamicGpu):
            found += [VmGpu(key=0, kind="dynamic", allowed=pairs_of(wish), label=wish.label or "")] * wish.count
        else:
            found += [VmGpu(key=0, kind="vgpu", profile=wish.profile)] * wish.count
    return tuple(found)


def same_devices(have: Sequence[VmGpu], want: Sequence[VmGpu]) -> bool:
    """The VM has these GPU devices and no other, in whatever order; where they are bound does not count."""
    return sorted(map(_wish_of, have)) == sorted(map(_wish_of, want))


def _wish_of(gpu: VmGpu) -> tuple[str, tuple[str, ...], str, str, str]:
    return gpu.kind, tuple(sorted(gpu.allowed)), gpu.label, gpu.sbdf, gpu.profile


def framebuffers_of(wishes: Sequence[GpuWish], reported_mib: dict[str, int]) -> list[int]:
    """Framebuffers in GiB of the whole GPUs asked for, the largest that may come; none for vGPUs.

    `reported_mib` holds what hosts report: by vendor:device, and by address for static devices.
    """
    sizes: list[int] = []
    for wish in wishes:
        if isinstance(wish, StaticGpu):
            sizes.append(-(-reported_mib.get(wish.sbdf, 0) // 1024))
        elif isinstance(wish, DynamicGpu):
            largest = max((framebuffer_gib(pair, reported_mib.get(pair, 0)) for pair in pairs_of(wish)), default=0)
            sizes += [largest] * wish.count
    return sizes


def extra_config_of(request: VmRequest, reported_mib: dict[str, int]) -> dict[str, str]:
    """The MMIO settings of the VM; a VM with vGPUs of 16 GiB and more gets them as well."""
    whole = framebuffers_of(request.gpus, reported_mib)
    if whole:
        return mmio_settings(whole)
    shares = [
        reported_mib.get(wish.profile, 0) for wish in request.gpus if wish.kind == "vgpu" for _ in range(wish.count)
    ]
    return mmio_settings([-(-mib // 1024) for mib in shares])


def hardware_wanted(request: VmRequest, have: int, newest: int) -> int:
    """The hardware version that the VM needs: what it has, or the least that its devices work with.

    A new VM (`have` is 0) gets the newest that the cluster can make.
    """
    if not have:
        return newest
    return max(have, DYNAMIC_HARDWARE) if any(wish.kind == "dynamic" for wish in request.gpus) else have


def cannot_do(wishes: Sequence[GpuWish]) -> tuple[str, ...]:
    """What such a VM cannot do, in words for the plan and the report: the table of domain.md §3."""
    if any(isinstance(wish, StaticGpu) for wish in wishes):
        return (
            "HA does not restart it on another host: it stays powered off (static DirectPath I/O)",
            "DRS does not place it: it runs on the host of its device only",
            "host maintenance needs it shut down and reconfigured",
            "no vMotion, suspend, memory snapshots, Fault Tolerance or hot add",
            "no TKG VM class",
        )
    if any(isinstance(wish, DynamicGpu) for wish in wishes):
        return (
            "HA restarts it only where a GPU of its kind and label is free",
            "DRS places it at power-on and does not balance it afterwards",
            "host maintenance needs it shut down and moved cold",
            "no vMotion, suspend, memory snapshots, Fault Tolerance or hot add",
        )
    return (
        "HA and DRS place it only where its profile is on offer and has room",
        "vMotion needs vgpu.hotmigrate.enabled, a profile that migrates and matching drivers",
        "no hot add of its GPU, no Fault Tolerance",
    )


def silent_causes(state: VmState, reported_mib: dict[str, int]) -> list[str]:
    """Why a VM that runs may have no guest that answers, the likeliest first, each with its fix.

    vSphere shows no error in these cases: they follow from the configuration alone.
    """
    found = []
    whole = [gpu for gpu in state.gpus if gpu.kind in ("static", "dynamic")]
    if whole and state.firmware != "efi":
        found.append(
            "its firmware is BIOS, and whole GPUs need EFI: make it anew from a source that was installed with EFI"
        )
    if whole and state.guest_id and "64" not in state.guest_id:
        found.append(f"its guest OS {state.guest_id} is not a 64-bit one")
    sizes = [_bound_gib(state, gpu, reported_mib) for gpu in whole]
    if small := mmio_too_small(state.extra_config, sizes):
        found.append(f"its MMIO space is too small ({small}): power it off, set it, and power it on")
    if not state.memory_reserved_all:
        found.append("not all of its memory is reserved: set memoryReservationLockedToMax")
    addresses = [gpu.sbdf for gpu in state.gpus if gpu.sbdf]
    if len(set(addresses)) != len(addresses):
        found.append("it has the same GPU twice: remove one of the two devices")
    if not found:
        found.append(
            "VMware Tools (open-vm-tools) may be missing in its image, or its guest does not boot: look at its console"
        )
    return found


def _bound_gib(state: VmState, gpu: VmGpu, reported_mib: dict[str, int]) -> int:
    """The framebuffer of the GPU that a device is bound to, or the largest that it may be bound to."""
    pairs = [state.assigned_gpus[gpu.assigned]] if gpu.assigned in state.assigned_gpus else list(gpu.allowed)
    pairs += [state.assigned_gpus[gpu.sbdf]] if gpu.sbdf in state.assigned_gpus else []
    known = [
        framebuffer_gib(pair, reported_mib.get(pair, 0)) for pair in pairs if pair in GPU_MODELS or pair in reported_mib
    ]
    return max(known, default=-(-reported_mib.get(gpu.sbdf, 0) // 1024))
