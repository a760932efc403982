"""Events that are serialised once and posted many times: only key and time are filled in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyVmomi.VmomiSupport import GetWsdlName

from simulator.logged_event import CLOSING, opening
from simulator.wire.soap_write import compatible_type, inner_xml, timestamp, type_of

__all__ = ["EventTemplate", "event_template"]

_KEY, _TIME = 2_147_000_001, datetime(1999, 12, 31, 23, 59, 59, 123456, tzinfo=UTC)
_HEAD = b"<key>%d</key><chainId>%d</chainId><createdTime>%b</createdTime>"


@dataclass(frozen=True, slots=True, eq=False)
class EventTemplate:
    """What events of one kind about one entity share; see `LoggedEvent`."""

    wsdl_type: str
    user: str
    names: frozenset[str]
    about: frozenset[str]
    within: frozenset[str]
    before: bytes
    after: bytes

    def element(self, key: int, created: datetime) -> bytes:
        """The event as it stands in a page."""
        return self.before + _HEAD % (key, key, timestamp(created).encode()) + self.after


def event_template(
    event: Any, names: frozenset[str], about: frozenset[str], within: frozenset[str], version: str
) -> EventTemplate:
    """A template of a pyVmomi event; raises `ValueError` when a field that its type needs is not set."""
    event.key = event.chainId = _KEY
    event.createdTime, event.userName = _TIME, event.userName or ""
    wsdl_type = GetWsdlName(compatible_type(type_of(event), version))
    try:
        fields = inner_xml(event, version)
    except TypeError as unset:
        raise ValueError(f"{wsdl_type}: {unset}") from unset
    before, head, after = fields.partition(_HEAD % (_KEY, _KEY, timestamp(_TIME).encode()))
    if not head:
        raise ValueError(f"{wsdl_type}: its fields do not begin with key, chainId and createdTime")
    return EventTemplate(wsdl_type, event.userName, names, about, within, opening(wsdl_type) + before, after + CLOSING)
