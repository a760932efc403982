"""How a host is configured now, as a profile: what a run goes back to when a person gives up on it."""

from typing import Literal

from contracts.host import HostState, PciFunction
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from planning.devices import graphics_of, mig_on, wanted_gpus
from planning.manager import installed_managers

__all__ = ["configuration_of"]

_POLICIES = ("performance", "consolidation")
_TYPES = ("shared", "sharedDirect")


def configuration_of(state: HostState, profile: Profile) -> Profile:
    """The configured mode and label of each GPU that `profile` speaks of, and the vGPU Manager, as they are now.

    An older vGPU Manager is named without a depot: putting it back needs a person, and the plan will say so.
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
        }
    )


def _known(value: str | None, values: tuple[str, ...]) -> str | None:
    return value if value in values else None


def _configured(state: HostState, gpu: PciFunction) -> GpuWanted:
    if gpu.passthru_enabled:
        return GpuWanted(sbdf=gpu.sbdf, mode=GpuMode.PASSTHROUGH, label=gpu.hardware_label or "")
    device = graphics_of(state, gpu)
    if device is None or device.configured_type != "sharedDirect":
        return GpuWanted(sbdf=gpu.sbdf, mode=GpuMode.DEFAULT)
    return GpuWanted(sbdf=gpu.sbdf, mode=GpuMode.VGPU_MIG if mig_on(device) else GpuMode.VGPU)
