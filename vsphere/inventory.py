"""Who the hosts are and how they are: one read each, however many properties."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest
from contracts.host import HostRef, HostState
from vsphere.asking import ask_host
from vsphere.faults import translated
from vsphere.host_state import CLUSTER_PATHS, HOST_PATHS, Asked, host_state
from vsphere.host_vms import VM_PATHS
from vsphere.properties import Read, read_properties, traversal
from vsphere.sessions import api_version, content

__all__ = ["HostIndex", "IndexedHost", "find_host", "host_index", "index_hosts", "read_host"]


@dataclass(frozen=True)
class IndexedHost:
    """A host in the inventory. The cluster is that of `parent`; both parts are empty for a standalone host."""

    ref: HostRef
    cluster_moid: str = ""
    cluster_name: str = ""


@dataclass(frozen=True)
class HostIndex:
    """Every host that the service account may see."""

    vcenter: str
    hosts: tuple[IndexedHost, ...] = ()
    by_moid: Mapping[str, IndexedHost] = field(default_factory=dict)

    def find(self, wanted: str) -> IndexedHost:
        """A host by name (letter case does not matter), key or moid; raises `BadRequest` with close matches."""
        name = wanted.casefold()
        found = [
            host for host in self.hosts if wanted in (host.ref.key, host.ref.moid) or host.ref.name.casefold() == name
        ]
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(host.ref.key for host in found)
            raise BadRequest(f"{len(found)} hosts of vCenter {self.vcenter} are called {wanted!r}; use a key: {keys}")
        known = {host.ref.name.casefold(): host.ref.name for host in self.hosts}
        close = [known[match] for match in get_close_matches(name, known, n=3)]
        close = close or [shown for folded, shown in sorted(known.items()) if folded.startswith(name + ".")][:3]
        hint = f"did you mean {' or '.join(close)}?" if close else f"it shows {len(self.hosts)} hosts"
        raise BadRequest(
            f"vCenter {self.vcenter} has no host {wanted!r} that the service account may see; {hint} "
            "Use the name as vCenter shows it, the hardware UUID or the moid"
        )


def host_index(si: vim.ServiceInstance, vcenter: str) -> HostIndex:
    """All hosts with their keys and clusters, in one read (and its continuations)."""
    with translated(f"list the hosts of {vcenter}"):
        view = content(si).viewManager.CreateContainerView(content(si).rootFolder, [vim.HostSystem], True)
        try:
            found = read_properties(
                si,
                view,
                {vim.HostSystem: ["name", "parent", "summary.hardware.uuid"], vim.ClusterComputeResource: ["name"]},
                [traversal(vim.view.ContainerView, "view", traversal(vim.HostSystem, "parent"))],
                skip_start=True,
            )
        finally:
            view.DestroyView()
    return index_hosts(vcenter, found)


def index_hosts(vcenter: str, found: Mapping[str, Read]) -> HostIndex:
    """The index of what one read found: hosts and clusters by moid.

    A host's key is its hardware UUID; where several hosts report the same one (cloned firmware) it is `uuid.moid`,
    and where a host reports none, its moid.
    """
    reads = {moid: read for moid, read in found.items() if isinstance(read.obj, vim.HostSystem)}
    uuids = [str(read.get("summary.hardware.uuid") or "").lower() for read in reads.values()]
    hosts = []
    for moid, read in sorted(reads.items()):
        uuid = str(read.get("summary.hardware.uuid") or "").lower()
        key = uuid if uuids.count(uuid) == 1 else f"{uuid}.{moid}"
        parent = read.get("parent")
        cluster = found.get(parent._moId) if parent is not None else None
        hosts.append(
            IndexedHost(
                HostRef(vcenter=vcenter, key=key if uuid else moid, moid=moid, name=str(read.get("name", moid))),
                parent._moId if cluster is not None else "",
                str(cluster.get("name", "")) if cluster is not None else "",
            )
        )
    return HostIndex(vcenter, tuple(hosts), {host.ref.moid: host for host in hosts})


def find_host(si: vim.ServiceInstance, vcenter: str, wanted: str) -> HostRef:
    """A host by name, key or moid; raises `BadRequest` with close matches when there is none."""
    return host_index(si, vcenter).find(wanted).ref


def read_host(si: vim.ServiceInstance, ref: HostRef) -> HostState:
    """The host's true state: one property read, and the few calls of `ask_host` where the host is connected.

    What could not be read is named in `unread`. Raises `BadRequest` when the host is no longer in the inventory,
    `Unreachable` when vCenter does not answer.
    """
    what = f"read host {ref.name} of {ref.vcenter}"
    start = vim.HostSystem(ref.moid, si._stub)
    steps = [traversal(vim.HostSystem, "vm"), traversal(vim.HostSystem, "parent")]
    paths: dict[Any, Any] = {
        vim.HostSystem: HOST_PATHS,
        vim.VirtualMachine: VM_PATHS,
        vim.ClusterComputeResource: CLUSTER_PATHS,
    }
    with translated(what):
        try:
            found = read_properties(si, start, paths, steps)
        except vmodl.fault.ManagedObjectNotFound as fault:
            raise BadRequest(
                f"host {ref.name} ({ref.moid}) is no longer in the inventory of {ref.vcenter}; if it was re-added it "
                "has a new moid: look it up by name or hardware UUID"
            ) from fault
    host = found[ref.moid]
    unread = [f"{read.obj._moId} {path}: {why}" for read in found.values() for path, why in read.missing.items()]
    vms = {moid: read.values for moid, read in found.items() if isinstance(read.obj, vim.VirtualMachine)}
    asked = Asked()
    if str(host.get("runtime.connectionState")) == "connected":
        asked = ask_host(si, ref, host.values, vms, unread)
    else:
        unread.append(f"packages, boot device and kernel settings: the host is {host.get('runtime.connectionState')}")
    clusters = [(moid, read.values) for moid, read in found.items() if isinstance(read.obj, vim.ClusterComputeResource)]
    renamed = ref.model_copy(update={"name": str(host.get("name", ref.name))})
    return host_state(renamed, api_version(si), host.values, next(iter(clusters), None), vms, asked, unread)
