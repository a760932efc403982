"""ProvisionGpuVms: several VMs in one request, against a simulated vCenter and a real Temporal server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from contracts import ids
from contracts.names import TaskQueues
from contracts.provision import VmLimits, VmOutcome
from contracts.vm_fleet import (
    Arrangement,
    GpuVmsReport,
    ProvisionGpuVmsInput,
    VmProgress,
    VmsOutcome,
    VmsStage,
    VmTurn,
)
from contracts.vms import VmRequest
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import TEMPLATE, VmLab
from workflows.provision_gpu_vms import ProvisionGpuVms
from workflows.story import cut
from workflows.vms_story import tell_vms

VmsHandle = WorkflowHandle[Any, GpuVmsReport]


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=2, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        simulator.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vms(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VmLab]:
    limits = VmLimits(guest_timeout_s=30, resolve_deadline_s=60, power_on_timeout_s=30)
    folder: Path = tmp_path_factory.mktemp("fleets")
    async with open_lab(vcenter, temporal_client, TaskQueues("fleets"), folder, vm_limits=limits) as lab:
        yield VmLab(lab)


async def test_as_many_as_fit_are_made_and_the_others_are_told_why_with_nothing_left(vms: VmLab) -> None:
    hosts = [vms.ready_host("part", gpus=2) for _ in range(2)]
    request = vms.dynamic("part")
    report = await (await start(vms, request, 6, at_once=3)).result()
    assert report.outcome is VmsOutcome.PROVISIONED_IN_PART
    assert report.fit == 4
    made, others = report.vms[:4], report.vms[4:]
    assert [each.name for each in report.vms] == [f"{request.name}-0{number}" for number in range(1, 7)]
    assert all((each.state, each.outcome) == (VmTurn.DONE, VmOutcome.PROVISIONED) for each in made), made
    assert all(each.ip_address for each in made)
    assert gpus_held(vms, made) == sorted((host.name, sbdf) for host in hosts for sbdf in vms.sbdfs(host))
    for each in others:
        assert (each.state, each.error) == (VmTurn.NOT_STARTED, "Conflict")
        assert f"by {request.name}-0" in each.text
        assert vms.ledger(each.name) == []
    assert "4 of 6 VMs are as asked for" in report.detail
    assert "nothing is left of the others" in report.detail
    again = await (await start(vms, request, 4)).result()
    assert again.outcome is VmsOutcome.PROVISIONED
    assert {each.outcome for each in again.vms} == {VmOutcome.ALREADY_RIGHT}
    assert all(vms.ledger(each.name) == ["added"] for each in made)


async def test_packed_vms_fill_one_host_before_the_next_one(vms: VmLab) -> None:
    hosts = {vms.ready_host("packed", gpus=2).name for _ in range(3)}
    report = await (await start(vms, vms.dynamic("packed"), 3, arrangement=Arrangement.PACKED)).result()
    assert report.outcome is VmsOutcome.PROVISIONED, report.detail
    load = Counter(each.host for each in report.vms)
    assert sorted(load.values()) == [1, 2]
    assert set(load) < hosts


async def test_without_drs_vms_are_spread_over_hosts_by_name(vms: VmLab) -> None:
    vms.lab.simulator.act("set_drs", cluster="gpu-02", behavior="manual", enabled=False)
    hosts = [vms.ready_host("spread", gpus=2, cluster="gpu-02") for _ in range(3)]
    report = await (await start(vms, vms.dynamic("spread", cluster="gpu-02"), 3)).result()
    assert report.outcome is VmsOutcome.PROVISIONED, report.detail
    assert {each.host for each in report.vms} == {host.name for host in hosts}


async def test_of_two_requests_for_the_same_gpus_each_gpu_goes_to_one_vm_and_the_losers_are_told(vms: VmLab) -> None:
    hosts = [vms.ready_host("wanted", gpus=2) for _ in range(2)]
    handles = [
        await start(vms, vms.dynamic("wanted"), 3, arrangement=arrangement, at_once=3) for arrangement in Arrangement
    ]
    reports = await asyncio.gather(*(handle.result() for handle in handles))
    every = [each for report in reports for each in report.vms]
    made = [each for each in every if each.state is VmTurn.DONE]
    assert gpus_held(vms, made) == sorted((host.name, sbdf) for host in hosts for sbdf in vms.sbdfs(host))
    winners = {each.name for each in made}
    for each in every:
        if each.name not in winners:
            assert each.error == "Conflict", each
            assert any(f"by {name}" in each.text for name in winners), each
            assert vms.seen(each.name) is None


async def test_a_request_for_which_there_is_no_room_makes_nothing_and_says_why(vms: VmLab) -> None:
    vms.ready_host("another-label")
    request = vms.dynamic("no-host-has-this-label")
    report = await (await start(vms, request, 3)).result()
    assert (report.outcome, report.fit) == (VmsOutcome.REFUSED, 0)
    assert all((each.state, each.error) == (VmTurn.NOT_STARTED, "NotSupported") for each in report.vms)
    assert "no-host-has-this-label" in report.vms[-1].text
    assert vms.ledger(request.name) == []


async def test_a_wrong_name_fails_the_whole_request_with_its_own_error(vms: VmLab) -> None:
    handle = await start(vms, vms.dynamic("any", datastore="no-such-store"), 2)
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    error = failure.value.cause
    assert isinstance(error, ApplicationError)
    assert error.type == "BadRequest"
    assert "no-such-store" in error.message
    assert GpuVmsReport.model_validate(error.details[0]).vms[0].state is VmTurn.NOT_STARTED


async def test_a_name_that_somebody_has_costs_one_vm_only(vms: VmLab) -> None:
    vms.ready_host("taken", gpus=2)
    request = vms.dynamic("taken")
    vms.lab.simulator.act("add_vm", host="esx-01-01.gpu.test", name=f"{request.name}-01", on=False)
    report = await (await start(vms, request, 2)).result()
    assert report.outcome is VmsOutcome.PROVISIONED_IN_PART
    taken, made = report.vms
    assert (taken.state, taken.outcome, taken.error) == (VmTurn.FAILED, VmOutcome.REFUSED, "Conflict")
    assert "there is a VM" in taken.text
    assert made.state is VmTurn.DONE
    assert vms.ledger(taken.name) == ["added"]


async def test_a_cancelled_request_keeps_what_was_proven_and_removes_what_was_half_made(vms: VmLab) -> None:
    vms.ready_host("cancelled", gpus=3)
    request = vms.dynamic("cancelled")
    vms.lab.simulator.act("set_question", vm=f"{request.name}-02", text="Wait for it")
    handle = await start(vms, request, 3, at_once=1)
    child = vms.lab.client.get_workflow_handle(ids.provision_gpu_vm(vms.lab.vcenter, f"{request.name}-02"))
    await until(handle, lambda report: report.vms[1].state is VmTurn.RUNNING)
    await until_exists(vms, f"{request.name}-02")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert isinstance(failure.value.cause, CancelledError)
    report = await handle.query(ProvisionGpuVms.report)
    assert report.stage is VmsStage.FINISHED
    assert [each.state for each in report.vms] == [VmTurn.DONE, VmTurn.FAILED, VmTurn.NOT_STARTED]
    assert (await child.describe()).close_time is not None
    seen = vms.seen(f"{request.name}-01")
    assert seen is not None
    assert seen["power_state"] == "poweredOn"
    assert vms.ledger(f"{request.name}-02") == ["added", "removed"]
    assert vms.ledger(f"{request.name}-03") == []


def test_two_hundred_vms_stay_far_below_what_temporal_carries(lots: GpuVmsReport) -> None:
    assert len(lots.model_dump_json()) < 512 * 1024
    told = tell_vms(lots)
    assert told == cut(told)
    assert "(cut)" not in told
    # Those that failed are told first.
    assert "many-101" in told
    assert "many-001" not in told
    assert "136 more" in told


@pytest.fixture
def lots() -> GpuVmsReport:
    request = VmRequest.model_validate(
        {
            "name": "many",
            "vcenter": "vc",
            "cluster": "gpu-01",
            "source": {"template": "t"},
            "gpus": [{"kind": "vgpu", "profile": "nvidia_a40-24c"}],
        }
    )
    order = ProvisionGpuVmsInput(request=request, count=200, requester="cli:alice")
    rows = [
        VmProgress(
            name=name,
            state=VmTurn.DONE if index < 100 else VmTurn.FAILED,
            outcome=VmOutcome.PROVISIONED if index < 100 else VmOutcome.UNDONE,
            text="x" * 1000,
            host="esx-001.a-rather-long-domain.example.org",
            workflow_id=ids.provision_gpu_vm("vc", name),
        )
        for index, name in enumerate(order.names)
    ]
    return GpuVmsReport(
        request=request,
        count=200,
        arrangement=Arrangement.SPREAD,
        requester="cli:alice",
        stage=VmsStage.PROVISIONING,
        vms=tuple(rows),
    )


async def start(vms: VmLab, request: VmRequest, count: int, **more: Any) -> VmsHandle:
    """Start a run for VMs like this one."""
    return await vms.lab.client.start_workflow(
        ProvisionGpuVms.run,
        ProvisionGpuVmsInput(request=request, count=count, requester="cli:requester", **more),
        id=ids.provision_gpu_vms(request.vcenter, request.name),
        task_queue=vms.lab.queues.main,
    )


async def until(handle: VmsHandle, holds: Callable[[GpuVmsReport], bool]) -> GpuVmsReport:
    """The report, as soon as `holds(report)`."""
    async with asyncio.timeout(60):
        while True:
            report = await handle.query(ProvisionGpuVms.report)
            if holds(report):
                return report
            await asyncio.sleep(0.1)


async def until_exists(vms: VmLab, name: str) -> None:
    """Wait until vCenter has a VM of that name."""
    async with asyncio.timeout(60):
        while True:
            if vms.seen(name) is not None:
                return
            await asyncio.sleep(0.1)


def gpus_held(vms: VmLab, made: Any) -> list[tuple[str, str]]:
    """Host and address of the GPU that each of these VMs holds, as the simulated world has it."""
    held = []
    for each in made:
        seen = vms.seen(each.name)
        assert seen is not None
        assert seen["power_state"] == "poweredOn"
        held += [(seen["host"], gpu["assigned_id"]) for gpu in seen["gpus"]]
    return sorted(held)
