"""The settings of the service: a YAML file, over which `GPUWRIGHT_…` environment variables go.

`GPUWRIGHT_TEMPORAL__ADDRESS=temporal:7233` sets `temporal.address`; a list is given as JSON. Relative paths in the
file (keys that end in `_file` or `_files`) start at the file's directory, those in the environment at the current one.
The file may be a symbolic link: what counts is where the link is, because Kubernetes changes its target.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from contracts.audit import AuditLimits, RemedyPolicy
from contracts.errors import BadRequest
from contracts.gate import GateLimits
from contracts.prepare import HostLimits
from contracts.profiles import Strict
from contracts.provision import VmLimits
from contracts.watch import UNREACHABLE_AFTER_S
from contracts.webhooks import WebhookSettings
from contracts.windows import Window
from vsphere.settings import BmcSettings, GuestCredentials, SshSettings, VCenterSettings
from workers.yaml_document import Document, problems_of, raise_all

__all__ = [
    "ApprovalSettings",
    "AuditSettings",
    "CloudInitSettings",
    "DriftSettings",
    "GateSettings",
    "LimitSettings",
    "LoggingSettings",
    "MetricsSettings",
    "Settings",
    "TemporalSettings",
    "TlsSettings",
    "VmLimitSettings",
    "WatchSettings",
    "load_settings",
]

PREFIX = "GPUWRIGHT_"


class TlsSettings(Strict):
    """TLS towards Temporal; an empty section (`tls: {}`) means TLS with the system's authorities."""

    ca_file: Path | None = None
    """PEM bundle of the authorities to trust instead of the system's."""
    cert_file: Path | None = None
    """PEM certificate that this client shows (mutual TLS)."""
    key_file: Path | None = None
    server_name: str | None = None
    """The name in the server's certificate where it differs from the address."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("give both 'cert_file' and 'key_file', or neither")
        return self


class TemporalSettings(Strict):
    """Which Temporal runs the workflows."""

    address: str = Field(default="127.0.0.1:7233", pattern=r"^[^/\s]+:\d+$")
    """`host:port` of the frontend."""
    namespace: str = Field(default="default", min_length=1)
    task_queue: str = Field(default="gpuwright", min_length=1, max_length=200)
    """Base name of the three task queues."""
    tls: TlsSettings | None = None
    api_key_file: Path | None = None
    """File with an API key (Temporal Cloud); implies TLS."""


class ApprovalSettings(Strict):
    """Who may allow what disturbs a host."""

    trusted_key_files: tuple[Path, ...] = ()
    """Public keys (PEM, Ed25519) whose decisions count; `gpuwright keys new` makes a pair."""
    signing_key_file: Path | None = None
    """The service's own private key; only used with `auto_approve`."""
    deadline_s: int = Field(default=72 * 3600, ge=60, le=30 * 24 * 3600)
    """How long a question waits for an answer, in seconds."""
    requester_may_approve: bool = False
    ask_for_vms: bool = False
    """A person approves new GPU VMs too; without it only what disturbs is asked about."""
    auto_approve: bool = False
    """For a lab: the service approves by itself."""

    @model_validator(mode="after")
    def _somebody_can(self) -> Self:
        if self.auto_approve and self.signing_key_file is None:
            raise ValueError("'auto_approve' needs 'signing_key_file'; make a key with `gpuwright keys new`")
        if not self.auto_approve and not self.trusted_key_files:
            raise ValueError(
                "nobody could approve anything; name public keys in 'trusted_key_files' "
                "(`gpuwright keys new` makes a pair)"
            )
        return self


class LimitSettings(HostLimits):
    """`HostLimits`, with unknown keys refused."""

    model_config = ConfigDict(extra="forbid")


class VmLimitSettings(VmLimits):
    """`VmLimits`, with unknown keys refused."""

    model_config = ConfigDict(extra="forbid")


class CloudInitSettings(Strict):
    """What cloud-init is given in a new VM. Requests name the entry: such files hold keys."""

    user_data_file: Path


class GateSettings(GateLimits):
    """`GateLimits`, with unknown keys refused."""

    model_config = ConfigDict(extra="forbid")


class DriftSettings(Strict):
    """Looking at prepared hosts again by schedule."""

    enabled: bool = True
    """Off removes the schedule, and with it what is known of hosts whose preparations Temporal no longer keeps."""
    every_s: int = Field(default=3600, ge=60, le=7 * 24 * 3600)
    propose: bool = True
    """Start a preparation, which asks for approval, for each host that drifted; else it is only told."""
    max_open: int = Field(default=20, ge=1, le=1000)
    """Propose nothing more while so many preparations of a vCenter run."""


class AuditSettings(AuditLimits, RemedyPolicy):
    """`AuditLimits` and `RemedyPolicy`, with unknown keys refused."""

    model_config = ConfigDict(extra="forbid")


class WatchSettings(Strict):
    """Following the events of vCenters."""

    unreachable_after_s: float = Field(default=UNREACHABLE_AFTER_S, ge=1, le=24 * 3600)
    """How long a vCenter's events may stay unread, or not get to a webhook, before people are told, in seconds."""


class LoggingSettings(Strict):
    """How the service logs, to standard error."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsSettings(Strict):
    """Metrics for Prometheus."""

    listen: str | None = Field(default=None, pattern=r"^[^/\s]+:\d+$")
    """`host:port` on which `/metrics` is served; off when absent."""


class Settings(BaseSettings):
    """Everything that `gpuwright serve` can be told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    temporal: TemporalSettings = TemporalSettings()
    vcenters: tuple[VCenterSettings, ...] = Field(min_length=1)
    rules_file: Path
    approvals: ApprovalSettings
    limits: LimitSettings = LimitSettings()
    windows: tuple[Window, ...] = ()
    """When hosts may be disturbed; without any, always."""
    ssh: SshSettings | None = None
    """How to log in to hosts for MIG; without it, MIG steps wait for a person."""
    bmcs: tuple[BmcSettings, ...] = ()
    """BMCs of hosts, asked about the BIOS where vSphere cannot tell; a host's is the first entry that names it."""
    guest_credentials: dict[str, GuestCredentials] = Field(default_factory=dict)
    """Who logs in to guests for their driver, by the name that requests use."""
    cloud_init: dict[str, CloudInitSettings] = Field(default_factory=dict)
    """User data for cloud-init, by the name that requests use."""
    vm_limits: VmLimitSettings = VmLimitSettings()
    gate: GateSettings = GateSettings()
    drift: DriftSettings = DriftSettings()
    audit: AuditSettings = AuditSettings()
    """How long audits of failures wait, and which remedies they propose."""
    watch: WatchSettings = WatchSettings()
    webhooks: tuple[WebhookSettings, ...] = ()
    """Where CloudEvents go."""
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()

    @field_validator("vcenters", mode="after")
    @classmethod
    def _unique(cls, vcenters: tuple[VCenterSettings, ...]) -> tuple[VCenterSettings, ...]:
        names = [vcenter.name for vcenter in vcenters]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must differ, because workflow IDs hold them; used twice: {', '.join(twice)}")
        return vcenters

    @field_validator("webhooks", mode="after")
    @classmethod
    def _unique_webhooks(cls, webhooks: tuple[WebhookSettings, ...]) -> tuple[WebhookSettings, ...]:
        names = [webhook.name for webhook in webhooks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must differ, because workflow IDs hold them; used twice: {', '.join(twice)}")
        return webhooks

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file, whose content comes as the init arguments."""
        return env_settings, init_settings


def load_settings(path: Path) -> Settings:
    """The settings in `path` and the environment; raises `BadRequest` with file, line, key and fix of each problem."""
    document = Document(path)
    try:
        return Settings(**_anchored(document.data, path.absolute().parent))
    except ValidationError as error:
        raise_all(problems_of(error, Settings, document, PREFIX))
        raise
    except SettingsError as error:
        reason = f" ({error.__cause__})" if isinstance(error.__cause__, json.JSONDecodeError) else ""
        raise BadRequest(f"environment variable {PREFIX}…: {error}{reason}; give lists and sections as JSON") from error


def _anchored(value: Any, directory: Path, key: str = "") -> Any:
    """`value` with the relative paths in it made absolute."""
    if isinstance(value, dict):
        return {name: _anchored(below, directory, str(name)) for name, below in value.items()}
    if isinstance(value, list):
        return [_anchored(item, directory, key) for item in value]
    if isinstance(value, str) and key.endswith(("_file", "_files")):
        return str(directory / Path(value).expanduser())
    return value
