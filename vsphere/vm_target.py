"""The names of a request as moids, and what the cluster can make: a few reads, and all wrong names in one answer."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Unreachable
from contracts.machine import VmTarget
from contracts.vms import StaticGpu, VmRequest
from vsphere.faults import translated
from vsphere.fleet import vm_gpus
from vsphere.libraries import LibraryItem, libraries
from vsphere.names import Named, inventory_path, pick, shown_name
from vsphere.properties import Read, read_below, read_properties, traversal
from vsphere.sessions import content

__all__ = ["hardware_version", "resolve_target"]

_TREE: dict[Any, Sequence[str]] = {
    vim.Datacenter: ["name", "parent", "vmFolder"],
    vim.Folder: ["name", "parent"],
    vim.ClusterComputeResource: ["name", "parent", "resourcePool", "environmentBrowser"],
}
_REACH: dict[Any, Sequence[str]] = {
    vim.HostSystem: ["name", "config.graphicsInfo"],
    vim.Datastore: ["name", "summary.accessible", "summary.freeSpace", "summary.maintenanceMode", "host"],
    vim.Network: ["name", "tag"],
    vim.ResourcePool: ["name", "parent"],
}
_SOURCE = ("config.firmware", "config.version", "config.guestId", "config.hardware.device")
_UPLINKS = "SYSTEM/DVS.UPLINKPG"
"""Tag of the port group of a distributed switch's uplinks; no VM belongs in there."""
_DYNAMIC_HARDWARE = 17

Reads = Mapping[str, Read]


def resolve_target(si: vim.ServiceInstance, request: VmRequest) -> VmTarget:
    """Everything that the request names, as moids, with the source's properties and the limits of the cluster.

    Raises `BadRequest` that lists every wrong name with close matches, and the translated faults of the reads.
    """
    with translated(f"resolve the names of VM {request.name} on {request.vcenter}"):
        return _resolve(si, request)


def _resolve(si: vim.ServiceInstance, request: VmRequest) -> VmTarget:
    problems: list[str] = []
    tree = read_below(si, content(si).rootFolder, _TREE)
    clusters = _of(tree, vim.ClusterComputeResource)
    found = pick("cluster", request.cluster, _named(clusters, tree), f"vCenter {request.vcenter}", problems)
    # When the cluster's name is wrong, the other names are looked up in all of them: one answer tells everything.
    chosen = {found.moid: clusters[found.moid]} if found is not None else clusters
    centers = {center for moid in chosen if (center := _datacenter(moid, tree)) is not None}
    reach = {moid: each for cluster in chosen.values() for moid, each in _reach(si, cluster).items()}
    where = f"cluster {found.name}" if found is not None else "any cluster"
    roots = {moid: shown for moid in centers if (shown := tree[moid].get("vmFolder")) is not None}
    folder = _folder(request, tree, roots, problems)
    pool = _pool(request, chosen, reach, where, problems)
    datastore = _datastore(request, reach, where, problems, known=found is not None)
    network = _network(request, reach, where, problems)
    _check_hosts(request, reach, where, problems)
    template = _template(si, request, [tree[moid] for moid in sorted(centers)], tree, problems)
    item = _item(si, request, problems)
    _check_customization(request, "", problems)
    if problems or found is None:
        raise BadRequest(f"VM {request.name} on {request.vcenter}: " + " | ".join(problems))
    source = _source(si, template or (item.template_moid if item else ""))
    guest_id = str(source.get("config.guestId") or "") if source else ""
    _check_customization(request, guest_id, problems)
    if problems:
        raise BadRequest(f"VM {request.name} on {request.vcenter}: " + " | ".join(problems))
    hardware = hardware_version(source.get("config.version")) if source else 0
    newest, limits = _hardware(si, clusters[found.moid], reach, hardware)
    gpus = vm_gpus(source.get("config.hardware.device") or (), template) if source else ()
    return VmTarget(
        datacenter=next(iter(centers), ""),
        cluster=found.moid,
        cluster_name=found.name,
        folder=folder,
        pool=pool,
        datastore=datastore,
        network=network,
        template=template,
        library_item=item.id if item else "",
        library_item_type=item.type if item else "",
        source_firmware=str(source.get("config.firmware") or "") if source else "",
        source_hardware=hardware,
        source_guest_id=guest_id,
        source_gpu_keys=tuple(gpu.key for gpu in gpus if gpu.kind != "other"),
        newest_hardware=newest,
        gpu_limits=limits,
    )


def hardware_version(key: str | None) -> int:
    """The number of a hardware version's key: 17 of `vmx-17`; 0 where there is none."""
    number = (key or "").removeprefix("vmx-")
    return int(number) if number.isdigit() else 0


def _of(found: Reads, kind: Any) -> dict[str, Read]:
    return {moid: read for moid, read in sorted(found.items()) if isinstance(read.obj, kind)}


def _named(reads: Reads, tree: Reads) -> list[Named]:
    return [Named(moid, inventory_path(moid, tree)) for moid in reads]


def _datacenter(moid: str, tree: Reads) -> str | None:
    at: Any = tree.get(moid)
    while at is not None and not isinstance(at.obj, vim.Datacenter):
        parent = at.get("parent")
        at = tree.get(parent._moId) if parent is not None else None
    return at.obj._moId if at is not None else None


def _reach(si: vim.ServiceInstance, cluster: Read) -> dict[str, Read]:
    """What a cluster's VMs can use, in one read."""
    nested = vmodl.query.PropertyCollector.SelectionSpec(name="pools")
    pools = traversal(vim.ResourcePool, "resourcePool", nested)
    pools.name = "pools"
    steps = [traversal(vim.ComputeResource, path) for path in ("host", "datastore", "network")]
    steps.append(traversal(vim.ComputeResource, "resourcePool", pools))
    return read_properties(si, cluster.obj, _REACH, steps, skip_start=True)


def _folder(request: VmRequest, tree: Reads, roots: dict[str, Any], problems: list[str]) -> str:
    if request.folder is None:
        return next((str(root._moId) for root in roots.values()), "")
    folders = {
        moid: read
        for moid, read in _of(tree, vim.Folder).items()
        if any(_below(moid, root._moId, tree) for root in roots.values())
    }
    names = ", ".join(str(tree[moid].get("name")) for moid in sorted(roots)) or request.vcenter
    found = pick("folder", request.folder, _named(folders, tree), f"datacenter {names}", problems)
    return found.moid if found is not None else ""


def _below(moid: str, top: str, tree: Reads) -> bool:
    at: str | None = moid
    while at is not None and at != top:
        parent = tree[at].get("parent") if at in tree else None
        at = parent._moId if parent is not None else None
    return at is not None


def _pool(request: VmRequest, clusters: Reads, reach: Reads, where: str, problems: list[str]) -> str:
    roots = [str(read.get("resourcePool")._moId) for read in clusters.values()]
    if request.resource_pool is None:
        return roots[0] if roots else ""
    pools = _of(reach, vim.ResourcePool)
    found = pick("resource pool", request.resource_pool, _named(pools, {**pools, **clusters}), where, problems)
    return found.moid if found is not None else ""


def _datastore(request: VmRequest, reach: Reads, where: str, problems: list[str], *, known: bool) -> str:
    stores = _of(reach, vim.Datastore)
    if request.datastore is not None:
        named = [Named(moid, shown_name(read)) for moid, read in stores.items()]
        found = pick("datastore", request.datastore, named, where, problems)
        return found.moid if found is not None else ""
    hosts = _of(reach, vim.HostSystem)
    with_gpus = {moid for moid, read in hosts.items() if read.get("config.graphicsInfo")} or set(hosts)
    shared = [
        (int(read.get("summary.freeSpace") or 0), moid)
        for moid, read in stores.items()
        if read.get("summary.accessible")
        and str(read.get("summary.maintenanceMode") or "normal") == "normal"
        and with_gpus <= _mounted_by(read)
    ]
    if shared:
        return max(shared)[1]
    if known:
        problems.append(f"no usable datastore is shared by all GPU hosts of {where}; name one ('datastore')")
    return ""


def _mounted_by(store: Read) -> set[str]:
    return {str(mount.key._moId) for mount in store.get("host") or () if mount.mountInfo.accessible is not False}


def _network(request: VmRequest, reach: Reads, where: str, problems: list[str]) -> str:
    if request.network is None:
        return ""
    networks = [
        Named(moid, shown_name(read))
        for moid, read in _of(reach, vim.Network).items()
        if not isinstance(read.obj, vim.OpaqueNetwork) and not any(tag.key == _UPLINKS for tag in read.get("tag") or ())
    ]
    found = pick("network", request.network, networks, where, problems)
    return found.moid if found is not None else ""


def _check_hosts(request: VmRequest, reach: Reads, where: str, problems: list[str]) -> None:
    hosts = [Named(moid, shown_name(read)) for moid, read in _of(reach, vim.HostSystem).items()]
    for name in dict.fromkeys(wish.host for wish in request.gpus if isinstance(wish, StaticGpu)):
        pick("host", name, hosts, where, problems)


def _template(
    si: vim.ServiceInstance, request: VmRequest, centers: Sequence[Read], tree: Reads, problems: list[str]
) -> str:
    wanted = request.source.template
    if wanted is None:
        return ""
    paths: dict[Any, Sequence[str]] = {vim.VirtualMachine: ["name", "parent", "config.template"]}
    vms = {moid: read for center in centers for moid, read in read_below(si, center.obj, paths).items()}
    templates = {moid: read for moid, read in vms.items() if read.get("config.template")}
    is_vm = any(
        wanted in (moid, shown_name(read)) and moid not in templates and read.get("config.template") is not None
        for moid, read in vms.items()
    )
    names = ", ".join(str(center.get("name")) for center in centers) or request.vcenter
    hint = "a VM has that name, and it is no template: convert it, or name another" if is_vm else ""
    found = pick("template", wanted, _named(templates, {**vms, **tree}), f"datacenter {names}", problems, hint)
    return found.moid if found is not None else ""


def _item(si: vim.ServiceInstance, request: VmRequest, problems: list[str]) -> LibraryItem | None:
    if request.source.library_item is None:
        return None
    with libraries(si) as opened:
        try:
            return opened.find(request.source.library_item)
        except BadRequest as error:
            problems.append(str(error))
            return None


def _check_customization(request: VmRequest, source_guest: str, problems: list[str]) -> None:
    wanted = request.customization
    if wanted is None or wanted.cloud_init is not None:
        return
    if request.source.guest_id is not None:
        problems.append("customization: an empty VM has no guest that vSphere could customise; leave it out")
    elif source_guest.startswith("win"):
        problems.append(f"customization: guest {source_guest} is Windows, and only Linux guests are customised")


def _source(si: vim.ServiceInstance, moid: str) -> Read | None:
    if not moid:
        return None
    return read_properties(si, vim.VirtualMachine(moid, si._stub), {vim.VirtualMachine: _SOURCE})[moid]


def _hardware(si: vim.ServiceInstance, cluster: Read, reach: Reads, source: int) -> tuple[int, dict[int, int]]:
    """The newest hardware version that runs on every GPU host, and device limits of the versions that matter here."""
    browser = cluster.get("environmentBrowser")
    offered = browser.QueryConfigOptionDescriptor() or ()
    keys = {hardware_version(each.key): each.key for each in offered}
    hosts = _of(reach, vim.HostSystem)
    needed = {moid for moid, read in hosts.items() if read.get("config.graphicsInfo")} or set(hosts)
    makes = {
        hardware_version(each.key): {host._moId for host in each.host or ()}
        for each in offered
        if each.createSupported is not False
    }
    everywhere = [version for version, runs_on in makes.items() if not runs_on or needed <= runs_on]
    newest = max(everywhere or makes, default=0)
    limits: dict[int, int] = {}
    for version in {source, max(source, _DYNAMIC_HARDWARE)} if source else {newest}:
        if version in keys and (limit := _gpu_limit(si, browser, keys[version])) is not None:
            limits[version] = limit
    return newest, limits


def _gpu_limit(si: vim.ServiceInstance, browser: Any, key: str) -> int | None:
    """`VirtualPCIControllerOption.numPCIPassthroughDevices`; None where vCenter does not say.

    Read from the answer's XML: pyVmomi decodes hundreds of kilobytes, and refuses all of them for one guest OS that it
    finds incomplete.
    """
    spec = vim.EnvironmentBrowser.ConfigOptionQuerySpec(key=key, guestId=["otherGuest64"])
    try:
        answer = ET.fromstring(si._stub.invoke_raw(browser, "QueryConfigOptionEx", spec))  # noqa: S314 - as in esxcli
    except ET.ParseError as error:
        raise Unreachable(f"the options of {key} cannot be read: {error}") from error
    found = [element.findtext("{urn:vim25}max") for element in answer.iter("{urn:vim25}numPCIPassthroughDevices")]
    return next((int(number) for number in found if number is not None and number.isdigit()), None)
