"""Record histories of rollouts for the replay test: `python -m tests.replay.record_cluster FOLDER` (one a release)."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from contracts.cluster import ClusterStage, HostState, Pause
from contracts.names import TaskQueues
from tests.replay.record import save
from tests.support.lab import Lab, open_lab
from tests.support.rollouts import Run, asked, decide, in_state, site, until
from tests.support.simulator import SimulatorProcess
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import temporal_server
from workflows.prepare_gpu_cluster import PrepareGpuCluster

__all__ = ["SCENES"]


async def prepared(lab: Lab) -> Run:
    run = await site(lab, hosts=2).start()
    await decide(run, await asked(run))
    await run.result()
    return run


async def open_awaiting_approval(lab: Lab) -> Run:
    run = await site(lab, hosts=2).start()
    await asked(run)
    return run


async def open_rolling(lab: Lab) -> Run:
    cluster = site(lab, hosts=2)
    run = await cluster.start(approval="each", canary=0)
    await in_state(run, cluster.hosts[0], HostState.RUNNING)
    return run


async def open_paused(lab: Lab) -> Run:
    run = await site(lab, hosts=2).start()
    approval = await asked(run)
    await run.signal(PrepareGpuCluster.pause, Pause(by="cli:recorder"))
    await decide(run, approval)
    await until(run, lambda report: report.stage is ClusterStage.PAUSED)
    return run


async def open_joined(lab: Lab) -> Run:
    cluster = site(lab, hosts=1)
    await lab.asked(await lab.start(cluster.hosts[0]))
    run = await cluster.start()
    await decide(run, await asked(run))
    await in_state(run, cluster.hosts[0], HostState.JOINED)
    return run


SCENES: tuple[Callable[[Lab], Awaitable[Run]], ...] = (
    prepared,
    open_awaiting_approval,
    open_rolling,
    open_paused,
    open_joined,
)


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, SimulatorProcess(clusters=5, hosts=0, vms=0, time_scale=120) as vc:
        async with temporal_server(Path(scratch), print) as (address, _):
            client = await connect(TemporalSettings(address=address))
            async with open_lab(vc, client, TaskQueues("record"), Path(scratch)) as lab:
                for scene in SCENES:
                    run = await scene(lab)
                    history = await run.fetch_history()
                    save(folder / f"prepare_gpu_cluster.{scene.__name__}.json", history)
                    print(scene.__name__, len(history.events), "events")
                    if (await run.describe()).close_time is None:
                        await run.terminate()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
