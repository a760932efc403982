"""Everything a service needs to know before it connects to anything: settings, rules and keys, checked as one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.approvals import ApprovalTerms
from contracts.errors import BadRequest, GpuwrightError
from contracts.prepare import HostLimits
from contracts.rules import RulesFile
from contracts.signing import Keyring
from workers.keys import load_private_key, load_public_keys
from workers.rules_file import load_rules
from workers.settings import Settings, load_settings
from workers.vm_requests import known_to

__all__ = ["Configuration", "load_configuration"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Configuration:
    """Loaded and checked; `signing_key` is set only where the service approves by itself."""

    settings: Settings
    rules: RulesFile
    keyring: Keyring
    signing_key: Ed25519PrivateKey | None

    @property
    def limits(self) -> HostLimits:
        """How long a preparation waits, as it is recorded with each plan."""
        return HostLimits.model_validate(self.settings.limits.model_dump())

    @property
    def terms(self) -> ApprovalTerms:
        """The approval policy as it is recorded with each plan."""
        approvals = self.settings.approvals
        return ApprovalTerms(
            deadline_s=approvals.deadline_s,
            requester_may_approve=approvals.requester_may_approve,
            automatic=approvals.auto_approve,
        )


def load_configuration(path: Path) -> Configuration:
    """Load `path` and every file it names; raises `BadRequest` with all that is wrong at once.

    vCenter's passwords and certificates must be readable, yet no connection is made.
    """
    settings = load_settings(path)
    problems: list[str] = []

    def attempt(load: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return load(*args, **kwargs)
        except GpuwrightError as error:
            problems.append(str(error))
            return None

    approvals, temporal = settings.approvals, settings.temporal
    rules = attempt(load_rules, settings.rules_file, known_to(settings))
    public = attempt(load_public_keys, approvals.trusted_key_files) or []
    private = attempt(load_private_key, approvals.signing_key_file) if approvals.signing_key_file else None
    files = {"temporal.api_key_file": temporal.api_key_file}
    files |= {f"temporal.tls.{key}": getattr(temporal.tls, key, None) for key in ("ca_file", "cert_file", "key_file")}
    for vcenter in settings.vcenters:
        attempt(vcenter.password)
        files[f"vCenter {vcenter.name}: ca_file"] = vcenter.ca_file
        files[f"vCenter {vcenter.name}: server_cert_file"] = vcenter.server_cert_file
    if ssh := settings.ssh:
        attempt(ssh.password)
        files |= {"ssh.known_hosts_file": ssh.known_hosts_file, "ssh.private_key_file": ssh.private_key_file}
    for login in settings.guest_credentials.values():
        attempt(login.password)
    files |= {f"cloud_init.{name}: user_data_file": entry.user_data_file for name, entry in settings.cloud_init.items()}
    for bmc in settings.bmcs:
        attempt(bmc.password)
        who = f"BMCs of {', '.join(bmc.hosts)}"
        files |= {f"{who}: ca_file": bmc.ca_file, f"{who}: server_cert_file": bmc.server_cert_file}
    for webhook in settings.webhooks:
        for key in ("token_file", "hmac_key_file", "ca_file"):
            files[f"webhook {webhook.name}: {key}"] = getattr(webhook, key)
    for what, file in files.items():
        if file:
            attempt(_readable, file, what)
    if problems or rules is None:
        raise BadRequest("\n".join(problems))
    signing_key = private if approvals.auto_approve else None
    keys = [*public, signing_key.public_key()] if signing_key else public
    return Configuration(settings, rules, Keyring.of(*keys), signing_key)


def _readable(file: Path, what: str) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise BadRequest(f"{what}: {file} cannot be read: {error.strerror}; create it or correct the path") from error
