"""CloudEvents 1.0 and their wire forms over HTTP. Pure.

Sources: the CloudEvents specification 1.0.2, its JSON format and its HTTP protocol binding.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, Protocol
from urllib.parse import quote

from pydantic import AwareDatetime, Field, JsonValue, field_validator

from contracts.base import Message

__all__ = ["CloudEvent", "CloudEventSender", "WireMessage", "batch_message", "binary_message", "structured_message"]

_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HEADER_SAFE = "!#$&'()*+,-./0123456789:;<=>?@[\\]^_`{|}~"
"""What a header's value holds as it is, beside letters: printable ASCII without space, double quote and percent."""
_LARGEST_INTEGER = 2**31


def _printable(text: str) -> str:
    if found := _CONTROL.search(text):
        raise ValueError(f"holds the control character U+{ord(found[0]):04X}, which CloudEvents do not allow")
    return text


_Text = Annotated[str, Field(min_length=1)]


class CloudEvent(Message):
    """One event. Names of attributes are the specification's."""

    id: _Text
    """With `source` it is unique: whoever gets an event twice knows by these two."""
    source: _Text
    """A URI reference."""
    type: _Text
    specversion: Literal["1.0"] = "1.0"
    subject: _Text | None = None
    time: AwareDatetime | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: _Text | None = None
    extensions: dict[str, bool | int | str] = Field(default_factory=dict)
    data: JsonValue = None

    @field_validator("id", "source", "type", "subject", "dataschema")
    @classmethod
    def _text(cls, value: str | None) -> str | None:
        return value if value is None else _printable(value)

    @field_validator("extensions")
    @classmethod
    def _extensions(cls, values: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
        for name, value in values.items():
            if not _ATTRIBUTE.fullmatch(name) or name in cls.model_fields:
                raise ValueError(
                    f"{name!r} is no name for an extension: 1 to 20 of a-z and 0-9, and none that is taken"
                )
            if isinstance(value, str):
                _printable(value)
            elif not -_LARGEST_INTEGER <= value < _LARGEST_INTEGER:
                raise ValueError(f"{name}: {value} does not fit 32 bits")
        return values

    @property
    def attributes(self) -> dict[str, bool | int | str]:
        """The context attributes that are set, `datacontenttype` among them."""
        known = {
            "specversion": self.specversion,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": _rfc3339(self.time) if self.time else None,
            "datacontenttype": self.datacontenttype,
            "dataschema": self.dataschema,
        }
        return {name: value for name, value in known.items() if value is not None} | self.extensions


class CloudEventSender(Protocol):
    """Whoever takes CloudEvents to a webhook."""

    async def send(self, name: str, events: Sequence[CloudEvent]) -> None:
        """Return when the webhook of this name has them all; raises `GpuwrightError`.

        `BadRequest` means that it has refused one of them for good; everything else is worth another try.
        """


class WireMessage(NamedTuple):
    """An HTTP request: headers and body."""

    headers: dict[str, str]
    body: bytes


def structured_message(event: CloudEvent) -> WireMessage:
    """The whole event as one JSON object."""
    return WireMessage({"Content-Type": "application/cloudevents+json; charset=utf-8"}, _json(_whole(event)))


def batch_message(events: Sequence[CloudEvent]) -> WireMessage:
    """Events as a JSON array."""
    body = _json([_whole(event) for event in events])
    return WireMessage({"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}, body)


def binary_message(event: CloudEvent) -> WireMessage:
    """The attributes as `ce-` headers and the data as body."""
    attributes = event.attributes
    headers = {"Content-Type": str(attributes.pop("datacontenttype"))}
    headers |= {f"ce-{name}": _header(value) for name, value in attributes.items()}
    return WireMessage(headers, _json(event.data))


def _whole(event: CloudEvent) -> dict[str, Any]:
    return {**event.attributes, "data": event.data}


def _header(value: bool | int | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(str(value), safe=_HEADER_SAFE)


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _json(value: Any) -> bytes:
    # Any surrogate that stands alone is escaped, too: it could not be UTF-8.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
