"""Record histories for the replay test: `python -m tests.replay.record FOLDER` (one folder a release).

Each history is a run against the simulator, stopped where its name says; some are still open, because an upgrade meets
runs that wait for a person.
"""

import asyncio
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from temporalio.client import Client, WorkflowHistory

from contracts.approvals import Resolution, Resolve
from contracts.names import TaskQueues
from contracts.prepare import Stage
from tests.support.lab import Handle, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import temporal_server
from workflows.prepare_gpu_host import PrepareGpuHost

__all__ = ["SCENES"]


async def prepared(lab: Lab) -> Handle:
    handle = await lab.start(lab.add_host())
    await lab.decide(handle, await lab.asked(handle))
    await handle.result()
    return handle


async def denied(lab: Lab) -> Handle:
    handle = await lab.start(lab.add_host())
    await lab.decide(handle, await lab.asked(handle), verdict="deny")
    await handle.result()
    return handle


async def already_right(lab: Lab) -> Handle:
    host = lab.add_host()
    await lab.prepare(host)
    handle = await lab.start(host)
    await handle.result()
    return handle


async def open_awaiting_approval(lab: Lab) -> Handle:
    handle = await lab.start(lab.add_host())
    await lab.asked(handle)
    return handle


async def open_blocked(lab: Lab) -> Handle:
    handle = await lab.start(lab.add_host(iommu=False))
    await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
    await asyncio.sleep(3)
    return handle


async def open_rebooting(lab: Lab) -> Handle:
    host = lab.add_host()
    lab.simulator.act("slow_reboot", host=host.name, seconds=6000)
    handle = await lab.start(host)
    await lab.decide(handle, await lab.asked(handle))
    await lab.until(handle, lambda report: any(record.step.kind == "reboot" for record in report.steps))
    return handle


async def retried_after_failure(lab: Lab) -> Handle:
    host = lab.add_host()
    gpu = lab.witness(host)["gpu"]
    lab.simulator.act("break_passthrough", host=host.name, device=gpu)
    handle = await lab.start(host)
    await lab.decide(handle, await lab.asked(handle))
    await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    lab.simulator.act("break_passthrough", host=host.name, device=gpu, broken=False)
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.RETRY, by="cli:recorder"))
    await handle.result()
    return handle


async def open_awaiting_resolution(lab: Lab) -> Handle:
    host = lab.add_host()
    lab.simulator.act("break_passthrough", host=host.name, device=lab.witness(host)["gpu"])
    handle = await lab.start(host)
    await lab.decide(handle, await lab.asked(handle))
    await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    return handle


SCENES: tuple[Callable[[Lab], Awaitable[Handle]], ...] = (
    prepared,
    denied,
    already_right,
    retried_after_failure,
    open_awaiting_approval,
    open_blocked,
    open_rebooting,
    open_awaiting_resolution,
)


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, SimulatorProcess(hosts=1, gpus=1, vms=0, time_scale=120) as vcenter:
        async with temporal_server(Path(scratch), print) as (address, _):
            client: Client = await connect(TemporalSettings(address=address))
            async with open_lab(vcenter, client, TaskQueues("record"), Path(scratch)) as lab:
                for scene in SCENES:
                    handle = await scene(lab)
                    history = await handle.fetch_history()
                    save(folder / f"prepare_gpu_host.{scene.__name__}.json", history)
                    print(scene.__name__, len(history.events), "events")
                    await terminate(handle)


def save(file: Path, history: WorkflowHistory) -> None:
    """Write a history without the name and the paths of the machine that recorded it."""
    text = re.sub(r'"identity": "[^"]*"', '"identity": "recorder"', history.to_json())
    text = re.sub(r'"stackTrace": "(?:[^"\\]|\\.)*"', '"stackTrace": ""', text)
    file.write_text(re.sub(r"\b\d+@[\w.-]+", "recorder", text))


async def terminate(handle: Handle) -> None:
    if (await handle.describe()).close_time is None:
        await handle.terminate()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
