"""One vCenter's wire: verified TLS on every connection, timeouts on every socket, and calls that are sent once.

pyVmomi's own connect helpers switch verification off for host names that look local, reconnect without checking a
pinned certificate, and fetch the version list without a timeout; so connections are made here. `SoapStubAdapter`
itself never resends, but it takes pooled connections that the server may have closed meanwhile: a changing call
therefore gets a connection of its own, and only reads that can be repeated without harm are repeated.
"""

import ssl
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from enum import Enum
from http.client import HTTPException, HTTPResponse, HTTPSConnection, RemoteDisconnected
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeVar
from xml.parsers.expat import ExpatError

import structlog
from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapResponseDeserializer, SoapStubAdapter
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from contracts.errors import BadRequest, Unreachable

__all__ = ["Endpoint", "GatewayStub", "TlsTarget", "calls_made", "negotiate_version"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

_REPEATABLE = frozenset(
    {
        "CurrentTime",
        "Fetch",
        "FindAllByUuid",
        "FindChild",
        "HostImageConfigGetAcceptance",
        "InitiateFileTransferFromGuest",
        "ListFilesInGuest",
        "ListProcessesInGuest",
        "QueryConfigOptionDescriptor",
        "QueryConfigOptionEx",
        "QueryConfigTarget",
        "QueryLockdownExceptions",
        "QueryOptions",
        "RetrieveManagedMethodExecuter",
        "RetrievePropertiesEx",
        "RetrieveServiceContent",
        "RetrieveVgpuProfileInfo",
        "ValidateCredentialsInGuest",
        "fetchSoftwarePackages",
    }
)
"""Reads that leave nothing behind, by WSDL name."""

_OPENING = frozenset(
    {"CreateContainerView", "CreateCollectorForEvents", "CreateCollectorForTasks", "CreatePropertyCollector"}
)
"""Calls that need nothing made before in the session: worth a new login when refused."""

_STATEFUL = _OPENING | {
    "ContinueRetrievePropertiesEx",
    "CreateFilter",
    "DestroyCollector",
    "DestroyPropertyCollector",
    "DestroyView",
    "Login",
    "Logout",
    "ReadNextEvents",
    "ReadNextTasks",
    "SetCollectorPageSize",
    "WaitForUpdatesEx",
}
"""Calls that move or make something of this session only: never repeated, and nothing to worry about when lost."""

_IDLE_CONNECTIONS = 50
"""How many connections of one session are kept for reuse: a new one costs a TLS handshake on both sides."""


class _Kind(Enum):
    REPEATABLE = 1
    STATEFUL = 2
    CHANGE = 3


def _kind(wsdl_name: str, args: Any) -> _Kind:
    if wsdl_name in _REPEATABLE or (wsdl_name == "ExecuteSoap" and _reads(args)):
        return _Kind.REPEATABLE
    return _Kind.STATEFUL if wsdl_name in _STATEFUL else _Kind.CHANGE


def _reads(esxcli_call: Any) -> bool:
    """An esxcli command changes nothing when its last word is `list` or `get`: vSphere's convention for all of them."""
    _, _, method, *_ = esxcli_call
    return str(method).endswith((".list", ".get"))


class TlsTarget(Protocol):
    """Where a server is and what proves that it is the right one: vCenter's settings, and those of a BMC."""

    @property
    def name(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def server_cert_file(self) -> Path | None: ...
    @property
    def insecure_skip_verify(self) -> bool: ...
    @property
    def connect_timeout_s(self) -> float: ...
    @property
    def read_timeout_s(self) -> float: ...


class Endpoint:
    """Where a server is and how its identity is verified. Raises `BadRequest` for unusable certificate files.

    Files that are replaced are read anew with the next connection. `kind` is what messages call it. `known` is the
    certificate (DER) that a trusted vCenter knows of an ESXi host: it has to present exactly that one.
    """

    def __init__(self, settings: TlsTarget, kind: str = "vCenter", known: bytes | None = None) -> None:
        self.settings = settings
        self.where = f"{kind} {settings.name} ({settings.host}:{settings.port})"
        hint = f" (from https://{settings.host}/certs/download.zip)" if kind == "vCenter" else ""
        self.ca_advice = f"save the {kind}'s root CA{hint} as PEM and name it in 'ca_file'"
        self._known = known
        self.pin_advice = "the one that vCenter knows of it; if it was renewed, reconnect the host in vCenter"
        if settings.server_cert_file is not None:
            self.pin_advice = (
                f"the pinned one in {settings.server_cert_file}; if it was renewed, check it with the server's "
                "administrator and replace that file ('server_cert_file')"
            )
        self._files = self._stamps()
        self.tls, self.pinned = self._read_trust()

    def _read_trust(self) -> tuple[ssl.SSLContext, bytes | None]:
        settings, pinned = self.settings, self._known
        if settings.server_cert_file is not None:
            pinned = _pinned_certificate(settings.server_cert_file)
        try:
            tls = ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise BadRequest(
                f"{self.where}: ca_file {settings.ca_file} cannot be used ({error}); it has to be a PEM bundle"
            ) from error
        if pinned is not None or settings.insecure_skip_verify:
            # A pinned certificate is compared byte by byte after each handshake, before anything is sent.
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        return tls, pinned

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in (self.settings.ca_file, self.settings.server_cert_file) if file is not None]

    def _renew_trust(self) -> None:
        if (files := self._stamps()) == self._files:
            return
        self._files = files
        try:
            self.tls, self.pinned = self._read_trust()
        except BadRequest as unusable:
            # It may be half written, and what was trusted before is no less so. Complete, it has another stamp.
            _log.warning("certificate_file_unusable", where=self.where, error=str(unusable))

    def connect(self) -> HTTPSConnection:
        """A fresh, verified connection; raises `Unreachable` or `BadRequest` (untrusted certificate)."""
        self._renew_trust()
        connection = _Connection(self)
        connection.connect()
        return connection


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What is another one as soon as a file is written, replaced or allowed to be read; None where there is none."""
    try:
        seen = file.stat()
    except OSError:
        return None
    return seen.st_ctime_ns, seen.st_ino, seen.st_size


def _pinned_certificate(path: Path) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"server_cert_file {path} cannot be used ({error}); it has to be one PEM certificate"
        ) from error


class _Connection(HTTPSConnection):
    """Also reconnects by itself (http.client does so after `Connection: close`) only through `connect`."""

    def __init__(self, endpoint: Endpoint) -> None:
        settings = endpoint.settings
        super().__init__(settings.host, settings.port, timeout=settings.connect_timeout_s, context=endpoint.tls)
        self._endpoint = endpoint

    def connect(self) -> None:
        endpoint, settings = self._endpoint, self._endpoint.settings
        if settings.insecure_skip_verify:
            _log.warning(
                "tls_verification_off", vcenter=settings.name, host=settings.host, option="insecure_skip_verify"
            )
        try:
            super().connect()
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise BadRequest(
                f"{endpoint.where}: the server's certificate is not trusted ({error.verify_message}); "
                f"{endpoint.ca_advice}, or save the server's own certificate and name it in 'server_cert_file'"
            ) from error
        except OSError as error:
            self.close()
            raise Unreachable(
                f"{endpoint.where}: no connection within {settings.connect_timeout_s:g} s "
                f"({error.strerror or error}); nothing was sent"
            ) from error
        if endpoint.pinned is not None and self.sock.getpeercert(True) != endpoint.pinned:
            self.close()
            raise BadRequest(f"{endpoint.where}: the server's certificate is not {endpoint.pin_advice}")
        self.sock.settimeout(settings.read_timeout_s)


def negotiate_version(endpoint: Endpoint) -> str:
    """pyVmomi's name of the newest released API version that both sides know, e.g. `vim.version.v8_0_2_0`.

    Source: `/sdk/vimServiceVersions.xml`. Raises `Unreachable`, or `BadRequest` when nothing there is a vCenter.
    """
    connection = endpoint.connect()
    try:
        connection.request("GET", "/sdk/vimServiceVersions.xml")
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, HTTPException) as error:
        raise Unreachable(f"{endpoint.where}: no answer when asked for its versions ({error!r})") from error
    finally:
        connection.close()
    if status in (502, 503, 504):
        raise Unreachable(f"{endpoint.where}: answers with HTTP status {status}: vCenter is starting or overloaded")
    offered: set[str | None] = set()
    if status == 200:
        try:
            namespaces = ET.fromstring(body).iter("namespace")  # noqa: S314 - expat expands no external entities
            offered = {v.text for n in namespaces if n.findtext("name") == "urn:vim25" for v in n.iter("version")}
        except ET.ParseError:
            offered = set()
    for version in GetServiceVersions("vim25"):
        if versionIdMap[version] in offered:
            return str(version)
    raise BadRequest(f"{endpoint.where}: nothing there speaks the vSphere API (HTTP status {status}); check 'url'")


_made = threading.local()


def calls_made() -> int:
    """How many calls this thread has sent so far, to whatever vCenter."""
    return getattr(_made, "calls", 0)


class GatewayStub(SoapStubAdapter):
    """A SOAP stub whose calls are sent once, except repeatable reads; safe for several threads."""

    def __init__(self, endpoint: Endpoint, version: str) -> None:
        super().__init__(
            host=endpoint.settings.host,
            port=endpoint.settings.port,
            version=version,
            sslContext=endpoint.tls,
            # A hundred waits share a few sessions, and each wait has a connection of its own.
            poolSize=_IDLE_CONNECTIONS,
            connectionPoolTimeout=30,
        )
        self.endpoint = endpoint
        self.relogin: Callable[[str], None] | None = None
        """Called with the refused cookie when a read met `NotAuthenticated`."""
        self.last_used = time.monotonic()
        self._call = threading.local()
        self._closed = False

    def close(self) -> None:
        """Close all connections, and those of calls that are under way as soon as they end."""
        self._closed = True
        self.DropConnections()

    def ReturnConnection(self, conn: Any) -> None:
        """Keep the connection for the next call, unless there will be none."""
        super().ReturnConnection(conn)
        if self._closed:
            self.DropConnections()

    def GetConnection(self) -> Any:
        """A pooled connection for reads; a new one for changes."""
        if not getattr(self._call, "fresh", False):
            with self.lock:
                self._CloseIdleConnections()
                if self.pool:
                    return self.pool.pop(0)[0]
        return self.endpoint.connect()

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        """Send a call; raises vSphere's own faults, and `Unreachable` for what happens on the way."""
        kind = _kind(info.wsdlName, args)
        return self._repeated(kind, info.wsdlName, lambda: self._once(kind, mo, info, args, outerStub))

    def _repeated(self, kind: _Kind, wsdl_name: str, once: Callable[[], _T]) -> _T:
        """Sent once; what may be repeated is, after a closed connection and after a new login."""
        if kind is not _Kind.REPEATABLE and wsdl_name not in _OPENING:
            return once()
        cookie = self.cookie
        try:
            return once()
        except _StaleConnection:
            return once()
        except vim.fault.NotAuthenticated:
            if self.relogin is None:
                raise
            self.relogin(cookie)
            return once()

    def _once(self, kind: _Kind, mo: Any, info: Any, args: Any, outer_stub: Any) -> Any:
        self._call.fresh = kind is _Kind.CHANGE
        _made.calls = calls_made() + 1
        try:
            return super().InvokeMethod(mo, info, args, outer_stub)
        except (OSError, HTTPException, ExpatError) as error:
            raise self._lost(kind, info.wsdlName, error) from error
        finally:
            self._call.fresh = False
            self.last_used = time.monotonic()

    def invoke_raw(self, mo: Any, method: str, *args: Any) -> bytes:
        """Send a call and return the answer's XML undecoded; faults are raised as usual.

        For answers that pyVmomi would throw away whole for one item that it cannot decode.
        """
        info = getattr(type(mo), method).info
        kind = _kind(info.wsdlName, args)
        return self._repeated(kind, info.wsdlName, lambda: self._raw_once(kind, mo, info, args))

    def _raw_once(self, kind: _Kind, mo: Any, info: Any, args: Any) -> bytes:
        request = self.SerializeRequest(mo, info, args)
        headers = {"Cookie": self.cookie, "SOAPAction": self.versionId, "Content-Type": "text/xml; charset=utf-8"}
        connection = self.GetConnection()
        _made.calls = calls_made() + 1
        try:
            connection.request("POST", self.path, request, headers)
            response: HTTPResponse = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            raise self._lost(kind, info.wsdlName, error) from error
        finally:
            self.last_used = time.monotonic()
        self.ReturnConnection(connection)
        if response.status == 200:
            return body
        if response.status != 500:
            raise Unreachable(f"{self.endpoint.where}: {info.wsdlName} got HTTP status {response.status}")
        try:
            raise SoapResponseDeserializer(self).Deserialize(BytesIO(body), info.result)
        except ExpatError as error:
            raise self._lost(kind, info.wsdlName, error) from error

    def _lost(self, kind: _Kind, method: str, error: Exception) -> Unreachable:
        what = f"{self.endpoint.where}: no usable answer to {method} ({type(error).__name__}: {error})"
        if kind is _Kind.CHANGE:
            return Unreachable(f"{what}; unknown whether it was carried out: look before trying again")
        if kind is _Kind.REPEATABLE and isinstance(error, (ConnectionError, RemoteDisconnected, ssl.SSLEOFError)):
            return _StaleConnection(what)
        return Unreachable(what)


class _StaleConnection(Unreachable):
    """The server had closed the connection, as servers do with idle ones."""
