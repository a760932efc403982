"""The simulator as its users run it: a process, started by its command line."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pyVim.connect import Disconnect, SmartConnect

from tests.support.binaries import binary, gpuwright
from tests.support.process import ServerProcess

__all__ = ["ControlError", "SimulatorProcess"]


class ControlError(Exception):
    """The control API refused: its status and its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class SimulatorProcess:
    """`with SimulatorProcess(hosts=3, gpus=2) as simulator: …`

    `options` are those of `gpuwright simulator` with underscores (`time_scale=60`, `session_idle_s=2`). After the
    start there are `url` (`https://127.0.0.1:PORT/sdk`), `host`, `port`, `user`, `password` and `ca_file`.
    """

    def __init__(self, **options: object) -> None:
        self.options = {"listen": "127.0.0.1:0", **options}
        self.user = str(options.get("user", "administrator@vsphere.local"))
        self.password = str(self.options.pop("password", "S3cret!-of-the-simulator"))
        self.url = ""
        self.host = "127.0.0.1"
        self.port = 0
        self._folder = tempfile.TemporaryDirectory(prefix="simulator-")
        self.ca_file = Path(self._folder.name) / "ca.pem"
        self.server: ServerProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait for its URL; raises `RuntimeError` with its log when it does not come up."""
        arguments = [str(gpuwright()), "simulator", "--ca-file", str(self.ca_file)]
        for name, value in self.options.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        environment = os.environ | {"GPUWRIGHT_SIMULATOR_PASSWORD": self.password}
        self.server = ServerProcess("the simulator", arguments, Path(self._folder.name) / "simulator.log", environment)
        self.url = self.server.start(r"^(https://\S+)\n")[1]
        parts = urlsplit(self.url)
        self.host, self.port = parts.hostname or "", parts.port or 0

    def stop(self) -> int:
        """Stop it with SIGTERM and return its exit status."""
        status = self.server.stop() if self.server else 0
        self._folder.cleanup()
        return status

    def log(self) -> str:
        """What it has logged so far."""
        return self.server.log() if self.server else ""

    def ssl_context(self) -> ssl.SSLContext:
        """TLS settings that trust the simulator's CA only."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def connect(self) -> Any:
        """A logged-in pyVmomi `ServiceInstance` over verified TLS; the caller passes it to `disconnect`."""
        return SmartConnect(
            host=self.host, port=self.port, user=self.user, pwd=self.password, sslContext=self.ssl_context()
        )

    @staticmethod
    def disconnect(service_instance: Any) -> None:
        """Log out and close the connections."""
        Disconnect(service_instance)
        service_instance._stub.DropConnections()

    def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the control API: `control("POST", "/simulator/outage", {"seconds": 2})`."""
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"https://{self.host}:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, context=self.ssl_context(), timeout=60) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                raise ControlError(refused.code, json.load(refused)["error"]) from None

    def act(self, action: str, **arguments: Any) -> Any:
        """Make something happen in the world: `act("add_host", cluster="gpu-a")`."""
        return self.control("POST", f"/simulator/actions/{action}", arguments)["result"]

    def add_fault(self, **rule: Any) -> Any:
        """Put a fault rule in force: `add_fault(method="RebootHost_Task", drop="after", times=1)`."""
        return self.control("POST", "/simulator/faults", rule)

    def clear_faults(self) -> None:
        """Remove all fault rules."""
        self.control("DELETE", "/simulator/faults")

    def kill_sessions(self, **whose: str) -> int:
        """End all sessions, or those of a `user` or `key`; returns how many there were."""
        return int(self.control("POST", "/simulator/sessions/kill", whose)["killed"])

    def add_user(self, user: str, password: str) -> None:
        """Let somebody else log in, too."""
        self.control("POST", "/simulator/users", {"user": user, "password": password})

    def outage(self, seconds: float, **more: bool | int) -> None:
        """Refuse connections for so long; `restart=True` ends all sessions, `new_certificate=True` changes the CA.

        `renewed_certificate=True` does not, and `lose=N` takes the newest events away.
        """
        self.control("POST", "/simulator/outage", {"seconds": seconds, **more})

    def govc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run govc against it."""
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": self._folder.name,
            "GOVC_URL": self.url,
            "GOVC_USERNAME": self.user,
            "GOVC_PASSWORD": self.password,
            "GOVC_TLS_CA_CERTS": str(self.ca_file),
            "GOVC_PERSIST_SESSION": "false",
        }
        done = subprocess.run(
            [str(binary("govc")), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"govc {' '.join(arguments)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done
