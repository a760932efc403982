"""Record histories of gates for the replay test: `python -m tests.replay.record_gate FOLDER` (one a release)."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from temporalio.client import WorkflowHistory

from contracts.names import TaskQueues
from tests.replay.record import save
from tests.support.gates import GateLab, open_gates
from tests.support.simulator import SimulatorProcess
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import temporal_server

__all__ = ["SCENES"]


async def idle(lab: GateLab) -> None:
    """Leased, given back, and ended for want of work."""
    holder = await lab.hold(lab.hosts[0], work_s=0.1)
    await holder.result()
    await lab.gate.result()


async def open_leased(lab: GateLab) -> None:
    """One lease, and two that wait for it."""
    first = await lab.hold(lab.hosts[0])
    await lab.stage(first, "down")
    for host in lab.hosts[1:]:
        await lab.hold(host)
    await lab.until(lambda status: len(status.queue) == 2 and bool(status.waiting))


async def open_swept(lab: GateLab) -> None:
    """A holder is gone and its host still down; another one waits."""
    holder = await lab.hold(lab.hosts[0])
    await lab.stage(holder, "down")
    await lab.hold(lab.hosts[1])
    await holder.terminate()
    await lab.until(lambda status: any("maintenance mode" in lease.kept for lease in status.leases))


async def freed(lab: GateLab) -> None:
    """A holder that was gone left its host down; somebody brought it back."""
    await open_swept(lab)
    await lab.maintain(lab.hosts[0], on=False)
    await lab.until(lambda status: [lease.request.host.key for lease in status.leases] == [lab.hosts[1].key])


async def open_continued(lab: GateLab) -> None:
    """Continued as new with a lease and a queue."""
    await lab.open_gate(longest_history=20)
    began = (await lab.gate.describe()).run_id
    first = await lab.hold(lab.hosts[0])
    await lab.stage(first, "down")
    await lab.hold(lab.hosts[1])
    async with asyncio.timeout(60):
        while True:
            if (await lab.gate.describe()).run_id != began:
                break
            await asyncio.sleep(0.1)
    await lab.until(lambda status: len(status.leases) == len(status.queue) == 1 and bool(status.waiting))


async def open_taken_over(lab: GateLab) -> None:
    """The gate before it was terminated with a lease."""
    first = await lab.hold(lab.hosts[0])
    await lab.stage(first, "down")
    await lab.gate.terminate()
    await lab.hold(lab.hosts[1])
    await lab.until(lambda status: len(status.leases) == 1 and bool(status.waiting))


SCENES: tuple[Callable[[GateLab], Awaitable[None]], ...] = (
    idle,
    open_leased,
    open_swept,
    freed,
    open_continued,
    open_taken_over,
)


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        SimulatorProcess(clusters=len(SCENES), hosts=3, gpus=0, vms=0, time_scale=600) as vcenter,
    ):
        async with temporal_server(Path(scratch), print) as (address, _):
            client = await connect(TemporalSettings(address=address))
            async with open_gates(vcenter, client, TaskQueues("record"), Path(scratch)) as labs:
                for scene, lab in zip(SCENES, labs, strict=True):
                    await scene(lab)
                    history: WorkflowHistory = await lab.gate.fetch_history()
                    save(folder / f"cluster_gate.{scene.__name__}.json", history)
                    print(scene.__name__, len(history.events), "events")
                    if (await lab.gate.describe()).close_time is None:
                        await lab.gate.terminate()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
