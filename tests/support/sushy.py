"""sushy-tools' Redfish emulator, which is not ours, as BMCs: a process that speaks TLS and wants a password."""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import bcrypt
import trustme

from tests.support.process import ServerProcess
from vsphere.rest import basic_auth
from vsphere.settings import BmcSettings

__all__ = ["SushyProcess"]


class SushyProcess:
    """`with SushyProcess(folder, [{"ProcVtd": "Disabled"}, None]) as bmc: …`

    It has one system for each item: its BIOS attributes, or None for a system without a BIOS. `uuids` are the
    systems' hardware UUIDs; the one of number `loses` accepts orders and forgets them. What was changed outlives
    `stop` and `start`, and so does the address.
    """

    user = "gpuwright"
    password = "S3cret!-of-the-bmc"

    def __init__(self, folder: Path, systems: list[Mapping[str, Any] | None], loses: int | None = None) -> None:
        self.uuids = [str(uuid.uuid4()) for _ in systems]
        self.ca_file = folder / "ca.pem"
        self.password_file = folder / "password"
        self.port = 0
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        self.password_file.write_text(self.password + "\n")
        digest = bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(rounds=4)).decode()
        (folder / "users").write_text(f"{self.user}:{digest}\n")
        fakes = [
            {"uuid": key, "name": f"system-{number}", "power_state": "On", "nics": [], "external_notifier": False}
            | ({} if bios is None else {"bios": dict(bios)})
            | {"bios_loses_orders": number == loses}
            for number, (key, bios) in enumerate(zip(self.uuids, systems, strict=True))
        ]
        config = {
            "SUSHY_EMULATOR_LISTEN_IP": "127.0.0.1",
            "SUSHY_EMULATOR_SSL_CERT": str(folder / "server.pem"),
            "SUSHY_EMULATOR_SSL_KEY": str(folder / "server.pem"),
            "SUSHY_EMULATOR_AUTH_FILE": str(folder / "users"),
            "SUSHY_EMULATOR_STATE_DIR": str(folder / "state"),
            "SUSHY_EMULATOR_FAKE_SYSTEMS": fakes,
        }
        self._config = folder / "emulator.conf"
        self._config.write_text("".join(f"{name} = {value!r}\n" for name, value in config.items()))
        arguments = [sys.executable, "-m", "tests.support.sushy_emulator", "--fake", "--config", self._config]
        self._server = ServerProcess("sushy-emulator", arguments, folder / "emulator.log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it: at a free port, later at the same one again."""
        with self._config.open("a") as config:
            config.write(f"SUSHY_EMULATOR_LISTEN_PORT = {self.port}\n")
        self.port = int(self._server.start(r"Running on https://127\.0\.0\.1:(\d+)\s")[1])

    def stop(self) -> None:
        """Stop it."""
        self._server.stop()

    def settings(self, **changes: Any) -> BmcSettings:
        """What gpuwright has to know, for all hosts."""
        fields = {
            "hosts": ["*.gpu.test"],
            "url": f"https://127.0.0.1:{self.port}",
            "user": self.user,
            "password_file": self.password_file,
            "ca_file": self.ca_file,
        }
        return BmcSettings.model_validate(fields | changes)

    def attributes(self, key: str) -> dict[str, Any]:
        """The BIOS attributes of one system, as a plain client reads them."""
        return dict(self._call("GET", f"/redfish/v1/Systems/{key}/BIOS")["Attributes"])

    def set_attributes(self, key: str, attributes: Mapping[str, Any]) -> None:
        """Change BIOS attributes as somebody else would."""
        self._call("PATCH", f"/redfish/v1/Systems/{key}/BIOS/Settings", {"Attributes": dict(attributes)})

    def power_state(self, key: str) -> str:
        """`On` or `Off`."""
        return str(self._call("GET", f"/redfish/v1/Systems/{key}")["PowerState"])

    def orders(self, key: str) -> int:
        """How many changes of a system's BIOS settings were received, by the emulator's own log since its start."""
        return self._server.log().count(f"PATCH /redfish/v1/Systems/{key}/BIOS/Settings ")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers=basic_auth(self.user, self.password) | {"Content-Type": "application/json"},
        )
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(request, context=trust, timeout=30) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None
