"""Offline bundles and VIBs: checksum first, then content, all before a host is touched."""

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, Unreachable
from contracts.host import HostRef
from vsphere.depots import datastore_path, host_location, inspect_depot, read_depot

REF = HostRef(vcenter="lab", key="k", moid="host-1", name="esx-01")
VIB_XML = """<vib version="5.0"><type>bootbank</type><name>NVD-VGPU_ESXi_8.0.0_Driver</name>
<version>550.54.16-1OEM.800.1.0.20613240</version><vendor>NVD</vendor><summary>x</summary>
<acceptance-level>accepted</acceptance-level></vib>"""
BULLETIN_XML = """<bulletin><id>NVD-VGPU-800_550</id><vendor>NVD</vendor>
<componentNameSpec name="NVD-VGPU-800" uiString="x"/><componentVersionSpec version="550.54.16" uiString="x"/>
<platforms><softwarePlatform locale="" version="8.*" productLineID="embeddedEsx"/></platforms></bulletin>"""


def zipped(**files: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def bundle(**changes: str) -> bytes:
    metadata = {
        "vmware.xml": "<metadataResponse><version>3.0</version></metadataResponse>",
        "vibs/nvd.xml": VIB_XML,
        "bulletins/nvd.xml": BULLETIN_XML,
    }
    files: dict[str, str | bytes] = {
        "index.xml": "<vendorList><vendor><indexfile>vendor-index.xml</indexfile></vendor></vendorList>",
        "vendor-index.xml": "<metaList><metadata><url>metadata.zip</url></metadata></metaList>",
        "metadata.zip": zipped(**{**metadata, **changes}),
        "vib20/nvd/nvd.vib": vib(),
    }
    return zipped(**files)


def vib(signature: bytes = b"signature") -> bytes:
    made = b"!<arch>\n"
    for name, content in (("descriptor.xml", VIB_XML.encode()), ("sig.pkcs7", signature), ("nvd", b"x" * 1001)):
        made += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(content):<10}`\n".encode()
        made += content + b"\n" * (len(content) % 2)
    return made


def test_a_bundle_tells_package_component_and_release() -> None:
    content = inspect_depot(io.BytesIO(bundle()), "nvd.zip")
    found = content.find("nvd-vgpu_esxi_8.0.0_driver")
    assert found is not None
    assert (found.version, found.vendor, found.acceptance_level, found.signed) == (
        "550.54.16-1OEM.800.1.0.20613240",
        "NVD",
        "vmware_accepted",
        True,
    )
    assert content.components == {"NVD-VGPU-800": "550.54.16"}
    assert content.platforms == ("8.*",)
    assert content.find("NVD-AIE") is None


@pytest.mark.parametrize(("signature", "signed"), [(b"signature", True), (b"", False)])
def test_a_single_vib_tells_whether_it_is_signed(signature: bytes, signed: bool) -> None:
    (found,) = inspect_depot(io.BytesIO(vib(signature)), "nvd.vib").vibs
    assert (found.name, found.signed) == ("NVD-VGPU_ESXi_8.0.0_Driver", signed)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>log in</html>", "cannot be read as offline bundle or VIB"),
        (bundle()[:200], "cannot be read as offline bundle or VIB"),
        (zipped(**{"NVD/offline_bundle.zip": b"x"}), "no offline bundle; unpack it and use NVD/offline_bundle.zip"),
        (bundle(**{"vibs/nvd.xml": "<vib><name>x</name></vib>"}), "a package descriptor without <version>"),
        (zipped(**{"index.xml": "<vendorList/>"}), "holds no package"),
        (zipped(**{"index.xml": "<v><indexfile>gone.xml</indexfile></v>"}), "gone.xml"),
        (b"!<arch>\n", "without descriptor.xml"),
    ],
)
def test_what_is_no_depot_is_told(content: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        inspect_depot(io.BytesIO(content), "nvd.zip")


def test_datastore_paths_and_urls_are_told_apart() -> None:
    assert datastore_path("[ds-1] depots/nvd.zip") == ("ds-1", "depots/nvd.zip")
    assert datastore_path("https://depot.example.com/nvd.zip") is None
    assert host_location("[ds-1] depots/nvd.zip") == "/vmfs/volumes/ds-1/depots/nvd.zip"
    assert host_location("https://depot.example.com/nvd.zip") == "https://depot.example.com/nvd.zip"
    for wrong in ("nvd.zip", "ftp://depot/nvd.zip", "file:///etc/passwd", "[ds-1] ../../etc/passwd"):
        with pytest.raises(BadRequest, match=r"neither an http|must not hold"):
            datastore_path(wrong)
    with pytest.raises(BadRequest, match="must not hold a password"):
        datastore_path("https://user:secret@depot.example.com/nvd.zip")


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[str]:
    """A web server with `nvd.zip`: its URL."""
    (tmp_path / "nvd.zip").write_bytes(bundle())
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *args: _Files(*args, directory=str(tmp_path)),  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def unconnected() -> vim.ServiceInstance:
    """URLs are read without vCenter."""
    return vim.ServiceInstance("ServiceInstance", None)


def test_a_depot_is_read_once_its_checksum_is_right(depot: str, unconnected: vim.ServiceInstance) -> None:
    right = hashlib.sha256(bundle()).hexdigest()
    content = read_depot(unconnected, REF, f"{depot}/nvd.zip", right.upper())
    assert (content.sha256, content.size_bytes) == (right, len(bundle()))
    with pytest.raises(BadRequest, match=f"has the SHA-256 {right}, not 0000.*it was not used"):
        read_depot(unconnected, REF, f"{depot}/nvd.zip", "0" * 64)


def test_a_depot_larger_than_allowed_is_given_up_early(depot: str, unconnected: vim.ServiceInstance) -> None:
    with pytest.raises(BadRequest, match="has more than 100 bytes"):
        read_depot(unconnected, REF, f"{depot}/nvd.zip", "0" * 64, max_bytes=100)


def test_a_missing_depot_and_a_missing_server_differ(depot: str, unconnected: vim.ServiceInstance) -> None:
    with pytest.raises(BadRequest, match="HTTP status 404; check the URL"):
        read_depot(unconnected, REF, f"{depot}/other.zip", "0" * 64)
    with pytest.raises(Unreachable, match="no connection"):
        read_depot(unconnected, REF, "http://127.0.0.1:1/nvd.zip", "0" * 64)
