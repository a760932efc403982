"""A world from a few numbers: one datacenter, clusters, hosts with GPUs, VMs."""

from __future__ import annotations

from typing import Any

from simulator.actions import actions
from simulator.bulk_knobs import bulk_knobs
from simulator.core import Managed, Registry
from simulator.entities.cluster import ClusterEntity, StandaloneEntity
from simulator.entities.environment import EnvironmentBrowser
from simulator.entities.executer import DynamicTypeManagerEntity, ManagedMethodExecuterEntity
from simulator.entities.guest_operations import guest_managers
from simulator.entities.host import HostEntity
from simulator.entities.host_managers import host_managers
from simulator.entities.inventory import (
    DatacenterEntity,
    DatastoreEntity,
    FolderEntity,
    NetworkEntity,
    ResourcePoolEntity,
)
from simulator.entities.vm import VirtualMachineEntity
from simulator.entities.vm_snapshots import SnapshotEntity
from simulator.ha_knobs import ha_knobs
from simulator.hardware import BUILD_MODELS
from simulator.knobs import knobs
from simulator.laws import adding, graphics, passthrough
from simulator.laws.guests import tools_come_up
from simulator.laws.mmio import mmio_gib_needed
from simulator.laws.power import start_on
from simulator.vm_knobs import vm_knobs
from simulator.world import (
    Cluster,
    Datacenter,
    Datastore,
    Folder,
    Host,
    Network,
    ResourcePool,
    Snapshot,
    VirtualMachine,
    VmGpu,
    World,
)

__all__ = ["build_world"]

TIB = 2**40


def build_world(
    registry: Registry,
    *,
    clusters: int = 1,
    hosts: int = 3,
    gpus: int = 2,
    vms: int = 6,
    gpu_vms: int = 0,
    seed: int = 0,
) -> World:
    """Fill `registry` with a vCenter's inventory and return its state.

    `hosts` counts in each cluster (`gpu-01`: `esx-01-01.gpu.test`…), `gpus` in each host, `vms` in all: powered on,
    without GPUs, spread over the hosts. `gpu_vms` more VMs run with a GPU each, on hosts that are prepared for
    them: two with Dynamic DirectPath I/O for each static one. All other GPUs are in their default mode. The same
    `seed` gives the same names, moids and UUIDs. No events are logged. Raises `ValueError` when the GPUs do not
    suffice for `gpu_vms`, or VMs have no host to run on.
    """
    world = World(registry, seed)
    world.renderers = _renderers()
    world.actions = actions(world) | knobs(world) | vm_knobs(world) | ha_knobs(world) | bulk_knobs(world)
    world.under_construction = True
    root = adding.new_folder(world, "Datacenters", None, ("Folder", "Datacenter"), "d")
    world.root_folder = world.managed(root)
    datacenter = adding.new_datacenter(world, "DC0", root)
    network = adding.new_network(world, datacenter, "VM Network")
    made: list[Host] = []
    for index in range(1, clusters + 1):
        store = adding.new_datastore(world, datacenter, f"vsan-{index:02d}", 50 * TIB)
        cluster = adding.new_cluster(
            world,
            datacenter.host_folder,
            f"gpu-{index:02d}",
            datastores=[store],
            networks=[network],
            gpu_model=BUILD_MODELS[(index - 1) % len(BUILD_MODELS)],
            gpus_per_host=gpus,
        )
        made += [
            adding.new_host(world, cluster, f"esx-{index:02d}-{number:02d}.gpu.test") for number in range(1, hosts + 1)
        ]
    if (vms or gpu_vms) and not made:
        raise ValueError("VMs need at least one host to run on")
    if gpu_vms > sum(len(host.gpus) for host in made):
        raise ValueError(f"{gpu_vms} GPU VMs need more GPUs than the hosts have")
    _add_plain_vms(world, datacenter, made, vms)
    _add_gpu_vms(world, datacenter, made, gpu_vms)
    _add_places(world, datacenter)
    for manager in guest_managers(world):
        registry.add(manager)
    world.under_construction = False
    return world


def _add_places(world: World, datacenter: Datacenter) -> None:
    """More to choose from by name: folders, networks, datastores of which one is full, and a pool in each cluster."""
    for name in ("gpu-vms", "templates"):
        adding.new_folder(world, name, datacenter.vm_folder, datacenter.vm_folder.child_types)
    shared = [adding.new_datastore(world, datacenter, name, size) for name, size in (("nfs-01", 20 * TIB),
                                                                                     ("full-01", TIB))]  # fmt: skip
    shared[1].free_bytes = 2**30
    networks = [adding.new_network(world, datacenter, name) for name in ("GPU Network", "Storage Network")]
    for cluster in tuple(world.clusters.values()):
        adding.new_pool(world, cluster, "gpu-workloads")
        adding.share(cluster, shared, networks)


def _renderers() -> dict[type, Any]:
    def shown(kind: type) -> Any:
        return lambda world, state: [kind(world, state)]

    return {
        Folder: shown(FolderEntity),
        Datacenter: shown(DatacenterEntity),
        Datastore: shown(DatastoreEntity),
        Network: shown(NetworkEntity),
        ResourcePool: shown(ResourcePoolEntity),
        VirtualMachine: shown(VirtualMachineEntity),
        Snapshot: shown(SnapshotEntity),
        Cluster: _show_cluster,
        Host: _show_host,
    }


def _show_cluster(world: World, cluster: Cluster) -> list[Managed]:
    entity = StandaloneEntity(world, cluster) if cluster.standalone else ClusterEntity(world, cluster)
    return [entity, EnvironmentBrowser(world, cluster, entity.browser)]


def _show_host(world: World, host: Host) -> list[Managed]:
    return [
        HostEntity(world, host),
        *host_managers(world, host),
        ManagedMethodExecuterEntity(world, host),
        DynamicTypeManagerEntity(world, host),
    ]


def _new_vm(world: World, datacenter: Datacenter, host: Host, name: str, **settings: Any) -> VirtualMachine:
    cluster = host.compute
    vm = VirtualMachine(
        world.moid("vm-"),
        name,
        world.uuid(),
        world.uuid(),
        host,
        datacenter.vm_folder,
        cluster.datastores[:1],
        cluster.networks[:1],
        cluster.pool,
        world.past(days=80),
        **settings,
    )
    adding.put_vm(world, vm)
    return vm


def _run(world: World, vm: VirtualMachine) -> None:
    """The VM has been running for a while."""
    start_on(world, vm, vm.host, boot_guest=False)
    vm.boot_time = max(vm.host.boot_time, vm.created)
    tools_come_up(world, vm)


def _add_plain_vms(world: World, datacenter: Datacenter, hosts: list[Host], count: int) -> None:
    for number in range(1, count + 1):
        host = hosts[(number - 1) % len(hosts)]
        vm = _new_vm(
            world,
            datacenter,
            host,
            f"app-{number:05d}",
            cpus=world.random.choice((2, 4, 8)),
            memory_mib=world.random.choice((4096, 8192, 16384)),
        )
        _run(world, vm)


def _add_gpu_vms(world: World, datacenter: Datacenter, hosts: list[Host], count: int) -> None:
    """Prepare as many hosts as it takes, from the end of the list, so that the first ones stay fresh."""
    free = [(host, pci_id) for host in reversed(hosts) for pci_id in host.gpus]
    for host in {host.moid: host for host, _ in free[:count]}.values():
        for pci_id in host.gpus:
            host.pci[pci_id].passthru_enabled = True
            host.pci[pci_id].hardware_label = "Training"
        passthrough.activate(host)
        graphics.activate(host)
    for number, (host, pci_id) in enumerate(free[:count], 1):
        function = host.pci[pci_id]
        if number % 3:
            allowed = ((function.vendor_id, function.device_id),)
            gpu = VmGpu(13000, "dynamic", allowed=allowed, label="Training")
        else:
            gpu = VmGpu(
                13000,
                "static",
                pci_id=pci_id,
                device_name=function.device_name,
                vendor_id=function.vendor_id,
                device_id=function.device_id,
                system_id=host.uuid,
            )
        size = mmio_gib_needed([host.gpus[pci_id].framebuffer_mib])
        vm = _new_vm(
            world,
            datacenter,
            host,
            f"train-{number:03d}" if gpu.kind == "dynamic" else f"static-{number:03d}",
            cpus=16,
            memory_mib=64 * 1024,
            memory_reserved_all=True,
            extra_config={"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": str(size)},
            gpus=[gpu],
        )
        _run(world, vm)
