"""What a host still lacks to be what a profile says: every GPU mode, and the vGPU Manager that two of them need."""

from contracts.host import BiosFeature, HostState, PciFunction
from contracts.packages import DepotContent
from contracts.plan import Blocker, Plan, Risk, Step, StepKind
from contracts.profiles import GpuMode, GpuWanted, Profile
from planning.bios import bios_step, features_missing, waits_for_boot
from planning.devices import functions_behind, gpus, is_right, users_of, wanted_gpus
from planning.evacuation import evacuation_blockers, evacuation_notes, running_workloads
from planning.iommu import Iommu, iommu_verdict
from planning.manager import manager_blockers, manager_steps
from planning.modes import device_steps, mig_steps, pending_boot

__all__ = ["plan_host"]

_LABEL_API_VERSION = (7, 0, 2)
_XORG_UNTIL = (7, 0, 1)
"""From ESXi 7.0 U1 on, vGPU needs no Xorg, and restarting it puts nothing into force."""
_TELLS_MIG = (8, 0, 3)
"""From here on `GraphicsInfo.vgpuMode` tells MIG for each card."""
_SHARED = (GpuMode.VGPU, GpuMode.VGPU_MIG)

Pairs = list[tuple[PciFunction, GpuWanted]]


def plan_host(
    state: HostState,
    profile: Profile,
    *,
    entered_maintenance: bool = False,
    depot: DepotContent | None = None,
    skip: tuple[str, ...] = (),
    ssh: bool = True,
) -> Plan:
    """The steps between `state` and `profile`, what stands in their way, and what the approver should know.

    `entered_maintenance` says that the maintenance mode seen is this run's own, so that leaving it is a step too:
    a maintenance mode that someone else entered is never exited. `depot` is what the profile's depot was found to
    hold; None leaves that unchecked. `skip` holds the IDs of steps that a person skipped. `ssh` says that the
    configuration knows how to log in to hosts.
    """
    if state.connection_state != "connected":
        return Plan(blockers=(_not_connected(state),))
    pairs = wanted_gpus(state, profile)
    if not pairs:
        return Plan(blockers=(_no_match(state, profile),))

    steps = [step for step in _change_steps(state, profile, pairs) if step.id not in skip]
    disruptive = any(step.risk is not Risk.SAFE for step in steps)
    if disruptive and not state.in_maintenance:
        steps.insert(0, _enter_maintenance(state))
    if (disruptive and not state.in_maintenance) or (state.in_maintenance and entered_maintenance):
        steps.append(_exit_maintenance(state))
    if not steps:
        return Plan(blockers=() if skip else tuple(_unexplained(state, pairs)))
    return Plan(
        steps=tuple(steps),
        blockers=(
            *_blockers(state, pairs, steps),
            *_mig_blockers(state, pairs, steps, ssh),
            *manager_blockers(state, profile, steps, depot),
        ),
        notes=tuple(_notes(state, pairs, steps, entered_maintenance)),
    )


def _change_steps(state: HostState, profile: Profile, pairs: Pairs) -> list[Step]:
    """What has to change, in the order in which it works; maintenance mode around it is not in here."""
    # A card that leaves vGPU gives its MIG mode back while the vGPU Manager still sees it.
    early = mig_steps(state, [pair for pair in pairs if pair[1].mode not in _SHARED])
    late = mig_steps(state, [pair for pair in pairs if pair[1].mode in _SHARED])
    manager = manager_steps(state, profile)
    graphics = _host_graphics_steps(state, profile, pairs)
    devices = [step for gpu, wanted in pairs for step in device_steps(state, gpu, wanted)]
    # Remediation of an image reboots the host by itself: what is configured before it comes into force with it.
    image = any(step.kind is StepKind.REMEDIATE_IMAGE for step in manager)
    configured = [*graphics, *devices, *manager] if image else [*manager, *graphics, *devices]
    bios = bios_step(state, pairs)
    if bios or waits_for_boot(state, pairs):
        before = [bios] if bios else []
        enables = any(step.kind is StepKind.ENABLE_PASSTHROUGH for step in configured)
        if enables and BiosFeature.IOMMU in features_missing(state, pairs):
            # Passthrough can be enabled only once the IOMMU is on: that takes a boot of its own.
            return [*early, *before, _bios_boot(state), *configured, *_boot_steps(state, pairs, configured), *late]
        return [*early, *before, *configured, _bios_boot(state), *late]
    return [*early, *configured, *_boot_steps(state, pairs, configured), *late]


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
    shared = any(wanted.mode in _SHARED for _, wanted in pairs)
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
    shared = any(wanted.mode in _SHARED for _, wanted in pairs)
    if shared and state.reboot_required and not pending:
        pending.append("the host says that a reboot is required")
    changing = [step for step in configured if step.risk is not Risk.SAFE]
    if not pending and not changing:
        return []
    graphics_only = {step.kind for step in changing} <= {StepKind.SET_GRAPHICS_TYPE, StepKind.SET_HOST_GRAPHICS}
    if _version(state.version) < _XORG_UNTIL and graphics_only and not any("passthrough" in text for text in pending):
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


def _unexplained(state: HostState, pairs: Pairs) -> list[Blocker]:
    """Everything is configured and booted, yet a GPU is not what the profile wants: never call that done."""
    wrong = [
        f"{gpu.sbdf} ({gpu.name}), wanted {wanted.mode}" for gpu, wanted in pairs if not is_right(state, gpu, wanted)
    ]
    if not wrong:
        return []
    return [
        Blocker(
            code="not-as-wanted",
            text=f"configured as wanted, but not so in force: {', '.join(wrong)}; vGPU profiles on offer: "
            + (", ".join(state.shared_passthru_profiles[:4]) or "none"),
            fix="check that the vGPU Manager is the right package (AIE or VGPU) for these cards, that SR-IOV is on in "
            "the BIOS, and its log on the host (`nvidia-smi`, `esxcli software vib list`)",
        )
    ]


def _enter_maintenance(state: HostState) -> Step:
    running = running_workloads(state)
    moved = f"{len(running)} powered-on VMs are moved by DRS" if running else "no VM is powered on here"
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


def _not_connected(state: HostState) -> Blocker:
    return Blocker(
        code="host-not-connected",
        text=f"{state.ref.name} is {state.connection_state} in vCenter",
        fix="reconnect the host, or wait until it is back",
    )


def _no_match(state: HostState, profile: Profile) -> Blocker:
    present = sorted({f"{gpu.vendor_device} ({gpu.name})" for gpu in gpus(state)})
    if not present:
        return Blocker(
            code="no-gpu",
            text=f"{state.ref.name} has no GPU",
            fix="check that the card is seated and seen by `esxcli hardware pci list`, or narrow the rule",
            error="NotSupported",
        )
    wanted = ", ".join(_choice(entry) for entry in profile.gpus)
    return Blocker(
        code="no-matching-gpu",
        text=f"profile {profile.name!r} wants {wanted}, but {state.ref.name} has {', '.join(present)}",
        fix="name another profile, or add the device to this one",
        error="BadRequest",
    )


def _blockers(state: HostState, pairs: Pairs, steps: list[Step]) -> list[Blocker]:
    """What forbids the steps. Steps without risk only need an API version that knows the label."""
    found = []
    labels = [step for step in steps if "label" in step.params]
    if labels and _version(state.api_version) < _LABEL_API_VERSION:
        found.append(
            Blocker(
                code="label-needs-7.0.2",
                text=f"hardware labels need vSphere 7.0.2; this connection speaks {state.api_version}",
                fix="upgrade vCenter, or take the label out of the profile",
                error="NotSupported",
            )
        )
    if all(step.risk is Risk.SAFE for step in steps):
        return found
    kinds = {step.kind for step in steps}
    if StepKind.ENABLE_PASSTHROUGH in kinds or any(wanted.mode in _SHARED for _, wanted in pairs):
        found += _iommu_blockers(state, pairs)
    if StepKind.ENABLE_PASSTHROUGH in kinds:
        found += _boot_device_blockers(state)
    touched = {sbdf for step in steps for sbdf in step.target.split(",")}
    found += _device_blockers(state, [(gpu, wanted) for gpu, wanted in pairs if gpu.sbdf in touched])
    return found + evacuation_blockers(state)


def _mig_blockers(state: HostState, pairs: Pairs, steps: list[Step], ssh: bool) -> list[Blocker]:
    """What keeps MIG from being switched, or from being proven afterwards."""
    if all(step.kind is not StepKind.SET_MIG for step in steps):
        return []
    found = []
    if not ssh:
        found.append(
            Blocker(
                code="no-ssh",
                text=f"MIG of {state.ref.name} is switched over SSH, and the configuration does not say how to log in",
                fix="add a section 'ssh' to the configuration and restart the service; the run goes on by itself",
            )
        )
    if state.lockdown_mode != "lockdownDisabled" and not state.lockdown_exceptions:
        found.append(
            Blocker(
                code="lockdown",
                text=f"MIG is switched over SSH, and {state.ref.name} is in lockdown mode without exception users",
                fix="add the SSH user to the host's lockdown exceptions, or lift lockdown mode for the work",
            )
        )
    modes = {(gpu.vendor_device, wanted.mode) for gpu, wanted in pairs if wanted.mode in _SHARED}
    both = sorted({device for device, _ in modes if all((device, mode) in modes for mode in _SHARED)})
    if both and _version(state.version) < _TELLS_MIG:
        found.append(
            Blocker(
                code="mig-cannot-be-told",
                text=f"some {', '.join(both)} are wanted with MIG and some without: {state.ref.name} runs ESXi "
                f"{state.version}, which does not tell equal cards apart",
                fix="give equal cards the same mode, or upgrade to ESXi 8.0.3",
                error="NotSupported",
            )
        )
    return found


def _comes_by_bios(state: HostState, pairs: Pairs, feature: BiosFeature) -> bool:
    """The plan itself switches it on, or has done so, and the boot is still to come."""
    off = state.bios.off if state.bios else ()
    return feature in off and feature in features_missing(state, pairs)


def _iommu_blockers(state: HostState, pairs: Pairs) -> list[Blocker]:
    verdict = iommu_verdict(state)
    if verdict.iommu is Iommu.ON or _comes_by_bios(state, pairs, BiosFeature.IOMMU):
        return []
    return [
        Blocker(
            code=f"iommu-{verdict.iommu}",
            text=f"Host does not support passthrough configuration: IOMMU is {verdict.iommu} ({verdict.evidence})",
            fix="switch on Intel VT-d or AMD-Vi (and 'Above 4G decoding' for large cards) in the BIOS, "
            "and set the VMkernel setting noIOMMU to FALSE",
        )
    ]


def _boot_device_blockers(state: HostState) -> list[Blocker]:
    if state.boot_device is None:
        return [
            Blocker(
                code="boot-device-unknown",
                text=f"the boot device of {state.ref.name} could not be read: {'; '.join(state.unread) or 'no answer'}",
                fix="check `esxcli storage core device list` on the host; a host that boots from USB is not changed",
            )
        ]
    if state.boot_device.is_usb:
        return [
            Blocker(
                code="boots-from-usb",
                text=f"{state.ref.name} boots from USB ({state.boot_device.name}), which passthrough may take away",
                fix="install ESXi on a local disk, then ask again",
                error="NotSupported",
            )
        ]
    return []


def _device_blockers(state: HostState, touched: Pairs) -> list[Blocker]:
    found = []
    for gpu, wanted in touched:
        behind = functions_behind(state, gpu)
        if wanted.mode is GpuMode.PASSTHROUGH:
            found += _passthrough_blockers(state, gpu, behind)
        elif (
            wanted.mode in _SHARED
            and gpu.sriov_capable is False
            and not _comes_by_bios(state, [(gpu, wanted)], BiosFeature.SRIOV)
        ):
            found.append(
                Blocker(
                    code="sriov-off",
                    text=f"{gpu.sbdf} ({gpu.name}) shows no SR-IOV, which vGPU needs on Ampere and later cards",
                    fix="switch on SR-IOV (and 'Above 4G decoding') in the BIOS",
                )
            )
        if users := users_of(state, {device.sbdf for device in behind}):
            found.append(
                Blocker(
                    code="vm-holds-gpu",
                    text=f"{gpu.sbdf} ({gpu.name}) is held by powered-on VMs: {', '.join(users)}",
                    fix="shut these VMs down; the run goes on by itself",
                )
            )
    return found


def _passthrough_blockers(state: HostState, gpu: PciFunction, behind: list[PciFunction]) -> list[Blocker]:
    found = []
    if not gpu.passthru_capable and iommu_verdict(state).iommu is Iommu.ON:
        found.append(
            Blocker(
                code="not-capable",
                text=f"{gpu.sbdf} ({gpu.name}) is not passthruCapable although the IOMMU is on",
                fix="check the BIOS for 'Above 4G decoding' and the slot, then ask again",
                error="NotSupported",
            )
        )
    found += [
        Blocker(
            code="used-by-esxi",
            text=f"passthrough of {gpu.sbdf} would take {device.sbdf} ({device.name}) from ESXi, "
            f"which uses it: {device.used_by_esxi}",
            fix="move the card to a slot of its own, or move ESXi's use to another device",
            error="NotSupported",
        )
        for device in behind
        if device.used_by_esxi
    ]
    return found


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


def _choice(entry: GpuWanted) -> str:
    return " ".join(filter(None, (entry.match, entry.sbdf, entry.has_label and f"label {entry.has_label!r}")))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
