"""The world's state: plain data about one vCenter's clusters, hosts, PCI devices, GPUs and VMs.

Laws change it and call `World.changed(...)`; entities render it. Nothing here knows pyVmomi's data objects,
apart from virtual devices that a client sent and that are kept as they are.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from simulator.core import Managed, Registry
from simulator.parts import GpuCard, HostService, PciFunction, Vib, VmGpu, default_services

log = logging.getLogger(__name__)

__all__ = [
    "Cluster",
    "Datacenter",
    "Datastore",
    "Folder",
    "GpuCard",
    "Host",
    "HostService",
    "Network",
    "PciFunction",
    "ResourcePool",
    "Vib",
    "VirtualMachine",
    "VmGpu",
    "VmHostRule",
    "World",
]


@dataclass(slots=True, eq=False)
class Host:
    """One ESXi host. Everything about its PCI devices is in `pci`, keyed by SBDF; GPUs have an entry in `gpus` too."""

    moid: str
    name: str
    uuid: str
    compute: Cluster
    boot_time: datetime
    version: str = "8.0.2"
    build: str = "22380479"
    vendor: str = "Dell Inc."
    model: str = "PowerEdge R750xa"
    cpu_model: str = "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz"
    cpu_mhz: int = 1995
    cpu_packages: int = 2
    cpu_cores: int = 64
    memory_bytes: int = 1024 * 2**30
    connection_state: str = "connected"
    power_state: str = "poweredOn"
    in_maintenance: bool = False
    entering_maintenance: bool = False
    ha_state: str | None = None
    lockdown_mode: str = "lockdownDisabled"
    bios_iommu: bool = True
    """VT-d is on in the BIOS. Off, it shows only in that no device can be passed through."""
    kernel_iommu: bool = True
    """The kernel may use it; off is the kernel setting `noIOMMU=TRUE`."""
    rebind_without_reboot: bool = False
    usb_boot: bool = False
    pci: dict[str, PciFunction] = field(default_factory=dict)
    gpus: dict[str, GpuCard] = field(default_factory=dict)
    default_graphics_type: str = "shared"
    active_default_graphics_type: str = "shared"
    assignment_policy: str = "performance"
    vibs: list[Vib] = field(default_factory=list)
    running_vibs: frozenset[Vib] = frozenset()
    """The packages that were installed at the last boot: a driver runs, and stops running, only with one."""
    acceptance_level: str = "PartnerSupported"
    secure_boot: bool = False
    image_busy: bool = False
    """Packages are being changed: nothing else may change them meanwhile."""
    services: dict[str, HostService] = field(default_factory=default_services)
    lockdown_exceptions: list[str] = field(default_factory=list)
    bios_pending: dict[str, str] = field(default_factory=dict)
    """BIOS settings that the next boot applies, by the BMC's attribute."""
    bios_sriov: bool = True
    bios_above_4g: bool = True
    vgpu_migration: bool = True
    """The host's driver can move running vGPUs."""
    forgets_mig: bool = False
    """Test knob: MIG is off again after each boot of this host."""
    standby_mode: str = "none"
    advanced: dict[str, Any] = field(default_factory=dict)
    vms: dict[str, VirtualMachine] = field(default_factory=dict)
    boot_hangs: bool = False
    boot_seconds: float | None = None
    responding: bool = True
    """The management agent answers vCenter; false while the host is down, booting or cut off."""
    background: asyncio.Task[None] | None = None

    @property
    def iommu(self) -> bool:
        return self.bios_iommu and self.kernel_iommu

    @property
    def release(self) -> tuple[int, ...]:
        """The ESXi version as comparable numbers."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def up(self) -> bool:
        return self.connection_state == "connected" and self.power_state == "poweredOn"

    @property
    def vgpu_manager_runs(self) -> bool:
        return any(vib.provides_vgpu for vib in self.running_vibs)

    @property
    def reboot_required(self) -> bool:
        """A change waits for the next boot: passthrough, the default graphics type, or a driver package."""
        return (
            any(function.passthru_enabled != function.passthru_active for function in self.pci.values())
            or self.default_graphics_type != self.active_default_graphics_type
            or frozenset(self.vibs) != self.running_vibs
        )


@dataclass(slots=True, eq=False)
class VirtualMachine:
    """One VM. `devices` is `None` while it has the standard set of virtual devices, else pyVmomi device objects."""

    moid: str
    name: str
    uuid: str
    instance_uuid: str
    host: Host
    folder: Folder
    datastores: list[Datastore]
    networks: list[Network]
    pool: ResourcePool | None
    created: datetime
    cpus: int = 4
    memory_mib: int = 8192
    disk_gib: int = 40
    firmware: str = "efi"
    hardware_version: int = 20
    guest_id: str = "ubuntu64Guest"
    annotation: str = ""
    template: bool = False
    managed_by: tuple[str, str] | None = None
    memory_reserved_all: bool = False
    memory_reservation_mib: int = 0
    extra_config: dict[str, str] = field(default_factory=dict)
    devices: list[Any] | None = None
    gpus: list[VmGpu] = field(default_factory=list)
    change_version: int = 1
    power_state: str = "poweredOff"
    last_seen: str | None = None
    """The power state that vCenter goes on showing while the VM's host does not answer."""
    booted: bool = False
    """The guest is up; false while powered on when it hangs before its firmware hands over."""
    boot_time: datetime | None = None
    ip_address: str | None = None
    question: tuple[str, str] | None = None
    protected: bool = False
    fault_tolerant: bool = False
    drs_override: str | None = None

    @property
    def shown_power_state(self) -> str:
        return self.last_seen or self.power_state

    @property
    def passthrough(self) -> list[VmGpu]:
        return [gpu for gpu in self.gpus if gpu.kind != "vgpu"]


@dataclass(slots=True, eq=False)
class Datastore:
    moid: str
    name: str
    uuid: str
    capacity_bytes: int
    free_bytes: int
    hosts: dict[str, Host] = field(default_factory=dict)
    vms: dict[str, VirtualMachine] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Network:
    moid: str
    name: str
    hosts: dict[str, Host] = field(default_factory=dict)
    vms: dict[str, VirtualMachine] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class ResourcePool:
    moid: str
    name: str
    compute: Cluster
    vms: dict[str, VirtualMachine] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class VmHostRule:
    """A DRS rule: VMs of a group run on hosts of a group, or, without `affine`, never on them."""

    name: str
    vm_group: str
    host_group: str
    mandatory: bool = True
    affine: bool = True


@dataclass(slots=True, eq=False)
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
    isolation_response: str = "none"
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
    datastores: list[Datastore] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    gpu_model: str = "10de:20f1"
    gpus_per_host: int = 0
    """What hardware a host brings that a client adds to this cluster."""


@dataclass(slots=True, eq=False)
class Folder:
    """`child_type` lists the VMODL type names it may hold; `children` are moids in order."""

    moid: str
    name: str
    parent: str | None
    child_types: tuple[str, ...]
    children: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
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


class World:
    """All state, the way to say that something changed, and the clock, event log and tasks of the registry.

    `root_folder` is the inventory's root object. `actions` are what the world itself may do to a vCenter: things
    that no API call causes, by name, for tests and for the demo.
    """

    root_folder: Managed

    def __init__(self, registry: Registry, seed: int) -> None:
        self.registry = registry
        self.random = random.Random(seed)
        self.folders: dict[str, Folder] = {}
        self.datacenters: dict[str, Datacenter] = {}
        self.clusters: dict[str, Cluster] = {}
        self.hosts: dict[str, Host] = {}
        self.vms: dict[str, VirtualMachine] = {}
        self.datastores: dict[str, Datastore] = {}
        self.networks: dict[str, Network] = {}
        self.pools: dict[str, ResourcePool] = {}
        self.actions: dict[str, Callable[..., Any]] = {}
        self.renderers: dict[type, Callable[[World, Any], list[Managed]]] = {}
        """How each kind of state is shown: its managed object first, then the objects that belong to it."""
        self._shown: dict[str, list[Managed]] = {}
        self.watchers: list[Callable[[Any], None]] = []
        """Called with each state that visibly changed."""
        self.under_construction = False
        """While a world is built nobody watches it: changes need not be said."""
        self._next_moid = 1
        self._background: set[asyncio.Task[None]] = set()

    def moid(self, prefix: str) -> str:
        """A fresh moid; one counter serves all kinds, as in vCenter."""
        number, self._next_moid = self._next_moid, self._next_moid + 1
        return f"{prefix}{number}"

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def past(self, days: float) -> datetime:
        """Some time up to `days` ago."""
        return self.registry.clock.now() - timedelta(days=self.random.uniform(days / 10, days))

    def show(self, state: Any) -> None:
        """Make a piece of state reachable for clients."""
        objects = self._shown[state.moid] = self.renderers[type(state)](self, state)
        for obj in objects:
            self.registry.add(obj)

    def hide(self, state: Any) -> None:
        """Take a piece of state out of the inventory, with everything that belongs to it."""
        for obj in self._shown.pop(state.moid):
            self.registry.remove(obj)

    def managed(self, state: Any) -> Managed:
        """The managed object that renders a piece of state."""
        return self.registry.objects[state.moid]

    def ref(self, state: Any) -> Any:
        return self.registry.objects[state.moid].ref()

    def changed(self, *states: Any) -> None:
        """Say that these visibly changed. What is already gone from the inventory is passed over."""
        if self.under_construction:
            return
        for state in states:
            for obj in self._shown.get(state.moid, ()):
                self.registry.touch(obj)
            for watcher in self.watchers:
                watcher(state)

    def post(self, event: Any) -> None:
        self.registry.events.post(event)

    async def sleep(self, seconds: float) -> None:
        await self.registry.clock.sleep(seconds)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let something happen in the background, not as a vSphere task."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (broken := task.exception()) is not None:
            log.error("a law broke in the background", exc_info=broken)

    async def close(self) -> None:
        """Stop everything that still happens in the background."""
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def host_named(self, name: str) -> Host:
        """Raises `KeyError` with the name when there is no such host."""
        return _named(self.hosts, name, "host")

    def cluster_named(self, name: str) -> Cluster:
        return _named(self.clusters, name, "cluster")

    def vm_named(self, name: str) -> VirtualMachine:
        return _named(self.vms, name, "VM")


def _named(states: dict[str, Any], name: str, kind: str) -> Any:
    for state in states.values():
        if name in (state.name, state.moid):
            return state
    raise KeyError(f"no {kind} is named {name!r}")
