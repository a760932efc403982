"""A Temporal server for the demo and the tests: the one in TEMPORAL_ADDRESS, else a dev server of our own."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from temporalio.client import Client

from contracts import search_attributes
from contracts.errors import Unreachable
from workers.search_attributes import type_name
from workers.temporal_binary import obtain

__all__ = ["DevServer", "temporal_server"]

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
SHARD_READS_PER_S = 1000
ATTEMPTS = 3
"""A free port can be taken by somebody else between our look and the server's bind."""


class DevServer:
    """`temporal server start-dev` on free ports of 127.0.0.1, with its UI, stopped by its process ID.

    Started again, it is where it was, so that clients find it by themselves.
    """

    def __init__(self, program: Path, log_file: Path, db_file: Path | None = None) -> None:
        """`log_file` gets the server's output; without `db_file` nothing outlives the server."""
        self._program = program
        self._log_file = log_file
        self._db_file = db_file
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []
        self._answered = False
        self.address = ""
        """`host:port` of the frontend."""
        self.ui_url = ""

    @property
    def pid(self) -> int | None:
        """The server's process ID while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> Self:
        """Start, and return when the server answers. Raises `Unreachable` with the end of its log."""
        for attempt in range(1, ATTEMPTS + 1):
            self._spawn()
            if await self._answers():
                self._answered = True
                return self
            self.stop()
            if not self._answered:
                self._ports = []
            tail = self._log_file.read_text(errors="replace")[-2000:]
            if "address already in use" not in tail or attempt == ATTEMPTS:
                break
        raise Unreachable(
            f"the Temporal dev server ({self._program}) did not answer at {self.address} within "
            f"{START_TIMEOUT_S:.0f} s; its log {self._log_file} ends with:\n{tail}"
        )

    def stop(self) -> None:
        """Stop the server and wait for its end. Stopping twice is harmless."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def _spawn(self) -> None:
        self._ports = self._ports or _free_ports(2)
        port, ui_port = self._ports
        self.address = f"127.0.0.1:{port}"
        self.ui_url = f"http://127.0.0.1:{ui_port}"
        command = [str(self._program), "server", "start-dev", "--ip", "127.0.0.1"]
        command += ["--port", str(port), "--ui-port", str(ui_port), "--log-level", "warn", "--log-format", "json"]
        # The dev server's one shard hands tasks on 20 times a second by default: two waits of 50 ms an activity.
        command += ["--dynamic-config-value", f"history.transferProcessorMaxPollRPS={SHARD_READS_PER_S}"]
        for key in search_attributes.ALL:
            command += ["--search-attribute", f"{key.name}={type_name(key)}"]
        if self._db_file is not None:
            command += ["--db-filename", str(self._db_file)]
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            # Its own session: Ctrl-C in a terminal must reach our worker first, which then stops the server.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def _answers(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            try:
                client = await Client.connect(self.address)
                if await client.service_client.check_health():
                    return True
            except RuntimeError:  # what the SDK raises while nobody listens yet
                pass
            await asyncio.sleep(0.1)
        return False


@asynccontextmanager
async def temporal_server(directory: Path, progress: Callable[[str], None]) -> AsyncIterator[tuple[str, str | None]]:
    """The address of a Temporal server, and the URL of its UI when it is ours.

    TEMPORAL_ADDRESS if set; else a dev server whose log goes to `directory`, stopped at the end.
    """
    if address := os.environ.get("TEMPORAL_ADDRESS"):
        yield address, None
        return
    program = await asyncio.to_thread(obtain, progress)
    async with DevServer(program, directory / "temporal.log") as server:
        yield server.address, server.ui_url


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on, all different because all are held before the first is let go."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
