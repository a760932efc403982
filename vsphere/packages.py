"""VIBs of a host whose packages are not owned by an image: looked at, installed, removed.

Which way a host offers differs by release: `InstallHostPatchV2_Task` while vCenter patches by baselines, else esxcli.
Both leave the change waiting for a reboot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Conflict, NeedsHuman, NotSupported
from contracts.host import HostRef
from contracts.packages import InstalledVib, acceptance_level, accepts, meets, platform_matches
from vsphere import esxcli
from vsphere.depots import host_location, read_depot
from vsphere.faults import translated
from vsphere.hosts import running_task
from vsphere.properties import Read, read_properties, traversal

__all__ = ["PackageChange", "install_package", "installed_vib", "remove_package"]

_PATHS = [
    "parent",
    "config.product",
    "runtime.inMaintenanceMode",
    "configManager.imageConfigManager",
    "configManager.patchManager",
]


@dataclass(frozen=True)
class PackageChange:
    """A change that was made, or is being made by `task`. It is in force after a reboot."""

    text: str
    task: str | None = None
    """Moid of the vCenter task to follow; None when the change is made already."""


def installed_vib(si: vim.ServiceInstance, host: HostRef, name: str) -> InstalledVib | None:
    """The installed package of that name; letter case does not matter."""
    with translated(f"read the packages of host {host.name} of {host.vcenter}"):
        return _installed(_host(si, host)[0], host, name)


def install_package(
    si: vim.ServiceInstance, host: HostRef, name: str, requirement: str, source: str, sha256: str
) -> PackageChange | None:
    """Install or upgrade a VIB from an offline bundle or `.vib`; None when a version as required is installed.

    `source` is an http(s) URL that the host reaches too, or a datastore path; its checksum and content (name, version,
    acceptance level, ESXi release) are looked at before the host is touched. Raises `BadRequest` (wrong depot),
    `Conflict` (image-managed cluster, not in maintenance mode), `NeedsHuman` (the host refuses), `Unreachable` when it
    is unknown whether the change was begun: then call again.
    """
    what = f"install {name} {requirement} on host {host.name} of {host.vcenter}"
    with translated(what):
        read, cluster = _host(si, host)
        have = _installed(read, host, name)
        if have is not None and meets(have.version, requirement):
            return None
        if (task := running_task(si, host, "patchmanager.install")) is not None:
            return PackageChange("an installation was running already", task)
        _check_changeable(what, read, cluster)
        version = _check_depot(si, host, read, name, requirement, source, sha256)
        text = f"{name} {have.version if have else 'absent'} → {version}"
        location = host_location(source)
        single = {"vibUrls" if source.lower().endswith(".vib") else "bundleUrls": [location]}
        if (manager := read.get("configManager.patchManager")) is not None:
            try:
                return PackageChange(text, str(manager.InstallHostPatchV2_Task(**single)._moId))
            except (vmodl.fault.NotSupported, vmodl.fault.MethodNotFound, vmodl.fault.NotImplemented):
                # ESX 9 takes no patches from vCenter's baselines any more; it said so before doing anything.
                manager = None
        option = "viburl" if "vibUrls" in single else "depot"
        said = esxcli.run(si, host, ["software", "vib", "install"], {option: location})
    return PackageChange(f"{text}; {_message(said)}")


def remove_package(si: vim.ServiceInstance, host: HostRef, name: str) -> PackageChange | None:
    """Remove a VIB by esxcli; None when it is not installed. Raises what `install_package` raises."""
    what = f"remove {name} from host {host.name} of {host.vcenter}"
    with translated(what):
        read, cluster = _host(si, host)
        have = _installed(read, host, name)
        if have is None:
            return None
        _check_changeable(what, read, cluster)
        said = esxcli.run(si, host, ["software", "vib", "remove"], {"vibname": have.name})
    return PackageChange(f"{have.name} {have.version} → absent; {_message(said)}")


def _host(si: vim.ServiceInstance, host: HostRef) -> tuple[Read, Read | None]:
    system = vim.HostSystem(host.moid, si._stub)
    paths: dict[Any, Sequence[str]] = {vim.HostSystem: _PATHS, vim.ClusterComputeResource: ["name", "lifecycleManaged"]}
    found = read_properties(si, system, paths, [traversal(vim.HostSystem, "parent")])
    cluster = next((read for read in found.values() if isinstance(read.obj, vim.ClusterComputeResource)), None)
    return found[host.moid], cluster


def _installed(read: Read, host: HostRef, name: str) -> InstalledVib | None:
    manager = read.get("configManager.imageConfigManager")
    if manager is None:
        raise NotSupported(f"host {host.name} of {host.vcenter} does not tell its packages (no imageConfigManager)")
    for package in manager.FetchSoftwarePackages():
        if package.name.casefold() == name.casefold():
            return InstalledVib(
                name=package.name,
                version=package.version,
                vendor=package.vendor,
                acceptance_level=acceptance_level(package.acceptanceLevel or ""),
            )
    return None


def _check_changeable(what: str, read: Read, cluster: Read | None) -> None:
    if cluster is not None and cluster.get("lifecycleManaged"):
        raise Conflict(
            f"{what}: cluster {cluster.get('name')} has a vLCM image, which owns its packages; a change by hand would "
            "be undone: change the image instead"
        )
    if not read.get("runtime.inMaintenanceMode"):
        raise Conflict(f"{what}: the host is not in maintenance mode, so its packages are not changed")


def _check_depot(
    si: vim.ServiceInstance, host: HostRef, read: Read, name: str, requirement: str, source: str, sha256: str
) -> str:
    """The version that the depot brings; raises `BadRequest` or `NeedsHuman` with what is wrong about it."""
    depot = read_depot(si, host, source, sha256)
    vib = depot.find(name)
    if vib is None:
        there = ", ".join(f"{vib.name} {vib.version}" for vib in depot.vibs)
        raise BadRequest(
            f"depot {source} does not hold {name}; it holds {there} (the NVIDIA AI Enterprise and the vGPU graphics "
            "host drivers are different packages)"
        )
    if not meets(vib.version, requirement):
        raise BadRequest(f"depot {source} holds {name} {vib.version}, which is not {requirement}")
    product = read.get("config.product")
    if product is not None and not platform_matches(product.version, depot.platforms):
        raise BadRequest(
            f"depot {source} is for ESXi {', '.join(depot.platforms)}, host {host.name} is {product.version}"
        )
    level = acceptance_level(str(read.get("configManager.imageConfigManager").QueryHostAcceptanceLevel()))
    if not accepts(level, vib.acceptance_level):
        raise NeedsHuman(
            f"{name} in depot {source} is {vib.acceptance_level or 'of no acceptance level'}, and host {host.name} "
            f"takes {level} or better; get a package that is signed accordingly"
        )
    if vib.signed is False and level != "community":
        raise NeedsHuman(f"{name} in depot {source} is not signed, and host {host.name} takes {level} or better")
    return vib.version


def _message(rows: list[dict[str, str]]) -> str:
    return next((row["Message"] for row in rows if row.get("Message")), "esxcli gave no message")
