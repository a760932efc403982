"""One event as the log keeps it: the bytes that go over the wire, and what filters ask about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from pyVmomi import vim
from pyVmomi.VmomiSupport import GetWsdlName

from simulator.wire.soap_read import parse_data, wire_type
from simulator.wire.soap_write import compatible_type, inner_xml

__all__ = ["CLOSING", "LoggedEvent", "names_of", "opening"]

CLOSING = b"</returnval>"


def opening(wsdl_type: str) -> bytes:
    """The tag that an event of a type begins with in a page."""
    return f'<returnval xsi:type="{wsdl_type}">'.encode()


@dataclass(frozen=True, slots=True, eq=False)
class LoggedEvent:
    """One event as the log keeps it.

    `serial` counts posts; unlike `key` it goes back only when a restore takes events away. `names` are the type's
    name, those of its base types and the `eventTypeId`; `about` are moids of the entities it names, `within` those of
    their ancestors. `element` is the event as it stands in a page, in the tag of an operation's result. A `hidden`
    event is one that the reader may not see: it takes room in pages without showing up. The fields of a `raw` one
    need not be what its type says.
    """

    serial: int
    key: int
    created: datetime
    chain_id: int
    user: str
    wsdl_type: str
    names: frozenset[str]
    about: frozenset[str]
    within: frozenset[str]
    element: bytes
    version: str
    hidden: bool = False
    raw: bool = False

    def element_for(self, version: str) -> bytes:
        """As it stands in a page for a client of an API version: older ones get it without what they do not know."""
        if version == self.version:
            return self.element
        return opening(self.wire_type(version)) + self.inner(version).encode() + CLOSING

    def wire_type(self, version: str) -> str:
        """The type as a client of an API version sees it."""
        if self.raw or version == self.version:
            return self.wsdl_type
        return GetWsdlName(compatible_type(wire_type(self.wsdl_type), version))

    def inner(self, version: str) -> str:
        """The fields as XML, for a client of an API version."""
        fields = self.element[len(opening(self.wsdl_type)) : -len(CLOSING)].decode()
        if self.raw or version == self.version:
            return fields
        return inner_xml(parse_data(fields, wire_type(self.wsdl_type), self.version), version).decode()

    def parsed(self) -> Any:
        """The pyVmomi event; not for raw ones, whose fields may be anything."""
        return parse_data(self.inner(self.version), wire_type(self.wsdl_type), self.version)


@lru_cache(maxsize=4096)
def names_of(event_type: Any, type_id: str = "") -> frozenset[str]:
    """The names that filters may call a pyVmomi event type by; one frozen set for all events of a kind."""
    bases = [GetWsdlName(base) for base in event_type.__mro__ if issubclass(base, vim.event.Event)]
    return frozenset([*bases, f"vim.event.{GetWsdlName(event_type)}", *([type_id] if type_id else [])])
