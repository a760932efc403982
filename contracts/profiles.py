"""Profiles: what a host's GPUs should be. Rules name a profile; planners compare hosts with it."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = ["GpuMode", "GpuWanted", "Profile", "Strict"]


class Strict(BaseModel):
    """A model of what people write in configuration files: an unknown key is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GpuMode(StrEnum):
    """How one physical GPU is offered to VMs."""

    PASSTHROUGH = "passthrough"
    """Static or Dynamic DirectPath I/O: one VM owns the whole device."""


def _vendor_device(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}", value):
        raise ValueError(f"{value!r} is not a PCI vendor:device pair; write it like '10de:20f1' (see `lspci -n`)")
    return value.lower()


class GpuWanted(Strict):
    """The mode and label wanted for every GPU with one PCI vendor:device pair."""

    match: Annotated[str, AfterValidator(_vendor_device)]
    mode: GpuMode
    label: str | None = Field(default=None, min_length=1, max_length=32)
    """Hardware label (`PciPassthruConfig.hardwareLabel`, vSphere 7.0.2 and later); None leaves labels alone."""


class Profile(Strict):
    """A named wish for a host's GPUs."""

    name: str
    gpus: tuple[GpuWanted, ...] = Field(min_length=1)
