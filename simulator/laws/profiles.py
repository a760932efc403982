"""The vGPU profiles that a card offers: by its model, by the package that runs, and by MIG."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulator.hardware import GpuModel, model_of
from simulator.world import Host

__all__ = ["Profile", "offered", "profiles_of"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile: its framebuffer, and how many MIG slices it takes, 0 when it is time-sliced.

    `series` is NVIDIA's letter: `c` for compute, `q`, `b` and `a` for graphics. `migrates` tells whether a VM with it
    can move while it runs.
    """

    name: str
    framebuffer_mib: int
    slices: int = 0
    series: str = "c"
    migrates: bool = True


def profiles_of(host: Host, pci_id: str) -> dict[str, Profile]:
    """The profiles of one card by name; none unless the vGPU Manager runs and the card is shared directly.

    The AI Enterprise package offers profiles for compute only; the graphics package those for graphics only, which
    compute cards do not have. Cards from Ampere on need SR-IOV in the BIOS. MIG takes the place of time-slicing.
    """
    manager = next((vib for vib in host.running_vibs if vib.provides_vgpu), None)
    card, function = host.gpus[pci_id], host.pci[pci_id]
    model = model_of(function)
    if manager is None or card.active_type != "sharedDirect" or (model.sriov and not host.bios_sriov):
        return {}
    if not manager.name.startswith("NVD-AIE"):
        found = [] if model.compute_only else _graphics(model)
    elif card.mig:
        found = _slices(model)
    else:
        found = [Profile(f"{model.profile_prefix}-{gib}c", gib * 1024) for gib in model.vgpu_framebuffers_gib]
    return {profile.name: replace(profile, migrates=host.vgpu_migration) for profile in found}


def _graphics(model: GpuModel) -> list[Profile]:
    return [
        Profile(f"{model.profile_prefix}-{gib}{series}", gib * 1024, series=series)
        for series in "qba"
        for gib in (1, 2, *(() if series == "b" else model.vgpu_framebuffers_gib))
    ]


def _slices(model: GpuModel) -> list[Profile]:
    return [Profile(f"{model.profile_prefix}-{slices}-{gib}c", gib * 1024, slices) for slices, gib in model.mig]


def offered(host: Host) -> dict[str, Profile]:
    """All profiles that the host's cards offer, by name."""
    return {name: profile for pci_id in host.gpus for name, profile in profiles_of(host, pci_id).items()}
