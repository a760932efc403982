"""The steps that bring one GPU from the mode it is configured for to the wanted one."""

from contracts.host import HostState, PciFunction
from contracts.plan import Risk, Step, StepKind
from contracts.profiles import GpuMode, GpuWanted
from planning.devices import graphics_of, mig_on

__all__ = ["device_steps", "mig_steps", "pending_boot"]


def device_steps(state: HostState, gpu: PciFunction, wanted: GpuWanted, label: str | None = None) -> list[Step]:
    """What is configured otherwise than wanted; MIG is told apart, because it needs the running vGPU Manager.

    A GPU that leaves passthrough loses its hardware label, which would mean it again when it comes back. A label on one
    that was out of passthrough already means nothing and is left alone, unless `label` says what it should be.
    """
    steps = []
    device = graphics_of(state, gpu)
    configured = device.configured_type if device else None
    if wanted.mode is GpuMode.PASSTHROUGH:
        if configured == "sharedDirect":
            steps.append(_graphics_type(gpu, configured, "shared"))
        return steps + _passthrough_on(gpu, wanted)
    if gpu.passthru_enabled:
        steps.append(_passthrough_off(gpu, wanted, label or ""))
    elif label is not None and label != (gpu.hardware_label or ""):
        steps.append(_label(gpu, label, "had another hardware label before"))
    target = "shared" if wanted.mode is GpuMode.DEFAULT else "sharedDirect"
    if (configured == "sharedDirect") != (target == "sharedDirect"):
        steps.append(_graphics_type(gpu, configured, target))
    return steps


def mig_steps(state: HostState, pairs: list[tuple[PciFunction, GpuWanted]]) -> list[Step]:
    """Switch MIG on or off by `nvidia-smi` on the host, where it is known, or about to be known, to be wrong.

    One step for all cards of one direction: SSH is opened once, and below 8.0.3 equal cards cannot be told apart by
    the profiles on offer, so that one card's success cannot be seen before the others'.
    """
    steps = []
    for want in (False, True):
        # Nothing tells MIG before the vGPU Manager runs: a card is assumed to be without it, as cards are delivered.
        cards = [
            gpu
            for gpu, wanted in pairs
            if (wanted.mode is GpuMode.VGPU_MIG) == want and bool(mig_on(graphics_of(state, gpu))) != want
        ]
        if not cards:
            continue
        names = ", ".join(gpu.sbdf for gpu in cards)
        steps.append(
            Step(
                kind=StepKind.SET_MIG,
                target=",".join(gpu.sbdf for gpu in cards),
                reason=f"{', '.join(sorted({gpu.name for gpu in cards}))} is {'not ' if want else ''}in MIG mode",
                change=f"MIG of {names}: {'off → on' if want else 'on → off'}, by nvidia-smi over SSH, opened for it "
                "only; the cards are reset",
                risk=Risk.DISRUPTIVE,
                params={"mig": "on" if want else "off"},
            )
        )
    return steps


def pending_boot(state: HostState, gpu: PciFunction, wanted: GpuWanted) -> str:
    """What is configured as wanted but not in force, in words; empty when nothing waits for a boot."""
    if wanted.mode is GpuMode.PASSTHROUGH:
        waits = gpu.passthru_enabled and not gpu.passthru_active
        return f"passthrough of {gpu.sbdf} is enabled but not active" if waits else ""
    if gpu.passthru_active and not gpu.passthru_enabled:
        return f"passthrough of {gpu.sbdf} is disabled but still active"
    device = graphics_of(state, gpu)
    if device is None:
        return ""
    shared = device.active_type == "sharedDirect"
    if wanted.mode is GpuMode.DEFAULT:
        waits = shared and device.configured_type != "sharedDirect"
        return f"{gpu.sbdf} is configured as {device.configured_type}, but sharedDirect is in force" if waits else ""
    if device.configured_type == "sharedDirect" and not shared and not gpu.passthru_enabled:
        return f"{gpu.sbdf} is configured as sharedDirect, but {device.active_type} is in force"
    return ""


def _passthrough_on(gpu: PciFunction, wanted: GpuWanted) -> list[Step]:
    now = gpu.hardware_label or ""
    params = {"label": wanted.label} if wanted.label is not None and wanted.label != now else {}
    if not gpu.passthru_enabled:
        return [
            Step(
                kind=StepKind.ENABLE_PASSTHROUGH,
                target=gpu.sbdf,
                reason=f"{gpu.name} is not in passthrough",
                change=f"passthrough of {gpu.sbdf}: off → on"
                + (f"; {_label_text(gpu, wanted.label)}" if params else ""),
                risk=Risk.DISRUPTIVE,
                params=params,
            )
        ]
    if not params:
        return []
    return [_label(gpu, params["label"], "has another hardware label than the profile")]


def _label(gpu: PciFunction, label: str, why: str) -> Step:
    return Step(
        kind=StepKind.SET_LABEL,
        target=gpu.sbdf,
        reason=f"{gpu.name} {why}",
        change=f"{gpu.sbdf}: {_label_text(gpu, label)}",
        risk=Risk.SAFE,
        params={"label": label},
    )


def _label_text(gpu: PciFunction, label: str | None) -> str:
    return f"hardware label {gpu.hardware_label or 'none'!r} → {label or 'none'!r}"


def _passthrough_off(gpu: PciFunction, wanted: GpuWanted, label: str) -> Step:
    params = {"label": label} if label != (gpu.hardware_label or "") else {}
    return Step(
        kind=StepKind.DISABLE_PASSTHROUGH,
        target=gpu.sbdf,
        reason=f"{gpu.name} is in passthrough, wanted is {wanted.mode}",
        change=f"passthrough of {gpu.sbdf}: on → off" + (f"; {_label_text(gpu, label)}" if params else ""),
        risk=Risk.DISRUPTIVE,
        params=params,
    )


def _graphics_type(gpu: PciFunction, now: str | None, target: str) -> Step:
    return Step(
        kind=StepKind.SET_GRAPHICS_TYPE,
        target=gpu.sbdf,
        reason=f"{gpu.name} is configured as {now or 'shared'}",
        change=f"graphics type of {gpu.sbdf}: {now or 'shared'} → {target}; the other devices keep theirs",
        risk=Risk.DISRUPTIVE,
        params={"graphics_type": target},
    )
