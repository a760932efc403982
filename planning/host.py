"""What a host still lacks to be what a profile says: every GPU mode, and the vGPU Manager that two of them need."""

from contracts.host import BiosFeature, HostState
from contracts.packages import DepotContent
from contracts.plan import Plan, Risk, Step, StepKind
from contracts.profiles import Profile
from planning.bios import bios_step, features_missing, put_back_step, put_back_waits, waits_for_boot
from planning.devices import SHARED, Pairs, functions_behind, version, wanted_gpus
from planning.evacuation import evacuation_notes, running_workloads, stuck_vms
from planning.host_blockers import (
    mig_blockers,
    no_match,
    not_connected,
    step_blockers,
    unexplained,
    vms_wait_for_host,
)
from planning.manager import image_notes, manager_blockers, manager_steps
from planning.modes import device_steps, mig_steps, pending_boot
from planning.restore import WayBack
from planning.vm_moves import vm_steps

__all__ = ["plan_host"]

_PREREQUISITES = ("iommu-off", "iommu-unknown", "sriov-off")
_XORG_UNTIL = (7, 0, 1)
"""From ESXi 7.0 U1 on, vGPU needs no Xorg, and restarting it puts nothing into force."""


def plan_host(
    state: HostState,
    profile: Profile,
    *,
    entered_maintenance: bool = False,
    depot: DepotContent | None = None,
    skip: tuple[str, ...] = (),
    ssh: bool = True,
    back: WayBack | None = None,
) -> Plan:
    """The steps between `state` and `profile`, what stands in their way, and what the approver should know.

    `entered_maintenance` says that the maintenance mode seen is this run's own, so that leaving it is a step too:
    a maintenance mode that someone else entered is never exited. `depot` is what the profile's depot was found to
    hold; None leaves that unchecked. `skip` holds the IDs of steps that a person skipped. `ssh` says that the
    configuration knows how to log in to hosts. `back` says that `profile` is a way back, and what else belongs to it.
    """
    if state.connection_state != "connected":
        return Plan(blockers=(not_connected(state),))
    pairs = wanted_gpus(state, profile)
    if not pairs:
        return Plan(blockers=(no_match(state, profile),))

    steps = [step for step in _change_steps(state, profile, pairs, back) if step.id not in skip]
    disruptive = any(step.risk is not Risk.SAFE for step in steps)
    empties = disruptive and not state.in_maintenance
    manager_goes = any(step.kind is StepKind.REMOVE_MANAGER for step in steps)
    vms = vm_steps(state, profile.stuck_vms, empties=empties, manager_goes=manager_goes, skip=skip)
    if empties:
        steps.insert(0, _enter_maintenance(state))
    if empties or (state.in_maintenance and entered_maintenance):
        steps.append(_exit_maintenance(state))
    if vms.after and not steps and state.in_maintenance:
        return Plan(blockers=(vms_wait_for_host(state, vms.after),))
    steps = [*vms.before, *steps, *vms.after]
    if not steps:
        # What was not in force before a run is not expected after its way back.
        wrong = () if skip or back else tuple(unexplained(state, pairs))
        return Plan(blockers=wrong, notes=tuple(image_notes(state)))
    return Plan(
        steps=tuple(steps),
        blockers=(
            *(
                blocker
                for blocker in step_blockers(state, pairs, steps, profile.stuck_vms)
                # A way back leads to what was there, if it could work or not.
                if not back or blocker.code not in _PREREQUISITES
            ),
            *mig_blockers(state, pairs, steps, ssh),
            *manager_blockers(state, profile, steps, depot),
        ),
        notes=(
            *(f"not put back: {text}" for text in (back.left if back else ())),
            *_notes(state, pairs, steps, entered_maintenance),
            *image_notes(state),
        ),
    )


def _change_steps(state: HostState, profile: Profile, pairs: Pairs, back: WayBack | None) -> list[Step]:
    """What has to change, in the order in which it works; maintenance mode around it is not in here."""
    # A card that leaves vGPU gives its MIG mode back while the vGPU Manager still sees it.
    early = mig_steps(state, [pair for pair in pairs if pair[1].mode not in SHARED])
    late = mig_steps(state, [pair for pair in pairs if pair[1].mode in SHARED])
    manager = manager_steps(state, profile)
    graphics = _host_graphics_steps(state, profile, pairs)
    labels = back.labels if back else {}
    devices = [step for gpu, wanted in pairs for step in device_steps(state, gpu, wanted, labels.get(gpu.sbdf))]
    # Remediation of an image reboots the host by itself: what is configured before it comes into force with it.
    image = any(step.kind is StepKind.REMEDIATE_IMAGE for step in manager)
    configured = [*graphics, *devices, *manager] if image else [*manager, *graphics, *devices]
    settled = [pair for pair in pairs if not back or pair[0].sbdf not in back.unsettled]
    bios = put_back_step(state, back.bios) if back else bios_step(state, pairs)
    first = [*early, *([bios] if bios else [])]
    # What a run ordered and takes back before a boot needs none.
    ordered = put_back_waits(state, back.bios, back.ran) if back else bios is not None
    if not ordered and not waits_for_boot(state, pairs):
        return [*first, *configured, *_boot_steps(state, settled, configured), *late]
    enables = any(step.kind is StepKind.ENABLE_PASSTHROUGH for step in configured)
    if enables and BiosFeature.IOMMU in features_missing(state, pairs):
        # Passthrough can be enabled only once the IOMMU is on: that takes a boot of its own.
        return [*first, _bios_boot(state), *configured, *_boot_steps(state, settled, configured), *late]
    return [*first, *configured, _bios_boot(state), *late]


def _bios_boot(state: HostState) -> Step:
    return Step(
        kind=StepKind.REBOOT,
        target=state.ref.name,
        reason="BIOS settings come into force at boot",
        change="the host restarts; it is away for several minutes",
        risk=Risk.DISRUPTIVE,
        params={"for": "bios"},
    )


def _host_graphics_steps(state: HostState, profile: Profile, pairs: Pairs) -> list[Step]:
    shared = any(wanted.mode in SHARED for _, wanted in pairs)
    default = profile.default_graphics or ("sharedDirect" if shared else None)
    changes: list[str] = []
    params: dict[str, str] = {}
    risk = Risk.SAFE
    if default is not None and state.default_graphics_type != default:
        changes.append(f"host default graphics type: {state.default_graphics_type or 'unset'} → {default}")
        params["default_type"] = default
        risk = Risk.DISRUPTIVE
    if profile.sharing and profile.sharing != state.shared_passthru_assignment_policy:
        changes.append(f"assignment policy: {state.shared_passthru_assignment_policy or 'unset'} → {profile.sharing}")
        params["policy"] = profile.sharing
    if not changes:
        return []
    return [
        Step(
            kind=StepKind.SET_HOST_GRAPHICS,
            target=state.ref.name,
            reason="vGPU needs the host's graphics to be Shared Direct" if shared else "the profile says so",
            change="; ".join(changes) + "; every device keeps its type",
            risk=risk,
            params=params,
        )
    ]


def _boot_steps(state: HostState, pairs: Pairs, configured: list[Step]) -> list[Step]:
    """A reboot, or for old releases a restart of Xorg, where something configured is not in force."""
    pending = [text for gpu, wanted in pairs if (text := pending_boot(state, gpu, wanted))]
    shared = any(wanted.mode in SHARED for _, wanted in pairs)
    if shared and state.reboot_required and not pending:
        pending.append("the host says that a reboot is required")
    changing = [step for step in configured if step.risk is not Risk.SAFE]
    if not pending and not changing:
        return []
    graphics_only = {step.kind for step in changing} <= {StepKind.SET_GRAPHICS_TYPE, StepKind.SET_HOST_GRAPHICS}
    if version(state.version) < _XORG_UNTIL and graphics_only and not any("passthrough" in text for text in pending):
        return [
            Step(
                kind=StepKind.RESTART_XORG,
                target=state.ref.name,
                reason="graphics types come into force when Xorg restarts (below ESXi 7.0 U1)",
                change="the Xorg service of the host restarts",
                risk=Risk.DISRUPTIVE,
            )
        ]
    reason, condition = "; ".join(pending), ""
    if not pending:
        reason, condition = "what was changed comes into force at boot", "a change is not in force at once"
        if state.rebind_without_reboot and all("passthrough" in step.kind for step in changing):
            reason += "; this host can rebind devices without one, so it may not be needed"
    return [
        Step(
            kind=StepKind.REBOOT,
            target=state.ref.name,
            reason=reason,
            change="the host restarts; it is away for several minutes",
            risk=Risk.DISRUPTIVE,
            only_if_needed=condition,
        )
    ]


def _enter_maintenance(state: HostState) -> Step:
    stuck, running = stuck_vms(state), running_workloads(state)
    moving = [vm for vm in running if vm not in stuck]
    moved = f"{len(moving)} powered-on VMs are moved by DRS" if moving else "no VM is powered on here"
    if stuck:
        moved = f"{len(moving)} powered-on VMs are moved by DRS, {len(stuck)} cannot be and are off by then"
    return Step(
        kind=StepKind.ENTER_MAINTENANCE,
        target=state.ref.name,
        reason="devices are changed and the host may restart only while no VM runs on it",
        change=f"the host enters maintenance mode; {moved}",
        risk=Risk.DISRUPTIVE,
    )


def _exit_maintenance(state: HostState) -> Step:
    return Step(
        kind=StepKind.EXIT_MAINTENANCE,
        target=state.ref.name,
        reason="this run put the host into maintenance mode",
        change="the host takes VMs again",
        risk=Risk.SAFE,
    )


def _notes(state: HostState, pairs: Pairs, steps: list[Step], entered_maintenance: bool) -> list[str]:
    notes: list[str] = []
    if all(step.risk is Risk.SAFE for step in steps):
        return notes
    notes += evacuation_notes(state)
    if state.bios_unread:
        notes.append(f"the BMC could not be asked about the BIOS: {state.bios_unread}")
    if state.in_maintenance and not entered_maintenance:
        notes.append("someone else put the host into maintenance mode; it is used and not exited")
    if any(step.kind is StepKind.REBOOT for step in steps):
        ours = {gpu.sbdf for gpu, _ in pairs}
        others = [
            f"{device.sbdf} ({device.name}) {'on' if device.passthru_enabled else 'off'}"
            for device in state.pci
            if device.passthru_enabled != device.passthru_active and device.sbdf not in ours
        ]
        if others:
            notes.append(f"a reboot also puts other pending passthrough changes into force: {', '.join(others)}")
    for gpu, _ in pairs:
        enabled = any(step.target == gpu.sbdf and step.kind is StepKind.ENABLE_PASSTHROUGH for step in steps)
        beside = [d for d in functions_behind(state, gpu) if d.sbdf not in (gpu.sbdf, gpu.dependent_device)]
        if enabled and beside:
            names = ", ".join(f"{device.sbdf} ({device.name})" for device in beside)
            notes.append(f"passthrough of {gpu.sbdf} is switched at {gpu.dependent_device}, which takes along: {names}")
    if state.cluster and state.cluster.config_manager_enabled:
        notes.append(
            f"the configuration profile of cluster {state.cluster.name} owns graphics and passthrough settings "
            "(configManagerEnabled): this change is drift until the profile says the same"
        )
    return notes
