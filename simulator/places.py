"""Where hosts and VMs are: datacenters, folders, clusters, pools, datastores, networks and content libraries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.world import Host, VirtualMachine

__all__ = [
    "Cluster",
    "Datacenter",
    "Datastore",
    "Folder",
    "Library",
    "LibraryItem",
    "Network",
    "Recommendation",
    "ResourcePool",
    "VmHostRule",
]


@dataclass(slots=True, eq=False, repr=False)
class Datastore:
    moid: str
    name: str
    uuid: str
    capacity_bytes: int
    free_bytes: int
    hosts: dict[str, Host] = field(default_factory=dict)
    vms: dict[str, VirtualMachine] = field(default_factory=dict)


@dataclass(slots=True, eq=False, repr=False)
class Network:
    moid: str
    name: str
    hosts: dict[str, Host] = field(default_factory=dict)
    vms: dict[str, VirtualMachine] = field(default_factory=dict)


@dataclass(slots=True, eq=False, repr=False)
class ResourcePool:
    moid: str
    name: str
    compute: Cluster
    vms: dict[str, VirtualMachine] = field(default_factory=dict)
    parent: ResourcePool | None = None
    children: list[ResourcePool] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class VmHostRule:
    """A DRS rule: VMs of a group run on hosts of a group, or, without `affine`, never on them."""

    name: str
    vm_group: str
    host_group: str
    mandatory: bool = True
    affine: bool = True


@dataclass(slots=True, frozen=True)
class Recommendation:
    """DRS would power a VM on, on a host."""

    key: str
    vm: VirtualMachine
    host: Host
    time: datetime


@dataclass(slots=True, eq=False, repr=False)
class Cluster:
    """A cluster, or the compute resource that holds one `standalone` host."""

    moid: str
    name: str
    folder: Folder
    pool: ResourcePool = field(init=False)
    standalone: bool = False
    drs_enabled: bool = True
    drs_behavior: str = "fullyAutomated"
    drs_options: dict[str, str] = field(default_factory=dict)
    ha_enabled: bool = True
    admission_control: bool = True
    strict_admission: bool = False
    """Test knob: admission control refuses power-ons too that would bring the failover level below what is wanted."""
    host_monitoring: bool = True
    """HA acts when hosts fail."""
    restart_priority: str = "medium"
    isolation_response: str = "none"
    new_events: bool = False
    """HA's events are `EventEx`, as newer releases send them."""
    awaiting_restart: list[VirtualMachine] = field(default_factory=list)
    """The VMs that HA will try to restart next; those of hosts that fail together are one batch."""
    failover: asyncio.Task[None] | None = None
    """HA at work on its newest batch."""
    lifecycle_managed: bool = False
    config_manager_enabled: bool = False
    vsan_enabled: bool = True
    vsan_resync_seconds: float = 0.0
    """How long vSAN still rebuilds objects; until then no host can be taken away with all objects accessible."""
    dpm_enabled: bool = False
    failover_level: int = 1
    host_groups: dict[str, list[Host]] = field(default_factory=dict)
    vm_groups: dict[str, list[VirtualMachine]] = field(default_factory=dict)
    vm_host_rules: list[VmHostRule] = field(default_factory=list)
    image: dict[str, str] = field(default_factory=dict)
    """The components that the vLCM image has besides its base image: name to version."""
    hosts: dict[str, Host] = field(default_factory=dict)
    recommendations: dict[str, Recommendation] = field(default_factory=dict)
    """What DRS would do and is not allowed to do by itself, by key."""
    datastores: list[Datastore] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    gpu_model: str = "10de:20f1"
    gpus_per_host: int = 0
    """What hardware a host brings that a client adds to this cluster."""

    def forget_recommendations(self, vm: VirtualMachine) -> bool:
        """Drop what DRS recommends for a VM; whether there was any."""
        keys = [key for key, found in self.recommendations.items() if found.vm is vm]
        for key in keys:
            del self.recommendations[key]
        return bool(keys)


@dataclass(slots=True, eq=False, repr=False)
class Folder:
    """`child_type` lists the VMODL type names it may hold; `children` are moids in order."""

    moid: str
    name: str
    parent: str | None
    child_types: tuple[str, ...]
    children: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False, repr=False)
class Datacenter:
    moid: str
    name: str
    parent: Folder
    vm_folder: Folder
    host_folder: Folder
    datastore_folder: Folder
    network_folder: Folder
    datastores: list[Datastore] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class LibraryItem:
    """An item of a content library: `vm-template` or `ovf`; `source` is the VM whose copy it holds."""

    id: str
    name: str
    kind: str
    source: VirtualMachine


@dataclass(slots=True, eq=False, repr=False)
class Library:
    """A local content library and its items by id."""

    id: str
    name: str
    created: datetime
    items: dict[str, LibraryItem] = field(default_factory=dict)
