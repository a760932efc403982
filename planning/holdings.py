"""Which GPUs a VM holds, as far as a read of the inventory tells, and whether others are as good."""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.fleet import FleetGpu, FleetHost, FleetVm, VmGpu
from contracts.verdicts import HeldGpu

__all__ = ["Binding", "bindings", "differences", "gpu_words", "held_gpus"]


@dataclass(frozen=True)
class Binding:
    """A GPU device of a VM, and the card that it is on."""

    device: VmGpu
    card: FleetGpu | None
    """None where nothing tells."""


def bindings(vm: FleetVm, host: FleetHost | None) -> tuple[Binding, ...]:
    """The cards of a running VM's devices: by what each device says, else by the cards that name the VM.

    Devices of kind `other` are left out.
    """
    cards = {gpu.sbdf: gpu for gpu in host.gpus} if host is not None else {}
    devices = [gpu for gpu in vm.gpus if gpu.kind in ("dynamic", "static", "vgpu")]
    own = {index: cards.get(_address(gpu)) for index, gpu in enumerate(devices)}
    whole = {card.sbdf for index, card in own.items() if card is not None and devices[index].kind != "vgpu"}
    naming = [card for card in cards.values() if vm.moid in card.vm_moids and card.sbdf not in whole]
    for index, gpu in enumerate(devices):
        if own[index] is None and not _address(gpu):
            card = next((card for card in naming if _could_be(gpu, card)), None)
            own[index] = card
            if card is not None and (card.passthru_active or len(naming) > 1):
                naming.remove(card)
    return tuple(Binding(gpu, own[index]) for index, gpu in enumerate(devices))


def held_gpus(vm: FleetVm, host: FleetHost | None) -> tuple[HeldGpu, ...]:
    """What a running VM holds; where nothing names the card, what is true of every card that it can be."""
    return tuple(_held(each, host) for each in bindings(vm, host))


def differences(held: Sequence[HeldGpu], holds: Sequence[HeldGpu]) -> tuple[str, ...]:
    """How the GPUs that a VM has now are not as good as those it had, in words; empty where they are.

    Same vendor:device, label and profile, and a framebuffer that is not smaller; what is not known is not compared.
    """
    if not held:
        return ()
    left, found = list(holds), []
    for had in sorted(held, key=lambda gpu: (not gpu.vendor_device, not gpu.profile, -gpu.framebuffer_mib)):
        if not left:
            found.append(f"it had {gpu_words(had)}, and has nothing instead")
            continue
        best = min(left, key=lambda gpu: (len(_unlike(had, gpu)), not gpu.vendor_device, gpu.framebuffer_mib, gpu.sbdf))
        left.remove(best)
        found += _unlike(had, best)
    return tuple(found)


def gpu_words(gpu: HeldGpu) -> str:
    """A held GPU as people read it."""
    name = gpu.name or gpu.vendor_device or "a GPU"
    label = f" label {gpu.label}" if gpu.label else ""
    where = f" at {gpu.sbdf}" if gpu.sbdf else ""
    return f"{gpu.profile} on {name}{label}{where}" if gpu.profile else f"{name}{label}{where}"


def _unlike(had: HeldGpu, has: HeldGpu) -> list[str]:
    found = []
    if had.profile != has.profile:
        found.append(f"profile {has.profile or 'none'} instead of {had.profile or 'none'}")
    if had.vendor_device and has.vendor_device:
        if had.vendor_device != has.vendor_device:
            found.append(
                f"{has.vendor_device} ({has.name or 'unnamed'}) instead of {had.vendor_device} "
                f"({had.name or 'unnamed'})"
            )
        if had.label != has.label:
            found.append(f"label {has.label or 'none'} instead of {had.label or 'none'}")
    if has.framebuffer_mib and has.framebuffer_mib < had.framebuffer_mib:
        found.append(f"{has.framebuffer_mib} MiB of framebuffer instead of {had.framebuffer_mib}")
    return found


def _address(gpu: VmGpu) -> str:
    return gpu.assigned or (gpu.sbdf if gpu.kind == "static" else "")


def _could_be(gpu: VmGpu, card: FleetGpu) -> bool:
    if gpu.kind == "vgpu":
        return not card.passthru_active and gpu.profile in card.profiles
    return card.passthru_active and card.vendor_device in gpu.allowed and gpu.label in ("", card.label)


def _held(binding: Binding, host: FleetHost | None) -> HeldGpu:
    gpu, card = binding.device, binding.card
    if card is not None:
        return HeldGpu(
            sbdf=card.sbdf,
            vendor_device=card.vendor_device,
            name=card.name,
            framebuffer_mib=card.framebuffer_mib,
            label=card.label,
            profile=gpu.profile,
        )
    maybe = [each for each in host.gpus if gpu.kind != "static" and _could_be(gpu, each)] if host is not None else []
    looks = {(each.vendor_device, each.name, each.framebuffer_mib, each.label) for each in maybe}
    if len(looks) == 1:
        pair, name, framebuffer, label = looks.pop()
        return HeldGpu(vendor_device=pair, name=name, framebuffer_mib=framebuffer, label=label, profile=gpu.profile)
    return HeldGpu(sbdf=_address(gpu), label=gpu.label, profile=gpu.profile)
