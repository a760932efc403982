"""Rules: which vCenter events start which workflow. Written by people in YAML, loaded by `workers/rules_file.py`."""

import re
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from contracts.profiles import GpuMode, Profile, Strict, VgpuManager
from contracts.vms import VmRequest, VmWish
from contracts.windows import Window

__all__ = ["STARTS", "Grouping", "Rule", "RuleArguments", "RuledVm", "RulesFile", "Where"]

_NEEDS = {"PrepareGpuHost": "profile", "ProvisionGpuVm": "request", "HaRecoveryAudit": None}
"""Workflow → what a rule gives it; None: nothing."""
STARTS = tuple(_NEEDS)
"""What rules can start."""


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _as_duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool):
        found = None
    elif isinstance(value, int | float):
        found = re.fullmatch(r"([0-9.]+)(s?)", f"{value:f}")
    else:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([smhd])", str(value).strip())
    duration = timedelta(seconds=float(found[1]) * _UNITS_S[found[2] or "s"]) if found else timedelta(0)
    if not timedelta(0) < duration <= timedelta(days=366):
        raise ValueError(f"{value!r} is no duration; write it like 30s, 10m, 2h or 1d")
    return duration


def _in_words(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    unit = next(unit for unit, size in reversed(_UNITS_S.items()) if seconds >= size or size == 1)
    return f"{seconds / _UNITS_S[unit]:g} {unit}"


Duration = Annotated[timedelta, BeforeValidator(_as_duration)]
"""As people write it: `30s`, `10m`, `2h`, `1d`, or seconds."""


class Grouping(StrEnum):
    """What a rule's throttles count together."""

    HOST = "host"
    CLUSTER = "cluster"
    VCENTER = "vcenter"


class Where(Strict):
    """Glob patterns (`fnmatch`, case-sensitive) that the event's inventory names must match; None matches all."""

    vcenter: str | None = None
    cluster: str | None = None
    host: str | None = None

    def fits(self, *, vcenter: str, cluster: str, host: str) -> bool:
        """Whether names match; an object without cluster or host has an empty one."""
        pairs = ((self.vcenter, vcenter), (self.cluster, cluster), (self.host, host))
        return all(pattern is None or fnmatchcase(name, pattern) for pattern, name in pairs)


class RuleArguments(Strict):
    """What the started workflow gets besides its subject: the one of these that it needs."""

    profile: str | None = None
    """For `PrepareGpuHost`: the name of an entry of `profiles`."""
    request: str | None = None
    """For `ProvisionGpuVm`: the name of an entry of `vms`."""


class Rule(Strict):
    """One rule. `on` names event types (`HostAddedEvent`) or `EventEx.eventTypeId`s, compared without letter case."""

    name: str = Field(min_length=1, max_length=64)
    on: tuple[str, ...] = Field(min_length=1)
    where: Where = Where()
    start: Literal["PrepareGpuHost", "ProvisionGpuVm", "HaRecoveryAudit"]
    with_: RuleArguments = Field(default=RuleArguments(), alias="with", validate_default=True)
    once_within: Duration | None = None
    """So long after it started a run for a group the rule starts no other one for the group; live runs get events."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """So many runs that the rule started may be open in a group; further targets wait."""
    quiet: tuple[Window, ...] = ()
    """When the rule starts nothing: targets wait until it is over."""
    group_by: Grouping | None = Field(default=None, validate_default=True)
    """None: each target (host, VM, incident) is a group of its own."""

    @field_validator("with_")
    @classmethod
    def _fits_start(cls, given: RuleArguments, info: ValidationInfo) -> RuleArguments:
        # Where `start` itself is wrong, that is told, and nobody knows what would fit.
        if start := info.data.get("start"):
            needed = _NEEDS[start]
            have = list(given.model_dump(exclude_none=True))
            if needed is None and have:
                raise ValueError(f"{start} takes nothing; leave 'with' out")
            if needed is not None and have != [needed]:
                raise ValueError(f"{start} takes {needed!r} and nothing else; write 'with: {{{needed}: NAME}}'")
        return given

    @field_validator("group_by")
    @classmethod
    def _groups_something(cls, given: Grouping | None, info: ValidationInfo) -> Grouping | None:
        once_within, max_concurrent = info.data.get("once_within"), info.data.get("max_concurrent")
        if given is None and max_concurrent is not None:
            raise ValueError(
                "is missing: a target has one live run anyway, so say of what 'max_concurrent' counts the runs; write "
                "'group_by: host', 'cluster' or 'vcenter'"
            )
        # Where one of them is wrong itself, that is told.
        told = {"once_within", "max_concurrent"} <= info.data.keys()
        if given is not None and told and once_within is None and max_concurrent is None:
            raise ValueError("groups nothing without 'once_within' or 'max_concurrent'; add one, or leave it out")
        return given

    @property
    def throttles(self) -> str:
        """Its throttles in words; empty without any."""
        words = []
        if self.once_within is not None:
            words.append(f"once within {_in_words(self.once_within)}")
        if self.max_concurrent is not None:
            words.append(f"at most {self.max_concurrent} open")
        if words and self.group_by is not None:
            words[-1] += f" a {self.group_by}"
        if self.quiet:
            words.append("quiet hours")
        return ", ".join(words)

    @property
    def throttled(self) -> bool:
        """Whether it starts runs through its `RuleThrottle`."""
        return self.once_within is not None or self.max_concurrent is not None or bool(self.quiet)


class RuledVm(VmWish):
    """A GPU VM that rules ask for. `{host}` in its name stands for the event's host, by the first label of its name."""

    vcenter: str | None = Field(default=None, min_length=1)
    """None: the vCenter of the event."""

    @field_validator("name")
    @classmethod
    def _known_words(cls, name: str) -> str:
        if wrong := [word for word in re.findall(r"\{.*?\}|[{}]", name) if word != "{host}"]:
            raise ValueError(f"{name!r}: {wrong[0]!r} stands for nothing; only {{host}} does, the event's host")
        return name

    @property
    def of_each_host(self) -> bool:
        """Each host that an event is about gets a VM of its own; otherwise all events ask for the same one."""
        return "{host}" in self.name

    def request(self, vcenter: str, host_name: str) -> VmRequest:
        """The VM for an event of this vCenter and host; raises `ValueError` where its name becomes none."""
        filled = {"name": self.name.replace("{host}", _first_label(host_name)), "vcenter": self.vcenter or vcenter}
        return VmRequest.model_validate(self.model_dump() | filled)


def _first_label(host_name: str) -> str:
    """`esx-01` of `esx-01.example.com`; an address whole, because hosts share its first part."""
    try:
        return str(ip_address(host_name))
    except ValueError:
        return host_name.partition(".")[0]


class RulesFile(Strict):
    """The rules, and the profiles and GPU VMs that they name."""

    rules: tuple[Rule, ...] = ()
    profiles: dict[str, Profile] = Field(default_factory=dict)
    vms: dict[str, RuledVm] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_profiles(cls, data: object) -> object:
        # In YAML a profile's name is its key; the model carries it too, because messages quote it.
        if isinstance(data, dict) and isinstance(profiles := data.get("profiles"), dict):
            named = {
                name: {**body, "name": name} if isinstance(body, dict) else body for name, body in profiles.items()
            }
            return {**data, "profiles": named}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rule names must differ; used more than once: {', '.join(twice)}")
        for rule in self.rules:
            if rule.with_.profile is not None and rule.with_.profile not in self.profiles:
                known = ", ".join(sorted(self.profiles)) or "none is defined"
                raise ValueError(f"rule {rule.name!r} names profile {rule.with_.profile!r}; profiles are: {known}")
            if rule.with_.request is not None and rule.with_.request not in self.vms:
                known = ", ".join(sorted(self.vms)) or "none is defined"
                raise ValueError(f"rule {rule.name!r} names request {rule.with_.request!r}; vms are: {known}")
        for profile in self.profiles.values():
            shared = any(entry.mode in (GpuMode.VGPU, GpuMode.VGPU_MIG) for entry in profile.gpus)
            if shared and not isinstance(profile.vgpu_manager, VgpuManager):
                raise ValueError(
                    f"profile {profile.name!r}: modes vgpu and vgpu-mig need 'vgpu_manager' with 'name' and 'version'"
                )
        return self
