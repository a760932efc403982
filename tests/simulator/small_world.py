"""A world just large enough to test the wire: a datacenter, a cluster, hosts and VMs with a few properties."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import SoapStubAdapter, vim, vmodl

from simulator.core import Call, Managed, Registry, method, prop
from simulator.event_knobs import event_knobs
from simulator.service import Options, Simulator

__all__ = ["PASSWORD", "USER", "RunningSimulator", "SmallWorld"]

USER, PASSWORD = "administrator@vsphere.local", "a-small-secret"
T = TypeVar("T")


class Entity(Managed):
    def __init__(self, registry: Registry, moid: str, name: str, parent: Entity | None) -> None:
        super().__init__(registry, moid)
        self.label = name
        self.above = parent
        self.below: list[Entity] = []
        registry.add(self)
        if parent is not None:
            parent.below.append(self)
            parent.touch()

    @prop("name")
    def name(self) -> str:
        return self.label

    @prop("parent")
    def parent(self) -> Any:
        return self.above.ref() if self.above else None

    @prop("recentTask")
    def recent_task(self) -> list[Any]:
        return self.registry.tasks.recent(self)

    def refs(self, kind: type[Entity]) -> list[Any]:
        return [entity.ref() for entity in self.below if isinstance(entity, kind)]


class Folder(Entity):
    vim_type = vim.Folder

    @prop("childEntity")
    def child_entity(self) -> list[Any]:
        return [entity.ref() for entity in self.below]


class Datacenter(Entity):
    vim_type = vim.Datacenter

    @prop("hostFolder")
    def host_folder(self) -> Any:
        return next(entity.ref() for entity in self.below if entity.label == "host")

    @prop("vmFolder")
    def vm_folder(self) -> Any:
        return next(entity.ref() for entity in self.below if entity.label == "vm")


class Cluster(Entity):
    vim_type = vim.ClusterComputeResource

    @prop("host")
    def host(self) -> list[Any]:
        return self.refs(Host)


class Host(Entity):
    vim_type = vim.HostSystem
    label_set: str | None = None
    reboots = 0

    @prop("config.pciPassthruInfo")
    def pci_passthru_info(self) -> list[Any]:
        return [
            vim.host.PciPassthruInfo(
                id="0000:3b:00.0",
                dependentDevice="0000:3b:00.0",
                passthruEnabled=False,
                passthruCapable=True,
                passthruActive=False,
                hardwareLabel=self.label_set,
            )
        ]

    @prop("runtime.inMaintenanceMode")
    def in_maintenance_mode(self) -> bool:
        raise vim.fault.HostConnectFault(msg="The host is asleep.")

    @method("RebootHost_Task")
    def reboot(self, call: Call, force: bool) -> Managed:
        async def rebooting() -> None:
            if force:
                raise vim.fault.InvalidState(msg="Not by force.")
            self.registry.tasks.progress(40)
            await self.registry.clock.sleep(10)
            self.reboots += 1

        return self.registry.tasks.start(self, "HostSystem.reboot", rebooting(), cancelable=True)


class Vm(Entity):
    vim_type = vim.VirtualMachine

    @prop("config.extraConfig")
    def extra_config(self) -> list[Any]:
        return [vim.option.OptionValue(key="pciPassthru.use64bitMMIO", value="TRUE")]

    @prop("config.hardware")
    def hardware(self) -> Any:
        gpu = vim.vm.device.VirtualPCIPassthrough(
            key=13000, backing=vim.vm.device.VirtualPCIPassthrough.VmiopBackingInfo(vgpu="nvidia_a40-24c")
        )
        return vim.vm.VirtualHardware(numCPU=4, memoryMB=8192, device=[gpu])

    @prop("summary.config.memorySizeMB")
    def memory_size(self) -> int:
        return 8192


class SmallWorld:
    """Datacenter `dc`, cluster `gpu-a`, `hosts` hosts `esx-0`…, `vms` VMs `vm-0`…"""

    def __init__(self, registry: Registry, hosts: int = 3, vms: int = 5) -> None:
        self.registry = registry
        self.root_folder = Folder(registry, "group-d1", "Datacenters", None)
        self.datacenter = Datacenter(registry, "datacenter-2", "dc", self.root_folder)
        self.host_folder = Folder(registry, "group-h3", "host", self.datacenter)
        self.vm_folder = Folder(registry, "group-v4", "vm", self.datacenter)
        self.cluster = Cluster(registry, "domain-c5", "gpu-a", self.host_folder)
        self.hosts = [Host(registry, f"host-{100 + n}", f"esx-{n}", self.cluster) for n in range(hosts)]
        self.vms = [Vm(registry, f"vm-{1000 + n}", f"vm-{n}", self.vm_folder) for n in range(vms)]
        self._background: set[asyncio.Task[None]] = set()
        self.actions: dict[str, Callable[..., Any]] = {
            "add_host": self.add_host,
            "break": self.break_,
            **event_knobs(registry, self._start),
        }

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def add_host(self, name: str) -> Managed:
        added = Host(self.registry, f"host-{100 + len(self.hosts)}", name, self.cluster)
        self.hosts.append(added)
        argument = vim.event.HostEventArgument(name=name, host=added.ref())
        self.registry.events.post(vim.event.HostAddedEvent(host=argument))
        return added

    def break_(self) -> None:
        raise vmodl.fault.NotSupported(msg="nothing to break")


class RunningSimulator:
    """A simulator with a small world, on an event loop in a thread of its own."""

    def __init__(self, hosts: int = 3, vms: int = 5, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)
        self._options = {"user": USER, "password": PASSWORD, "time_scale": 100.0} | options
        self._size = (hosts, vms)
        self._clients: list[Any] = []

    def __enter__(self) -> RunningSimulator:
        self._thread.start()
        self.simulator = Simulator(Options(**self._options), lambda registry: SmallWorld(registry, *self._size))
        self.run(self.simulator.start())
        return self

    def __exit__(self, *exc: object) -> None:
        for client in self._clients:
            client._stub.DropConnections()
        self.run(self.simulator.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def world(self) -> Any:
        return self.simulator.world

    @property
    def registry(self) -> Registry:
        return self.simulator.registry

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the simulator's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def do(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call a function on the simulator's own loop."""

        async def call() -> T:
            return function(*arguments, **named)

        return self.run(call())

    def act(self, action: str, **arguments: Any) -> Any:
        """Make something happen: `act("storm", rate_per_s=100, seconds=1)`."""
        return self.do(self.world.actions[action], **arguments)

    def ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.simulator.identity.ca_pem.decode())

    def connect(self, **options: Any) -> Any:
        """A logged-in service instance, closed with the simulator."""
        client = SmartConnect(
            **{
                "host": "127.0.0.1",
                "port": self.simulator.port,
                "user": USER,
                "pwd": PASSWORD,
                "sslContext": self.ssl_context(),
            }
            | options
        )
        self._clients.append(client)
        return client

    def stranger(self, version: str = "vim.version.v8_0_2_0") -> Any:
        """A service instance that nobody has logged in, closed with the simulator."""
        stub = SoapStubAdapter(
            host="127.0.0.1", port=self.simulator.port, version=version, sslContext=self.ssl_context()
        )
        client = vim.ServiceInstance("ServiceInstance", stub)
        self._clients.append(client)
        return client

    def logout(self, client: Any) -> None:
        Disconnect(client)
        client._stub.DropConnections()

    def write_ca(self, path: Path) -> Path:
        path.write_bytes(self.simulator.identity.ca_pem)
        return path
