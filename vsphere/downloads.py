"""Files that the service fetches from the web: TLS verified, bounded in size, and used only with the right SHA-256."""

import hashlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import IO, Any

from pyVmomi import vim

from contracts.errors import BadRequest, Unreachable
from vsphere.connection import GatewayStub

__all__ = ["copy_checked", "opened_url"]

_CHUNK = 2**20
_TIMEOUT_S = 60


@contextmanager
def opened_url(si: vim.ServiceInstance, vcenter: str, what: str, url: str) -> Iterator[Any]:
    """The body of `url` as a stream; `what` is what messages call it, e.g. `depot`.

    TLS trusts the system's authorities and those in the vCenter's `ca_file`. Raises `BadRequest` (not found, untrusted
    certificate) or `Unreachable`.
    """
    context = ssl.create_default_context()
    stub = si._stub
    if isinstance(stub, GatewayStub) and stub.endpoint.settings.ca_file is not None:
        context.load_verify_locations(stub.endpoint.settings.ca_file)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            raise Unreachable(f"{what} {url}: the server answers with HTTP status {error.code}") from None
        raise BadRequest(f"{what} {url}: the server answers with HTTP status {error.code}; check the URL") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise BadRequest(
                f"{what} {url}: the server's certificate is not trusted ({error.reason.verify_message}); add its CA "
                f"to the 'ca_file' of vCenter {vcenter}, or offer the file elsewhere"
            ) from error
        raise Unreachable(f"{what} {url}: no connection ({error.reason})") from error


def copy_checked(
    stream: Any,
    into: IO[bytes],
    what: str,
    source: str,
    sha256: str,
    max_bytes: int,
    beat: Callable[[int], None] = lambda _: None,
) -> int:
    """Copy a stream and check its SHA-256; returns the size in bytes. `beat` gets the bytes so far, each MiB.

    Raises `BadRequest` (wrong checksum, too large) or `Unreachable` (it broke off).
    """
    digest, size = hashlib.sha256(), 0
    while chunk := _read(stream, what, source):
        size += len(chunk)
        if size > max_bytes:
            raise BadRequest(f"{what} {source} has more than {max_bytes} bytes; is it the right file?")
        digest.update(chunk)
        into.write(chunk)
        beat(size)
    if digest.hexdigest() != sha256.lower():
        raise BadRequest(
            f"{what} {source} has the SHA-256 {digest.hexdigest()}, not {sha256.lower()}; it is not the file that "
            "was asked for, and it was not used: check where it comes from, then correct one or the other"
        )
    return size


def _read(stream: Any, what: str, source: str) -> bytes:
    try:
        return bytes(stream.read(_CHUNK))
    except (OSError, HTTPException) as error:
        raise Unreachable(f"{what} {source}: the download broke off ({type(error).__name__}: {error})") from error
