"""Record histories of audits after a failure for the replay test: `python -m tests.replay.record_audit FOLDER`."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from contracts.audit import AuditOutcome, AuditStage, HaRecoveryAuditReport
from contracts.names import TaskQueues
from contracts.plan import StepKind
from contracts.verdicts import HostStanding
from tests.replay.record import save
from tests.support.audits import AuditHandle, asked, decide, until
from tests.support.failures import FailureLab
from tests.support.lab import Lab, open_lab
from tests.support.simulator import SimulatorProcess
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import temporal_server
from workflows.ha_recovery_audit import HaRecoveryAudit

__all__ = ["SCENES"]


async def open_settling(scene: FailureLab) -> AuditHandle:
    lost, _ = scene.host(), scene.host()
    scene.vm(lost)
    await scene.remember()
    scene.fail(lost)
    handle = await scene.audit(*await scene.told(lost))
    await until(handle, lambda report: report.verdicts and report.stage is AuditStage.SETTLING)
    return handle


async def open_awaiting_approval(scene: FailureLab) -> AuditHandle:
    lost, _ = scene.host(), scene.host()
    scene.vm(lost, "static")
    await scene.remember()
    scene.fail(lost)
    handle = await scene.audit(*await scene.told(lost))
    await asked(handle)
    return handle


async def open_awaiting_host(scene: FailureLab) -> AuditHandle:
    lost = scene.host()
    scene.vm(lost)
    await scene.remember()
    scene.fail(lost)
    handle = await scene.audit(*await scene.told(lost))
    await until(handle, lambda report: report.stage is AuditStage.WATCHING)
    return handle


async def open_recovering(scene: FailureLab) -> AuditHandle:
    lost, _ = scene.host(), scene.host()
    scene.vm(lost, "static")
    await scene.remember()
    scene.fail(lost)
    handle = await scene.audit(*await scene.told(lost))
    approval = await asked(handle)
    for method in ("PowerOnMultiVM_Task", "PowerOnVM_Task"):
        scene.lab.simulator.add_fault(method=method, delay_s=10)
    await decide(handle, approval)

    def powering_on(report: HaRecoveryAuditReport) -> bool:
        return any(each.step.kind is StepKind.POWER_ON_VM and each.finished_at is None for each in report.steps)

    await until(handle, powering_on)
    return handle


async def recovered(scene: FailureLab) -> AuditHandle:
    """Nothing can be done at first; then there is a GPU, and what is approved brings the VM back."""
    lost = scene.host()
    scene.vm(lost, "static")
    await scene.remember()
    scene.fail(lost)
    handle = await scene.audit(*await scene.told(lost))
    await until(handle, lambda report: report.settled_at)
    scene.host()
    await handle.signal(HaRecoveryAudit.recheck)
    await decide(handle, await asked(handle))
    assert (await handle.result()).outcome is AuditOutcome.ALL_RECOVERED
    return handle


async def open_host_back(scene: FailureLab) -> AuditHandle:
    """A host that gpuwright prepared fails, comes back and is offered."""
    host = scene.lab.add_host(cluster=scene.name)
    run = await scene.lab.start(host)
    await scene.lab.decide(run, await scene.lab.asked(run))
    await run.result()
    scene.vm(host, "static")
    scene.fail(host)
    handle = await scene.audit(*await scene.told(host))
    await until(handle, lambda report: report.hosts and report.hosts[0].standing is HostStanding.DOWN)
    await scene.back(host)
    await until(handle, lambda report: report.offered, recheck=True)
    await asked(handle)
    return handle


async def denied_and_cancelled(scene: FailureLab) -> AuditHandle:
    handle = await open_awaiting_approval(scene)
    await decide(handle, await asked(handle), verdict="deny")
    await until(handle, lambda report: report.stage is AuditStage.WATCHING)
    await handle.cancel()
    await until(handle, lambda report: report.stage is AuditStage.FINISHED)
    return handle


SCENES: tuple[Callable[[FailureLab], Awaitable[AuditHandle]], ...] = (
    open_settling,
    open_awaiting_approval,
    open_awaiting_host,
    recovered,
    open_host_back,
    denied_and_cancelled,
    open_recovering,
)
"""Each in a cluster of its own."""


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clusters = len(SCENES)
    with (
        tempfile.TemporaryDirectory() as scratch,
        SimulatorProcess(clusters=clusters, hosts=1, gpus=1, vms=0, time_scale=120) as vcenter,
    ):
        async with temporal_server(Path(scratch), print) as (address, _):
            client = await connect(TemporalSettings(address=address))
            async with open_lab(vcenter, client, TaskQueues("record"), Path(scratch)) as lab:
                await _record(folder, lab)


async def _record(folder: Path, lab: Lab) -> None:
    for number, scene in enumerate(SCENES, 1):
        handle = await scene(FailureLab(lab, f"gpu-{number:02d}"))
        history = await handle.fetch_history()
        save(folder / f"ha_recovery_audit.{scene.__name__}.json", history)
        print(scene.__name__, len(history.events), "events")
    lab.simulator.clear_faults()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
