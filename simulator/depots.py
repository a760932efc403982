"""Package depots: small offline bundles with the layout of real ones, the same bytes on every run.

An offline bundle is a zip of `index.xml`, `vendor-index.xml`, `metadata.zip` (which describes packages, bulletins and
components) and the packages themselves, `vib20/<name>/<id>.vib`: `ar` archives of `descriptor.xml`, `sig.pkcs7`
and a payload.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from simulator.parts import Vib

__all__ = ["DEPOTS", "Depot", "DepotNotFound", "package_at"]

_STAMP = (2024, 3, 5, 0, 0, 0)
_LEVELS = {
    "VMwareCertified": "certified", "VMwareAccepted": "accepted",
    "PartnerSupported": "partner", "CommunitySupported": "community",
}  # fmt: skip


class DepotNotFound(Exception):
    """Nothing can be downloaded from there; the message says from where."""


@dataclass(slots=True)
class Depot:
    """An offline bundle with one package; `name` is its file name without `.zip`."""

    name: str
    vib: Vib
    _content: bytes = field(default=b"", repr=False)

    @property
    def content(self) -> bytes:
        """The zip file."""
        self._content = self._content or _bundle(self)
        return self._content

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def vib_path(self) -> str:
        """Where the package lies in the bundle."""
        return f"vib20/{self.vib.name}/{self.vib.full_id}.vib"

    def member(self, path: str) -> bytes:
        """One file of the bundle, as a web server shows an unpacked one; raises `KeyError`."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as bundle:
            return bundle.read(path)


def _nvidia(kind: str, platform: str, version: str) -> Depot:
    digits = platform.replace(".", "")
    build = {"8": "20613240", "7": "17867351", "9": "24755229"}[platform[0]]
    full = f"{version}-1OEM.{digits}.1.0.{build}"
    title = "NVIDIA AI Enterprise" if kind == "AIE" else "NVIDIA vGPU"
    vib = Vib(
        f"NVD-{kind}_ESXi_{platform}_Driver", full, "NVD", "VMwareAccepted", f"{title} host driver for ESXi",
        provides_vgpu=True, platform=f"{platform[0]}.*", component=f"NVD-{kind}-{digits}",
    )  # fmt: skip
    return Depot(f"{vib.component}_{full}", vib)


DEPOTS: dict[str, Depot] = {
    depot.name: depot
    for depot in (
        *(_nvidia(kind, "8.0.0", version) for kind in ("VGPU", "AIE") for version in ("535.129.03", "550.54.16")),
        _nvidia("VGPU", "7.0.2", "510.108.03"),
        *(_nvidia(kind, "9.0.0", "580.65.05") for kind in ("VGPU", "AIE")),
        Depot(
            "gpu-tools_1.2",
            Vib(
                "gpu-tools", "1.2-1", "community", "CommunitySupported", "Unsigned GPU tools", signed=False,
                platform="8.*", component="gpu-tools",
            ),
        ),
    )
}  # fmt: skip
"""By name: both NVIDIA packages in two versions, one each for ESXi 7 and two for ESX 9, and an unsigned one."""

_PLACE = re.compile(
    r"(?:^https?://\S+/|^\[[^\]]+\] ?|^/vmfs/volumes/[^/]+/)(?:\S*/)?depots/([^/\s]+?)(?:\.zip)?(?:/(\S+))?$"
)


def package_at(place: str) -> Depot:
    """The depot behind a URL (`https://…/depots/X.zip`) or a datastore path (`[vsan-01] depots/X.zip`).

    Its `metadata.zip` and its package below it (`…/depots/X/vib20/…`) name it too. Raises `DepotNotFound`.
    """
    match = _PLACE.match(place)
    depot = DEPOTS.get(match[1]) if match else None
    if match is None or depot is None or match[2] not in (None, "metadata.zip", "index.xml", depot.vib_path):
        raise DepotNotFound(f"Could not download from depot at {place}, skipping")
    return depot


def _bundle(depot: Depot) -> bytes:
    vendor_index = (
        f"<metaList><metadata><productId>embeddedEsx</productId><version>{escape(depot.vib.platform)}</version>"
        "<locale></locale><url>metadata.zip</url></metadata></metaList>"
    )
    return _zip(
        {
            "index.xml": "<vendorList><vendor><name>NVIDIA</name><code>NVD</code>"
            "<indexfile>vendor-index.xml</indexfile><relativePath></relativePath><content><name>ESXi</name>"
            "<type>http://www.vmware.com/depotmanagement/esx</type></content></vendor></vendorList>",
            "vendor-index.xml": vendor_index,
            "metadata.zip": _metadata(depot),
            depot.vib_path: _package(depot.vib),
        }
    )


def _zip(files: dict[str, str | bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(zipfile.ZipInfo(name, _STAMP), content)
    return target.getvalue()


def _metadata(depot: Depot) -> bytes:
    vib = depot.vib
    bulletin = (
        f"<bulletin><id>{vib.component}</id><vendor>{vib.vendor}</vendor><summary>{escape(vib.summary)}</summary>"
        f'<componentNameSpec name="{vib.component}" uiString="{escape(vib.summary)}"/>'
        f'<componentVersionSpec version="{vib.version}" uiString="{vib.version.partition("-")[0]}"/>'
        f'<platforms><softwarePlatform locale="" productLineID="embeddedEsx" version="{vib.platform}"/></platforms>'
        f"<vibList><vibID>{vib.full_id}</vibID></vibList></bulletin>"
    )
    return _zip(
        {
            "vmware.xml": f"<metadataResponse><version>3.0</version>{bulletin}</metadataResponse>",
            f"bulletins/{vib.component}.xml": bulletin,
            f"vibs/{vib.name}.xml": _descriptor(vib),
        }
    )


def _descriptor(vib: Vib) -> str:
    major = int(vib.platform[0])
    return (
        f'<vib version="5.0"><type>bootbank</type><name>{vib.name}</name><version>{vib.version}</version>'
        f"<vendor>{vib.vendor}</vendor><summary>{escape(vib.summary)}</summary>"
        f"<description>{escape(vib.summary)}</description><release-date>{vib.install_date}T00:00:00+00:00</release-date>"
        f'<relationships><depends><constraint name="esx-version" relation="&gt;=" version="{major}.0.0"/>'
        f'<constraint name="esx-version" relation="&lt;&lt;" version="{major + 1}.0.0"/></depends>'
        "<conflicts/><replaces/><provides/><compatibleWith/></relationships>"
        f"<acceptance-level>{_LEVELS[vib.acceptance_level]}</acceptance-level>"
        "<live-install-allowed>false</live-install-allowed><live-remove-allowed>false</live-remove-allowed>"
        "<system-requires><maintenance-mode>true</maintenance-mode></system-requires>"
        f'<payloads><payload name="{vib.name[:8].lower()}" type="vgz"/></payloads></vib>'
    )


def _package(vib: Vib) -> bytes:
    """An `ar` archive; an unsigned package has an empty signature."""
    files = {
        "descriptor.xml": _descriptor(vib).encode(),
        "sig.pkcs7": hashlib.sha512(vib.full_id.encode()).digest() if vib.signed else b"",
        vib.name[:8].lower(): f"payload of {vib.full_id}\n".encode() * 64,
    }
    archive = b"!<arch>\n"
    for name, content in files.items():
        header = f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        archive += header.encode() + content + b"\n" * (len(content) % 2)
    return archive
