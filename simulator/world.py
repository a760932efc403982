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
from simulator.guests import Customization, Guest, Question, Quirks
from simulator.parts import GpuCard, HostService, PciFunction, Vib, VmGpu, default_services
from simulator.places import (
    Cluster,
    Datacenter,
    Datastore,
    Folder,
    Library,
    LibraryItem,
    Network,
    Recommendation,
    ResourcePool,
    VmHostRule,
)

log = logging.getLogger(__name__)

__all__ = [
    "Cluster",
    "Datacenter",
    "Datastore",
    "Folder",
    "GpuCard",
    "Host",
    "HostService",
    "Library",
    "LibraryItem",
    "Network",
    "PciFunction",
    "Recommendation",
    "ResourcePool",
    "Snapshot",
    "Vib",
    "VirtualMachine",
    "VmGpu",
    "VmHostRule",
    "World",
]


@dataclass(slots=True, eq=False, repr=False)
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
    ha_view: str = ""
    """How HA sees a host that does not take part: `hostDown` or `networkIsolated`; else empty."""
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
    ledger: list[str] = field(default_factory=list)
    """What was done to packages, BIOS and cards, whoever did it, and the boots, in order: `install …`, `boot`."""
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
    names_small_mmio: bool = False
    """Its release refuses a VM with too little MMIO space, where others start it and it does not boot."""
    standby_mode: str = "none"
    advanced: dict[str, Any] = field(default_factory=dict)
    vms: dict[str, VirtualMachine] = field(default_factory=dict)
    orphans: list[VirtualMachine] = field(default_factory=list)
    """VMs that left vCenter's inventory while the host did not answer, so that the host still has them."""
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
        return self.connection_state == "connected" and self.power_state == "poweredOn" and self.responding

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


@dataclass(slots=True, eq=False, repr=False)
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
    last_ids: dict[int, str] = field(default_factory=dict)
    """Likewise its GPUs, by virtual device key."""
    stray: str = ""
    """`orphaned`, `inaccessible` or `invalid`: its `connectionState` when something other than its host is wrong."""
    path: str = ""
    """Its configuration file (`[datastore] folder/name.vmx`), where it is not what its name says."""
    locked_by: VirtualMachine | None = None
    """What has the same files and may still run, on a host that vCenter does not reach."""
    booted: bool = False
    """The guest is up; false while powered on when it hangs before its firmware hands over."""
    boot_time: datetime | None = None
    ip_address: str | None = None
    question: Question | None = None
    protected: bool = False
    """HA was told that it should run; see `laws.ha_settings.is_protected`."""
    restart_priority: str | None = None
    isolation_response: str | None = None
    """HA's settings of its own; `None`: its cluster's."""
    fault_tolerant: bool = False
    drs_override: str | None = None
    secure_boot: bool = False
    blank: bool = False
    """No operating system has been installed on its disk."""
    disk_bytes: int | None = None
    """What its files take on its datastore; `None`: half of a thin disk of `disk_gib`."""
    guest: Guest | None = None
    """What is inside; `None` while nobody has looked. See `laws.guests.guest_of`."""
    customization: Customization | None = None
    snapshots: list[Snapshot] = field(default_factory=list)
    quirks: Quirks = field(default_factory=Quirks)

    @property
    def shown_power_state(self) -> str:
        return self.last_seen or self.power_state

    def shown_id(self, gpu: VmGpu) -> str | None:
        """The device that vCenter shows for one of its GPUs."""
        return self.last_ids.get(gpu.key) if self.last_seen else gpu.assigned_id

    @property
    def vmx(self) -> str:
        """`config.files.vmPathName`."""
        store = self.datastores[0].name if self.datastores else ""
        return self.path or f"[{store}] {self.name}/{self.name}.vmx"

    @property
    def passthrough(self) -> list[VmGpu]:
        return [gpu for gpu in self.gpus if gpu.kind != "vgpu"]

    @property
    def committed_bytes(self) -> int:
        return self.disk_gib * 2**29 if self.disk_bytes is None else self.disk_bytes


@dataclass(slots=True, eq=False, repr=False)
class Snapshot:
    """A snapshot of a VM; the last of `VirtualMachine.snapshots` is the current one."""

    moid: str
    name: str
    description: str
    vm: VirtualMachine
    created: datetime
    number: int
    power_state: str
    quiesced: bool = False


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
        self.quirks: dict[str, Quirks] = {}
        """How VMs that are not there yet will misbehave, by name."""
        self.ledger: list[dict[str, str]] = []
        """Each VM that came or went, and each driver installed: `what`, `name`, `moid`, in order."""
        self.files: dict[str, VirtualMachine] = {}
        """VMs that are in no inventory and whose files are still there, by path."""
        self.libraries: dict[str, Library] = {}
        self.address = "https://localhost"
        """Where clients reach the server, for URLs that answers contain."""
        self.certificate = b""
        """The server's certificate (PEM)."""
        self.transfers: dict[str, Any] = {}
        """File transfers with guests that are permitted and not yet done, by token."""
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

    @property
    def at_work(self) -> int:
        """How many things go on in the background."""
        return len(self._background)

    async def close(self) -> None:
        """Stop everything that still happens in the background."""
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def host_named(self, name: str) -> Host:
        """Raises `KeyError` with the name when there is no such host."""
        return _named(self.hosts, name, "host")

    def datastore_named(self, name: str) -> Datastore:
        return _named(self.datastores, name, "datastore")

    def cluster_named(self, name: str) -> Cluster:
        return _named(self.clusters, name, "cluster")

    def vm_named(self, name: str) -> VirtualMachine:
        return _named(self.vms, name, "VM")


def _named(states: dict[str, Any], name: str, kind: str) -> Any:
    for state in states.values():
        if name in (state.name, state.moid):
            return state
    raise KeyError(f"no {kind} is named {name!r}")
