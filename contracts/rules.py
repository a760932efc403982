"""Rules: which vCenter events start which workflow. Written by people in YAML, loaded by `workers/rules_file.py`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from contracts.profiles import GpuMode, Profile, Strict, VgpuManager

__all__ = ["Rule", "RuleArguments", "RulesFile", "Where"]


class Where(Strict):
    """Glob patterns (`fnmatch`, case-sensitive) that the event's inventory names must match; None matches all."""

    vcenter: str | None = None
    cluster: str | None = None
    host: str | None = None


class RuleArguments(Strict):
    """What the started workflow gets besides its subject."""

    profile: str


class Rule(Strict):
    """One rule. `on` names event types (`HostAddedEvent`) or `EventEx.eventTypeId`s, compared without letter case."""

    name: str = Field(min_length=1, max_length=64)
    on: tuple[str, ...] = Field(min_length=1)
    where: Where = Where()
    start: Literal["PrepareGpuHost"]
    with_: RuleArguments = Field(alias="with")


class RulesFile(Strict):
    """The rules and the profiles they name."""

    rules: tuple[Rule, ...] = ()
    profiles: dict[str, Profile] = Field(default_factory=dict)

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
            if rule.with_.profile not in self.profiles:
                known = ", ".join(sorted(self.profiles)) or "none is defined"
                raise ValueError(f"rule {rule.name!r} names profile {rule.with_.profile!r}; profiles are: {known}")
        for profile in self.profiles.values():
            shared = any(entry.mode in (GpuMode.VGPU, GpuMode.VGPU_MIG) for entry in profile.gpus)
            if shared and not isinstance(profile.vgpu_manager, VgpuManager):
                raise ValueError(
                    f"profile {profile.name!r}: modes vgpu and vgpu-mig need 'vgpu_manager' with 'name' and 'version'"
                )
        return self
