"""Offline bundles and single VIBs: fetched with their checksum, and read before any host is touched.

Format: an offline bundle is a zip whose `index.xml` names vendor indexes, which name `metadata.zip`s, which hold a
descriptor for each package (`vibs/*.xml`) and bulletins for each component; a `.vib` is an ar archive with
`descriptor.xml`, `sig.pkcs7` and the payload.
"""

import io
import re
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import quote, urlsplit

from pyVmomi import vim

from contracts.errors import BadRequest, NotSupported, Unreachable
from contracts.host import HostRef
from contracts.packages import DepotContent, DepotVib, acceptance_level
from vsphere.connection import GatewayStub
from vsphere.downloads import copy_checked, opened_url
from vsphere.faults import translated
from vsphere.properties import read_properties

__all__ = ["MAX_DEPOT_BYTES", "datastore_path", "host_location", "inspect_depot", "read_depot"]

MAX_DEPOT_BYTES = 4 * 2**30
"""The vGPU Manager's bundles have some 100 MiB; whole ESXi images stay below this too."""
_MAX_METADATA_BYTES = 64 * 2**20
_DATASTORE = re.compile(r"\[([^\]]+)\]\s*(.+)")


def read_depot(
    si: vim.ServiceInstance, host: HostRef, source: str, sha256: str, max_bytes: int = MAX_DEPOT_BYTES
) -> DepotContent:
    """What a depot holds, once its SHA-256 was found right.

    `source` is an `http(s)` URL or a datastore path (`[ds-1] depots/x.zip`) of a datastore in the host's datacenter.
    TLS trusts the system's authorities and those in the vCenter's `ca_file`. Raises `BadRequest` (wrong checksum, no
    depot, too large, not found) or `Unreachable`.
    """
    with tempfile.TemporaryFile() as copy, _opened(si, host, source) as stream:
        size = copy_checked(stream, copy, "depot", source, sha256, max_bytes)
        copy.seek(0)
        content = inspect_depot(copy, source)
    return content.model_copy(update={"sha256": sha256.lower(), "size_bytes": size})


def host_location(source: str) -> str:
    """How an ESXi host is told where the depot is: a URL as it is, a datastore path below `/vmfs/volumes`."""
    found = datastore_path(source)
    return f"/vmfs/volumes/{found[0]}/{found[1]}" if found else source


def datastore_path(source: str) -> tuple[str, str] | None:
    """Datastore and path within it; None for a URL. Raises `BadRequest` for anything else."""
    if match := _DATASTORE.fullmatch(source.strip()):
        if ".." in match[2].split("/"):
            raise BadRequest(f"depot {source!r}: the path must not hold '..'")
        return match[1], match[2].strip("/")
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest(f"depot {source!r} is neither an http(s) URL nor a path like '[datastore] folder/file.zip'")
    if parts.username or parts.password:
        raise BadRequest("the depot's URL must not hold a password: plans and histories show it")
    return None


def inspect_depot(file: IO[bytes], name: str) -> DepotContent:
    """Read a bundle or VIB from a seekable file; raises `BadRequest` when it is neither, or damaged."""
    magic = file.read(8)
    file.seek(0)
    try:
        if magic == b"!<arch>\n":
            return DepotContent(vibs=(_package(file),))
        with zipfile.ZipFile(file) as bundle:
            return _bundle(bundle, name)
    except (zipfile.BadZipFile, ET.ParseError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest(f"depot {name} cannot be read as offline bundle or VIB: {error}") from error


def _bundle(bundle: zipfile.ZipFile, name: str) -> DepotContent:
    if "index.xml" not in bundle.namelist():
        inner = [entry for entry in bundle.namelist() if entry.endswith((".zip", ".vib"))]
        hint = f"; unpack it and use {' or '.join(inner[:3])}" if inner else ""
        raise BadRequest(f"depot {name} is a zip without index.xml, so it is no offline bundle{hint}")
    vibs: dict[tuple[str, str], DepotVib] = {}
    components: dict[str, str] = {}
    platforms: dict[str, None] = {}
    for vendor in _xml(bundle, "index.xml").iter("indexfile"):
        index = (vendor.text or "").strip()
        folder = index.rpartition("/")[0]
        for url in _xml(bundle, index).iter("url"):
            path = "/".join(filter(None, [folder, (url.text or "").strip()]))
            with zipfile.ZipFile(io.BytesIO(_content(bundle, path))) as metadata:
                for entry in metadata.namelist():
                    if re.fullmatch(r"vibs/[^/]+\.xml", entry):
                        vib = _vib(_xml(metadata, entry))
                        vibs[vib.name, vib.version] = vib
                    elif re.fullmatch(r"bulletins/[^/]+\.xml|[^/]+\.xml", entry):
                        _bulletins(_xml(metadata, entry), components, platforms)
    if not vibs:
        raise BadRequest(f"depot {name} holds no package")
    for entry in bundle.namelist():
        if entry.endswith(".vib"):
            with bundle.open(entry) as package:
                signed = _package(package)
            vibs[signed.name, signed.version] = signed
    return DepotContent(vibs=tuple(vibs.values()), components=components, platforms=tuple(platforms))


def _bulletins(root: ET.Element, components: dict[str, str], platforms: dict[str, None]) -> None:
    for bulletin in root.iter("bulletin"):
        name, version = bulletin.find("componentNameSpec"), bulletin.find("componentVersionSpec")
        if name is not None and version is not None:
            components[name.get("name", "")] = version.get("version", "")
        platforms.update((entry.get("version", ""), None) for entry in bulletin.iter("softwarePlatform"))
    platforms.pop("", None)


def _vib(root: ET.Element) -> DepotVib:
    def text(tag: str) -> str:
        found = (root.findtext(tag) or "").strip()
        if not found:
            raise ValueError(f"a package descriptor without <{tag}>")
        return found

    level = (root.findtext("acceptance-level") or "").strip()
    return DepotVib(
        name=text("name"), version=text("version"), vendor=text("vendor"), acceptance_level=acceptance_level(level)
    )


def _package(file: IO[bytes]) -> DepotVib:
    """A `.vib`'s descriptor, and whether a signature lies beside it."""
    members = dict(_ar_members(file))
    if "descriptor.xml" not in members:
        raise ValueError("an archive without descriptor.xml is no VIB")
    vib = _vib(ET.fromstring(members["descriptor.xml"]))  # noqa: S314 - expat expands no external entities
    return vib.model_copy(update={"signed": bool(members.get("sig.pkcs7"))})


def _xml(archive: zipfile.ZipFile, entry: str) -> ET.Element:
    return ET.fromstring(_content(archive, entry))  # noqa: S314 - expat expands no external entities


def _content(archive: zipfile.ZipFile, entry: str) -> bytes:
    if archive.getinfo(entry).file_size > _MAX_METADATA_BYTES:
        raise ValueError(f"{entry} has more than {_MAX_METADATA_BYTES} bytes")
    return archive.read(entry)


def _ar_members(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """The descriptor and the signature of a VIB by name; they come before the payloads, which are not read."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError("not an ar archive")
    missing = {"descriptor.xml", "sig.pkcs7"}
    while missing and len(header := file.read(60)) == 60:
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if name in missing and size <= _MAX_METADATA_BYTES:
            missing.remove(name)
            yield name, file.read(size)
            file.seek(size % 2, io.SEEK_CUR)
        else:
            file.seek(size + size % 2, io.SEEK_CUR)


@contextmanager
def _opened(si: vim.ServiceInstance, host: HostRef, source: str) -> Iterator[Any]:
    if (found := datastore_path(source)) is not None:
        with _datastore_file(si, host, *found) as stream:
            yield stream
        return
    with opened_url(si, host.vcenter, "depot", source) as stream:
        yield stream


@contextmanager
def _datastore_file(si: vim.ServiceInstance, host: HostRef, datastore: str, path: str) -> Iterator[Any]:
    """Through vCenter's `/folder` URL, with the session of `si`."""
    stub = si._stub
    if not isinstance(stub, GatewayStub):
        raise NotSupported(f"depot [{datastore}] {path}: datastore files are read through gpuwright's own sessions")
    url = f"/folder/{quote(path)}?dcPath={quote(_datacenter(si, host), safe='')}&dsName={quote(datastore, safe='')}"
    where = f"depot [{datastore}] {path} on {host.vcenter}"
    connection = stub.endpoint.connect()
    try:
        connection.request("GET", url, headers={"Cookie": stub.cookie})
        response = connection.getresponse()
        if response.status in (401, 403):
            raise BadRequest(
                f"{where}: HTTP status {response.status}; grant the service account Datastore.Browse there"
            )
        if response.status != 200:
            kind = Unreachable if response.status >= 500 else BadRequest
            raise kind(f"{where}: HTTP status {response.status}; check that the file exists")
        yield response
    except (OSError, HTTPException) as error:
        raise Unreachable(f"{where}: no usable answer ({type(error).__name__}: {error})") from error
    finally:
        connection.close()


def _datacenter(si: vim.ServiceInstance, host: HostRef) -> str:
    """The inventory path of the host's datacenter, without a leading slash."""
    names: list[str] = []
    entity: Any = vim.HostSystem(host.moid, si._stub)
    inside = False
    with translated(f"find the datacenter of host {host.name} on {host.vcenter}"):
        while entity is not None:
            read = read_properties(si, entity, {vim.ManagedEntity: ["name", "parent"]})[entity._moId]
            inside = inside or isinstance(entity, vim.Datacenter)
            entity = read.get("parent")
            if inside and entity is not None:
                names.insert(0, str(read.get("name")))
    return "/".join(names)
