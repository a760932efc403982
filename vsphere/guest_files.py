"""Files into and out of Linux guests, over HTTPS from the host that runs the VM.

vCenter gives a URL for each transfer, and the URL says who serves it. `*` stands for the server that was asked:
vCenter, held to the vCenter's own TLS settings. Any other name is the VM's ESXi host, and it has to present exactly the
certificate that vCenter, itself verified, knows of that host (`HostSystem.config.certificate`); where vCenter knows
none, one of an authority in `ca_file` for the host's name. `insecure_skip_verify` of the vCenter goes for its hosts
too.
Source: vSphere Web Services API, `GuestFileManager.InitiateFileTransferToGuest`.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import structlog
from pyVmomi import vim

from contracts.errors import GpuwrightError, NotSupported, Unreachable
from vsphere.connection import Endpoint, GatewayStub, TlsTarget
from vsphere.faults import translated
from vsphere.guest_access import Guest
from vsphere.properties import read_properties

__all__ = ["FOLDER", "download_tail", "list_names", "remove_file", "remove_folder", "transfer_endpoint", "upload"]

FOLDER = "/var/tmp"  # noqa: S108 - in the guest, under names that Tools make; drivers are too large for a /tmp in memory
_CHUNK = 2**20
_OWNER_ONLY = 0o600

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _EsxiHost:
    """An ESXi host as a TLS target, with the time-outs of its vCenter."""

    name: str
    host: str
    port: int
    ca_file: Path | None
    server_cert_file: Path | None
    insecure_skip_verify: bool
    connect_timeout_s: float
    read_timeout_s: float


def transfer_endpoint(vcenter: Endpoint, url: str, known: Callable[[], bytes | None]) -> tuple[Endpoint, str]:
    """Who serves a transfer's URL, with the proof that it has to show, and the path to ask for.

    `known` tells the certificate (DER) that vCenter knows of the VM's host; it is asked only where the host serves.
    """
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    settings: TlsTarget = vcenter.settings
    host = parts.hostname or "*"
    if host == "*" or (host, parts.port or 443) == (settings.host.casefold(), settings.port):
        return vcenter, path
    certificate = None if settings.insecure_skip_verify else known()
    target = _EsxiHost(
        name=host,
        host=host,
        port=parts.port or 443,
        # vCenter's own authority (VMCA) signs the certificates of its hosts unless somebody replaced them.
        ca_file=settings.ca_file,
        server_cert_file=None,
        insecure_skip_verify=settings.insecure_skip_verify,
        connect_timeout_s=settings.connect_timeout_s,
        read_timeout_s=settings.read_timeout_s,
    )
    return Endpoint(target, "ESXi host", certificate), path


def upload(guest: Guest, path: str, file: IO[bytes], size: int, beat: Callable[[int], None]) -> None:
    """Send `size` bytes of an open file to a path in the guest, readable for the login's user only.

    `beat` gets the bytes sent so far, each MiB. Raises `Unreachable` when it broke off: send it again.
    """
    attributes = vim.vm.guest.FileManager.PosixFileAttributes(permissions=_OWNER_ONLY)
    with guest.asked("open an upload"):
        url = guest.files.InitiateFileTransferToGuest(guest.machine, guest.auth(), path, attributes, size, True)
    headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
    _transfer(guest, "upload", "PUT", url, lambda answer: answer.read(), _Sent(file, beat), headers)


def download_tail(guest: Guest, path: str, keep: int = 64 * 1024) -> str:
    """The last `keep` bytes of a file in the guest, as text."""
    with guest.asked("open a download"):
        told = guest.files.InitiateFileTransferFromGuest(guest.machine, guest.auth(), path)

    def read(answer: HTTPResponse) -> bytes:
        tail = b""
        while chunk := answer.read(_CHUNK):
            tail = (tail + chunk)[-keep:]
        return tail

    return _transfer(guest, "download", "GET", told.url, read).decode(errors="replace")


def list_names(guest: Guest, folder: str) -> list[str]:
    """The names in a folder of the guest; empty when there is no such folder."""
    names: list[str] = []
    while True:
        with guest.asked(f"list {folder}"):
            try:
                page = guest.files.ListFilesInGuest(guest.machine, guest.auth(), folder, len(names), 1000)
            except vim.fault.FileNotFound:
                return names
        found = [entry.path for entry in page.files]
        names += found
        if not page.remaining or not found:
            return names


def remove_file(guest: Guest, path: str) -> None:
    """Remove a file that may be gone already. What prevents it is logged: it never hides why the caller ends."""
    _remove(guest, path, lambda auth: guest.files.DeleteFileInGuest(guest.machine, auth, path))


def remove_folder(guest: Guest, path: str) -> None:
    """Like `remove_file`, for a folder with all that is in it."""
    _remove(guest, path, lambda auth: guest.files.DeleteDirectoryInGuest(guest.machine, auth, path, True))


def _remove(guest: Guest, path: str, call: Callable[[Any], None]) -> None:
    try:
        with guest.asked(f"remove {path}"):
            try:
                call(guest.auth())
            except vim.fault.FileNotFound:
                return
    except GpuwrightError as error:
        _log.warning("guest_file_left", vm=guest.ref.name, path=path, error=str(error))


class _Sent:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], beat: Callable[[int], None]) -> None:
        self._file, self._beat, self._sent = file, beat, 0

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self._sent += len(chunk)
        self._beat(self._sent)
        return chunk


def _transfer(
    guest: Guest,
    what: str,
    method: str,
    url: str,
    take: Callable[[HTTPResponse], bytes],
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> bytes:
    """One request; what `take` makes of the answer. The URL is a key to the file, so messages leave it out."""
    stub = guest.si._stub
    if not isinstance(stub, GatewayStub):
        raise NotSupported(f"{what} for {guest.where}: files are transferred through gpuwright's own sessions")
    endpoint, path = transfer_endpoint(stub.endpoint, url, lambda: _host_certificate(guest))
    connection = endpoint.connect()
    connection.blocksize = _CHUNK
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        taken = take(answer)
    except (OSError, HTTPException) as error:
        raise Unreachable(
            f"{what} for {guest.where}: {endpoint.where} gave no usable answer ({type(error).__name__}: {error})"
        ) from error
    finally:
        connection.close()
    if answer.status not in (200, 201, 204):
        raise Unreachable(f"{what} for {guest.where}: {endpoint.where} answers with HTTP status {answer.status}")
    return taken


def _host_certificate(guest: Guest) -> bytes | None:
    """What vCenter knows as the certificate (DER) of the host that runs the VM."""
    with translated(f"read the certificate of the host of VM {guest.ref.name} on {guest.ref.vcenter}"):
        read = read_properties(guest.si, guest.host, {vim.HostSystem: ["config.certificate"]})[guest.host._moId]
    found = read.get("config.certificate")
    if not found:
        return None
    # pyVmomi gives signed numbers for `byte[]`.
    return ssl.PEM_cert_to_DER_cert(bytes(number & 0xFF for number in found).decode("ascii").strip())
