"""Profiles: what a host's GPUs should be. Rules name a profile; planners compare hosts with it."""

import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from contracts.evacuation import StuckVms
from contracts.packages import check_requirement

__all__ = ["GpuMode", "GpuWanted", "Profile", "Strict", "VgpuManager", "pci_address", "vendor_device"]


class Strict(BaseModel):
    """A model of what people write in configuration files: an unknown key is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GpuMode(StrEnum):
    """How one physical GPU is offered to VMs."""

    DEFAULT = "default"
    """As a fresh ESXi leaves it: nobody uses it."""
    PASSTHROUGH = "passthrough"
    """Static or Dynamic DirectPath I/O: one VM owns the whole device."""
    VGPU = "vgpu"
    """NVIDIA vGPU, time-sliced: several VMs share the card (`sharedDirect`)."""
    VGPU_MIG = "vgpu-mig"
    """NVIDIA vGPU on MIG instances: several VMs, isolated slices."""


def vendor_device(value: str) -> str:
    """`value` in lower case; raises `ValueError` unless it is a PCI vendor:device pair."""
    if not re.fullmatch(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}", value):
        raise ValueError(f"{value!r} is not a PCI vendor:device pair; write it like '10de:20f1' (see `lspci -n`)")
    return value.lower()


def pci_address(value: str) -> str:
    """`value` in lower case; raises `ValueError` unless it is a PCI address (SBDF)."""
    if not re.fullmatch(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]", value):
        raise ValueError(f"{value!r} is not a PCI address; write it like '0000:81:00.0'")
    return value.lower()


class GpuWanted(Strict):
    """The mode and label wanted for some GPUs of a host.

    `match`, `sbdf` and `has_label` choose the GPUs, all that are given must fit; `count` takes only so many, by
    address. A GPU belongs to the first entry that chooses it.
    """

    match: Annotated[str, AfterValidator(vendor_device)] | None = None
    """PCI vendor:device, e.g. `10de:20f1`."""
    sbdf: Annotated[str, AfterValidator(pci_address)] | None = None
    """PCI address; it moves when hardware is changed."""
    has_label: str | None = None
    """The hardware label that the GPU carries now."""
    count: int | None = Field(default=None, ge=1)
    mode: GpuMode
    label: str | None = Field(default=None, max_length=32)
    """Hardware label (`PciPassthruConfig.hardwareLabel`, vSphere 7.0.2 and later); None leaves labels alone, empty
    clears them."""

    @model_validator(mode="after")
    def _chooses_something(self) -> Self:
        if self.match is None and self.sbdf is None and self.has_label is None:
            raise ValueError("say which GPUs: give 'match' (vendor:device), 'sbdf' or 'has_label'")
        if self.label is not None and self.mode is not GpuMode.PASSTHROUGH:
            raise ValueError(f"'label' is for mode passthrough; a GPU in mode {self.mode} is not chosen by label")
        return self


class VgpuManager(Strict):
    """The NVIDIA vGPU Manager (host driver VIB) that vGPU modes need."""

    name: str = Field(min_length=1)
    """The VIB's or component's name as `esxcli software vib list` shows it, e.g. `NVD-VGPU_ESXi_8.0.0_Driver`."""
    version: Annotated[str, AfterValidator(check_requirement)]
    """A requirement such as `>=550`, `550.*`, `>=535,<550` or `550.54.16` (see `contracts.packages.meets`)."""
    depot: str | None = None
    """Where to install it from: an https URL of an offline bundle, or a path `[datastore] folder/file.zip`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Checksum of the depot file; needed with `depot`."""

    @model_validator(mode="after")
    def _checked_depot(self) -> Self:
        if self.depot is not None and self.sha256 is None:
            raise ValueError("'depot' needs 'sha256', the checksum of the file (`sha256sum FILE`)")
        if self.depot is not None and not re.match(r"https://|\[[^\]]+\] ", self.depot):
            raise ValueError(f"'depot' {self.depot!r} is neither an https URL nor a path like '[datastore1] vib/x.zip'")
        return self


class Profile(Strict):
    """A named wish for a host's GPUs."""

    name: str
    gpus: tuple[GpuWanted, ...] = Field(min_length=1)
    vgpu_manager: VgpuManager | Literal["absent"] | None = None
    """None leaves it as it is; `absent` removes it."""
    sharing: Literal["performance", "consolidation"] | None = None
    """Assignment policy for vGPU (`sharedPassthruAssignmentPolicy`): breadth-first, or fill a card first."""

    stuck_vms: StuckVms = StuckVms.WAIT
    """What becomes of VMs on the host that cannot move while they are on; each is named in the plan."""
    default_graphics: Literal["shared", "sharedDirect"] | None = None
    """Host default graphics type (`hostDefaultGraphicsType`); None: `sharedDirect` where a vGPU mode is wanted, else it
    is left as it is."""
