"""What a host still lacks to be what a profile says: passthrough mode (static and Dynamic DirectPath I/O)."""

from contracts.host import HostState, PciFunction
from contracts.plan import Blocker, Plan, Risk, Step, StepKind
from contracts.profiles import GpuWanted, Profile
from planning.devices import functions_behind, gpus, users_of, wanted_gpus
from planning.iommu import Iommu, iommu_verdict

__all__ = ["plan_host"]

_LABEL_API_VERSION = (7, 0, 2)


def plan_host(state: HostState, profile: Profile, *, entered_maintenance: bool = False) -> Plan:
    """The steps between `state` and `profile`, what stands in their way, and what the approver should know.

    `entered_maintenance` says that the maintenance mode seen is this run's own, so that leaving it is a step too:
    a maintenance mode that someone else entered is never exited.
    """
    if state.connection_state != "connected":
        return Plan(blockers=(_not_connected(state),))
    pairs = wanted_gpus(state, profile)
    if not pairs:
        return Plan(blockers=(_no_match(state, profile),))

    changes = [step for gpu, wanted in pairs for step in _gpu_steps(gpu, wanted, state)]
    to_enable = [step for step in changes if step.kind is StepKind.ENABLE_PASSTHROUGH]
    pending = [gpu for gpu, _ in pairs if gpu.passthru_enabled and not gpu.passthru_active]
    steps = [*changes, *_reboot_steps(state, to_enable, pending)]
    disruptive = any(step.risk is not Risk.SAFE for step in steps)
    if disruptive and not state.in_maintenance:
        steps.insert(0, _enter_maintenance(state))
    if (disruptive and not state.in_maintenance) or (state.in_maintenance and entered_maintenance):
        steps.append(_exit_maintenance(state))
    if not steps:
        return Plan()
    return Plan(
        steps=tuple(steps),
        blockers=tuple(_blockers(state, pairs, steps)),
        notes=tuple(_notes(state, pairs, steps, entered_maintenance)),
    )


def _gpu_steps(gpu: PciFunction, wanted: GpuWanted, state: HostState) -> list[Step]:
    steps = []
    configured = next((device.configured_type for device in state.graphics if device.sbdf == gpu.sbdf), None)
    if configured == "sharedDirect":
        steps.append(
            Step(
                kind=StepKind.SET_GRAPHICS_TYPE,
                target=gpu.sbdf,
                reason=f"{gpu.name} is configured for vGPU (sharedDirect)",
                change=f"graphics type of {gpu.sbdf}: sharedDirect → shared; the other devices keep theirs",
                risk=Risk.DISRUPTIVE,
                params={"graphics_type": "shared"},
            )
        )
    label_wrong = wanted.label is not None and wanted.label != gpu.hardware_label
    label_text = f"hardware label {gpu.hardware_label or 'none'!r} → {wanted.label!r}"
    if not gpu.passthru_enabled:
        params = {"label": wanted.label} if label_wrong and wanted.label else {}
        steps.append(
            Step(
                kind=StepKind.ENABLE_PASSTHROUGH,
                target=gpu.sbdf,
                reason=f"{gpu.name} is not in passthrough",
                change=f"passthrough of {gpu.sbdf}: off → on" + (f"; {label_text}" if params else ""),
                risk=Risk.DISRUPTIVE,
                params=params,
            )
        )
    elif label_wrong and wanted.label:
        steps.append(
            Step(
                kind=StepKind.SET_LABEL,
                target=gpu.sbdf,
                reason=f"{gpu.name} has another hardware label than the profile",
                change=f"{gpu.sbdf}: {label_text}",
                risk=Risk.SAFE,
                params={"label": wanted.label},
            )
        )
    return steps


def _reboot_steps(state: HostState, to_enable: list[Step], pending: list[PciFunction]) -> list[Step]:
    if not to_enable and not pending:
        return []
    if pending:
        reason = f"passthrough of {', '.join(gpu.sbdf for gpu in pending)} is enabled but not active"
        condition = ""
    else:
        reason = "passthrough becomes active at boot"
        condition = "a device is not active at once"
        if state.rebind_without_reboot:
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
    running = [vm.name for vm in state.vms if vm.powered_on]
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
    wanted = ", ".join(entry.match for entry in profile.gpus)
    return Blocker(
        code="no-matching-gpu",
        text=f"profile {profile.name!r} wants {wanted}, but {state.ref.name} has {', '.join(present)}",
        fix="name another profile, or add the device to this one",
        error="BadRequest",
    )


def _blockers(state: HostState, pairs: list[tuple[PciFunction, GpuWanted]], steps: list[Step]) -> list[Blocker]:
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
    found += _iommu_blockers(state)
    found += _boot_device_blockers(state)
    by_sbdf = {step.target: step for step in steps}
    touched = [gpu for gpu, _ in pairs if gpu.sbdf in by_sbdf]
    found += _device_blockers(state, touched)
    found += _evacuation_blockers(state)
    return found


def _iommu_blockers(state: HostState) -> list[Blocker]:
    verdict = iommu_verdict(state)
    if verdict.iommu is Iommu.ON:
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


def _device_blockers(state: HostState, touched: list[PciFunction]) -> list[Blocker]:
    found = []
    for gpu in touched:
        if not gpu.passthru_capable and iommu_verdict(state).iommu is Iommu.ON:
            found.append(
                Blocker(
                    code="not-capable",
                    text=f"{gpu.sbdf} ({gpu.name}) is not passthruCapable although the IOMMU is on",
                    fix="check the BIOS for 'Above 4G decoding' and the slot, then ask again",
                    error="NotSupported",
                )
            )
        for device in functions_behind(state, gpu):
            if device.used_by_esxi:
                found.append(
                    Blocker(
                        code="used-by-esxi",
                        text=f"passthrough of {gpu.sbdf} would take {device.sbdf} ({device.name}) from ESXi, "
                        f"which uses it: {device.used_by_esxi}",
                        fix="move the card to a slot of its own, or move ESXi's use to another device",
                        error="NotSupported",
                    )
                )
        if users := users_of(state, {device.sbdf for device in functions_behind(state, gpu)}):
            found.append(
                Blocker(
                    code="vm-holds-gpu",
                    text=f"{gpu.sbdf} ({gpu.name}) is held by powered-on VMs: {', '.join(users)}",
                    fix="shut these VMs down; the run goes on by itself",
                )
            )
    return found


def _evacuation_blockers(state: HostState) -> list[Blocker]:
    running = [vm for vm in state.vms if vm.powered_on]
    if not running or state.in_maintenance:
        return []
    pinned = sorted(vm.name for vm in running if vm.passthrough)
    if pinned:
        return [
            Blocker(
                code="vms-cannot-move",
                text=f"VMs with passthrough devices cannot be moved while on: {', '.join(pinned)}",
                fix="shut these VMs down; the run goes on by itself",
            )
        ]
    if state.cluster is None or not (state.cluster.drs_enabled and state.cluster.drs_fully_automated):
        names = ", ".join(sorted(vm.name for vm in running))
        return [
            Blocker(
                code="no-evacuation",
                text=f"DRS does not move VMs by itself here, and these are on: {names}",
                fix="move or shut down these VMs, or set DRS to fully automated; the run goes on by itself",
            )
        ]
    return []


def _notes(
    state: HostState, pairs: list[tuple[PciFunction, GpuWanted]], steps: list[Step], entered_maintenance: bool
) -> list[str]:
    notes: list[str] = []
    if all(step.risk is Risk.SAFE for step in steps):
        return notes
    running = sorted(vm.name for vm in state.vms if vm.powered_on)
    if running:
        notes.append(f"powered-on VMs on this host: {', '.join(running)}")
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
        beside = [d for d in functions_behind(state, gpu) if d.sbdf not in (gpu.sbdf, gpu.dependent_device)]
        if any(step.target == gpu.sbdf for step in steps) and beside:
            names = ", ".join(f"{device.sbdf} ({device.name})" for device in beside)
            notes.append(f"passthrough of {gpu.sbdf} is switched at {gpu.dependent_device}, which takes along: {names}")
    if state.cluster and state.cluster.config_manager_enabled:
        notes.append(
            f"the configuration profile of cluster {state.cluster.name} owns passthrough settings "
            "(configManagerEnabled): this change is drift until the profile says the same"
        )
    return notes


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
