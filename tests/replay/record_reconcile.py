"""Record histories of looks for drift for the replay test: `python -m tests.replay.record_reconcile FOLDER`."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from cli.fleet import look_now
from contracts import ids
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.reconcile import Proposal
from tests.replay.record import save
from tests.support.drift import configure, eventually, last_run, listed, prepared, proposal
from tests.support.lab import Lab, open_lab
from tests.support.simulator import SimulatorProcess
from workers.client import connect
from workers.schedules import ensure_drift_schedules
from workers.settings import DriftSettings, TemporalSettings
from workers.temporal_server import temporal_server

__all__ = ["SCENES"]


async def proposed(lab: Lab, host: HostRef) -> None:
    configure(lab, host, on=True)
    report = await look_now(lab.client, lab.vcenter)
    assert [each.proposal for each in report.hosts] == [Proposal.STARTED]


async def declined(lab: Lab, host: HostRef) -> None:
    await lab.decide(proposal(lab, host), await lab.asked(proposal(lab, host)), verdict="deny")
    await proposal(lab, host).result()
    await listed(lab, host, "Completed", 2)
    report = await look_now(lab.client, lab.vcenter)
    assert [each.proposal for each in report.hosts] == [Proposal.DECLINED]


async def open_looking(lab: Lab, host: HostRef) -> None:
    before = (await last_run(lab)).run_id
    lab.simulator.add_fault(method="RetrievePropertiesEx", delay_s=10)
    await lab.client.get_schedule_handle(ids.reconcile_fleet(lab.vcenter)).trigger()

    async def looking() -> bool:
        run = await last_run(lab)
        return run.run_id != before and bool((await run.describe()).raw_description.pending_activities)

    await eventually(looking)


SCENES: tuple[Callable[[Lab, HostRef], Awaitable[None]], ...] = (proposed, declined, open_looking)
"""Of one host, in this order: each run is given the result of the one before."""


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, SimulatorProcess(hosts=1, gpus=1, vms=0, time_scale=120) as vcenter:
        async with temporal_server(Path(scratch), print) as (address, _):
            client = await connect(TemporalSettings(address=address))
            async with open_lab(vcenter, client, TaskQueues("record"), Path(scratch)) as lab:
                await ensure_drift_schedules(client, lab.queues, [lab.vcenter], DriftSettings(every_s=7 * 24 * 3600))
                host = await prepared(lab)
                for scene in SCENES:
                    await scene(lab, host)
                    run = await last_run(lab)
                    history = await run.fetch_history()
                    save(folder / f"reconcile_fleet.{scene.__name__}.json", history)
                    print(scene.__name__, len(history.events), "events")
                lab.simulator.clear_faults()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
