"""What preparing a host costs of our own: seconds with a vCenter that takes no time, against a plain pyVmomi script.

The service, the simulator and Temporal's dev server are processes of their own, as in production, on one machine.
Simulated reboots and maintenance modes take less than a millisecond and policy approves, so what is measured is
Temporal, gpuwright and the SOAP calls. The plain script (`benchmarks/plain_pyvmomi.py`) makes the changing calls and
the waits in the same run against the same simulator. `make bench` runs it, and `benchmarks/results.json` keeps what it
measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from temporalio.client import Client

from benchmarks.processes import cpu_s, peak_rss_mib
from benchmarks.results import keep
from contracts import ids, names
from contracts.host import HostRef
from contracts.prepare import Outcome, PrepareGpuHostInput, PrepareGpuHostReport
from tests.support.service import ServiceProcess, write_configuration
from tests.support.simulator import SimulatorProcess
from vsphere.inventory import host_index
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.client import connect
from workers.keys import new_key
from workers.settings import TemporalSettings
from workers.temporal_binary import obtain
from workers.temporal_server import DevServer

ONE_BY_ONE = 5
SIDE_BY_SIDE = 100
PLAINLY = "a plain pyVmomi script"
NO_WAITING = 1_000_000
"""A time scale at which four minutes of reboot are a quarter of a millisecond."""
A100, A40 = "10de:20f1", "10de:2235"
VCENTER, QUEUE = "bench", "bench"
BUNDLE = "NVD-VGPU-800_550.54.16-1OEM.800.1.0.20613240"


@dataclass(frozen=True)
class Cost:
    """Of a batch of hosts, in the process that prepared them."""

    seconds: float
    cpu_s: float
    peak_rss_mib: float


class Bench:
    """A simulated vCenter, and both ways to prepare its hosts."""

    def __init__(self, simulator: SimulatorProcess, client: Client, pool: SessionPool) -> None:
        self._simulator = simulator
        self._client = client
        self._pool = pool
        site = simulator.control("GET", "/simulator/depots")["depots"][BUNDLE]
        self.depot = f"https://{simulator.host}:{simulator.port}{site['url']}"
        self.sha256 = str(site["sha256"])

    def add_hosts(self, number: int, gpu: str) -> list[HostRef]:
        """Fresh hosts with one GPU each."""
        added = {f"esx-{uuid.uuid4().hex[:10]}.gpu.test" for _ in range(number)}
        for name in sorted(added):
            self._simulator.act("add_host", cluster="gpu-01", name=name, gpus=[gpu])
        with self._pool.session() as si:
            return [each.ref for each in host_index(si, VCENTER).hosts if each.ref.name in added]

    async def prepared(self, hosts: list[HostRef], profile: str, pid: int) -> Cost:
        """By the service with this process ID, all at once; raises `RuntimeError` for a host that was not prepared."""
        began, cpu_before = time.monotonic(), cpu_s(pid)
        reports = await asyncio.gather(*(self._prepare(host, profile) for host in hosts))
        cost = Cost(time.monotonic() - began, cpu_s(pid) - cpu_before, peak_rss_mib(pid))
        if wrong := [report.host.name for report in reports if report.outcome is not Outcome.PREPARED]:
            raise RuntimeError(f"not prepared: {', '.join(wrong)}")
        return cost

    async def _prepare(self, host: HostRef, profile: str) -> PrepareGpuHostReport:
        report: PrepareGpuHostReport = await self._client.execute_workflow(
            names.PREPARE_GPU_HOST,
            PrepareGpuHostInput(host=host, profile=profile, requester="benchmark"),
            id=ids.prepare_gpu_host(host.vcenter, host.key),
            task_queue=QUEUE,
            result_type=PrepareGpuHostReport,
        )
        return report

    def prepared_plainly(self, hosts: list[HostRef], depot: str = "") -> Cost:
        """By the plain script, with as many threads as hosts; raises `RuntimeError` with its words when it fails."""
        order = {
            "host": self._simulator.host,
            "port": self._simulator.port,
            "user": self._simulator.user,
            "password": self._simulator.password,
            "ca_file": str(self._simulator.ca_file),
            "width": len(hosts),
            "jobs": [{"host": host.moid, "depot": depot} for host in hosts],
        }
        command = [sys.executable, "-m", "benchmarks.plain_pyvmomi"]
        done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the plain script failed:\n{done.stderr}")
        return Cost(**json.loads(done.stdout))


def _rules(bench: Bench) -> dict[str, Any]:
    manager = {"name": "NVD-VGPU_ESXi_8.0.0_Driver", "version": ">=550", "depot": bench.depot, "sha256": bench.sha256}
    return {
        "rules": [],
        "profiles": {
            "passthrough": {"gpus": [{"match": A100, "mode": "passthrough", "label": "Training"}]},
            "vgpu": {"gpus": [{"match": A40, "mode": "vgpu"}], "vgpu_manager": manager},
        },
    }


def _configuration(folder: Path, temporal: str, simulator: SimulatorProcess, bench: Bench) -> Path:
    """That of a service which approves by itself, and lets the whole cluster be down."""
    new_key(folder / "service", folder / "service.pub")
    path = write_configuration(
        folder,
        temporal={"address": temporal, "task_queue": QUEUE},
        vcenters=[_vcenter(simulator)],
        approvals={"auto_approve": True, "signing_key_file": "service"},
        gate={"hosts_down": SIDE_BY_SIDE},
    )
    (folder / "password").write_text(simulator.password)
    (folder / "rules.yaml").write_text(yaml.safe_dump(_rules(bench)))
    return path


def _vcenter(simulator: SimulatorProcess) -> dict[str, Any]:
    url = f"https://{simulator.host}:{simulator.port}"
    return {"name": VCENTER, "url": url, "user": simulator.user, "ca_file": str(simulator.ca_file)}


async def main() -> None:
    """Measure, print and keep."""
    # As installed: the sandbox loads workflow modules for each run, which compiles them each time without bytecode.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = {"clusters": 1, "hosts": 1, "gpus": 1, "vms": 0, "time_scale": NO_WAITING}
        simulator = stack.enter_context(SimulatorProcess(**options))
        server = await stack.enter_async_context(DevServer(obtain(print), folder / "temporal.log"))
        client = await connect(TemporalSettings(address=server.address))
        (folder / "password").write_text(simulator.password)
        settings = VCenterSettings.model_validate(_vcenter(simulator) | {"password_file": folder / "password"})
        bench = Bench(simulator, client, stack.enter_context(SessionPool(settings)))
        service = ServiceProcess(_configuration(folder, server.address, simulator, bench))
        with service:
            await asyncio.to_thread(service.wait_for, "serving")
            pid = service.pid
            await _one_by_one(bench, pid)
            await _side_by_side(bench, pid)
            service.stop()


async def _one_by_one(bench: Bench, pid: int) -> None:
    for what, profile, gpu, depot in (
        ("host", "passthrough", A100, ""),
        ("vgpu_host", "vgpu", A40, bench.depot),
    ):
        # The first one of each kind pays for what is loaded once.
        await bench.prepared(bench.add_hosts(1, gpu), profile, pid)
        ours, plain = [], []
        for _ in range(ONE_BY_ONE):  # in turns, so that whatever else the machine does falls on both
            ours.append((await bench.prepared(bench.add_hosts(1, gpu), profile, pid)).seconds)
            plain.append(bench.prepared_plainly(bench.add_hosts(1, gpu), depot).seconds)
        keep(
            f"prepare_one_{what}_s",
            value=median(ours),
            unit="s",
            peer=median(plain),
            against=PLAINLY,
            higher_is_better=False,
        )


async def _side_by_side(bench: Bench, pid: int) -> None:
    ours = await bench.prepared(bench.add_hosts(SIDE_BY_SIDE, A100), "passthrough", pid)
    plain = bench.prepared_plainly(bench.add_hosts(SIDE_BY_SIDE, A100))
    for what, unit, here, there, higher in (
        ("per_minute", "hosts/min", SIDE_BY_SIDE / ours.seconds * 60, SIDE_BY_SIDE / plain.seconds * 60, True),
        ("cpu_s", "s", ours.cpu_s, plain.cpu_s, False),
        ("peak_rss_mib", "MiB", ours.peak_rss_mib, plain.peak_rss_mib, False),
    ):
        keep(
            f"prepare_{SIDE_BY_SIDE}_hosts_{what}",
            value=here,
            unit=unit,
            peer=there,
            against=PLAINLY,
            higher_is_better=higher,
        )


if __name__ == "__main__":
    asyncio.run(main())
