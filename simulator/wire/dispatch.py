"""One SOAP call: who may make it, which object does it, what goes back."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from simulator.core import CURRENT_CALL, Call, Managed, Registry
from simulator.faults import FaultInjector
from simulator.paths import InvalidPath
from simulator.wire.property_collector import PropertyCollector
from simulator.wire.property_types import path_hint
from simulator.wire.session import Session
from simulator.wire.soap_read import SoapRequest, arguments_of, method_info
from simulator.wire.soap_write import RawAnswer, RawXml, escape, fault_detail, value_xml
from simulator.wire.versions import api_version

__all__ = ["Dispatcher", "DropConnection", "Reply"]

log = logging.getLogger(__name__)

_ENVELOPE_START = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/" '
    'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>\n'
)
_ENVELOPE_END = "\n</soapenv:Body></soapenv:Envelope>"

_WITHOUT_LOGIN = {
    "RetrieveServiceContent",
    "CurrentTime",
    "Login",
    "RetrieveInternalContent",
    "LoginBySSPI",
    "LoginByToken",
}


class DropConnection(Exception):
    """An injected fault: close the connection without an answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The HTTP status (200, or 500 for a SOAP fault) and the envelope."""

    status: int
    envelope: bytes


def soap_fault(fault: Any, version: str) -> Reply:
    """A pyVmomi fault as a SOAP fault."""
    message = fault.msg or f"A general error occurred: {type(fault).__name__.rpartition('.')[2]}"
    return Reply(
        500,
        (
            f"{_ENVELOPE_START}<soapenv:Fault><faultcode>ServerFaultCode</faultcode>"
            f"<faultstring>{escape(message)}</faultstring>"
            f"<detail>{fault_detail(fault, version)}</detail></soapenv:Fault>{_ENVELOPE_END}"
        ).encode(),
    )


class Dispatcher:
    """Runs calls on the registry's and the session's objects."""

    def __init__(self, registry: Registry, faults: FaultInjector) -> None:
        self.registry = registry
        self.faults = faults

    async def run(self, request: SoapRequest, session: Session, version: str) -> Reply:
        """Serve one call; raises `DropConnection` when an injected fault says so."""
        try:
            result, shown = await self._run(request, session, version)
            begin = f'{_ENVELOPE_START}<{request.method}Response xmlns="urn:vim25">'.encode()
            end = f"</{request.method}Response>{_ENVELOPE_END}".encode()
            return Reply(200, _beginning(b"".join((begin, result, end)), shown))
        except vmodl.MethodFault as fault:
            return soap_fault(fault, version)
        except (DropConnection, asyncio.CancelledError):
            raise
        except Exception as broken:
            log.exception("%s on %s broke", request.method, request.moid)
            return soap_fault(vmodl.fault.SystemError(reason=repr(broken), msg=f"Simulator bug: {broken!r}"), version)

    async def _run(self, request: SoapRequest, session: Session, version: str) -> tuple[bytes, float]:
        """The result, and how much of the answer the client gets to see (1 = all)."""
        if request.moid == PropertyCollector.DEFAULT and session.authenticated and not session.find(request.moid):
            session.add(PropertyCollector(session))
        target = session.find(request.moid)
        if target is None or not session.authenticated:
            self._refuse_strangers(request, session)
        if target is None:
            ref = _reference(request)
            raise vmodl.fault.ManagedObjectNotFound(
                obj=ref,
                msg=f"The object '{request.this_type}:{request.moid}' has already been deleted or has not been "
                "completely created",
            )
        rule = self.faults.match(request.method, target, session)
        if rule is not None:
            if rule.delay_s:
                await asyncio.sleep(rule.delay_s)
            if rule.drop == "before":
                raise DropConnection
            if rule.error is not None:
                raise rule.fault()
        call = Call(session, api_version(version), request.method)
        token = CURRENT_CALL.set(call)
        try:
            result = await self._perform(request, target, call, version)
        finally:
            CURRENT_CALL.reset(token)
        if rule is not None and rule.drop == "after":
            raise DropConnection
        return result, 1.0 if rule is None or rule.truncate is None else rule.truncate

    @staticmethod
    async def _perform(request: SoapRequest, target: Managed, call: Call, version: str) -> bytes:
        if request.method == "Fetch":
            return _fetch(request, target, version).encode()
        info = method_info(target.vim_type, request.method)
        if info is None or request.method not in target.methods:
            raise vmodl.fault.MethodNotFound(
                receiver=target.ref(),
                method=request.method,
                msg=f"The simulator's {target.vim_type.__name__} has no operation {request.method}.",
            )
        arguments = _accepted(target.methods[request.method], arguments_of(request, info, version))
        result = await target.invoke(request.method, call, arguments)
        if isinstance(result, RawAnswer):
            return result.content
        if isinstance(result, RawXml):
            return result.inner.encode()
        return value_xml("returnval", result, info.result, version).encode()

    @staticmethod
    def _refuse_strangers(request: SoapRequest, session: Session) -> None:
        if session.authenticated or request.method in _WITHOUT_LOGIN:
            return
        if request.method == "Fetch" and request.moid in ("SessionManager", "ServiceInstance"):
            return
        raise vim.fault.NotAuthenticated(
            object=_reference(request),
            privilegeId="System.View",
            msg="The session is not authenticated.",
        )


def _fetch(request: SoapRequest, target: Managed, version: str) -> str:
    """`Fetch(prop)`: how pyVmomi reads an attribute."""
    path = next((element.text for element in request.arguments if element.tag.endswith("prop")), None) or ""
    try:
        hint = path_hint(target.vim_type, path, version)
        return value_xml("returnval", target.read(path), object, version, hint)
    except InvalidPath:
        raise vmodl.query.InvalidProperty(name=path, msg=f"There is no property `{path}`.") from None


@lru_cache(maxsize=4096)
def _parameters(fn: Callable[..., Any]) -> frozenset[str] | None:
    """The argument names that an operation takes, or `None` when it takes any."""
    parameters = inspect.signature(fn).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def _accepted(fn: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments for `fn`: it need not take optional ones that the simulator does not honour, if they are unset."""
    known = _parameters(fn)
    if known is None:
        return arguments
    for name, value in arguments.items():
        if name not in known and value is not None:
            raise vmodl.fault.NotSupported(msg=f"The simulator does not honour the argument `{name}` here.")
    return {name: value for name, value in arguments.items() if name in known}


def _beginning(envelope: bytes, part: float) -> bytes:
    return envelope if part >= 1 else envelope[: int(len(envelope) * part)]


def _reference(request: SoapRequest) -> Any:
    for namespace in (vim, vmodl):
        if found := getattr(namespace, request.this_type, None):
            return found(request.moid)
    return ManagedObject(request.moid)
