"""A copy whose answer was lost may appear long after its run was cancelled: the undo waits for it."""

import asyncio
import time
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError

from contracts.names import TaskQueues
from contracts.provision import VmOutcome
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import TEMPLATE, VmLab
from workflows.provision_gpu_vm import ProvisionGpuVm


def until_lost(simulator: SimulatorProcess) -> None:
    """Wait until the answer to the copy's start is lost."""
    deadline = time.monotonic() + 60
    while not simulator.control("GET", "/simulator/faults")["faults"][0]["hits"]:
        assert time.monotonic() < deadline, "the copy was never ordered"
        time.sleep(0.05)


async def test_a_copy_that_ends_long_after_its_run_was_cancelled_is_removed_all_the_same(
    temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    # A clone takes 17 s here, longer than an undo that only looks.
    with SimulatorProcess(clusters=1, hosts=1, gpus=1, vms=0, time_scale=1.75) as simulator:
        simulator.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        async with open_lab(simulator, temporal_client, queues, tmp_path) as lab:
            vms = VmLab(lab)
            vms.ready_host("slow")
            request = vms.dynamic("slow")
            simulator.add_fault(method="CloneVM_Task", drop="after", times=1)
            handle = await vms.provision(request)
            await vms.until(handle, lambda report: bool(report.steps))
            await asyncio.to_thread(until_lost, simulator)
            await handle.cancel()
            with pytest.raises(WorkflowFailureError):
                await handle.result()
            report = await handle.query(ProvisionGpuVm.report)
            assert report.outcome is VmOutcome.UNDONE, report.detail
            assert vms.ledger(request.name) == ["added", "removed"]
