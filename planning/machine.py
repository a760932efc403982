"""What a GPU VM still lacks to be what was asked for, or to be gone: one plan for making, changing and retiring it."""

from dataclasses import dataclass, field

from contracts.fleet import VmGpu
from contracts.machine import GuestEvidence, Placement, VmState, VmTarget
from contracts.plan import Blocker, Plan, Risk, Step, StepKind
from contracts.provision import VmWork
from contracts.vms import DriverPolicy, StaticGpu, VmRequest
from planning.guest_drivers import driver_misfit, guest_proves, guest_trouble
from planning.machine_blockers import owner_blockers, refusal, source_blockers, unreachable_blockers
from planning.machine_rules import (
    cannot_do,
    devices_of,
    extra_config_of,
    hardware_wanted,
    same_devices,
)

__all__ = ["VmSight", "gpu_words", "needs_guest", "plan_vm", "proof_of"]


@dataclass(frozen=True)
class VmSight:
    """Everything that one look at a VM gave the planner."""

    state: VmState | None
    target: VmTarget | None = None
    placement: Placement = field(default_factory=Placement)
    run: str = ""
    """This run's mark."""
    reported_mib: dict[str, int] = field(default_factory=dict)
    """Framebuffers that hosts report: by vendor:device, by SBDF for static devices, by name for vGPU profiles."""
    guest: GuestEvidence | None = None
    shut_down: bool = False
    """This run shut the VM down, so it powers it on again."""


def plan_vm(work: VmWork, request: VmRequest | None, sight: VmSight) -> Plan:
    """The steps between what is there and what is wanted; an empty plan without blockers means done.

    Raises `ValueError` for work that needs a request and has none.
    """
    if work is VmWork.UNDO:
        return _undo(sight)
    if work is VmWork.RETIRE:
        return _retire(sight)
    if request is None:
        raise ValueError(f"{work} needs a request")
    return _change(request, sight) if work is VmWork.CHANGE else _provision(request, sight)


def _undo(sight: VmSight) -> Plan:
    """Remove the VM if this very run made it, and nothing else."""
    if sight.state is None or not sight.run or sight.state.made_by != sight.run:
        return Plan()
    return Plan(steps=(_delete(sight.state, "this run made it and could not make it right", Risk.SAFE),))


def _retire(sight: VmSight) -> Plan:
    state = sight.state
    if state is None:
        return Plan()
    if blockers := owner_blockers(state):
        return Plan(blockers=blockers)
    steps = []
    if state.power_state != "poweredOff":
        steps.append(_shut_down(state, "it is retired"))
    if state.gpus:
        steps.append(
            _step(
                StepKind.SET_VM_GPUS, state.ref.name, "its GPUs are given back", f"removes {gpu_words(state.gpus)}",
                Risk.DESTRUCTIVE, {"gpus": ""},
            )
        )  # fmt: skip
    steps.append(_delete(state, "it was asked to be retired", Risk.DESTRUCTIVE))
    return Plan(
        steps=tuple(steps),
        blockers=unreachable_blockers(state),
        notes=(f"{state.ref.name} and its disks are deleted; what is on them is lost",),
    )


def _provision(request: VmRequest, sight: VmSight) -> Plan:
    state, target = sight.state, sight.target
    notes = _notes(request)
    if state is not None and (not state.made_by or state.made_by != sight.run):
        if _as_requested(request, state):
            # Asked for once more: it is there, made by an earlier run, and only its proof counts.
            return Plan(blockers=_running_blockers(request, sight, state), notes=notes)
        taken = Blocker(
            code="name-taken",
            text=f"there is a VM {request.name} already, which this run did not make",
            fix="choose another name; to give that VM other GPUs ask for a change (`gpuwright vm change`)",
            error="Conflict",
        )
        return Plan(blockers=(taken,))
    if state is None or state.half_made:
        if target is None:
            raise ValueError("a VM that is not there, or half made, needs a target")
        blockers = (*source_blockers(request, target), *_driver_blockers(request, ""))
        if not sight.placement.fitting:
            blockers = (*blockers, refusal(request, sight.placement))
        hardware = target.source_hardware or target.newest_hardware
        steps = (
            _step(
                StepKind.CREATE_VM, request.name, "there is no VM of this name",
                f"{_source(request)} becomes {request.name} in {target.cluster_name}, {request.cpus} CPUs and "
                f"{request.memory_mib} MiB, all reserved, powered off, with no GPU of its source", Risk.SAFE,
            ),
            *_shape(request, sight, None, hardware),
            *_to_power(request, sight),
        )  # fmt: skip
        return Plan(steps=steps, blockers=blockers, notes=notes)
    if state.powered_on:
        return Plan(
            steps=_running(request, sight, state), blockers=_running_blockers(request, sight, state), notes=notes
        )
    return Plan(
        steps=(*_shape(request, sight, state, state.hardware_version), *_to_power(request, sight)),
        blockers=() if sight.placement.fitting else (refusal(request, sight.placement),),
        notes=notes,
    )


def _as_requested(request: VmRequest, state: VmState) -> bool:
    """An earlier run of gpuwright made this VM, and it runs with what is asked for."""
    size = (state.cpus, state.memory_mib) == (request.cpus, request.memory_mib)
    made = bool(state.made_by) and not state.half_made and state.powered_on
    return made and size and same_devices(state.gpus, devices_of(request.gpus))


def _change(request: VmRequest, sight: VmSight) -> Plan:
    """Other GPUs for a VM that is there; its disks, guest, CPUs and memory stay."""
    state = sight.state
    if state is None:
        gone = Blocker(
            code="no-such-vm",
            text=f"there is no VM {request.name} in {request.vcenter}",
            fix="check the name, or provision it",
            error="BadRequest",
        )
        return Plan(blockers=(gone,))
    if blockers := owner_blockers(state):
        return Plan(blockers=blockers)
    shape = _shape(request, sight, state, state.hardware_version, theirs=True)
    if not shape:
        if state.powered_on:
            running = _running(request, sight, state)
            return Plan(steps=running, blockers=_running_blockers(request, sight, state))
        return Plan(steps=_to_power(request, sight) if sight.shut_down else ())
    steps = list(shape)
    if state.power_state != "poweredOff":
        steps.insert(0, _shut_down(state, "GPU devices change only while it is powered off"))
    if state.powered_on or sight.shut_down:
        steps += _to_power(request, sight)
    against = [*_firmware_blockers(request, state), *unreachable_blockers(state)]
    if not sight.placement.fitting:
        against.append(refusal(request, sight.placement))
    return Plan(steps=tuple(steps), blockers=tuple(against), notes=_notes(request))


def _shape(
    request: VmRequest, sight: VmSight, state: VmState | None, hardware: int, *, theirs: bool = False
) -> tuple[Step, ...]:
    """Hardware version, settings and devices that are not as wanted. A VM that people own (`theirs`) is disturbed."""
    name, risk = request.name, Risk.DISRUPTIVE if theirs else Risk.SAFE
    steps = []
    wanted = hardware_wanted(request, hardware, sight.target.newest_hardware if sight.target else hardware)
    if wanted > hardware:
        steps.append(
            _step(
                StepKind.UPGRADE_HARDWARE, name,
                f"its devices need hardware version {wanted}, and it has {hardware}",
                f"hardware version {hardware} → {wanted}; there is no way back", Risk.DESTRUCTIVE,
                {"version": f"vmx-{wanted}"},
            )
        )  # fmt: skip
    settings = dict(extra_config_of(request, sight.reported_mib))
    have = {key.casefold(): value for key, value in state.extra_config.items()} if state else {}
    lacks = any(have.get(key.casefold()) != value for key, value in settings.items())
    if lacks or state is None or not state.memory_reserved_all:
        # All of them, whatever is there: the step stays the one that was approved when some are found to be set.
        settings["memoryReservationLockedToMax"] = "TRUE"
        told = "; ".join(f"{key} = {value}" for key, value in sorted(settings.items()))
        steps.append(_step(StepKind.CONFIGURE_VM, name, "a VM with GPUs does not boot without", told, risk, settings))
    devices = devices_of(request.gpus)
    if state is None or not same_devices(state.gpus, devices):
        before = f"{gpu_words(state.gpus)} → " if state and state.gpus else ""
        steps.append(
            _step(
                StepKind.SET_VM_GPUS, name, "its GPU devices are not the ones asked for",
                f"{before}{gpu_words(devices)}", risk, {"gpus": gpu_words(devices)},
            )
        )  # fmt: skip
    return tuple(steps)


def _to_power(request: VmRequest, sight: VmSight) -> tuple[Step, ...]:
    where = sight.placement.fitting[0].host.name if sight.placement.fitting else "a host that fits"
    named = any(isinstance(wish, StaticGpu) for wish in request.gpus) or not sight.placement.drs_places
    steps = [
        _step(
            StepKind.POWER_ON_VM, request.name, "the VM is to run",
            f"powered on, {'on' if named else 'where DRS places it, likely'} {where}", Risk.SAFE,
        )
    ]  # fmt: skip
    return (*steps, *_guest_steps(request))


def _guest_steps(request: VmRequest, *, driver: bool = True) -> tuple[Step, ...]:
    """An empty VM has no guest to wait for."""
    if request.source.guest_id is not None:
        return ()
    steps = [_step(StepKind.AWAIT_GUEST, request.name, "its guest has to come up", "VMware Tools answer", Risk.SAFE)]
    if driver and request.driver.policy is DriverPolicy.INSTALL:
        steps.append(_install(request))
    return tuple(steps)


def _install(request: VmRequest) -> Step:
    package = request.driver.package
    what = f"{package.kind} {package.version}" if package else ""
    return _step(
        StepKind.INSTALL_GUEST_DRIVER, request.name, "nvidia-smi in the guest has to show its GPUs",
        f"NVIDIA's driver {what} is installed, unless the guest shows its GPUs already", Risk.SAFE,
        {"version": package.version, "kind": package.kind, "sha256": package.sha256} if package else {},
    )  # fmt: skip


def _running(request: VmRequest, sight: VmSight, state: VmState) -> tuple[Step, ...]:
    if request.source.guest_id is not None:
        return ()
    if not state.tools_running:
        return _guest_steps(request)
    guest = current(sight.guest, state)
    if request.driver.policy is not DriverPolicy.INSTALL or guest is None:
        return ()
    if guest_proves(guest, len(state.gpus)) or guest.unreadable or guest.gpu_operator or guest.driver_installed:
        return ()
    return (_install(request),)


def _running_blockers(request: VmRequest, sight: VmSight, state: VmState) -> tuple[Blocker, ...]:
    found = list(unreachable_blockers(state))
    wrong = _not_as_asked(request, state)
    if wrong:
        found.append(Blocker(code="not-as-asked", text=wrong, fix="see the VM's tasks and events in vCenter"))
    found += _driver_blockers(request, state.host_vgpu_manager)
    guest = current(sight.guest, state)
    if guest is not None and not _running(request, sight, state):
        trouble = guest_trouble(guest, len(state.gpus), vgpu=request.vgpu)
        if trouble:
            found.append(Blocker(code="guest-not-proven", text=trouble, fix="then ask again"))
    return tuple(found)


def current(guest: GuestEvidence | None, state: VmState) -> GuestEvidence | None:
    """What was seen in the guest, if it was seen since the VM booted."""
    return guest if guest is not None and guest.boot_time == state.boot_time else None


def needs_guest(work: VmWork, request: VmRequest | None, sight: VmSight) -> bool:
    """Whether the guest has to be asked before the next plan can tell."""
    state = sight.state
    return (
        work in (VmWork.PROVISION, VmWork.CHANGE)
        and request is not None
        and request.driver.policy is not DriverPolicy.NONE
        and state is not None
        and (work is VmWork.CHANGE or state.made_by == sight.run or _as_requested(request, state))
        and state.powered_on
        and state.tools_running
        and current(sight.guest, state) is None
    )


def _driver_blockers(request: VmRequest, host_manager: str) -> tuple[Blocker, ...]:
    package = request.driver.package
    misfit = driver_misfit(package, vgpu=request.vgpu, host_manager=host_manager) if package else ""
    if not misfit:
        return ()
    return (Blocker(code="wrong-driver", text=misfit, fix="ask again with that package", error="BadRequest"),)


def _firmware_blockers(request: VmRequest, state: VmState) -> list[Blocker]:
    if state.firmware == "efi":
        return []
    return [
        Blocker(
            code="firmware-bios",
            text=f"{state.ref.name} was installed with BIOS firmware, and GPUs need EFI; an installed guest does not "
            "boot after a change of firmware",
            fix="provision a new VM from a source that was installed with EFI",
            error="NotSupported",
        )
    ]


def _not_as_asked(request: VmRequest, state: VmState) -> str:
    """What the running VM's devices are not, read back: bound GPUs of the kind and with the label asked for."""
    wanted = devices_of(request.gpus)
    if not same_devices(state.gpus, wanted):
        return f"its GPU devices are {gpu_words(state.gpus)}, and {gpu_words(wanted)} was asked for"
    for gpu in state.gpus:
        if gpu.kind == "dynamic" and gpu.assigned:
            pair = state.assigned_gpus.get(gpu.assigned)
            if pair is not None and pair not in gpu.allowed:
                return f"it was given {gpu.assigned} ({pair}), and {' or '.join(gpu.allowed)} was asked for"
            label = state.assigned_labels.get(gpu.assigned)
            if gpu.label and label is not None and label != gpu.label:
                return f"it was given {gpu.assigned} with the label {label!r}, and {gpu.label!r} was asked for"
    if len(state.assigned_gpus) == 0 and not state.unread:
        return f"its host {state.host_name} shows no GPU that is bound to it"
    return ""


def proof_of(state: VmState, guest: GuestEvidence | None) -> tuple[str, ...]:
    """What was read back of a running VM, in words: its devices, their labels, and what the guest sees."""
    lines = [f"runs on {state.host_name or state.host_moid}"]
    for sbdf, pair in sorted(state.assigned_gpus.items()):
        label = state.assigned_labels.get(sbdf)
        lines.append(f"{sbdf} ({pair}){f' with label {label}' if label else ''} is bound to it")
    lines += [f"vGPU {gpu.profile}" for gpu in state.gpus if gpu.kind == "vgpu"]
    if state.tools_running:
        lines.append(f"its guest answers{f' at {state.ip_address}' if state.ip_address else ''}")
    seen = current(guest, state)
    if seen is not None and guest_proves(seen, len(state.gpus)):
        lines += [f"nvidia-smi shows {gpu.name}, driver {gpu.driver_version}" for gpu in seen.gpus]
    return tuple(lines)


def _notes(request: VmRequest) -> tuple[str, ...]:
    notes = [f"what it cannot do: {each}" for each in cannot_do(request.gpus)]
    for wish in request.gpus:
        if isinstance(wish, StaticGpu):
            notes.append(
                f"{wish.sbdf} of {wish.host} is bound by its address: when that host fails the VM stays off. "
                "Dynamic DirectPath I/O (kind dynamic) would let HA restart it"
            )
    return tuple(notes)


def _source(request: VmRequest) -> str:
    source = request.source
    if source.template is not None:
        return f"a clone of template {source.template}"
    return f"library item {source.library_item}" if source.library_item else f"an empty VM ({source.guest_id})"


def gpu_words(gpus: tuple[VmGpu, ...]) -> str:
    """GPU devices as an approver reads them; they are in the identity of the step that sets them."""
    said = []
    for gpu in gpus:
        if gpu.kind == "dynamic":
            said.append(f"dynamic {'/'.join(gpu.allowed)}{f' label {gpu.label}' if gpu.label else ''}")
        else:
            said.append(f"{gpu.kind} {gpu.sbdf or gpu.profile}".strip())
    return ", ".join(said) or "no GPU"


def _shut_down(state: VmState, reason: str) -> Step:
    return _step(
        StepKind.SHUT_DOWN_GUEST, state.ref.name, reason,
        "its guest is asked to shut down; what runs in it stops", Risk.DISRUPTIVE, {"vm": state.ref.moid},
    )  # fmt: skip


def _delete(state: VmState, reason: str, risk: Risk) -> Step:
    return _step(
        StepKind.DELETE_VM, state.ref.name, reason, "the VM and its disks are deleted", risk, {"vm": state.ref.moid}
    )


def _step(
    kind: StepKind, target: str, reason: str, change: str, risk: Risk, params: dict[str, str] | None = None
) -> Step:
    return Step(kind=kind, target=target, reason=reason, change=change, risk=risk, params=params or {})
