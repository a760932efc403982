"""SSH to the hosts: a real server for each host that a client asks for, listening while its SSH service runs."""

from __future__ import annotations

import shlex
import socket
from dataclasses import dataclass
from typing import Any

import asyncssh
from aiohttp import web

from simulator.laws import services
from simulator.nvidia_smi import Output, nvidia_smi
from simulator.service import Simulator
from simulator.world import Host, World

__all__ = ["HostShells"]

_ALGORITHM = "ssh-ed25519"


@dataclass(slots=True)
class _Door:
    """One host's SSH port: bound from the start, so that it refuses connections until the service runs."""

    host: Host
    key: asyncssh.SSHKey
    address: str
    port: int
    reserved: socket.socket | None
    server: asyncssh.SSHAcceptor | None = None
    connections: set[asyncssh.SSHServerConnection] | None = None


class _Guard(asyncssh.SSHServer):
    """Who gets in: `root` and lockdown's exception users, with the simulator's password."""

    def __init__(self, door: _Door, password: str) -> None:
        self.door = door
        self.password = password
        self.connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connection = conn
        if self.door.connections is None:
            self.door.connections = set()
        self.door.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.door.connections is not None and self.connection is not None:
            self.door.connections.discard(self.connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        host = self.door.host
        known = username == "root" or username in host.lockdown_exceptions
        return known and password == self.password and services.may_log_in(host, username)


class HostShells:
    """The hosts' SSH servers. `GET /simulator/hosts/{name}/ssh` tells where a host's is, and its host key.

    The port and the key of a host stay the same for as long as the simulator runs; the password is the simulator's.
    """

    def __init__(self, simulator: Simulator) -> None:
        if not isinstance(simulator.world, World):
            raise TypeError("shells need hosts")
        self.simulator = simulator
        self.world: World = simulator.world
        self._doors: dict[str, _Door] = {}
        self.world.watchers.append(self._look)

    def add_routes(self, app: web.Application) -> None:
        """Put the control API's path into an application."""
        app.router.add_get("/simulator/hosts/{name}/ssh", self._tell)

    async def close(self) -> None:
        """Close all ports and connections."""
        for door in self._doors.values():
            self._shut(door, cut=True)
            if door.reserved is not None:
                door.reserved.close()
                door.reserved = None

    async def _tell(self, request: web.Request) -> web.Response:
        try:
            host = self.world.host_named(request.match_info["name"])
        except KeyError as unknown:
            return web.json_response({"error": unknown.args[0]}, status=404)
        door = self._doors.get(host.moid)
        if door is None:
            door = self._doors[host.moid] = self._new_door(host)
            self._look(host)
        key = door.key.export_public_key().decode().strip()
        return web.json_response({"address": door.address, "port": door.port, "host_key": key, "user": "root"})

    def _new_door(self, host: Host) -> _Door:
        address = self.simulator.options.host
        bound = _bound(address, 0)
        return _Door(host, asyncssh.generate_private_key(_ALGORITHM), address, bound.getsockname()[1], bound)

    def _look(self, state: Any) -> None:
        """Something changed: open the door of a host whose service runs, shut that of one whose does not."""
        door = self._doors.get(getattr(state, "moid", ""))
        if door is None:
            return
        alive = door.host.power_state == "poweredOn" and door.host.responding
        if alive and door.host.services["TSM-SSH"].running:
            if door.reserved is not None:
                listening, door.reserved = door.reserved, None
                listening.listen(16)  # from here on clients are not refused, though nobody answers yet
                self.world.start(self._open(door, listening))
        else:
            self._shut(door, cut=not alive)

    async def _open(self, door: _Door, listening: socket.socket) -> None:
        door.server = await asyncssh.listen(
            sock=listening,
            server_host_keys=[door.key],
            server_factory=lambda: _Guard(door, self.simulator.options.password),
            process_factory=lambda process: self._serve(door.host, process),
            encoding="utf-8",
            login_timeout=30,
        )

    def _shut(self, door: _Door, *, cut: bool) -> None:
        """Stopping the service leaves connections alone; a host that goes down takes them along."""
        if cut:
            for connection in tuple(door.connections or ()):
                connection.abort()
        if door.server is not None:
            door.server.close()
            door.server = None
            door.reserved = _bound(door.address, door.port)

    async def _serve(self, host: Host, process: asyncssh.SSHServerProcess[str]) -> None:
        output = self._run(host, process.command or "")
        process.stdout.write(output.stdout)
        process.stderr.write(output.stderr)
        process.exit(output.status)

    def _run(self, host: Host, command: str) -> Output:
        try:
            words = shlex.split(command)
        except ValueError as wrong:
            return Output("", 2, f"sh: syntax error: {wrong}\n")
        if not words:
            return Output("")
        if words[0].rpartition("/")[2] == "nvidia-smi" and host.vgpu_manager_runs:
            return nvidia_smi(self.world, host, words[1:])
        return Output("", 127, f"sh: {words[0]}: not found\n")


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((address, port))
    return bound
