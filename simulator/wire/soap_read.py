"""SOAP requests → pyVmomi values, leniently: any prefixes, any namespace version, any order of fields."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from pyVmomi import Iso8601, vmodl
from pyVmomi.VmomiSupport import (
    F_LINK,
    URI,
    XMLNS_VMODL_BASE,
    XMLNS_XSI,
    DataObject,
    Enum,
    GetWsdlMethod,
    GetWsdlType,
    GuessWsdlMethod,
    GuessWsdlType,
    Link,
    ManagedMethod,
    ManagedObject,
    binary,
    byte,
    double,
    long,
    short,
)

from simulator.wire.versions import exists_in

__all__ = ["SoapRequest", "arguments_of", "method_info", "parse_data", "parse_request", "wire_type"]

_XSI_TYPE = f"{{{XMLNS_XSI}}}type"
_XSI_NIL = f"{{{XMLNS_XSI}}}nil"
_PLAIN = {
    "boolean": bool,
    "byte": byte,
    "short": short,
    "int": int,
    "integer": long,
    "long": long,
    "float": float,
    "double": double,
    "string": str,
    "anyURI": URI,
    "dateTime": datetime,
    "base64Binary": binary,
}


@dataclass(frozen=True, slots=True)
class SoapRequest:
    """One call: the operation's name, the target's wire type and moid, the argument elements."""

    method: str
    this_type: str
    moid: str
    arguments: tuple[ElementTree.Element, ...]


def _bad(message: str) -> Any:
    return vmodl.fault.InvalidRequest(msg=message)


def local_name(tag: str) -> str:
    """A tag without its namespace."""
    return tag.rpartition("}")[2]


def parse_request(body: bytes) -> SoapRequest:
    """Read a SOAP envelope; raises `vmodl.fault.InvalidRequest` when it is none."""
    try:
        envelope = ElementTree.fromstring(body)  # noqa: S314 - expat ≥ 2.4 refuses entity bombs; this serves tests
    except ElementTree.ParseError as broken:
        raise _bad(f"The request is not well-formed XML: {broken}") from broken
    soap_body = next((child for child in envelope if local_name(child.tag) == "Body"), None)
    if local_name(envelope.tag) != "Envelope" or soap_body is None or len(soap_body) != 1:
        raise _bad("The request is not a SOAP envelope with one operation in its body.")
    operation = soap_body[0]
    this = next((child for child in operation if local_name(child.tag) == "_this"), None)
    if this is None or not this.text:
        raise _bad(f"{local_name(operation.tag)}: `_this` is missing.")
    arguments = tuple(child for child in operation if child is not this)
    return SoapRequest(local_name(operation.tag), this.get("type") or "", this.text.strip(), arguments)


def method_info(vim_type: Any, wsdl_name: str) -> Any:
    """pyVmomi's description of an operation of a managed type, or of any type that has it; `None` if unknown."""
    for base in vim_type.__mro__:
        for info in getattr(base, "_methodInfo", {}).values():
            if info.wsdlName == wsdl_name:
                return info
    try:
        return GetWsdlMethod(XMLNS_VMODL_BASE, wsdl_name).info
    except KeyError:
        pass
    try:
        return GuessWsdlMethod(wsdl_name).info
    except KeyError:
        return None


def arguments_of(request: SoapRequest, info: Any, version: str) -> dict[str, Any]:
    """The call's arguments by VMODL name; absent ones are `None`.

    Raises `vmodl.fault.InvalidRequest` for an argument that is not the operation's or cannot be read.
    """
    params = {param.name: param for param in info.params}
    arguments: dict[str, Any] = dict.fromkeys(params)
    for element in request.arguments:
        name = local_name(element.tag)
        if name not in params:
            raise _bad(f"{request.method}: unknown argument `{name}`.")
        arguments[name] = _gather(arguments[name], element, params[name].type, version)
    return arguments


def parse_data(xml: str, data_type: Any, version: str) -> Any:
    """A data object from the fields that `soap_write.inner_xml` wrote."""
    element = ElementTree.fromstring(f'<o xmlns:xsi="{XMLNS_XSI}" xmlns:xsd="x">{xml}</o>')  # noqa: S314 - our own
    return _decode(element, data_type, version)


def _gather(sofar: Any, element: ElementTree.Element, declared: Any, version: str) -> Any:
    """Repeated elements make up an array."""
    if not issubclass(declared, list):
        return _decode(element, declared, version)
    items = declared() if sofar is None else sofar
    if (xsi_type := element.get(_XSI_TYPE)) and xsi_type.rpartition(":")[2].startswith("ArrayOf"):
        items.extend(_decode(child, declared.Item, version) for child in element)
    else:
        items.append(_decode(element, declared.Item, version))
    return items


def wire_type(name: str) -> Any:
    """A type by its wire name, without prefix; raises `vmodl.fault.InvalidRequest` when there is none."""
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "ManagedObjectReference":
        return ManagedObject
    if name == "ArrayOfManagedObjectReference":
        return ManagedObject.Array
    try:
        return GetWsdlType(XMLNS_VMODL_BASE, name)
    except KeyError:
        pass
    try:
        return GuessWsdlType(name)
    except KeyError:
        raise _bad(f"Unknown type `{name}`.") from None


def _decode(element: ElementTree.Element, declared: Any, version: str) -> Any:
    if element.get(_XSI_NIL) in ("true", "1"):
        return None
    xsi_type = element.get(_XSI_TYPE)
    if xsi_type and declared not in (type, ManagedMethod):
        dynamic = wire_type(xsi_type.rpartition(":")[2])
        if not (issubclass(declared, ManagedObject) and dynamic is ManagedObject):
            declared = dynamic
    if issubclass(declared, list):
        return declared(_decode(child, declared.Item, version) for child in element)
    if issubclass(declared, ManagedObject):
        return wire_type(element.get("type") or declared._wsdlName)((element.text or "").strip())
    if issubclass(declared, vmodl.MethodFault) and any(local_name(child.tag) == "fault" for child in element):
        declared = vmodl.LocalizedMethodFault
    if issubclass(declared, (DataObject, vmodl.MethodFault)):
        return _decode_object(element, declared, version)
    return _decode_plain(element.text or "", declared, local_name(element.tag))


def _link_type(declared: Any) -> Any:
    """A link is sent as the key of the object that it points to."""
    return Link.Array if issubclass(declared, list) else Link


def _decode_object(element: ElementTree.Element, data_type: Any, version: str) -> Any:
    obj = data_type()
    gathered: dict[str, Any] = {}
    for child in element:
        name = local_name(child.tag)
        try:
            info = data_type._GetPropertyInfo(name)
        except AttributeError:
            raise _bad(f"{data_type._wsdlName} has no field `{name}`.") from None
        if exists_in(version, info.version):
            declared = _link_type(info.type) if info.flags & F_LINK else info.type
            gathered[name] = _gather(gathered.get(name), child, declared, version)
    try:
        for name, value in gathered.items():
            setattr(obj, name, value)
    except TypeError as wrong:
        raise _bad(f"{data_type._wsdlName}: {wrong}") from wrong
    if data_type is vmodl.LocalizedMethodFault and obj.fault is not None:
        obj.fault.msg = obj.localizedMessage
        return obj.fault
    return obj


def _decode_plain(text: str, declared: Any, field: str) -> Any:
    try:
        if declared is object or declared is str:
            return text
        if declared is bool:
            if text.strip() not in ("true", "1", "false", "0"):
                raise ValueError(text)
            return text.strip() in ("true", "1")
        if declared is datetime:
            moment = Iso8601.ParseISO8601(text.strip())
            if moment is None:
                raise ValueError(text)
            return moment
        if declared is binary:
            return binary(base64.b64decode(text))
        if declared is type:
            return wire_type(text.strip().rpartition(":")[2])
        if declared is ManagedMethod:
            return GuessWsdlMethod(text.strip().rpartition(":")[2])
        if issubclass(declared, Enum):
            return declared(text.strip())
        return declared(text.strip() if issubclass(declared, (int, float)) else text)
    except (ValueError, KeyError, AttributeError) as wrong:
        raise _bad(f"`{field}`: {text!r} is no {getattr(declared, '__name__', declared)}.") from wrong
