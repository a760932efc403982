"""The memory of the whole service while nothing happens: `gpuwright serve` for two vCenters, as a process.

Beside it a process that has imported the Temporal SDK and pyVmomi, and does nothing. RSS as `/proc` tells it (`VmRSS`),
the median of a few looks from half a minute after the start on. `make bench` runs it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median

from temporalio.client import Client

from benchmarks.listening import until
from benchmarks.processes import rss_mib
from benchmarks.results import keep
from contracts import ids, names
from contracts.watch import WatchStatus
from tests.support.service import ServiceProcess, write_configuration
from tests.support.simulator import SimulatorProcess
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_binary import obtain
from workers.temporal_server import DevServer

VCENTERS = ("first", "second")
SETTLED_S, LOOKS, LOOK_EVERY_S = 20, 10, 1.0
_PEER = """
import sys
import temporalio.client, temporalio.worker
from pyVmomi import vim
print("ready", flush=True)
sys.stdin.read()
"""


def _imports_mib() -> float:
    with subprocess.Popen(
        [sys.executable, "-c", _PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        try:
            if peer.stdout is None or peer.stdout.readline() != "ready\n":
                raise RuntimeError("the imports failed")
            return rss_mib(peer.pid)
        finally:
            peer.terminate()


async def _status(client: Client, vcenter: str) -> WatchStatus:
    watch = client.get_workflow_handle(ids.watch(vcenter))
    status: WatchStatus = await watch.query(names.QUERY_STATUS, result_type=WatchStatus)
    return status


async def main() -> None:
    """Measure, print and keep."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = await stack.enter_async_context(DevServer(obtain(print), folder / "temporal.log"))
        vcenters = []
        for name in VCENTERS:
            simulator = stack.enter_context(SimulatorProcess(clusters=2, hosts=8, gpus=4, vms=50))
            (folder / name).write_text(simulator.password)
            vcenters.append(
                {
                    "name": name,
                    "url": f"https://{simulator.host}:{simulator.port}",
                    "user": simulator.user,
                    "password_file": name,
                    "ca_file": str(simulator.ca_file),
                }
            )
        temporal = {"address": server.address, "task_queue": "bench"}
        service = stack.enter_context(ServiceProcess(write_configuration(folder, temporal=temporal, vcenters=vcenters)))
        await asyncio.to_thread(service.wait_for, "serving")
        client = await connect(TemporalSettings(address=server.address))
        for name in VCENTERS:
            await until(partial(_status, client, name), lambda status: status.cursor is not None and status.round >= 2)
        await asyncio.sleep(SETTLED_S)
        looks = []
        for _ in range(LOOKS):
            looks.append(rss_mib(service.pid))
            await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.to_thread(service.stop)
    keep(
        "idle_rss_mb",
        value=median(looks),
        unit="MiB",
        peer=_imports_mib(),
        against="a process that only imports the Temporal SDK and pyVmomi",
        higher_is_better=False,
    )


if __name__ == "__main__":
    asyncio.run(main())
