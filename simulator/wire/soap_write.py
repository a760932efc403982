"""pyVmomi values → SOAP XML. Plans are compiled once per type and API version, since fleets are read in one go."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pyVmomi import vmodl
from pyVmomi.VmomiSupport import (
    F_LINK,
    F_OPTIONAL,
    XMLNS_XSD,
    DataObject,
    Enum,
    GetQualifiedWsdlName,
    GetWsdlName,
    ManagedMethod,
    ManagedObject,
    PropertyPath,
    Type,
    binary,
    long,
)

from simulator.core import Managed
from simulator.wire.versions import NEWEST, exists_in

__all__ = [
    "RawAnswer",
    "RawXml",
    "compatible_type",
    "escape",
    "fault_detail",
    "inner_xml",
    "timestamp",
    "type_of",
    "value_xml",
]

_FAULT = vmodl.MethodFault


@dataclass(frozen=True, slots=True)
class RawXml:
    """A value that is XML already: what `value_xml` puts between the tags, and the wire type's name."""

    wsdl_type: str
    inner: str


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An operation's whole result, as the bytes that go over the wire."""

    content: bytes


def escape(text: str) -> str:
    """Text as XML element content. Characters that XML cannot carry become U+FFFD."""
    if not text.isprintable():
        text = "".join(c if c >= " " or c in "\t\n\r" else "\ufffd" for c in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")


def timestamp(moment: datetime) -> str:
    """A time as vCenter sends it: UTC, microseconds. A naive one counts as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


class _Field(NamedTuple):
    name: str
    declared: Any
    is_array: bool
    required: bool
    simple: Callable[[Any], str] | None
    """How to write a value of this field when its type has no subtypes, else `None`."""


def _boolean(value: Any) -> str:
    return "true" if value else "false"


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _link_key(value: Any) -> str:
    return escape(value if isinstance(value, str) else value.key)


def _type_name(value: Any) -> str:
    return value.info.wsdlName if isinstance(value, ManagedMethod) else GetWsdlName(value)


def type_of(value: Any) -> Any:
    """A value's type, whose pyVmomi attributes no type checker knows."""
    return type(value)


def _simple_writer(declared: Any) -> Callable[[Any], str] | None:
    if declared is bool:
        return _boolean
    if declared is datetime:
        return timestamp
    if declared is binary:
        return _encoded
    if declared in (type, ManagedMethod):
        return lambda value: escape(value) if isinstance(value, str) else _type_name(value)
    if issubclass(declared, (int, float)):
        return str
    if issubclass(declared, str):
        return escape
    return None


@lru_cache(maxsize=16384)
def _fields(data_type: Any, version: str) -> tuple[_Field, ...]:
    fields = []
    for info in data_type._GetPropertyList():
        if not exists_in(version, info.version):
            continue
        is_array = issubclass(info.type, list)
        item = info.type.Item if is_array else info.type
        if info.flags & F_LINK:
            simple: Callable[[Any], str] | None = _link_key
        else:
            simple = None if item is object else _simple_writer(item)
        fields.append(_Field(info.name, item, is_array, not info.flags & F_OPTIONAL, simple))
    return tuple(fields)


@lru_cache(maxsize=16384)
def compatible_type(data_type: Any, version: str) -> Any:
    """The nearest base type that exists in `version`: how a server shows newer types to older clients."""
    while not exists_in(version, data_type._version):
        data_type = data_type.__bases__[0]
    return data_type


@lru_cache(maxsize=4096)
def _qualified(wire_type: Any) -> str:
    namespace, name = GetQualifiedWsdlName(wire_type)
    return f"xsd:{name}" if namespace == XMLNS_XSD else str(name)


@lru_cache(maxsize=4096)
def _array_names(item: Any) -> tuple[str, str]:
    """An array's wire type and the tag of its elements, as they appear where the declared type is `anyType`."""
    if issubclass(item, ManagedObject):
        return "ArrayOfManagedObjectReference", "ManagedObjectReference"
    if item in (type, ManagedMethod, PropertyPath):
        return "ArrayOfString", "string"
    name = GetWsdlName(item)
    return "ArrayOf" + name[0].upper() + name[1:], name


def _is_array(declared: Any) -> bool:
    return isinstance(declared, type) and issubclass(declared, list)


class _Writer:
    """Appends XML text to `out`."""

    __slots__ = ("out", "version")

    def __init__(self, version: str) -> None:
        self.out: list[str] = []
        self.version = version

    def fields(self, obj: Any, data_type: Any) -> None:
        out = self.out
        for name, declared, is_array, required, simple in _fields(data_type, self.version):
            value = getattr(obj, name)
            if value is None:
                if not required or is_array:
                    continue
                raise TypeError(f"{GetWsdlName(data_type)}.{name} is not optional: the simulated world left it unset")
            if is_array:
                if simple is not None:
                    out.extend([f"<{name}>{simple(item)}</{name}>" for item in value])
                else:
                    for item in value:
                        self.value(name, item, declared)
            elif simple is not None:
                out.append(f"<{name}>{simple(value)}</{name}>")
            else:
                self.value(name, value, declared)

    def value(self, tag: str, value: Any, declared: Any) -> None:
        out = self.out
        if isinstance(value, Managed):
            value = value.ref()
        if isinstance(value, ManagedObject):
            typed = ' xsi:type="ManagedObjectReference"' if declared is object else ""
            out.append(f'<{tag} type="{type(value)._wsdlName}"{typed}>{escape(value._moId)}</{tag}>')
        elif isinstance(value, vmodl.LocalizedMethodFault):
            typed = "" if declared is not object else ' xsi:type="LocalizedMethodFault"'
            out.append(f"<{tag}{typed}>")
            self.bare_fault("fault", value.fault)
            out.append(f"<localizedMessage>{escape(value.localizedMessage or '')}</localizedMessage></{tag}>")
        elif isinstance(value, _FAULT):
            typed = ' xsi:type="LocalizedMethodFault"' if declared is object else ""
            out.append(f"<{tag}{typed}>")
            self.bare_fault("fault", value)
            message = value.msg or ""
            out.append(f"<localizedMessage>{escape(message)}</localizedMessage></{tag}>")
        elif isinstance(value, DataObject):
            shown = compatible_type(type_of(value), self.version)
            typed = "" if shown is declared else f' xsi:type="{GetWsdlName(shown)}"'
            out.append(f"<{tag}{typed}>")
            self.fields(value, shown)
            out.append(f"</{tag}>")
        elif isinstance(value, RawXml):
            out.append(f'<{tag} xsi:type="{value.wsdl_type}">{value.inner}</{tag}>')
        elif isinstance(value, (list, tuple)):
            self._array(tag, value, declared)
        elif declared is object:
            self._untyped(tag, value, type(value))
        else:
            simple = _simple_writer(declared) or _simple_writer(type(value)) or str
            out.append(f"<{tag}>{simple(value)}</{tag}>")

    def any_value(self, tag: str, value: Any, hint: Any) -> None:
        """A value where `anyType` is declared, typed as `hint` where that is a plain type or an array."""
        if isinstance(value, (list, tuple)):
            item = hint.Item if _is_array(hint) else getattr(value, "Item", None)
            self._typed_array(tag, value, item)
        elif hint in (None, object) or isinstance(value, (DataObject, ManagedObject, Managed, RawXml, _FAULT)):
            self.value(tag, value, object)
        else:
            self._untyped(tag, value, hint)

    def _untyped(self, tag: str, value: Any, wire_type: Any) -> None:
        if isinstance(value, (type, ManagedMethod)) or wire_type in (PropertyPath, type, ManagedMethod):
            text = escape(value) if isinstance(value, str) else _type_name(value)
            self.out.append(f'<{tag} xsi:type="xsd:string">{text}</{tag}>')
            return
        if wire_type is int and not -(2**31) <= value < 2**31:
            wire_type = long
        if issubclass(wire_type, Enum) and type(value) is not wire_type and not isinstance(value, str):
            wire_type = Type(value)
        simple = _simple_writer(wire_type) or escape
        self.out.append(f'<{tag} xsi:type="{_qualified(wire_type)}">{simple(value)}</{tag}>')

    def _array(self, tag: str, value: Any, declared: Any) -> None:
        if declared is object:
            self._typed_array(tag, value, getattr(value, "Item", None))
            return
        item = declared.Item if issubclass(declared, list) else declared
        for each in value:
            self.value(tag, each, item)

    def _typed_array(self, tag: str, value: Any, item: Any) -> None:
        if item is None:
            if not value:
                raise TypeError(f"{tag}: an empty list has no type: return a pyVmomi array")
            first = value[0]
            item = ManagedObject if isinstance(first, (Managed, ManagedObject)) else Type(first)
        array_type, item_tag = _array_names(item)
        self.out.append(f'<{tag} xsi:type="{array_type}">')
        for each in value:
            self.value(item_tag, each, item)
        self.out.append(f"</{tag}>")

    def bare_fault(self, tag: str, fault: Any) -> None:
        shown = compatible_type(type_of(fault), self.version)
        self.out.append(f'<{tag} xsi:type="{GetWsdlName(shown)}">')
        if fault.faultCause is not None:
            self.value("faultCause", fault.faultCause, vmodl.LocalizedMethodFault)
        for message in fault.faultMessage or ():
            self.value("faultMessage", message, vmodl.LocalizableMessage)
        for name, declared, is_array, _required, _simple in _fields(shown, self.version):
            if name in ("msg", "faultCause", "faultMessage"):  # `msg` is pyVmomi's own, not on the wire
                continue
            value = getattr(fault, name)
            if value is None:
                continue
            for each in value if is_array else (value,):
                self.value(name, each, declared)
        self.out.append(f"</{tag}>")


def inner_xml(obj: Any, version: str = NEWEST) -> bytes:
    """The fields of a data object, without the element around them.

    Raises `TypeError` when a required field is unset.
    """
    writer = _Writer(version)
    writer.fields(obj, compatible_type(type_of(obj), version))
    return "".join(writer.out).encode()


def value_xml(tag: str, value: Any, declared: Any = object, version: str = NEWEST, hint: Any = None) -> str:
    """`value` as one element (several, for an array of a declared type) called `tag`.

    `declared` is the schema's type at this place: a value of another type carries an `xsi:type`. Where the schema
    says anyType, `hint` is the type of the property that the value comes from. `None` gives no element.
    """
    if value is None:
        return ""
    writer = _Writer(version)
    if declared is object:
        writer.any_value(tag, value, hint)
    else:
        writer.value(tag, value, declared)
    return "".join(writer.out)


def fault_detail(fault: Any, version: str) -> str:
    """The content of a SOAP fault's `detail`."""
    writer = _Writer(version)
    shown = compatible_type(type_of(fault), version)
    writer.bare_fault(f"{GetWsdlName(shown)}Fault", fault)
    tag, _, rest = "".join(writer.out).partition(" ")
    return f'{tag} xmlns="urn:vim25" {rest}'
