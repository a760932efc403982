"""Record histories of looks for drift, and of the snapshots that they keep, for the replay test:
`python -m tests.replay.record_reconcile FOLDER`.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from cli.fleet import look_now
from contracts import ids
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.reconcile import FindingKind, Proposal
from contracts.rules import Rule
from contracts.snapshots import ClusterSnapshotsInput
from planning.snapshots import by_subject, snapshot_of
from tests.replay.record import save
from tests.support.drift import configure, eventually, last_run, listed, prepared, proposal
from tests.support.lab import Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.fleet import read_fleet
from workers.client import connect
from workers.schedules import ensure_drift_schedules
from workers.settings import DriftSettings, TemporalSettings
from workers.temporal_server import temporal_server
from workflows.cluster_snapshots import ClusterSnapshots

__all__ = ["SCENES"]

OWN = "esx-01-01.gpu.test"
"""The host that is there from the beginning."""
RULES = (
    Rule.model_validate(
        {
            "name": "prepare-found",
            "on": [FindingKind.HOST_NEVER_PREPARED],
            "where": {"host": "esx-????????.gpu.test"},
            "start": "PrepareGpuHost",
            "with": {"profile": "training"},
        }
    ),
    Rule.model_validate({"name": "audit-found", "on": [FindingKind.HOST_DOWN], "start": "HaRecoveryAudit"}),
)


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


async def acted(lab: Lab, host: HostRef) -> None:
    new, own = lab.add_host(), lab.find(OWN)
    lab.simulator.act("fail_host", host=OWN)

    async def down() -> bool:
        return bool(lab.witness(own)["connection"] == "notResponding")

    await eventually(down)
    report = await look_now(lab.client, lab.vcenter)
    assert len(report.proposed) == len(report.audits) == 1
    await proposal(lab, new).cancel()


async def open_looking(lab: Lab, host: HostRef) -> None:
    before = (await last_run(lab)).run_id
    # Only the look at the whole fleet takes lists of objects.
    lab.simulator.add_fault(method="CreateListView", delay_s=10)
    await lab.client.get_schedule_handle(ids.reconcile_fleet(lab.vcenter)).trigger()

    async def looking() -> bool:
        run = await last_run(lab)
        pending = (await run.describe()).raw_description.pending_activities
        return run.run_id != before and [each.activity_type.name for each in pending] == ["look_at_fleet"]

    await eventually(looking)


SCENES: tuple[Callable[[Lab, HostRef], Awaitable[None]], ...] = (proposed, declined, acted, open_looking)
"""Of one host, in this order: each run is given the result of the one before."""


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, SimulatorProcess(hosts=1, gpus=1, vms=0, time_scale=120) as vcenter:
        async with temporal_server(Path(scratch), print) as (address, _):
            client = await connect(TemporalSettings(address=address))
            async with open_lab(vcenter, client, TaskQueues("record"), Path(scratch), rules=RULES) as lab:
                await ensure_drift_schedules(client, lab.queues, [lab.vcenter], DriftSettings(every_s=7 * 24 * 3600))
                host = await prepared(lab)
                for scene in SCENES:
                    await scene(lab, host)
                    run = await last_run(lab)
                    history = await run.fetch_history()
                    save(folder / f"reconcile_fleet.{scene.__name__}.json", history)
                    print(scene.__name__, len(history.events), "events")
                lab.simulator.clear_faults()
                await _snapshots(lab, folder)


async def _snapshots(lab: Lab, folder: Path) -> None:
    """What the looks kept, and a run that nobody told of any more."""
    with lab.pool.session() as si:
        (part,) = by_subject(read_fleet(si, lab.vcenter)).values()
    subject = part.clusters[0].moid
    kept = lab.client.get_workflow_handle(ids.cluster_snapshots(lab.vcenter, subject))
    save(folder / "cluster_snapshots.open_kept.json", await kept.fetch_history())
    ended = await lab.client.start_workflow(
        ClusterSnapshots.run,
        ClusterSnapshotsInput(
            vcenter=lab.vcenter, subject=subject, snapshots=(snapshot_of(part, subject),), idle_days=1 / 86400
        ),
        id=ids.cluster_snapshots(lab.vcenter, "gone"),
        task_queue=lab.queues.main,
    )
    await ended.result()
    save(folder / "cluster_snapshots.ended.json", await ended.fetch_history())


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
