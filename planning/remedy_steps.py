"""The steps of remedies, and their words, which whoever acts makes again from the parameters: what was read is done.

Every step has `vm` (instance UUID), `moid` (as it was when its host was lost) and `for` (instance UUID of the VM that
it is done for). A host is told by `host` (moid) and `host_name`.
"""

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from contracts.fleet import VmGpu
from contracts.plan import Risk, Step, StepKind
from planning.machine import gpu_words

__all__ = ["LOCKED", "REMEDY_KINDS", "change_words", "conversions_of", "remedy_step", "settings_of", "written"]

LOCKED = "memoryReservationLockedToMax"
_GPUS = TypeAdapter(tuple[VmGpu, ...])
_REASONS = {
    StepKind.REGISTER_VM: "its host is down, and a VM runs only on a host that has it",
    StepKind.CONFIGURE_VM: "a VM with GPUs does not boot without",
    StepKind.SET_VM_GPUS: "its static device is out of reach, and a free GPU of the same kind is there",
    StepKind.POWER_ON_VM: "it ran before the failure, and there is room for it",
    StepKind.APPLY_RECOMMENDATION: "it ran before the failure, and DRS knows where it fits",
    StepKind.MOVE_VM: "it has a lower restart priority, and what it holds is needed",
    StepKind.SUSPEND_VM: "it has a lower restart priority, and what it holds is needed",
}
_NEEDS = {
    StepKind.REGISTER_VM: ("host", "host_name", "from", "from_name", "path", "folder", "pool"),
    StepKind.CONFIGURE_VM: (),
    StepKind.SET_VM_GPUS: ("gpus",),
    StepKind.POWER_ON_VM: ("host", "host_name"),
    StepKind.APPLY_RECOMMENDATION: ("host", "host_name", "key", "cluster"),
    StepKind.MOVE_VM: ("host", "host_name", "for_name"),
    StepKind.SUSPEND_VM: ("for_name",),
}
REMEDY_KINDS = frozenset(_NEEDS)
"""What remedies may do at all."""


def remedy_step(
    kind: StepKind, name: str, *, uuid: str, moid: str, more: Mapping[str, str], wanted_by: str = ""
) -> Step:
    """A step on the VM `name`, done for the VM with the instance UUID `wanted_by`, or for itself."""
    params = {"vm": uuid, "moid": moid, "for": wanted_by or uuid, **more}
    return Step(
        kind=kind,
        target=name,
        reason=_REASONS[kind],
        change=change_words(kind, name, params),
        risk=Risk.DISRUPTIVE,
        params=params,
    )


def change_words(kind: StepKind, name: str, params: Mapping[str, str]) -> str:
    """What an approver reads of a step; raises `ValueError` for a kind that is no remedy, or a missing parameter."""
    if kind not in _NEEDS:
        raise ValueError(f"{kind} is no remedy")
    missing = [key for key in ("vm", "moid", "for", *_NEEDS[kind]) if key not in params]
    if missing:
        raise ValueError(f"{kind} of {name}: it has no {', '.join(missing)}")
    match kind:
        case StepKind.REGISTER_VM:
            return (
                f"{params['path']} is registered on {params['host_name']}, and no longer on {params['from_name']}, "
                "which HA says is down"
            )
        case StepKind.CONFIGURE_VM:
            return "; ".join(f"{key} = {value}" for key, value in sorted(settings_of(params).items()))
        case StepKind.SET_VM_GPUS:
            return "; ".join(f"static {gpu.sbdf} → {gpu_words((gpu,))}" for gpu in conversions_of(params))
        case StepKind.POWER_ON_VM:
            return f"powered on on {params['host_name']}"
        case StepKind.APPLY_RECOMMENDATION:
            return f"recommendation {params['key']} of DRS is applied: powered on on {params['host_name']}"
        case StepKind.MOVE_VM:
            return f"moved, running, to {params['host_name']}, to make room for {params['for_name']}"
        case _:
            return f"suspended, to make room for {params['for_name']}; resume it when there is room again"


def settings_of(params: Mapping[str, str]) -> dict[str, str]:
    """What a step of kind `configure-vm` writes."""
    return {key: value for key, value in params.items() if "." in key or key == LOCKED}


def written(gpus: Sequence[VmGpu]) -> str:
    """Conversions as a parameter: the dynamic devices wanted, each with the address of the static one it replaces."""
    return _GPUS.dump_json(tuple(gpus), exclude_defaults=True).decode()


def conversions_of(params: Mapping[str, str]) -> tuple[VmGpu, ...]:
    """The inverse of `written`; raises `ValueError` for what it did not write."""
    try:
        found = _GPUS.validate_json(params.get("gpus", ""))
    except ValidationError as error:
        raise ValueError(f"the step's GPU devices cannot be read: {error}") from error
    if not found or any(gpu.kind != "dynamic" or not gpu.sbdf or not gpu.allowed for gpu in found):
        raise ValueError("the step's GPU devices are no conversions of static into dynamic ones")
    return found
