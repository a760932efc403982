"""Where a VM's files lie, and the networks that its adapters are on."""

from __future__ import annotations

import re
from typing import Any

from pyVmomi import vim

from simulator.world import Datastore, Host, Network, VirtualMachine, World

__all__ = ["datastore_of_path", "follow_adapters", "give_back", "network_adapters", "reachable", "take"]

_PATH = re.compile(r"\[([^\]]+)\]")


def datastore_of_path(host: Host, path: str | None) -> Datastore | None:
    """The datastore in `[name] folder/file`, `None` for no path; raises `InvalidDatastore` for an unknown one."""
    found = _PATH.match(path or "")
    if found is None:
        return None
    for store in host.compute.datastores:
        if store.name == found[1]:
            return store
    raise vim.fault.InvalidDatastorePath(
        datastorePath=path, name=found[1], msg=f"{host.name} has no datastore {found[1]}."
    )


def reachable(store: Datastore, host: Host) -> Datastore:
    """The datastore; raises `InvalidDatastore` when the host does not have it mounted."""
    if host.moid not in store.hosts:
        raise vim.fault.InvalidDatastore(name=store.name, msg=f"{host.name} cannot reach the datastore {store.name}.")
    return store


def take(world: World, store: Datastore, size: int, name: str) -> None:
    """Take space for a VM's files; raises `NoDiskSpace` when the datastore is too full."""
    if size > store.free_bytes:
        raise vim.fault.NoDiskSpace(
            datastore=store.name,
            file=f"[{store.name}] {name}/{name}.vmdk",
            msg=f"Insufficient disk space on datastore '{store.name}'.",
        )
    store.free_bytes -= size
    world.changed(store)


def give_back(world: World, vm: VirtualMachine) -> None:
    """The VM's files are gone."""
    for store in vm.datastores[:1]:
        store.free_bytes = min(store.capacity_bytes, store.free_bytes + vm.committed_bytes)
        world.changed(store)


def network_adapters(vm: VirtualMachine) -> int:
    """How many network adapters the VM has."""
    if vm.devices is None:
        return len(vm.networks[:1])
    return sum(isinstance(found, vim.vm.device.VirtualEthernetCard) for found in vm.devices)


def follow_adapters(world: World, vm: VirtualMachine) -> None:
    """The VM is on the networks that its adapters name; raises `InvalidDeviceBacking` for an unknown one."""
    if vm.devices is None:
        return
    networks: list[Network] = []
    for index, found in enumerate(vm.devices):
        backing = getattr(found, "backing", None)
        if isinstance(backing, vim.vm.device.VirtualEthernetCard.NetworkBackingInfo):
            network = _network(vm, backing)
            if network is None:
                raise vim.fault.InvalidDeviceBacking(
                    deviceIndex=index,
                    property="backing.deviceName",
                    msg=f"{vm.host.name} has no network {backing.deviceName!r}.",
                )
            networks.append(network)
    for gone in vm.networks:
        if gone not in networks and gone.vms.pop(vm.moid, None) is not None:
            world.changed(gone)
    vm.networks = networks
    for network in networks:
        if vm.moid in world.vms and vm.moid not in network.vms:
            network.vms[vm.moid] = vm
            world.changed(network)


def _network(vm: VirtualMachine, backing: Any) -> Network | None:
    for network in vm.host.compute.networks:
        if network.name == backing.deviceName or (backing.network and network.moid == backing.network._moId):
            return network
    return None
