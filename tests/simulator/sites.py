"""A whole simulator in the test's own event loop, with all that it serves besides SOAP."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from simulator.build import build_world
from simulator.service import Options, Simulator
from simulator.shell import HostShells
from simulator.wire.content_library import ContentLibraryApi
from simulator.wire.guest_files import GuestFiles
from simulator.wire.lifecycle import LifecycleApi
from simulator.wire.redfish import Redfish
from simulator.world import World
from tests.simulator.law_world import until
from tests.simulator.small_world import PASSWORD, USER

__all__ = ["Running", "basic", "running"]


def basic(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    """The header of HTTP basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class Running:
    """Its world, and an HTTP client that trusts its certificate."""

    def __init__(self, simulator: Simulator, client: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.world: World = simulator.world  # type: ignore[assignment]
        self.client = client
        self.headers: dict[str, str] = {}

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer; `None` for an empty one."""
        url = f"https://127.0.0.1:{self.simulator.port}{path}"
        async with self.client.request(method, url, json=body, headers=self.headers, **options) as answer:
            text = await answer.read()
            return answer.status, await answer.json() if text else None

    async def log_in(self) -> None:
        """Use vCenter's REST API from now on."""
        self.headers = basic()
        status, token = await self.call("POST", "/api/session")
        assert status == 201
        self.headers = {"vmware-api-session-id": token}

    async def task(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Start a REST task and return its info when it has ended."""
        status, task = await self.call(method, path, body)
        assert status == 202, task
        info: dict[str, Any] = {}
        tasks = next(site for site in self.simulator._sites if isinstance(site, LifecycleApi)).tasks.tasks
        await until(lambda: tasks[task]["status"] != "RUNNING", timeout_s=20)
        status, info = await self.call("GET", f"/api/cis/tasks/{task}")
        assert status == 200
        return info


@asynccontextmanager
async def running(**size: int) -> AsyncIterator[Running]:
    """Two hosts with a GPU each and no VMs, unless told otherwise; a minute takes 30 ms."""
    simulator = Simulator(
        Options(user=USER, password=PASSWORD, time_scale=2000),
        lambda registry: build_world(registry, **({"hosts": 2, "gpus": 1, "vms": 0} | size)),
        sites=(HostShells, LifecycleApi, ContentLibraryApi, GuestFiles, Redfish),
    )
    await simulator.start()
    try:
        trust = ssl.create_default_context(cadata=simulator.identity.ca_pem.decode())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as client:
            yield Running(simulator, client)
    finally:
        await simulator.world.close()  # type: ignore[attr-defined]
        await simulator.stop()
