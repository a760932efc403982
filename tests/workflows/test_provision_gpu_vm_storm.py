"""Fifty requests at once for twenty GPUs: twenty VMs are made, thirty requesters are told why not, nothing is half."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from contracts.names import TaskQueues
from contracts.provision import GpuVmReport, VmOutcome
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import TEMPLATE, VmHandle, VmLab


@pytest.mark.timeout(300)
async def test_fifty_requests_for_twenty_gpus_make_twenty_whole_vms(temporal_client: Client, tmp_path: Path) -> None:
    with SimulatorProcess(clusters=1, hosts=1, gpus=1, vms=0, time_scale=240) as simulator:
        simulator.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        async with open_lab(simulator, temporal_client, TaskQueues("storm-of-vms"), tmp_path) as lab:
            vms = VmLab(lab)
            sbdfs = {
                (host.name, sbdf)
                for host in [vms.ready_host("storm", gpus=4) for _ in range(5)]
                for sbdf in vms.sbdfs(host)
            }
            handles = [await vms.provision(vms.dynamic("storm", name=f"storm-{number:02}")) for number in range(50)]
            reports = await asyncio.gather(*map(ended, handles))
            won = {report.name for report in reports if report.outcome is VmOutcome.PROVISIONED}
            lost = [report for report in reports if report.outcome is not VmOutcome.PROVISIONED]
            there = {vm["name"]: vm for vm in simulator.act("list_vms", prefix="storm-")}
    assert (len(sbdfs), len(won)) == (20, 20), [(report.outcome, report.detail) for report in lost][:2]
    assert set(there) == won, "who lost has no VM, and who won has one"
    assert {(vm["host"], vm["gpus"][0]["assigned_id"]) for vm in there.values()} == sbdfs
    assert all(vm["power_state"] == "poweredOn" and len(vm["gpus"]) == 1 for vm in there.values())
    for report in lost:
        assert report.outcome in (VmOutcome.REFUSED, VmOutcome.UNDONE)
        assert report.error == "Conflict"
        assert "in use: " in report.detail
        assert " by storm-" in report.detail


async def ended(handle: VmHandle) -> GpuVmReport:
    """The report, however the run ended."""
    results = await asyncio.gather(handle.result(), return_exceptions=True)
    if isinstance(results[0], WorkflowFailureError) and isinstance(results[0].cause, ApplicationError):
        return GpuVmReport.model_validate(results[0].cause.details[0])
    assert isinstance(results[0], GpuVmReport), results[0]
    return results[0]
