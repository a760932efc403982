"""Record histories of runs about GPU VMs for the replay test: `python -m tests.replay.record_vm FOLDER`.

Each is a run against the simulator, stopped where its name says.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from temporalio.client import Client

from contracts.names import TaskQueues
from contracts.provision import VmLimits, VmStage
from contracts.vms import VmSource
from tests.replay.record import save
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import TEMPLATE, VmHandle, VmLab
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import temporal_server

__all__ = ["SCENES"]

_HOST = "esx-01-01.gpu.test"


async def provisioned(vms: VmLab) -> VmHandle:
    vms.ready_host("provisioned")
    handle = await vms.provision(vms.dynamic("provisioned"))
    await handle.result()
    return handle


async def refused(vms: VmLab) -> VmHandle:
    handle = await vms.provision(vms.dynamic("nobody-has-it"))
    await vms.failed(handle)
    return handle


async def undone(vms: VmLab) -> VmHandle:
    vms.ready_host("undone")
    request = vms.dynamic("undone")
    vms.lab.simulator.act("no_tools", vm=request.name)
    handle = await vms.provision(request)
    await vms.failed(handle)
    return handle


async def cancelled(vms: VmLab) -> VmHandle:
    vms.ready_host("cancelled")
    request = vms.dynamic("cancelled")
    vms.lab.simulator.act("set_question", vm=request.name, text="Wait for it")
    handle = await vms.provision(request)
    await vms.until(handle, lambda report: report.stage is VmStage.AWAITING_RESOLUTION)
    await handle.cancel()
    await asyncio.gather(handle.result(), return_exceptions=True)
    return handle


async def open_awaiting_approval(vms: VmLab) -> VmHandle:
    vms.ready_host("approval")
    vms.lab.simulator.act("add_template", name="old", host=_HOST, hardware_version=14)
    handle = await vms.provision(vms.dynamic("approval", source=VmSource(template="old")))
    await vms.asked(handle)
    return handle


async def open_awaiting_guest(vms: VmLab) -> VmHandle:
    vms.ready_host("guest")
    request = vms.dynamic("guest")
    vms.lab.simulator.act("no_tools", vm=request.name)
    handle = await vms.provision(request)
    await vms.until(handle, lambda report: bool(report.steps) and report.steps[-1].step.kind == "await-guest")
    return handle


async def open_awaiting_an_answer(vms: VmLab) -> VmHandle:
    vms.ready_host("question")
    request = vms.dynamic("question")
    vms.lab.simulator.act("set_question", vm=request.name, text="Did you move it or copy it?")
    handle = await vms.provision(request)
    await vms.until(handle, lambda report: report.stage is VmStage.AWAITING_RESOLUTION)
    return handle


async def retired(vms: VmLab) -> VmHandle:
    vms.ready_host("retired")
    made = await vms.provisioned(vms.dynamic("retired"))
    assert made.vm is not None
    handle = await vms.retire(made.vm)
    await vms.approved(handle)
    return handle


async def open_retiring(vms: VmLab) -> VmHandle:
    vms.ready_host("retiring")
    made = await vms.provisioned(vms.dynamic("retiring"))
    assert made.vm is not None
    handle = await vms.retire(made.vm)
    await vms.asked(handle)
    return handle


SCENES: dict[str, Callable[[VmLab], Awaitable[VmHandle]]] = {
    "provision_gpu_vm.provisioned": provisioned,
    "provision_gpu_vm.refused": refused,
    "provision_gpu_vm.undone": undone,
    "provision_gpu_vm.cancelled": cancelled,
    "provision_gpu_vm.open_awaiting_approval": open_awaiting_approval,
    "provision_gpu_vm.open_awaiting_guest": open_awaiting_guest,
    "provision_gpu_vm.open_awaiting_an_answer": open_awaiting_an_answer,
    "retire_gpu_vm.retired": retired,
    "retire_gpu_vm.open_awaiting_approval": open_retiring,
}


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, SimulatorProcess(hosts=1, gpus=1, vms=0, time_scale=120) as vcenter:
        vcenter.act("add_template", name=TEMPLATE, host=_HOST)
        async with temporal_server(Path(scratch), print) as (address, _):
            client: Client = await connect(TemporalSettings(address=address))
            limits = VmLimits(guest_timeout_s=10)
            async with open_lab(vcenter, client, TaskQueues("record"), Path(scratch), vm_limits=limits) as lab:
                vms = VmLab(lab)
                for name, scene in SCENES.items():
                    handle = await scene(vms)
                    history = await handle.fetch_history()
                    save(folder / f"{name}.json", history)
                    print(name, len(history.events), "events")
                    if (await handle.describe()).close_time is None:
                        await handle.terminate()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
