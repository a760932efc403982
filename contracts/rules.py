"""Rules: which vCenter events start which workflow. Written by people in YAML, loaded by `workers/rules_file.py`."""

import re
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from contracts.profiles import GpuMode, Profile, Strict, VgpuManager
from contracts.vms import VmRequest, VmWish

__all__ = ["STARTS", "Rule", "RuleArguments", "RuledVm", "RulesFile", "Where"]

_NEEDS = {"PrepareGpuHost": "profile", "ProvisionGpuVm": "request", "HaRecoveryAudit": None}
"""Workflow → what a rule gives it; None: nothing."""
STARTS = tuple(_NEEDS)
"""What rules can start."""


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
