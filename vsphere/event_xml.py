"""Events as they are on the wire, read from XML field by field.

pyVmomi throws a whole page away when one event has an unknown type, an unknown field, an empty number or a bad
character, and the server's read position has moved by then; so nothing here depends on knowing an event's type.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from xml.parsers import expat

from contracts.errors import Unreachable
from vsphere.event_pages import Head, Piece, head_of, heads_of, is_list, pieces_of

__all__ = ["RawEvent", "decode_events", "element_of", "local_name", "type_of", "update_version"]

_EVENT_LISTS = frozenset({"returnval", "Event", "val"})
_XSI_TYPES = ("{http://www.w3.org/2001/XMLSchema-instance}type", "xsi:type")
_BAD_CHARACTERS = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_AMPERSAND = re.compile(r"&(?:(amp|lt|gt|quot|apos);|#(?:x([0-9a-fA-F]{1,8})|([0-9]{1,9}));)?")
_VERSION = re.compile(rb"<(?:\w+:)?version[^>]*>([^<]*)</")
_KEY = re.compile(r"[0-9]{1,10}", re.ASCII)
_LARGEST_KEY = 2**31 - 1
_RAW_LIMIT = 10_000
_NEVER = datetime.fromtimestamp(0, UTC)


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
    """What came, cut to 10,000 characters."""
    truncated: bool = False
    """With a `problem`: the answer ends here before its end, so the events that follow in it are missing too."""
    raw: bytes = field(default=b"", compare=False, repr=False)
    """Its element, whole, where `decode_events` was told that it is wanted."""


def update_version(answer: bytes) -> str | None:
    """The `version` of an `UpdateSet` answer; None when the wait ended without news."""
    found = _VERSION.search(answer)
    return found.group(1).decode() if found else None


def decode_events(answer: bytes, wanted: Callable[[RawEvent], bool] | None = None) -> list[RawEvent]:
    """Every event of a SOAP answer, in its order; one that cannot be read has a `problem` and costs no neighbour.

    With `wanted`, events for which it returns False may come with their key, time and types only, which is all that
    it is given to decide: pages of which little is wanted are read many times faster. Of a page that is not
    well-formed, or ends too early, every event that is whole is returned. Raises `Unreachable` when the answer has
    no events because it is something else.
    """
    if wanted is not None and (heads := heads_of(answer)) is not None:
        known = [_sketch(head) for head in heads]
        if not any(event.problem for event in known):
            return [
                _from_piece(Piece(answer[head.start : head.end])) if wanted(event) else event
                for event, head in zip(known, heads, strict=True)
            ]
    try:
        # Without a DOCTYPE there are no entities that could be expanded. vCenter writes UTF-8 only.
        root = _parsed(answer) if b"<!DOCTYPE" in answer else ET.fromstring(answer, ET.XMLParser(encoding="utf-8"))  # noqa: S314
    except (ET.ParseError, expat.ExpatError) as error:
        events = [_from_piece(piece) for piece in pieces_of(answer) if is_list(answer) or b"createdTime" in piece.raw]
        if events:
            return events
        raise Unreachable(f"vCenter's page of events is not XML that can be read: {error}") from error
    if local_name(root.tag) != "Envelope":
        raise Unreachable(f"vCenter's page of events is not XML that can be read: it is <{root.tag[:80]}>, not SOAP")
    elements = list(_events_below(root, listed=False))
    events = [_decode(element) for element in elements]
    if wanted is not None:
        # The rest of a page that is read in full: what is wanted of it is kept whole, too.
        events = [
            replace(event, raw=_written(element).encode()) if not event.problem and wanted(event) else event
            for event, element in zip(events, elements, strict=True)
        ]
    if any(event.problem for event in events) and is_list(answer):
        pieces = list(pieces_of(answer))
        if len(pieces) == len(events):
            return [_with_raw(event, piece) for event, piece in zip(events, pieces, strict=True)]
    return events


def _with_raw(event: RawEvent, piece: Piece) -> RawEvent:
    return replace(event, xml=piece.raw.decode(errors="replace")[:_RAW_LIMIT]) if event.problem else event


@lru_cache(maxsize=4096)
def local_name(name: str) -> str:
    """A tag or name without namespace or prefix."""
    return name.rpartition("}")[2].rpartition(":")[2]


def _events_below(element: ET.Element, *, listed: bool) -> Iterator[ET.Element]:
    # An event is known by its place and shape: type names are vCenter's to extend.
    pending = [(element, listed)]
    while pending:
        element, listed = pending.pop()
        if listed or _is_event(element):
            yield element
        else:
            listed = local_name(element.tag) in ("ReadNextEventsResponse", "ReadPreviousEventsResponse")
            pending += [(child, listed) for child in reversed(element)]


def _is_event(element: ET.Element) -> bool:
    return local_name(element.tag) in _EVENT_LISTS and any(local_name(child.tag) == "createdTime" for child in element)


def type_of(element: ET.Element) -> str:
    """Its `xsi:type` without prefix; also where `xsi` is called otherwise or bound to nothing."""
    for name in _XSI_TYPES:
        if said := element.get(name):
            return local_name(said)
    return next((local_name(said) for name, said in element.items() if local_name(name) == "type" != name), "")


def _key(text: str) -> int:
    """Raises `ValueError` for what is no int32: one made-up key would hide every event until keys get there."""
    if not _KEY.fullmatch(text) or (key := int(text)) > _LARGEST_KEY:
        raise ValueError(text)
    return key


def _time(text: str) -> datetime:
    """Raises `ValueError` also for years that cannot be counted with."""
    created = datetime.fromisoformat(text)
    if not 1970 <= created.year < 9000:
        raise ValueError(text)
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def _identity(base_type: str, key: str, created: str) -> tuple[int, datetime, list[str]]:
    """The key, the time, and what is wrong with them or the type."""
    number, time, problems = -1, _NEVER, []
    if not base_type:
        problems.append("it has no xsi:type, so nobody knows what it is about")
    try:
        number = _key(key)
    except ValueError:
        problems.append(f"its key {key[:40]!r} is not a number from 0 to {_LARGEST_KEY}")
    try:
        time = _time(created)
    except ValueError:
        problems.append(f"its createdTime {created[:40]!r} is not a time")
    return number, time, problems


def _sketch(head: Head, problem: str = "") -> RawEvent:
    """What the head of an event tells."""
    base_type = local_name(head.base_type.decode())
    # Latin-1 never fails; what is not ASCII is no time.
    key, created, problems = _identity(base_type, head.key.decode(), head.created.decode("latin-1").strip())
    type_id = head.event_type_id.decode(errors="replace").strip() or base_type
    return RawEvent(key, created, type_id, base_type, problem=problem or "; ".join(problems))


def _from_piece(piece: Piece) -> RawEvent:
    """One event by itself, even without its surroundings' namespaces: nothing depends on them."""
    text = piece.raw.decode(errors="replace")
    if piece.truncated:
        error = "the answer ends in the middle of it" if text else "the answer ends before its end, after a whole event"
    else:
        try:
            return _decode(_parsed(piece.raw), text, piece.raw)
        except expat.ExpatError:
            pass
        try:
            return _decode(_parsed(_readable(text)), text, piece.raw)
        except expat.ExpatError as refused:
            error = f"it is not XML that can be read: {refused}"
    head = head_of(piece.raw)
    event = _sketch(head, error) if head else RawEvent(-1, _NEVER, "", problem=error)
    return replace(event, xml=text[:_RAW_LIMIT], truncated=piece.truncated)


def element_of(raw: bytes) -> ET.Element | None:
    """The element that a `RawEvent.raw` holds, with U+FFFD for what XML cannot carry; None where it is not XML."""
    for fragment in (raw, _readable(raw.decode(errors="replace"))):
        try:
            return _parsed(fragment)
        except expat.ExpatError:
            continue
    return None


def _parsed(fragment: bytes | str) -> ET.Element:
    """Without regard for namespaces; raises `ExpatError`, and `Unreachable` for a DOCTYPE."""
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    parser.Parse(fragment, True)
    return builder.close()


def _refuse(*_: object) -> None:
    raise Unreachable("vCenter's page of events is not XML that can be read: it has a DOCTYPE, as no SOAP answer has")


def _readable(text: str) -> str:
    """With U+FFFD for characters that XML cannot carry, also by number, and a bare `&` as what it is meant to be."""
    return _AMPERSAND.sub(_reference, _BAD_CHARACTERS.sub("\ufffd", text))


def _reference(found: re.Match[str]) -> str:
    name, hexadecimal, decimal = found.groups()
    if name:
        return found[0]
    if not hexadecimal and not decimal:
        return "&amp;"
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    return found[0] if number <= 0x10FFFF and not _BAD_CHARACTERS.match(chr(number)) else "\ufffd"


def _decode(element: ET.Element, raw: str = "", whole: bytes = b"") -> RawEvent:
    """`raw` is the event as it came, where that is known; `whole` what to keep of a good one."""
    fields: dict[str, ET.Element] = {}
    for child in element:
        # Of a field that is there twice the first one counts, as the schema's order puts nothing before it.
        fields.setdefault(local_name(child.tag), child)

    def text(name: str) -> str:
        return _text(fields[name]) if name in fields else ""

    def entity(reference: str, *arguments: str, object_type: str = "") -> tuple[str, str]:
        """Moid and name of the first of these that has a moid, else of the object of this type that it is about."""
        named = ("", "")
        for argument in arguments:
            if argument in fields:
                found = _entity(fields[argument], reference)
                if found[0]:
                    return found
                named = named if named[1] else found
        return (text("objectId"), text("objectName")) if object_type and text("objectType") == object_type else named

    base_type = type_of(element)
    key, created, problems = _identity(base_type, text("key"), text("createdTime"))
    host_moid, host_name = entity("host", "host", "failedHost", "isolatedHost", object_type="HostSystem")
    source_host_moid, source_host_name = entity("host", "sourceHost")
    cluster_moid, cluster_name = entity("computeResource", "computeResource", object_type="ClusterComputeResource")
    vm_moid, vm_name = entity("vm", "vm", object_type="VirtualMachine")
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
        cluster_type=_cluster_type(fields.get("computeResource")) or ("ClusterComputeResource" if cluster_moid else ""),
        vm_moid=vm_moid,
        vm_name=vm_name,
        user=text("userName"),
        reason=_reason(fields.get("reason", fields.get("fault"))),
        message=text("fullFormattedMessage"),
        problem="; ".join(problems),
        xml=(raw or _written(element))[:_RAW_LIMIT] if problems else "",
        raw=b"" if problems else whole,
    )


def _text(element: ET.Element) -> str:
    return (element.text or "").strip()


def _entity(argument: ET.Element, reference: str) -> tuple[str, str]:
    """The moid and the name that an `…EventArgument` holds."""
    moid = name = ""
    for child in argument:
        if (local := local_name(child.tag)) == reference:
            moid = _text(child)
        elif local == "name":
            name = _text(child)
    return moid, name


def _cluster_type(argument: ET.Element | None) -> str:
    references = (child for child in argument or () if local_name(child.tag) == "computeResource")
    return next((reference.get("type", "") for reference in references), "")


def _written(element: ET.Element) -> str:
    try:
        return ET.tostring(element, encoding="unicode")
    except RecursionError:
        return "".join(element.itertext())


def _reason(element: ET.Element | None) -> str:
    """A text as it is; a `LocalizedMethodFault` by its localized message, else by the type of its fault."""
    if element is None:
        return ""
    parts = {local_name(child.tag): child for child in element}
    if not parts:
        return (element.text or "").strip()
    said = (parts["localizedMessage"].text or "").strip() if "localizedMessage" in parts else ""
    return said or type_of(parts.get("fault", element))
