"""The settings of one vCenter. Secrets come from files or the environment and are read at each login."""

import os
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from contracts.errors import BadRequest
from contracts.profiles import Strict

__all__ = ["VCenterSettings"]


class VCenterSettings(Strict):
    """Where a vCenter is, who gpuwright is there, and what proves that it is the right one."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=63)
    """The name used in workflow IDs, rules and messages."""
    url: str
    """`https://vcenter.example.com` or with a port; the path `/sdk` is implied."""
    user: str = Field(min_length=1)
    password_file: Path | None = None
    password_env: str | None = None
    """Name of the environment variable that holds the password."""
    ca_file: Path | None = None
    """PEM bundle of the certificate authorities to trust instead of the system's."""
    server_cert_file: Path | None = None
    """PEM file with exactly the certificate that the server must present (pinned); names and dates do not matter."""
    insecure_skip_verify: bool = False
    """Trust anybody who answers. For a lab; every connection logs a warning."""
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

    @property
    def password_source(self) -> str:
        """Where the password comes from, in words."""
        if self.password_file is not None:
            return f"file {self.password_file}"
        return f"environment variable {self.password_env}"

    def password(self) -> SecretStr:
        """The password as it is now, so that a rotated one works without a restart; raises `BadRequest`."""
        if self.password_file is not None:
            try:
                text = self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise BadRequest(
                    f"vCenter {self.name}: the password file {self.password_file} cannot be read ({error}); "
                    "create it, readable for the service's user only, or correct 'password_file'"
                ) from error
        else:
            text = os.environ.get(self.password_env or "", "")
        if not text:
            raise BadRequest(f"vCenter {self.name}: {self.password_source} holds no password")
        return SecretStr(text)
