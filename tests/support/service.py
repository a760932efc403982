"""A configuration on disk, and the service as its users run it: a process, started by its command line."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.process import ServerProcess
from workers.keys import new_key

__all__ = ["ServiceProcess", "write_configuration"]

_RULES: dict[str, Any] = {
    "rules": [
        {
            "name": "prepare-new-gpu-hosts",
            "on": ["HostAddedEvent", "HostConnectedEvent"],
            "start": "PrepareGpuHost",
            "with": {"profile": "training"},
        }
    ],
    "profiles": {"training": {"gpus": [{"match": "10de:20f1", "mode": "passthrough", "label": "Training"}]}},
}


def write_configuration(
    directory: Path,
    *,
    temporal: dict[str, Any],
    vcenters: list[dict[str, Any]],
    where: dict[str, str] | None = None,
    more_rules: Sequence[dict[str, Any]] = (),
    **sections: Any,
) -> Path:
    """A configuration with one rule and an approval key (`alice`); each vCenter needs `name` and `url` at least.

    `where` narrows the rule; `more_rules` come after it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "alice").exists():
        new_key(directory / "alice", directory / "alice.pub")
    rules = [*(rule | {"where": where or {}} for rule in _RULES["rules"]), *more_rules]
    (directory / "rules.yaml").write_text(yaml.safe_dump(_RULES | {"rules": rules}))
    (directory / "password").write_text("secret\n")
    defaults = {"user": "gpuwright", "password_file": "password"}
    document = {
        "temporal": temporal,
        "vcenters": [defaults | vcenter for vcenter in vcenters],
        "rules_file": "rules.yaml",
        "approvals": {"trusted_key_files": ["alice.pub"]},
        "logging": {"format": "json"},
        # Tests that look for drift say when.
        "drift": {"every_s": 7 * 24 * 3600},
        **sections,
    }
    path = directory / "gpuwright.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


class ServiceProcess:
    """`with ServiceProcess(configuration) as service: service.wait_for("serving")`."""

    def __init__(self, configuration: Path) -> None:
        self._server = ServerProcess(
            "the service",
            [sys.executable, "-m", "cli", "serve", "--config", configuration],
            configuration.with_name("service.log"),
            {name: value for name, value in os.environ.items() if not name.startswith("GPUWRIGHT_")},
        )

    def __enter__(self) -> Self:
        self._server.start("")
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Its process ID while it runs."""
        assert self._server.process is not None
        return self._server.process.pid

    def logged(self) -> list[dict[str, Any]]:
        """The log's JSON lines so far."""
        lines = (self._server.output() + self._server.log()).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_for(self, event: str, timeout_s: float = 30) -> dict[str, Any]:
        """The first log line with this event; raises `TimeoutError` with the log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line in self.logged():
                if line["event"] == event:
                    return line
            time.sleep(0.05)
        raise TimeoutError(f"no {event!r} within {timeout_s} s in:\n{self._server.log()}")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Send the signal; the exit status."""
        return self._server.stop(number, timeout_s)
