"""Webhooks that CloudEvents go to, as people write them in the configuration."""

import re
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from contracts.profiles import Strict
from contracts.rules import Where

__all__ = ["ForwardedEvents", "WebhookSettings"]

_MARK = re.compile(r"\{.*?\}|[{}]")


class ForwardedEvents(Strict):
    """Which vCenter events go to a webhook, and how they are called there."""

    on: tuple[str, ...] = Field(min_length=1)
    """Patterns (`fnmatch`) for event types or `eventTypeId`s, compared without letter case; `*` is every event."""
    where: Where = Where()
    """By the names that the event itself tells."""
    type: str = "com.vmware.vsphere.{type}.v0"
    """The CloudEvent's type: `{type}` is the event's type or `eventTypeId`, `{class}` one of `event`, `eventex` and
    `extendedevent`. As the Knative VSphereSource says it; VMware's event router said `com.vmware.event.router/{class}`.
    """

    @field_validator("type")
    @classmethod
    def _known_words(cls, value: str) -> str:
        if wrong := [word for word in _MARK.findall(value) if word not in ("{type}", "{class}")]:
            raise ValueError(f"{value!r}: {wrong[0]!r} stands for nothing; only {{type}} and {{class}} do")
        if not value:
            raise ValueError("the type of a CloudEvent is not empty; leave 'type' out for the usual one")
        return value

    def fits_type(self, *type_names: str) -> bool:
        """Whether an event with one of these names is wanted, wherever it is from."""
        names = [name.casefold() for name in type_names]
        return any(fnmatchcase(name, pattern.casefold()) for pattern in self.on for name in names)


class WebhookSettings(Strict):
    """Where CloudEvents go, what proves us there and the webhook to us, and which events it gets."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=63)
    """The name used in workflow IDs, metrics and messages."""
    url: str
    insecure_http: bool = False
    """Send without TLS: whoever is on the way reads the events and the token. For a lab; each start logs a warning."""
    token_file: Path | None = None
    """File with the token of `Authorization: Bearer`, read anew for each request."""
    hmac_key_file: Path | None = None
    """File with the key that signs each body (HMAC-SHA256), read anew for each request."""
    ca_file: Path | None = None
    """PEM bundle of the certificate authorities to trust instead of the system's."""
    timeout_s: float = Field(default=10, gt=0, le=60)
    """How long the webhook may take to answer a request, connecting included."""
    mode: Literal["structured", "binary", "batch"] = "structured"
    """The content mode of the CloudEvents HTTP binding."""
    batch_size: int = Field(default=100, ge=1, le=1000)
    """Most events of one request, in batch mode."""
    in_flight: int = Field(default=1, ge=1, le=64)
    """Requests under way at once. With more than one, events may change places with others of their page."""
    events: ForwardedEvents | None = None
    """The vCenter events that it gets; absent: none."""
    notices: bool = False
    """Whether it gets what gpuwright tells people."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port is None or parts.port)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(f"{value!r} is not a webhook's address; write it like 'https://events.example.com/hook'")
        if parts.username or parts.password or parts.fragment:
            raise ValueError("the address must hold no user, password or fragment; use 'token_file' or 'hmac_key_file'")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if urlsplit(self.url).scheme == "http" and not self.insecure_http and not _loopback(self.url):
            raise ValueError(
                "'url' is without TLS; write https://, or 'insecure_http: true' where everybody may read the events"
            )
        if self.mode == "binary" and self.hmac_key_file:
            raise ValueError("'hmac_key_file' signs bodies, and binary mode keeps attributes outside; use 'structured'")
        if self.events is None and not self.notices:
            raise ValueError("the webhook gets nothing; give 'events', or 'notices: true'")
        return self

    @property
    def address(self) -> str:
        """Scheme, host and port: paths and queries of webhooks can be secrets, so messages tell no more."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def where(self) -> str:
        """The webhook, in words."""
        return f"webhook {self.name} ({self.address})"


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
