"""The settings of vCenters, guests, BMCs and SSH. Secrets come from files or the environment, read at each login."""

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from contracts.errors import BadRequest
from contracts.profiles import Strict

__all__ = ["BmcSettings", "GuestCredentials", "SshSettings", "VCenterSettings", "bmc_for"]


class _Secret(Strict):
    """A password that is read anew each time, so that a rotated one works without a restart."""

    password_file: Path | None = None
    password_env: str | None = None
    """Name of the environment variable that holds the password."""

    @property
    def password_source(self) -> str:
        """Where the password comes from, in words."""
        if self.password_file is not None:
            return f"file {self.password_file}"
        return f"environment variable {self.password_env}"

    def _password(self, owner: str) -> SecretStr:
        if self.password_file is not None:
            try:
                text = self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise BadRequest(
                    f"{owner}: the password file {self.password_file} cannot be read ({error}); "
                    "create it, readable for the service's user only, or correct 'password_file'"
                ) from error
        else:
            text = os.environ.get(self.password_env or "", "")
        if not text:
            raise BadRequest(f"{owner}: {self.password_source} holds no password")
        return SecretStr(text)


class VCenterSettings(_Secret):
    """Where a vCenter is, who gpuwright is there, and what proves that it is the right one."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=63)
    """The name used in workflow IDs, rules and messages."""
    url: str
    """`https://vcenter.example.com` or with a port; the path `/sdk` is implied."""
    user: str = Field(min_length=1)
    ca_file: Path | None = None
    """PEM bundle of the certificate authorities to trust instead of the system's."""
    server_cert_file: Path | None = None
    """PEM file with exactly the certificate that the server must present (pinned); names and dates do not matter."""
    insecure_skip_verify: bool = False
    """Trust anybody who answers. For a lab; every connection logs a warning."""
    narrow_events: Literal["never", "types", "ids"] = "types"
    """When vCenter is asked only for the events that rules need, where its catalogue of events has them all: `types`:
    where rules name types alone; `ids`: also by `eventTypeId`, as the catalogue spells it."""
    max_sessions: int = Field(default=4, ge=1, le=64)
    keep_alive_s: float = Field(default=300, gt=0, le=1500)
    """Idle sessions are touched this often; vCenter ends a session after 30 idle minutes by default."""
    connect_timeout_s: float = Field(default=10, gt=0)
    read_timeout_s: float = Field(default=120, ge=30)
    """How long one answer may take; longer than any push wait (10 s)."""

    @field_validator("url")
    @classmethod
    def _https_url(cls, value: str) -> str:
        parts = urlsplit(value if "://" in value else f"https://{value}")
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"{value!r} is not a vCenter address; write it like 'https://vcenter.example.com'")
        if parts.username or parts.password:
            raise ValueError("the address must not hold a password; use 'user' and 'password_file' or 'password_env'")
        if parts.path.rstrip("/") not in ("", "/sdk") or parts.query or parts.fragment:
            raise ValueError(f"{value!r} has a path; only the host and the port are needed")
        return f"https://{parts.netloc}"

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.password_file is None) == (self.password_env is None):
            raise ValueError("give exactly one of 'password_file' and 'password_env'")
        trust = [self.ca_file is not None, self.server_cert_file is not None, self.insecure_skip_verify]
        if sum(trust) > 1:
            raise ValueError("give at most one of 'ca_file', 'server_cert_file' and 'insecure_skip_verify'")
        return self

    @property
    def host(self) -> str:
        """Host name or address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port."""
        return urlsplit(self.url).port or 443

    def password(self) -> SecretStr:
        """The password as it is now; raises `BadRequest`."""
        return self._password(f"vCenter {self.name}")


class GuestCredentials(_Secret):
    """Who gpuwright is inside Linux guests. Requests name the entry; the password stays where it is.

    Installing a driver needs root, or a user whom `sudo -n` lets run `sh` as root.
    """

    user: str = Field(default="root", min_length=1)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.password_file is None) == (self.password_env is None):
            raise ValueError("give exactly one of 'password_file' and 'password_env'")
        return self

    def password(self) -> SecretStr:
        """The password as it is now; raises `BadRequest`."""
        return self._password(f"guest user {self.user}")


class SshSettings(_Secret):
    """How gpuwright logs in to ESXi hosts for nvidia-smi. SSH is opened and closed through vCenter."""

    user: str = Field(default="root", min_length=1)
    """In lockdown mode it has to be an exception user."""
    address: str = Field(default="{host}", min_length=1)
    """Where a host's SSH is: `{host}` is the host's name in vCenter, `{short}` its first label."""
    port: int = Field(default=22, ge=1, le=65535)
    private_key_file: Path | None = None
    known_hosts_file: Path
    """OpenSSH `known_hosts`: the key of every host that MIG is set on. Unknown hosts are refused."""

    @field_validator("address")
    @classmethod
    def _fills(cls, value: str) -> str:
        try:
            value.format(host="a.b", short="a")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"{value!r} is not an SSH address: only {{host}} and {{short}} stand in") from error
        return value

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        given = [self.password_file, self.password_env, self.private_key_file]
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of 'password_file', 'password_env' and 'private_key_file'")
        return self

    def address_of(self, host_name: str) -> str:
        """The address of one host's SSH."""
        return self.address.format(host=host_name, short=host_name.partition(".")[0])

    @property
    def login_source(self) -> str:
        """What proves the user, in words."""
        if self.private_key_file is not None:
            return f"key {self.private_key_file}"
        return f"the password from {self.password_source}"

    def password(self) -> str | None:
        """The password as it is now; None where a key is used. Raises `BadRequest`."""
        if self.private_key_file is not None:
            return None
        return self._password(f"SSH user {self.user}").get_secret_value()


class BmcSettings(_Secret):
    """The BMCs of some hosts: where their Redfish is, who gpuwright is there, and what proves them."""

    hosts: tuple[str, ...] = Field(min_length=1)
    """Host names (patterns like `gpu-*.example.com`, letter case does not matter) or hardware UUIDs."""
    url: str
    """`https://{short}-bmc.example.com`: `{host}` is the host's name, `{short}` its first label, `{uuid}` its UUID."""
    user: str = Field(min_length=1)
    ca_file: Path | None = None
    """PEM bundle of the certificate authorities to trust instead of the system's."""
    server_cert_file: Path | None = None
    """PEM file with exactly the certificate that the BMC must present; for one host's entry."""
    insecure_skip_verify: bool = False
    """Trust anybody who answers. For a lab; every connection logs a warning."""
    connect_timeout_s: float = Field(default=10, gt=0)
    read_timeout_s: float = Field(default=60, gt=0)
    """BMCs are slow: Bios resources take many seconds."""

    @field_validator("url")
    @classmethod
    def _template(cls, value: str) -> str:
        try:
            parts = urlsplit(value.format(host="a.b", short="a", uuid="0"))
            port_is_fine = parts.port is None or parts.port > 0
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"{value!r} is not a BMC address: only {{host}}, {{short}} and {{uuid}} stand in"
            ) from error
        if parts.scheme != "https" or not parts.hostname or not port_is_fine or parts.username or parts.query:
            raise ValueError(f"{value!r} is not a BMC address; write it like 'https://{{short}}-bmc.example.com'")
        if parts.path.rstrip("/") not in ("", "/redfish/v1"):
            raise ValueError(f"{value!r} has a path; only the host and the port are needed")
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.password_file is None) == (self.password_env is None):
            raise ValueError("give exactly one of 'password_file' and 'password_env'")
        if sum([self.ca_file is not None, self.server_cert_file is not None, self.insecure_skip_verify]) > 1:
            raise ValueError("give at most one of 'ca_file', 'server_cert_file' and 'insecure_skip_verify'")
        return self

    def address(self, host_name: str, uuid: str) -> str:
        """The BMC's address of one host, `https://name[:port]`."""
        filled = self.url.format(host=host_name, short=host_name.partition(".")[0], uuid=uuid)
        return f"https://{urlsplit(filled).netloc}"

    def password(self) -> SecretStr:
        """The password as it is now; raises `BadRequest`."""
        return self._password(f"BMC user {self.user}")


def bmc_for(bmcs: Iterable[BmcSettings], host_name: str, uuid: str) -> BmcSettings | None:
    """The first entry that names the host, by its name or hardware UUID."""
    for bmc in bmcs:
        for pattern in bmc.hosts:
            if pattern.casefold() == uuid.casefold() or fnmatchcase(host_name.casefold(), pattern.casefold()):
                return bmc
    return None
