"""How things come into the inventory and leave it: folders, clusters, hosts."""

from __future__ import annotations

from pyVmomi import vim

from simulator.core import Managed
from simulator.hardware import BASE_VIBS, plug_in
from simulator.laws.notices import post_host_event
from simulator.world import Cluster, Datacenter, Datastore, Folder, Host, Network, ResourcePool, VirtualMachine, World

__all__ = [
    "add_host",
    "add_host_by_spec",
    "add_standalone_host",
    "forget_vm",
    "new_cluster",
    "new_datacenter",
    "new_datastore",
    "new_folder",
    "new_host",
    "new_network",
    "new_pool",
    "put_vm",
    "remove_host",
    "share",
]

ADD_HOST_SECONDS = 15.0
REMOVE_HOST_SECONDS = 3.0


def new_folder(world: World, name: str, parent: Folder | None, child_types: tuple[str, ...], kind: str = "v") -> Folder:
    """Put a folder below `parent`; `kind` is the letter in its moid (`group-v3`)."""
    folder = Folder(world.moid(f"group-{kind}"), name, parent.moid if parent else None, child_types)
    world.folders[folder.moid] = folder
    world.show(folder)
    if parent is not None:
        _put(world, parent, folder.moid)
    return folder


def _shared(user: Cluster | VirtualMachine) -> list[Datastore | Network]:
    return [*user.datastores, *user.networks]


def put_vm(world: World, vm: VirtualMachine) -> None:
    """Register a VM with its host, folder, pool, datastores and networks, and show it."""
    world.vms[vm.moid] = vm
    if not world.under_construction:
        world.ledger.append({"what": "added", "name": vm.name, "moid": vm.moid})
    if vm.name in world.quirks:
        vm.quirks = world.quirks.pop(vm.name)
    vm.host.vms[vm.moid] = vm
    for shared in _shared(vm):
        shared.vms[vm.moid] = vm
    if vm.pool is not None:
        vm.pool.vms[vm.moid] = vm
        world.changed(vm.pool)
    world.show(vm)
    _put(world, vm.folder, vm.moid)
    world.changed(vm.host, *vm.datastores, *vm.networks)


def forget_vm(world: World, vm: VirtualMachine) -> None:
    """Take a VM out of the inventory."""
    world.ledger.append({"what": "removed", "name": vm.name, "moid": vm.moid})
    for snapshot in vm.snapshots:
        world.hide(snapshot)
    del world.vms[vm.moid], vm.host.vms[vm.moid], vm.folder.children[vm.moid]
    for shared in _shared(vm):
        shared.vms.pop(vm.moid, None)
    if vm.pool is not None:
        vm.pool.vms.pop(vm.moid, None)
        world.changed(vm.pool)
    cluster = vm.host.compute
    for group in cluster.vm_groups.values():
        if vm in group:
            group.remove(vm)
    cluster.forget_recommendations(vm)
    world.hide(vm)
    world.changed(vm.host, vm.folder, *vm.datastores, *vm.networks)


def _put(world: World, folder: Folder, moid: str) -> None:
    folder.children[moid] = None
    world.changed(folder)


def new_datacenter(world: World, name: str, parent: Folder) -> Datacenter:
    """A datacenter with its four folders."""
    moid = world.moid("datacenter-")
    made: dict[str, Folder] = {}
    for kind, folder, children in (
        ("v", "vm", ("Folder", "VirtualMachine", "VirtualApp")),
        ("h", "host", ("Folder", "ComputeResource")),
        ("s", "datastore", ("Folder", "Datastore", "StoragePod")),
        ("n", "network", ("Folder", "Network", "DistributedVirtualSwitch")),
    ):
        made[folder] = new_folder(world, folder, None, children, kind)
        made[folder].parent = moid
    datacenter = Datacenter(moid, name, parent, made["vm"], made["host"], made["datastore"], made["network"])
    world.datacenters[moid] = datacenter
    world.show(datacenter)
    _put(world, parent, moid)
    return datacenter


def new_datastore(world: World, datacenter: Datacenter, name: str, capacity_bytes: int) -> Datastore:
    """A shared VMFS datastore, as yet without hosts."""
    free_bytes = int(capacity_bytes * world.random.uniform(0.4, 0.8))
    store = Datastore(world.moid("datastore-"), name, world.uuid(), capacity_bytes, free_bytes)
    world.datastores[store.moid] = store
    datacenter.datastores.append(store)
    world.show(store)
    _put(world, datacenter.datastore_folder, store.moid)
    world.changed(datacenter)
    return store


def new_network(world: World, datacenter: Datacenter, name: str) -> Network:
    """A standard network, as yet without hosts."""
    network = Network(world.moid("network-"), name)
    world.networks[network.moid] = network
    datacenter.networks.append(network)
    world.show(network)
    _put(world, datacenter.network_folder, network.moid)
    world.changed(datacenter)
    return network


def share(cluster: Cluster, datastores: list[Datastore], networks: list[Network]) -> None:
    """The cluster's hosts have these too."""
    cluster.datastores += datastores
    cluster.networks += networks
    for store in datastores:
        store.hosts.update(cluster.hosts)
    for network in networks:
        network.hosts.update(cluster.hosts)


def new_pool(world: World, cluster: Cluster, name: str, parent: ResourcePool | None = None) -> ResourcePool:
    """A resource pool below the cluster's root pool, or below another."""
    pool = ResourcePool(world.moid("resgroup-"), name, cluster, parent=parent or cluster.pool)
    world.pools[pool.moid] = pool
    world.show(pool)
    above = parent or cluster.pool
    above.children.append(pool)
    world.changed(above)
    return pool


def new_cluster(
    world: World,
    folder: Folder,
    name: str,
    *,
    datastores: list[Datastore],
    networks: list[Network],
    gpu_model: str = "10de:20f1",
    gpus_per_host: int = 0,
    standalone: bool = False,
) -> Cluster:
    """A cluster with DRS and HA on, or the compute resource of a standalone host."""
    moid = world.moid("domain-s" if standalone else "domain-c")
    cluster = Cluster(moid, name, folder, standalone=standalone, gpu_model=gpu_model, gpus_per_host=gpus_per_host)
    if standalone:
        cluster.drs_enabled = cluster.ha_enabled = False
    cluster.datastores, cluster.networks = list(datastores), list(networks)
    cluster.pool = ResourcePool(world.moid("resgroup-"), "Resources", cluster)
    world.pools[cluster.pool.moid] = cluster.pool
    world.clusters[moid] = cluster
    world.show(cluster)
    world.show(cluster.pool)
    _put(world, folder, moid)
    return cluster


def new_host(
    world: World,
    cluster: Cluster,
    name: str,
    *,
    gpus: list[str] | None = None,
    iommu: bool = True,
    bios_iommu: bool = True,
    rebind_without_reboot: bool = False,
    usb_boot: bool = False,
    gpu_shares_bridge_with_nic: bool = False,
    lockdown_mode: str = "lockdownDisabled",
    version: str = "8.0.2",
    uuid: str | None = None,
) -> Host:
    """A fresh host, without events: GPUs in their default mode, passthrough off.

    `gpus` lists models (`10de:20f1`); without it the host brings what is usual in its cluster. Without `iommu` the
    kernel setting `noIOMMU` is on, without `bios_iommu` VT-d is off in the BIOS, which no setting tells. Raises
    `ValueError` for an unknown model or a name in use.
    """
    if any(host.name == name for host in world.hosts.values()):
        raise ValueError(f"a host named {name!r} is already in the inventory")
    models = [cluster.gpu_model] * cluster.gpus_per_host if gpus is None else list(gpus)
    pci, cards = plug_in(models, usb_boot=usb_boot, gpu_shares_bridge_with_nic=gpu_shares_bridge_with_nic)
    host = Host(
        world.moid("host-"),
        name,
        uuid or world.uuid(),
        cluster,
        world.past(days=90),
        version=version,
        kernel_iommu=iommu,
        bios_iommu=bios_iommu,
        rebind_without_reboot=rebind_without_reboot,
        usb_boot=usb_boot,
        lockdown_mode=lockdown_mode,
        pci=pci,
        gpus=cards,
        vibs=list(BASE_VIBS),
        running_vibs=frozenset(BASE_VIBS),
    )
    cluster.hosts[host.moid] = host
    world.hosts[host.moid] = host
    for shared in _shared(cluster):
        shared.hosts[host.moid] = host
    world.show(host)
    world.changed(cluster, *cluster.datastores, *cluster.networks)
    return host


def add_host(world: World, cluster: Cluster, name: str, *, connected: bool = True, **hardware: object) -> Host:
    """A host is added and, with `connected`, comes online: `HostAddedEvent`, then `HostConnectedEvent`.

    `hardware` is what `new_host` takes.
    """
    host = new_host(world, cluster, name, **hardware)  # type: ignore[arg-type]
    post_host_event(world, vim.event.HostAddedEvent, host, f"Added host {name} to {cluster.name}")
    if connected:
        post_host_event(world, vim.event.HostConnectedEvent, host, f"Connected to {name} in {cluster.name}")
    else:
        host.connection_state = "disconnected"
    return host


def _refuse_duplicate(world: World, name: str) -> None:
    for host in world.hosts.values():
        if host.name == name:
            raise vim.fault.AlreadyConnected(
                name=name, msg=f"The host {name} is already being managed by this vCenter."
            )


async def add_host_by_spec(world: World, cluster: Cluster, name: str, connected: bool) -> Managed:
    """`AddHost_Task`: the host has the hardware that is usual in its cluster; raises `AlreadyConnected`."""
    _refuse_duplicate(world, name)
    await world.sleep(ADD_HOST_SECONDS)
    _refuse_duplicate(world, name)
    return world.managed(add_host(world, cluster, name, connected=connected))


async def add_standalone_host(world: World, folder: Folder, name: str, connected: bool) -> Managed:
    """`AddStandaloneHost_Task`: the host gets a compute resource of its own, which is the result."""
    _refuse_duplicate(world, name)
    await world.sleep(ADD_HOST_SECONDS)
    _refuse_duplicate(world, name)
    datacenter = next(iter(world.datacenters.values()))
    compute = new_cluster(
        world,
        folder,
        name,
        datastores=datacenter.datastores[:1],
        networks=datacenter.networks,
        gpus_per_host=2,
        standalone=True,
    )
    add_host(world, compute, name, connected=connected)
    return world.managed(compute)


async def remove_host(world: World, host: Host) -> None:
    """`Destroy_Task`: a host of a cluster must be in maintenance mode or disconnected; raises `InvalidState`.

    VMs that are registered on the host leave the inventory with it.
    """
    if not host.compute.standalone and not host.in_maintenance and host.connection_state == "connected":
        raise vim.fault.InvalidState(
            msg=f"{host.name} must be in maintenance mode or disconnected before it can be removed."
        )
    await world.sleep(REMOVE_HOST_SECONDS)
    cluster = host.compute
    post_host_event(world, vim.event.HostRemovedEvent, host, f"Removed host {host.name} from {cluster.name}")
    if host.background is not None:
        host.background.cancel()
    for vm in tuple(host.vms.values()):
        forget_vm(world, vm)
    for shared in _shared(cluster):
        shared.hosts.pop(host.moid, None)
    for group in cluster.host_groups.values():
        if host in group:
            group.remove(host)
    del cluster.hosts[host.moid]
    del world.hosts[host.moid]
    world.hide(host)
    world.changed(cluster, *cluster.datastores, *cluster.networks)
    if cluster.standalone:
        del world.clusters[cluster.moid], world.pools[cluster.pool.moid]
        del cluster.folder.children[cluster.moid]
        world.hide(cluster.pool)
        world.hide(cluster)
        world.changed(cluster.folder)
