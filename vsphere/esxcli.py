"""esxcli commands through vCenter: no SSH, no login to the host."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from pyVmomi import vim

from contracts.errors import BadRequest, Busy, GpuwrightError, NeedsHuman, NotSupported, Unreachable
from contracts.host import HostRef
from vsphere.esxcli_types import ManagedMethodExecuter, SoapArgument
from vsphere.faults import translated

__all__ = ["find_executer", "parse_response", "run"]

_VERSION = "urn:vim25/5.0"


def find_executer(si: vim.ServiceInstance, host: HostRef) -> Any:
    """What runs a host's esxcli commands: a round trip, so ask once for several. Raises `NotSupported`."""
    what = f"esxcli on host {host.name} of {host.vcenter}"
    with translated(what):
        executer = si._stub.InvokeMethod(vim.HostSystem(host.moid, si._stub), ManagedMethodExecuter.Retrieve.info, ())
    if executer is None:
        raise NotSupported(f"{what}: vCenter offers no esxcli for this host")
    return executer


def run(
    si: vim.ServiceInstance,
    host: HostRef,
    command: Sequence[str],
    arguments: Mapping[str, str] | None = None,
    executer: Any = None,
) -> list[dict[str, str]]:
    """Run e.g. `["graphics", "device", "list"]` and return its rows as `field → text`, fields without spaces.

    `arguments` are esxcli's long options (`{"vibname": "x"}`), in the order that `FetchCLIInfo` lists them. A command
    that answers with one value gives one row with the field `value`. Fields with several values are joined by `, `.
    `executer` is what `find_executer` gave. Raises `NotSupported` for a command this host does not have, `NeedsHuman`
    with the host's words when it refuses, `Busy` while its packages are being changed already.
    """
    line = " ".join(["esxcli", *command])
    what = f"{line} on host {host.name} of {host.vcenter}"
    namespace = command[:-1]
    sent = [SoapArgument(name=key, val=f"<{key}>{escape(value)}</{key}>") for key, value in (arguments or {}).items()]
    executer = executer or find_executer(si, host)
    with translated(what):
        moid = "ha-cli-handler-" + "-".join(namespace)
        answer = executer.ExecuteSoap(moid, _VERSION, "vim.EsxCLI." + ".".join(command), sent)
    if answer is not None and answer.fault is not None:
        raise _fault(what, answer.fault.faultMsg, answer.fault.faultDetail or "")
    return parse_response(what, answer.response if answer is not None else None)


def _fault(what: str, message: str, detail: str) -> GpuwrightError:
    said = " ".join(dict.fromkeys(filter(None, [message, " ".join(_texts(detail))])))
    if "NotFound" in said or "could not be found" in said:
        return NotSupported(f"{what}: {said}")
    if "InvalidArgument" in said:
        return BadRequest(f"{what}: {said}")
    if "LockingError" in said:
        # The installer's word for another one at work, which may be the one that a lost call has begun.
        return Busy(f"{what}: {said}")
    return NeedsHuman(f"{what}: {said}")


def _texts(detail: str) -> list[str]:
    try:
        return [text.strip() for text in ET.fromstring(detail).itertext() if text.strip()]  # noqa: S314
    except ET.ParseError:
        return [detail]


def parse_response(what: str, response: str | None) -> list[dict[str, str]]:
    """The rows of an answer's XML; raises `Unreachable` when it is not XML."""
    if not response:
        return []
    try:
        root = ET.fromstring(response)  # noqa: S314 - expat expands no external entities
    except ET.ParseError as error:
        raise Unreachable(f"{what}: the answer cannot be read: {error}") from error
    children = list(root)
    if not children:
        return [{"value": (root.text or "").strip()}]
    # An array of structures has elements named DataObject; an array of values has elements named after their type.
    if all(_name(child) == "DataObject" for child in children):
        return [_row(child) for child in children]
    if all(_name(child) == "string" for child in children):
        return [{"value": (child.text or "").strip()} for child in children]
    return [_row(root)]


def _row(element: ET.Element) -> dict[str, str]:
    row: dict[str, str] = {}
    for child in element:
        values = [(leaf.text or "").strip() for leaf in (list(child) or [child])]
        name, text = _name(child), ", ".join(values)
        row[name] = f"{row[name]}, {text}" if name in row else text
    return row


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
