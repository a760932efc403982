"""An installation for the tests of operator commands: simulated vCenter, Temporal, the service as a process."""

import io
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cli.main import _COMMANDS, run
from tests.support.service import ServiceProcess, write_configuration
from tests.support.simulator import SimulatorProcess
from vsphere.inventory import find_host, read_host
from vsphere.passthrough import set_passthrough
from workers.temporal_server import DevServer

ROOT = Path(__file__).parents[2]
GROUPS = {name for name, place in _COMMANDS.items() if place.endswith(":app")} | {"keys"}
"""Commands that have sub-commands."""


def in_process(arguments: tuple[str, ...], environment: dict[str, str], given: str) -> subprocess.CompletedProcess[str]:
    """What the command does, in a thread, because commands bring event loops of their own."""
    said, told = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "stdin", io.StringIO(given)),
        redirect_stdout(said),
        redirect_stderr(told),
        ThreadPoolExecutor(1) as thread,
    ):
        status = thread.submit(run, list(arguments)).result(100)
    return subprocess.CompletedProcess(arguments, status, said.getvalue(), told.getvalue())


@dataclass
class Installation:
    """What an operator has: a configuration and the commands."""

    simulator: SimulatorProcess
    configuration: Path
    seen_as_process: set[tuple[str, ...]] = field(default_factory=set)
    """The commands that have run as a process of their own."""

    def gpuwright(self, *arguments: str, user: str = "alice", given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command as `user`, without a terminal, with `given` as its standard input.

        Each command runs as a process of its own the first time, and then within this one: what a process spends on
        its start is the same each time, and a hundred times what the command does.
        """
        name = arguments[: 2 if arguments[0] in GROUPS else 1]
        if name in self.seen_as_process:
            return in_process(arguments, self.environment(user), given)
        self.seen_as_process.add(name)
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            cwd=ROOT,
            env=self.environment(user),
            input=given,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def start(self, *arguments: str, user: str = "alice") -> subprocess.Popen[str]:
        """Start a command; the caller waits for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            cwd=ROOT,
            env=self.environment(user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, user: str) -> dict[str, str]:
        """An operator's environment; `LOGNAME` is who they are."""
        folder = self.configuration.parent
        own = {"GPUWRIGHT_CONFIG": str(self.configuration), "GPUWRIGHT_KEY": str(folder / "alice"), "LOGNAME": user}
        return {name: value for name, value in os.environ.items() if not name.startswith("GPUWRIGHT_")} | own

    def json(self, *arguments: str, user: str = "alice") -> Any:
        """What a command prints with `--json`; it must succeed."""
        done = self.gpuwright(*arguments, "--json", user=user)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def add_host(self, **options: Any) -> str:
        """Add a host with one A100 outside the rule's clusters, unless `options` say otherwise; its name."""
        name = f"esx-{uuid.uuid4().hex[:8]}.gpu.test"
        self.simulator.act("add_host", name=name, **({"cluster": "gpu-02", "gpus": ["10de:20f1"]} | options))
        return name

    def until(self, what: str, look: Callable[[], Any], timeout_s: float = 40) -> Any:
        """What `look` finds, as soon as it finds something."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.1)
        raise AssertionError(f"no {what} within {timeout_s} s")

    def approval(self, host: str) -> dict[str, Any]:
        """The approval that waits for a host."""
        return dict(
            self.until(
                f"approval for {host}",
                lambda: next((a for a in self.json("approvals", "list") if host in a["subject"]), None),
            )
        )


@pytest.fixture(scope="session")
def installation(temporal_server: DevServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The service runs for all tests of a session; its rules prepare new hosts of gpu-01, and audit gpu-05, only."""
    folder = tmp_path_factory.mktemp("installation")
    with SimulatorProcess(clusters=5, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        (folder / "vcenter-password").write_text(simulator.password)
        configuration = write_configuration(
            folder,
            temporal={"address": temporal_server.address, "task_queue": f"cli-{uuid.uuid4().hex[:8]}"},
            vcenters=[
                {
                    "name": f"vc-{uuid.uuid4().hex[:6]}",
                    "url": f"https://{simulator.host}:{simulator.port}",
                    "user": simulator.user,
                    "password_file": "vcenter-password",
                    "ca_file": str(simulator.ca_file),
                }
            ],
            where={"cluster": "gpu-01"},
            more_rules=[
                {
                    "name": "audit-after-host-failure",
                    "on": ["DasHostFailedEvent", "HostConnectionLostEvent"],
                    "where": {"cluster": "gpu-05"},
                    "start": "HaRecoveryAudit",
                }
            ],
            audit={"quiet_s": 1, "linger_s": 2, "look_s": 1, "host_wait_s": 0},
        )
        with ServiceProcess(configuration) as service:
            service.wait_for("following")
            yield Installation(simulator, configuration)
            assert service.stop() == 0


@dataclass
class GpuSite:
    """A vCenter and a configuration, without a service: for commands that ask vCenter alone, run in process."""

    config: str
    vcenter: str
    simulator: SimulatorProcess
    cluster: str = "gpu-02"
    label: str = "Site"
    hosts: tuple[str, ...] = ("esx-s1.gpu.test", "esx-s2.gpu.test", "esx-s3.gpu.test")
    """Two GPUs each, in passthrough with the label; all of the cluster's hosts that have GPUs."""
    vms: tuple[str, ...] = ("s-1", "s-2", "s-3", "s-4")
    """One GPU each, two on the first host and two on the second."""


@pytest.fixture(scope="session")
def gpu_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuSite]:
    """Shared by the tests of a session, which read and change nothing, or put it back."""
    folder = tmp_path_factory.mktemp("gpu-site")
    with SimulatorProcess(clusters=2, hosts=0, gpus=0, vms=0, time_scale=120) as simulator:
        vcenter = {
            "name": "site",
            "url": f"https://{simulator.host}:{simulator.port}",
            "user": simulator.user,
            "ca_file": str(simulator.ca_file),
        }
        temporal = {"address": "127.0.0.1:1", "task_queue": "nobody"}
        config = write_configuration(folder, temporal=temporal, vcenters=[vcenter])
        # The configuration has a password of its own.
        (folder / "password").write_text(simulator.password)
        site = GpuSite(str(config), "site", simulator)
        simulator.act("add_host", cluster="gpu-01", name="esx-bare.gpu.test", gpus=["10de:20f1"])
        simulator.act("set_drs", cluster=site.cluster, behavior="fullyAutomated")
        si = simulator.connect()
        try:
            for name in site.hosts:
                gpus = ["10de:20f1"] * 2
                simulator.act("add_host", cluster=site.cluster, name=name, gpus=gpus, rebind_without_reboot=True)
                ref = find_host(si, "site", name)
                for graphics in read_host(si, ref).graphics:
                    assert set_passthrough(si, ref, graphics.sbdf, True, site.label, apply_now=True)
        finally:
            simulator.disconnect(si)
        for number, name in enumerate(site.vms):
            host = site.hosts[number // 2]
            simulator.act("add_vm", host=host, name=name, gpu="dynamic", label=site.label, on=True)
        yield site
