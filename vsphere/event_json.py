"""Events as JSON, in the form that functions behind event routers know: the one of Go's encoding of govmomi's structs.

Fields are called as in the schema with a capital first letter (`Key`, `FullFormattedMessage`), and an event has all
fields of its type: absent texts are `""`, absent numbers 0, all else that is absent is `null`. References to objects
are `{"Type": "VirtualMachine", "Value": "vm-7"}`. What pyVmomi knows of the types tells numbers and lists from texts;
fields and types that it does not know are written by their shape, so nothing is left out.

Source: VMware's event router and the Knative VSphereSource, which encode govmomi's event as it is; tests compare with
govmomi itself.
"""

import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import F_OPTIONAL, Array, GuessWsdlType, ManagedObject, binary, byte

from contracts.errors import BadRequest
from vsphere.event_xml import element_of, local_name, type_of

__all__ = ["Json", "event_json"]

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_DEEPEST = 100
"""Elements inside each other; the schema's deepest events have a dozen."""
_BUILT_IN: dict[str, type] = {
    "boolean": bool,
    "byte": int,
    "short": int,
    "int": int,
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
    "dateTime": datetime,
}
"""What `xsi:type` says of plain values; all else is text."""

_HELD_BY_POINTER = frozenset(
    ("coresPerNumaNode", "limit", "numCoresPerSocket", "numaNode", "overheadLimit", "reservation", "unitNumber")
)
"""Optional numbers that are `null` where they are absent, because 0 would say something."""
_NEVER_USED = ("dynamicType", "dynamicProperty")
"""Every data type has them for extensions; govmomi leaves them out."""


class _Field(NamedTuple):
    name: str
    """As it is in JSON."""
    type: type
    """Of each item, where it is a list."""
    is_list: bool
    absent: Json


def event_json(raw: bytes) -> dict[str, Json]:
    """The event in this XML element; raises `BadRequest` for what is no event that can be read."""
    element = element_of(raw)
    if element is None:
        raise BadRequest("the event is not XML that can be read")
    known = _known(type_of(element))
    return _object(element, known if known and issubclass(known, vim.event.Event) else vim.event.Event, _DEEPEST)


def _object(element: ET.Element, of: type, deepest: int) -> dict[str, Json]:
    if not deepest:
        raise BadRequest(f"the event has more than {_DEEPEST} elements inside each other")
    fields = _fields(of)
    found: dict[str, list[ET.Element]] = {}
    for child in element:
        found.setdefault(local_name(child.tag), []).append(child)
    written: dict[str, Json] = {}
    for name, field in fields.items():
        children = found.pop(name, None)
        if children is None:
            written[field.name] = field.absent
        elif field.is_list and field.type is byte:
            written[field.name] = _bytes([_whole(_text(child)) for child in children])
        elif field.is_list:
            written[field.name] = [_value(child, field.type, deepest - 1) for child in children]
        else:
            written[field.name] = _value(children[0], field.type, deepest - 1)
    for name, children in found.items():
        values = [_value(child, object, deepest - 1) for child in children]
        written[_go_name(name)] = values[0] if len(values) == 1 else values
    return written


def _value(element: ET.Element, of: type, deepest: int) -> Json:
    """A value of this type, or of the more special one that the element itself tells."""
    said = type_of(element)
    if issubclass(of, ManagedObject):
        return _reference(element)
    if issubclass(of, vmodl.DynamicData):
        known = _known(said)
        return _object(element, known if known and issubclass(known, of) else of, deepest)
    if of is not object:
        return _plain(_text(element), of)
    if said in _BUILT_IN:
        return _plain(_text(element), _BUILT_IN[said])
    known = _known(said)
    if known and issubclass(known, vmodl.DynamicData):
        return _object(element, known, deepest)
    if (known and issubclass(known, ManagedObject)) or said == "ManagedObjectReference" or _is_reference(element):
        return _reference(element)
    if said.startswith("ArrayOf"):
        item = _BUILT_IN.get(said.removeprefix("ArrayOf").lower(), object)
        return {_go_name(said.removeprefix("ArrayOf")): [_value(child, item, deepest - 1) for child in element]}
    return _object(element, vmodl.DynamicData, deepest) if len(element) else _text(element)


def _plain(text: str, of: type) -> Json:
    """What is no number or truth value although it should be stays the text that it is."""
    return _READ.get(of, str)(text.strip() if of in _READ else text)


def _whole(text: str) -> Json:
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,19}", text, re.ASCII) else text


def _broken(text: str) -> Json:
    # Infinities and what is no number have no form in JSON.
    return float(text) if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?", text, re.ASCII) else text


def _truth(text: str) -> Json:
    return {"true": True, "1": True, "false": False, "0": False}.get(text, text)


def _time(text: str) -> Json:
    """As Go writes times: no zeros at the end of a fraction, UTC as Z."""
    said = _TIME.fullmatch(text)
    if said is None:
        return text
    fraction = (said[2] or "").rstrip("0").rstrip(".")
    return said[1] + fraction + (said[3] if said[3] and said[3] not in ("+00:00", "-00:00") else "Z")


def _bytes(values: list[Json]) -> Json:
    """Go encodes a list of bytes as one text."""
    numbers = [value % 256 for value in values if isinstance(value, int)]
    return _encoded(bytes(numbers)) if len(numbers) == len(values) else values


def _encoded(content: bytes) -> str:
    return b64encode(content).decode()


_READ: dict[type, Callable[[str], Json]] = {
    bool: _truth,
    int: _whole,
    byte: _whole,
    float: _broken,
    datetime: _time,
    # govmomi keeps the text as it is on the wire, and Go encodes bytes once more.
    binary: lambda text: _encoded(text.encode()),
}


def _reference(element: ET.Element) -> Json:
    return {"Type": _attribute(element, "type"), "Value": _text(element)}


def _is_reference(element: ET.Element) -> bool:
    return len(element) == 0 and "type" in element.attrib and bool(_text(element))


def _attribute(element: ET.Element, name: str) -> str:
    return element.get(name, "")


def _text(element: ET.Element) -> str:
    return element.text or ""


def _go_name(name: str) -> str:
    return name[:1].upper() + name[1:]


@lru_cache(maxsize=4096)
def _known(name: str) -> type | None:
    """pyVmomi's type of this WSDL name; None where there is none."""
    try:
        found = GuessWsdlType(name)
    except KeyError:
        return None
    return found if isinstance(found, type) else None


@lru_cache(maxsize=4096)
def _fields(of: type) -> dict[str, _Field]:
    """The fields of a data type by their names on the wire, those of its bases first."""
    return {each.name: _field(each) for each in of._GetPropertyList() if each.name not in _NEVER_USED}  # type: ignore[attr-defined]


def _field(known: Any) -> _Field:
    is_list = issubclass(known.type, Array)
    of = known.type.Item if is_list else known.type
    plain = _plain_type(of)
    absent: Json = None
    if not is_list:
        if plain is str:
            absent = ""
        elif plain in (int, float) and not (known.name in _HELD_BY_POINTER and known.flags & F_OPTIONAL):
            absent = 0
        elif plain is bool and not known.flags & F_OPTIONAL:
            absent = False
    return _Field(_go_name(known.name), plain, is_list, absent)


def _plain_type(of: type) -> type:
    """The Python type of a plain value, whichever of pyVmomi's it is; data types, references and `object` stay."""
    if of is object or issubclass(of, ManagedObject | vmodl.DynamicData):
        return of
    return next((plain for plain in (byte, bool, int, float, datetime, binary) if issubclass(of, plain)), str)
