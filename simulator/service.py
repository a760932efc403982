"""The running simulator: a world, its managers and the HTTPS server around them."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from simulator.core import Managed, Registry
from simulator.faults import FaultInjector
from simulator.wire.certificates import make_identity, renew_identity
from simulator.wire.control import Control
from simulator.wire.depots import DepotSite
from simulator.wire.dispatch import Dispatcher
from simulator.wire.event_manager import EventManager
from simulator.wire.http import SoapEndpoint
from simulator.wire.search_index import SearchIndex
from simulator.wire.service_objects import (
    AuthorizationManager,
    ExtensionManager,
    LicenseManager,
    OptionManager,
    ServiceInstance,
    SessionManager,
)
from simulator.wire.session import Sessions
from simulator.wire.task_manager import TaskManagerObject
from simulator.wire.versions import parse_version
from simulator.wire.views import ViewManager
from simulator.world import World as FullWorld

__all__ = ["Options", "Simulator", "Site", "World"]

_KEEP_ALIVE_S = 1200.0
"""Longer than the 900 s for which pyVmomi keeps an idle connection: it must not find it closed."""


class World(Protocol):
    """What the server needs of a world."""

    @property
    def root_folder(self) -> Managed:
        """The root of the inventory."""

    @property
    def actions(self) -> dict[str, Callable[..., Any]]:
        """What can be made to happen, by name: called with JSON values, for the control API."""


class Site(Protocol):
    """Something else that the server serves."""

    def add_routes(self, app: web.Application) -> None:
        """Put its paths into an application."""

    async def close(self) -> None:
        """End what it has going."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the simulator serves. Times are in real seconds; port 0 picks a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    user: str = "administrator@vsphere.local"
    password: str = field(default="", repr=False)
    api_version: str = "8.0.2.0"
    session_idle_s: float = 1800.0
    task_ttl_s: float = 600.0
    max_events: int = 500_000
    time_scale: float = 1.0
    seed: int = 0
    ca_file: Path | None = None


class Simulator:
    """One simulated vCenter.

    `build` populates the registry and returns the world; `sites` are served besides
    vCenter's SOAP API. Raises `ValueError` for options that make no sense and
    `OSError` when the address cannot be bound.
    """

    def __init__(
        self,
        options: Options,
        build: Callable[[Registry], World],
        sites: Sequence[Callable[[Simulator], Site]] = (),
    ) -> None:
        if not options.password:
            raise ValueError("the simulator needs a password: give --password or GPUWRIGHT_SIMULATOR_PASSWORD")
        self.options = options
        self.version = parse_version(options.api_version)
        self.registry = Registry(options.time_scale)
        self.registry.tasks.ttl_s = options.task_ttl_s
        self.registry.events.max_events = options.max_events
        self.registry.events.version = self.version
        self.sessions = Sessions(self.registry, options.user, options.password, options.session_idle_s)
        self.faults = FaultInjector(options.seed)
        self._build = build
        self._make_sites = sites
        self._sites: list[Site] = []
        self._spawned: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._outage: asyncio.Task[None] | None = None
        self.port = options.port
        self._hosts = sorted({"localhost", "127.0.0.1", self.options.host}, reverse=True)
        self.identity = make_identity(self._hosts)

    @property
    def url(self) -> str:
        """Where clients connect."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"https://{host}:{self.port}/sdk"

    async def start(self) -> None:
        """Build the world and serve it."""
        self.world = self._build(self.registry)
        self._add_managers()
        self._write_ca()
        app = web.Application(client_max_size=64 * 2**20)
        dispatcher = Dispatcher(self.registry, self.faults)
        SoapEndpoint(self.registry, self.sessions, dispatcher, self.version).add_routes(app)
        Control(self).add_routes(app)
        DepotSite().add_routes(app)
        self._sites = [make(self) for make in self._make_sites]
        for site in self._sites:
            site.add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=_KEEP_ALIVE_S)
        await self._runner.setup()
        await self._listen()
        self._tell_world()

    def _tell_world(self) -> None:
        """Where it is served, and with which certificate."""
        if isinstance(self.world, FullWorld):
            self.world.address = self.url.removesuffix("/sdk")
            self.world.certificate = self.identity.certificate_pem

    async def stop(self) -> None:
        """End all calls and laws."""
        if self._outage is not None:
            self._outage.cancel()
            await asyncio.gather(self._outage, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        for running in tuple(self._spawned):
            running.cancel()
        await asyncio.gather(*self._spawned, return_exceptions=True)
        for site in self._sites:
            await site.close()
        await self.registry.tasks.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on until it ends or the simulator stops."""
        running = asyncio.ensure_future(work)
        self._spawned.add(running)
        running.add_done_callback(self._spawned.discard)

    def begin_outage(
        self,
        seconds: float,
        restart: bool = False,
        new_certificate: bool = False,
        renewed_certificate: bool = False,
        lose: int = 0,
    ) -> None:
        """Refuse connections, and cut those there are, for some real seconds.

        After a `restart` all sessions are gone, and what they made. With a `new_certificate` it comes back with
        one of a new CA, which is written to the CA file; with a `renewed_certificate` it is one of the same CA.
        A vCenter that fails over to its passive node is one that restarts, and may `lose` its newest events: so many.
        """
        if self._outage is None or self._outage.done():
            self._outage = asyncio.ensure_future(
                self._be_out(seconds, restart, new_certificate, renewed_certificate, lose)
            )

    def _write_ca(self) -> None:
        if self.options.ca_file is not None:
            self.options.ca_file.write_bytes(self.identity.ca_pem)

    async def _be_out(
        self, seconds: float, restart: bool, new_certificate: bool, renewed_certificate: bool, lose: int
    ) -> None:
        await asyncio.sleep(0.05)  # so that whoever asked for the outage gets an answer
        if self._site is None or self._runner is None or self._runner.server is None:
            return
        await self._site.stop()
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        if restart:
            self.sessions.forget_all()
        if lose:
            self.registry.events.restore(min(lose, len(self.registry.events)))
        if new_certificate:
            self.identity = make_identity(self._hosts)
            self._write_ca()
        elif renewed_certificate:
            self.identity = renew_identity(self.identity, self._hosts)
        await asyncio.sleep(seconds)
        await self._listen()
        self._tell_world()

    async def _listen(self) -> None:
        if self._runner is None:
            raise RuntimeError("the simulator has not been started")
        family = socket.AF_INET6 if ":" in self.options.host else socket.AF_INET
        listening = socket.create_server((self.options.host, self.port), family=family, backlog=1024)
        self.port = listening.getsockname()[1]
        self._site = web.SockSite(self._runner, listening, ssl_context=self.identity.server_context())
        await self._site.start()

    def _add_managers(self) -> None:
        registry, options = self.registry, self.options
        registry.settings |= {
            "VirtualCenter.InstanceName": "gpuwright-simulator",
            "event.maxAge": 30,
            "task.maxAge": 30,
            "vgpu.hotmigrate.enabled": False,
        }
        instance_uuid = uuid.uuid5(uuid.NAMESPACE_DNS, f"gpuwright-simulator-{options.seed}")
        root = self.world.root_folder
        for manager in (
            ServiceInstance(registry, options.api_version, root, instance_uuid),
            SessionManager(registry, self.sessions),
            ViewManager(registry, "ViewManager"),
            EventManager(registry, "EventManager"),
            TaskManagerObject(registry, "TaskManager"),
            SearchIndex(registry, root),
            ExtensionManager(registry, "ExtensionManager"),
            LicenseManager(registry, "LicenseManager"),
            AuthorizationManager(registry, "AuthorizationManager"),
            OptionManager(registry, "VpxSettings", registry.settings),
        ):
            registry.add(manager)
