"""Events as they are on the wire, read from XML field by field.

pyVmomi throws a whole page away when one event has an unknown type, an unknown field, an empty number or a bad
character, and the server's read position has moved by then; so nothing here depends on knowing an event's type.
"""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.errors import Unreachable

__all__ = ["RawEvent", "decode_events", "update_version"]

_XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
_EVENT_LISTS = frozenset({"returnval", "Event", "val"})
_BAD_CHARACTERS = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BAD_REFERENCES = re.compile(r"&#(?:x0*(?:[0-8bcef]|1[0-9a-f])|0*(?:[0-8]|1[124-9]|2[0-9]|3[01]));", re.IGNORECASE)
_VERSION = re.compile(rb"<(?:\w+:)?version[^>]*>([^<]*)</")


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One event, as far as listeners care. Absent fields are empty."""

    key: int
    """Unique and rising within one life of a vCenter (int32); -1 where it could not be read."""
    created: datetime
    type_name: str
    """The event type's WSDL name (`HostAddedEvent`), or `eventTypeId` where it has one (`EventEx`, `ExtendedEvent`)."""
    base_type: str = ""
    """The WSDL name, also for events that have an `eventTypeId`."""
    host_moid: str = ""
    """Of `host`, else of `failedHost` or `isolatedHost` (events of a cluster have no `host`), else the object of an
    `EventEx`."""
    host_name: str = ""
    source_host_moid: str = ""
    """Of `sourceHost`: where a VM was before."""
    source_host_name: str = ""
    cluster_moid: str = ""
    """Of `computeResource`: a standalone host has one of its own too."""
    cluster_name: str = ""
    cluster_type: str = ""
    """`ClusterComputeResource`, or `ComputeResource` for a standalone host's own."""
    vm_moid: str = ""
    vm_name: str = ""
    user: str = ""
    reason: str = ""
    """Of `reason`, or of an `EventEx`'s `fault`: its text; of a fault its localized message, else its type."""
    message: str = ""
    problem: str = ""
    """Why the event is not usable, in words; then `xml` holds what came."""
    xml: str = ""


def update_version(answer: bytes) -> str | None:
    """The `version` of an `UpdateSet` answer; None when the wait ended without news."""
    found = _VERSION.search(answer)
    return found.group(1).decode() if found else None


def decode_events(answer: bytes) -> list[RawEvent]:
    """Every event of a SOAP answer, in its order; raises `Unreachable` when the answer is not XML at all."""
    try:
        root = ET.fromstring(answer)  # noqa: S314 - expat expands no external entities
    except ET.ParseError:
        text = _BAD_REFERENCES.sub("\ufffd", _BAD_CHARACTERS.sub("\ufffd", answer.decode("utf-8", errors="replace")))
        try:
            root = ET.fromstring(text)  # noqa: S314
        except ET.ParseError as error:
            raise Unreachable(f"vCenter's page of events is not XML that can be read: {error}") from error
    return [_decode(element) for element in root.iter() if _is_event(element)]


def _local(name: str) -> str:
    return name.rpartition("}")[2].rpartition(":")[2]


def _is_event(element: ET.Element) -> bool:
    # An event is known by its place and shape: type names are vCenter's to extend.
    return _local(element.tag) in _EVENT_LISTS and any(_local(child.tag) == "createdTime" for child in element)


def _decode(element: ET.Element) -> RawEvent:
    fields = {_local(child.tag): child for child in element}
    base_type = _local(element.get(_XSI_TYPE, "Event"))

    def text(name: str) -> str:
        child = fields.get(name)
        return (child.text or "").strip() if child is not None else ""

    def entity(argument: str, reference: str) -> tuple[str, str]:
        found = {_local(child.tag): (child.text or "").strip() for child in fields.get(argument, ())}
        return found.get(reference, ""), found.get("name", "")

    def object_of(type_name: str) -> tuple[str, str]:
        return (text("objectId"), text("objectName")) if text("objectType") == type_name else ("", "")

    def first(*entities: tuple[str, str]) -> tuple[str, str]:
        return next((found for found in entities if found[0]), entities[0])

    problems = []
    try:
        key = int(text("key"))
    except ValueError:
        key = -1
        problems.append(f"its key {text('key')!r} is not a number")
    try:
        created = datetime.fromisoformat(text("createdTime"))
        created = created if created.tzinfo else created.replace(tzinfo=UTC)
    except ValueError:
        created = datetime.fromtimestamp(0, UTC)
        problems.append(f"its createdTime {text('createdTime')!r} is not a time")
    host_moid, host_name = first(
        *(entity(argument, "host") for argument in ("host", "failedHost", "isolatedHost")), object_of("HostSystem")
    )
    source_host_moid, source_host_name = entity("sourceHost", "host")
    cluster_moid, cluster_name = first(
        entity("computeResource", "computeResource"), object_of("ClusterComputeResource")
    )
    reference = fields["computeResource"].find("{*}computeResource") if "computeResource" in fields else None
    cluster_type = (
        reference.get("type", "") if reference is not None else "ClusterComputeResource" if cluster_moid else ""
    )
    vm_moid, vm_name = first(entity("vm", "vm"), object_of("VirtualMachine"))
    return RawEvent(
        key=key,
        created=created,
        type_name=text("eventTypeId") or base_type,
        base_type=base_type,
        host_moid=host_moid,
        host_name=host_name,
        source_host_moid=source_host_moid,
        source_host_name=source_host_name,
        cluster_moid=cluster_moid,
        cluster_name=cluster_name,
        cluster_type=cluster_type,
        vm_moid=vm_moid,
        vm_name=vm_name,
        user=text("userName"),
        reason=_reason(fields.get("reason", fields.get("fault"))),
        message=text("fullFormattedMessage"),
        problem="; ".join(problems),
        xml=ET.tostring(element, encoding="unicode") if problems else "",
    )


def _reason(element: ET.Element | None) -> str:
    """A text as it is; a `LocalizedMethodFault` by its localized message, else by the type of its fault."""
    if element is None:
        return ""
    parts = {_local(child.tag): child for child in element}
    if not parts:
        return (element.text or "").strip()
    said = (parts["localizedMessage"].text or "").strip() if "localizedMessage" in parts else ""
    fault = parts.get("fault", element)
    return said or _local(fault.get(_XSI_TYPE, ""))
