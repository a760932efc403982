"""Record histories of requests for several GPU VMs for the replay test: `python -m tests.replay.record_vms FOLDER`."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle

from contracts import ids
from contracts.names import TaskQueues
from contracts.vm_fleet import Arrangement, GpuVmsReport, ProvisionGpuVmsInput, VmTurn
from contracts.vms import VmRequest
from tests.replay.record import save
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import TEMPLATE, VmLab
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import temporal_server
from workflows.provision_gpu_vms import ProvisionGpuVms

__all__ = ["SCENES"]

Run = WorkflowHandle[Any, GpuVmsReport]


async def provisioned_in_part(vms: VmLab) -> Run:
    vms.ready_host("part", gpus=2)
    run = await started(vms, vms.dynamic("part"), 3)
    await run.result()
    return run


async def refused(vms: VmLab) -> Run:
    run = await started(vms, vms.dynamic("nobody-has-it"), 2)
    await run.result()
    return run


async def open_provisioning(vms: VmLab) -> Run:
    return await half_way(vms, "open")


async def cancelled(vms: VmLab) -> Run:
    run = await half_way(vms, "cancelled")
    await run.cancel()
    await asyncio.gather(run.result(), return_exceptions=True)
    return run


SCENES: tuple[Callable[[VmLab], Awaitable[Run]], ...] = (provisioned_in_part, refused, open_provisioning, cancelled)


async def started(vms: VmLab, request: VmRequest, count: int) -> Run:
    order = ProvisionGpuVmsInput(
        request=request, count=count, arrangement=Arrangement.PACKED, at_once=2, requester="cli:recorder"
    )
    return await vms.lab.client.start_workflow(
        ProvisionGpuVms.run,
        order,
        id=ids.provision_gpu_vms(request.vcenter, request.name),
        task_queue=vms.lab.queues.main,
    )


async def half_way(vms: VmLab, label: str) -> Run:
    """The first of three VMs is there, the second one waits for an answer."""
    vms.ready_host(label, gpus=3)
    request = vms.dynamic(label)
    vms.lab.simulator.act("set_question", vm=f"{request.name}-02", text="Wait for it")
    run = await started(vms, request, 3)
    while True:
        report = await run.query(ProvisionGpuVms.report)
        if [each.state for each in report.vms] == [VmTurn.DONE, VmTurn.RUNNING, VmTurn.DONE]:
            return run
        await asyncio.sleep(0.1)


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, SimulatorProcess(hosts=1, gpus=1, vms=0, time_scale=120) as vcenter:
        vcenter.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        async with temporal_server(Path(scratch), print) as (address, _):
            client: Client = await connect(TemporalSettings(address=address))
            async with open_lab(vcenter, client, TaskQueues("record"), Path(scratch)) as lab:
                vms = VmLab(lab)
                for scene in SCENES:
                    run = await scene(vms)
                    history = await run.fetch_history()
                    save(folder / f"provision_gpu_vms.{scene.__name__}.json", history)
                    print(scene.__name__, len(history.events), "events")
                    if (await run.describe()).close_time is None:
                        await run.terminate()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
