"""What stands in the way of a host's steps, each with how to fix it."""

from contracts.evacuation import StuckVms
from contracts.host import BiosFeature, HostState, PciFunction
from contracts.plan import Blocker, Risk, Step, StepKind
from contracts.profiles import GpuMode, GpuWanted, Profile
from planning.bios import features_missing
from planning.devices import SHARED, Pairs, functions_behind, gpus, is_right, users_of, version
from planning.evacuation import evacuation_blockers
from planning.iommu import Iommu, iommu_verdict

__all__ = ["mig_blockers", "no_match", "not_connected", "step_blockers", "unexplained", "vms_wait_for_host"]

_LABEL_API_VERSION = (7, 0, 2)
_TELLS_MIG = (8, 0, 3)
"""From here on `GraphicsInfo.vgpuMode` tells MIG for each card."""


def not_connected(state: HostState) -> Blocker:
    """vCenter does not reach the host."""
    return Blocker(
        code="host-not-connected",
        text=f"{state.ref.name} is {state.connection_state} in vCenter",
        fix="reconnect the host, or wait until it is back",
    )


def no_match(state: HostState, profile: Profile) -> Blocker:
    """The profile speaks of none of the host's GPUs."""
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


def vms_wait_for_host(state: HostState, steps: list[Step]) -> Blocker:
    """VMs that this run shut down cannot be powered on, because somebody else wants the host empty."""
    names = ", ".join(step.target for step in steps)
    return Blocker(
        code="vms-left-off",
        text=f"this run shut down {names}, and somebody put {state.ref.name} into maintenance mode meanwhile",
        fix="take the host out of maintenance mode; the run powers these VMs on by itself",
    )


def unexplained(state: HostState, pairs: Pairs) -> list[Blocker]:
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


def step_blockers(state: HostState, pairs: Pairs, steps: list[Step], policy: StuckVms = StuckVms.WAIT) -> list[Blocker]:
    """What forbids the steps. Steps without risk only need an API version that knows the label."""
    found = []
    labels = [step for step in steps if "label" in step.params]
    if labels and version(state.api_version) < _LABEL_API_VERSION:
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
    if StepKind.ENABLE_PASSTHROUGH in kinds or any(wanted.mode in SHARED for _, wanted in pairs):
        found += _iommu_blockers(state, pairs)
    if StepKind.ENABLE_PASSTHROUGH in kinds:
        found += _boot_device_blockers(state)
    touched = {sbdf for step in steps for sbdf in step.target.split(",")}
    found += _device_blockers(state, [each for each in pairs if each[0].sbdf in touched or not is_right(state, *each)])
    stopping = frozenset(step.params["moid"] for step in steps if step.kind is StepKind.SHUT_DOWN_GUEST)
    return found + evacuation_blockers(state, policy, stopping, manager_goes=StepKind.REMOVE_MANAGER in kinds)


def mig_blockers(state: HostState, pairs: Pairs, steps: list[Step], ssh: bool) -> list[Blocker]:
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
    modes = {(gpu.vendor_device, wanted.mode) for gpu, wanted in pairs if wanted.mode in SHARED}
    both = sorted({device for device, _ in modes if all((device, mode) in modes for mode in SHARED)})
    if both and version(state.version) < _TELLS_MIG:
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
    fix = (
        "switch on Intel VT-d or AMD-Vi (and 'Above 4G decoding' for large cards) in the BIOS, "
        "and set the VMkernel setting noIOMMU to FALSE"
    )
    if state.bios and BiosFeature.IOMMU in state.bios.on:
        fix = "reboot the host, and where that is not enough power the host off and on, so that it boots with its BIOS"
    return [
        Blocker(
            code=f"iommu-{verdict.iommu}",
            text=f"Host does not support passthrough configuration: IOMMU is {verdict.iommu} ({verdict.evidence})",
            fix=fix,
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
            wanted.mode in SHARED
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


def _choice(entry: GpuWanted) -> str:
    return " ".join(filter(None, (entry.match, entry.sbdf, entry.has_label and f"label {entry.has_label!r}")))
