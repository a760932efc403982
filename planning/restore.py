"""How a host is configured now, as a profile, and the way back to it when a person gives up on a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from contracts.host import BiosFeature, HostState, PciFunction
from contracts.packages import meets
from contracts.plan import Step, StepKind
from contracts.prepare import Restore
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from planning.bios import replaced
from planning.devices import SHARED, functions_behind, graphics_of, is_right, mig_on, wanted_gpus
from planning.manager import image_managed, installed_managers

__all__ = ["WayBack", "configuration_of", "restore_of", "way_back"]

_POLICIES = ("performance", "consolidation")
_TYPES = ("shared", "sharedDirect")


@dataclass(frozen=True)
class WayBack:
    """What is put back, and what is not."""

    profile: Profile
    labels: Mapping[str, str] = field(default_factory=dict)
    """By SBDF, of GPUs that are out of passthrough then."""
    unsettled: tuple[str, ...] = ()
    """SBDFs of GPUs that were not in force as configured, so that it is enough to configure them again."""
    bios: Mapping[str, str] = field(default_factory=dict)
    """BIOS attributes and their old values."""
    ran: tuple[Step, ...] = ()
    """The run's steps so far."""
    left: tuple[str, ...] = ()
    """What stays changed, and why, in words."""


def configuration_of(state: HostState, profile: Profile) -> Profile:
    """The configured mode and label of each GPU that `profile` speaks of, and the vGPU Manager, as they are now.

    A vGPU Manager is named without a depot: `way_back` leaves what cannot be had without one.
    """
    managers = installed_managers(state)
    manager: VgpuManager | Literal["absent"] | None = None
    if profile.vgpu_manager is not None and state.vibs is not None:
        manager = "absent"
        if managers:
            manager = VgpuManager(name=managers[0].name, version=managers[0].version.partition("-")[0])
    return Profile.model_validate(
        {
            "name": f"{profile.name} (before)",
            "gpus": [_configured(state, gpu) for gpu, _ in wanted_gpus(state, profile)],
            "vgpu_manager": manager,
            "sharing": _known(state.shared_passthru_assignment_policy, _POLICIES) if profile.sharing else None,
            "default_graphics": _known(state.default_graphics_type, _TYPES),
            "stuck_vms": profile.stuck_vms,
        }
    )


def restore_of(state: HostState, profile: Profile) -> Restore:
    """What of the profile's GPUs a profile cannot say, as it is now."""
    before = wanted_gpus(state, configuration_of(state, profile)) if wanted_gpus(state, profile) else []
    return Restore(
        labels={gpu.sbdf: gpu.hardware_label or "" for gpu, _ in before if not gpu.passthru_enabled},
        unsettled=tuple(gpu.sbdf for gpu, was in before if not is_right(state, gpu, was)),
    )


def way_back(state: HostState, before: Profile, restore: Restore) -> WayBack:
    """From `state` to `before`, with what the run recorded, less what others need by now or nobody can bring back."""
    manager, about_manager = _manager(state, before, restore)
    bios, about_bios = _bios(state, before, restore)
    return WayBack(
        profile=before.model_copy(update={"vgpu_manager": manager}),
        labels=restore.labels,
        unsettled=restore.unsettled,
        bios=bios,
        ran=restore.ran,
        left=(*about_manager, *about_bios),
    )


def _manager(
    state: HostState, before: Profile, restore: Restore
) -> tuple[VgpuManager | Literal["absent"] | None, list[str]]:
    wanted = before.vgpu_manager
    have = ", ".join(f"{vib.name} {vib.version}" for vib in installed_managers(state))
    if image_managed(state) and state.cluster:
        # The image is the whole cluster's: taken back for one host, the others would lose what they may run by now.
        if all(step.kind is not StepKind.REMEDIATE_IMAGE for step in restore.ran):
            return None, []
        return None, [
            f"the image of cluster {state.cluster.name}, which its other hosts follow too, stays as this run left it, "
            f"and {state.ref.name} with it ({have or 'no vGPU Manager'})"
        ]
    if not isinstance(wanted, VgpuManager) or state.vibs is None:
        return wanted, []
    if any(vib.name == wanted.name and meets(vib.version, wanted.version) for vib in installed_managers(state)):
        return wanted, []
    return None, [
        f"{have or 'no vGPU Manager'} stays; {wanted.name} {wanted.version} was there before, and only a person can "
        f"install it again: no depot of it is known"
    ]


def _bios(state: HostState, before: Profile, restore: Restore) -> tuple[dict[str, str], list[str]]:
    old = replaced(restore.ran)
    if not old:
        return {}, []
    if state.bios is None:
        said = ", ".join(f"{name} was {value}" for values in old.values() for name, value in values.items())
        return {}, [
            f"what this run switched on in the BIOS ({said}): the BMC could not be asked: "
            + (state.bios_unread or "the configuration names none")
        ]
    back: dict[str, str] = {}
    left: list[str] = []
    for feature, values in old.items():
        changed = {
            name: value
            for name, value in values.items()
            if {state.bios.switches.get(name), state.bios.pending.get(name, value)} != {value}
        }
        if changed and (user := next(_users(state, before, feature), "")):
            left.append(f"{feature} stays on in the BIOS, because {user} needs it")
        elif gone := sorted(changed.keys() - state.bios.switches.keys()):
            left.append(f"{feature}: the BIOS has no {', '.join(gone)} any more")
        else:
            back |= changed
    return back, left


def _users(state: HostState, before: Profile, feature: BiosFeature) -> Iterator[str]:
    """Devices that need a BIOS feature once `before` is there, in words."""
    pairs = wanted_gpus(state, before)
    ours = {gpu.sbdf for gpu, _ in pairs}
    freed: set[str] = set()
    for gpu, wanted in pairs:
        if wanted.mode is GpuMode.DEFAULT:
            freed |= {function.sbdf for function in functions_behind(state, gpu)}
        elif wanted.mode in SHARED or feature is not BiosFeature.SRIOV:
            yield f"{gpu.sbdf} ({gpu.name}), in mode {wanted.mode} before,"
    for device in state.pci:
        if device.sbdf in freed | ours:
            continue
        shown = graphics_of(state, device)
        if device.sriov_enabled or (shown and shown.configured_type == "sharedDirect"):
            yield f"{device.sbdf} ({device.name}), which several VMs share,"
        elif device.passthru_enabled and feature is not BiosFeature.SRIOV:
            yield f"{device.sbdf} ({device.name}), in passthrough,"


def _known(value: str | None, values: tuple[str, ...]) -> str | None:
    return value if value in values else None


def _configured(state: HostState, gpu: PciFunction) -> GpuWanted:
    if gpu.passthru_enabled:
        return GpuWanted(sbdf=gpu.sbdf, mode=GpuMode.PASSTHROUGH, label=gpu.hardware_label or "")
    device = graphics_of(state, gpu)
    if device is None or device.configured_type != "sharedDirect":
        return GpuWanted(sbdf=gpu.sbdf, mode=GpuMode.DEFAULT)
    return GpuWanted(sbdf=gpu.sbdf, mode=GpuMode.VGPU_MIG if mig_on(device) else GpuMode.VGPU)
