"""Content libraries: templates to deploy VMs from."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.core import Managed
from simulator.laws.cloning import clone
from simulator.laws.lifecycle import Refused
from simulator.world import Folder, Library, LibraryItem, VirtualMachine, World

__all__ = ["add_item", "deploy", "item", "library"]

KINDS = ("vm-template", "ovf")


def add_item(world: World, library_name: str, name: str, kind: str, source: VirtualMachine) -> LibraryItem:
    """Put an item into a library, which is made if there is none of that name.

    Raises `ValueError` for an unknown kind or a name in use.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of item: use one of {', '.join(KINDS)}")
    found = next((known for known in world.libraries.values() if known.name == library_name), None)
    if found is None:
        found = Library(world.uuid(), library_name, world.registry.clock.now())
        world.libraries[found.id] = found
    if any(known.name == name for known in found.items.values()):
        raise ValueError(f"the library {library_name!r} has an item {name!r} already")
    identity = world.uuid()
    found.items[identity] = LibraryItem(identity, name, kind, source)
    return found.items[identity]


def library(world: World, identity: str) -> Library:
    """Raises `Refused` when there is none."""
    if identity not in world.libraries:
        raise Refused("NOT_FOUND", f"There is no library {identity}.")
    return world.libraries[identity]


def item(world: World, identity: str, kind: str | None = None) -> tuple[Library, LibraryItem]:
    """Raises `Refused` when there is none, or when it is of another kind."""
    for found in world.libraries.values():
        if identity in found.items:
            if kind is not None and found.items[identity].kind != kind:
                raise Refused("INVALID_ARGUMENT", f"The item {found.items[identity].name} is no {kind}.")
            return found, found.items[identity]
    raise Refused("NOT_FOUND", f"There is no library item {identity}.")


async def deploy(
    world: World, found: LibraryItem, name: str, folder: str, place: dict[str, str], *, annotation: str | None = None,
    power_on: bool = False,
) -> Managed:  # fmt: skip
    """A VM from an item; `place` has moids: `pool`, `host`, `datastore`, `cluster`.

    Raises `Refused` for what is not there and for no place to run, and what a clone raises.
    """
    cluster = _state(world.clusters, place.get("cluster", ""), "cluster")
    pool = _state(world.pools, place.get("pool", ""), "resource pool")
    host = _state(world.hosts, place.get("host", ""), "host")
    store = _state(world.datastores, place.get("datastore", ""), "datastore")
    pool = pool or (cluster.pool if cluster else None) or (host.compute.pool if host else None)
    if pool is None:
        raise Refused("INVALID_ARGUMENT", "Name a resource pool, a host or a cluster to run the VM.")
    target: Folder | None = _state(world.folders, folder, "folder")
    location = vim.vm.RelocateSpec(
        pool=world.ref(pool),
        host=world.ref(host) if host else None,
        datastore=world.ref(store) if store else None,
    )
    config = vim.vm.ConfigSpec(annotation=annotation)
    spec = vim.vm.CloneSpec(location=location, config=config, template=False, powerOn=power_on)
    return await clone(world, found.source, target or found.source.folder, name, spec)


def _state(states: dict[str, Any], moid: str, kind: str) -> Any:
    if moid and moid not in states:
        raise Refused("NOT_FOUND", f"There is no {kind} {moid}.")
    return states.get(moid)
