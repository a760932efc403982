"""ProvisionGpuVm from request to proof, against a simulated vCenter and a real Temporal server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pyVmomi import vim
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from contracts.names import TaskQueues
from contracts.prepare import StepStatus
from contracts.provision import GpuVmReport, VmLimits, VmOutcome, VmStage
from contracts.vms import VmSource
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import PROFILE, TEMPLATE, VmHandle, VmLab
from workflows.provision_gpu_vm import ProvisionGpuVm

STEPS = ["create-vm", "configure-vm", "set-vm-gpus", "power-on-vm", "await-guest"]


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=3, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        simulator.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vms(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VmLab]:
    folder: Path = tmp_path_factory.mktemp("vms")
    limits = VmLimits(guest_timeout_s=6, resolve_deadline_s=15, power_on_timeout_s=30)
    async with open_lab(vcenter, temporal_client, TaskQueues("vms"), folder, vm_limits=limits) as lab:
        yield VmLab(lab)


async def test_a_vm_with_a_whole_gpu_is_made_placed_and_proven(vms: VmLab) -> None:
    host = vms.ready_host("dynamic")
    request = vms.dynamic("dynamic")
    report = await vms.provisioned(request)
    assert report.outcome is VmOutcome.PROVISIONED
    kinds = [record.step.kind for record in report.steps]
    # At this pace of time the guest may answer before anybody waits for it.
    assert kinds in (STEPS, STEPS[:-1])
    assert all(record.status is StepStatus.DONE for record in report.steps)
    assert report.host == host.name
    assert any("with label dynamic is bound to it" in line for line in report.proof), report.proof
    assert any("HA restarts it only where" in line for line in report.cannot)
    assert not report.approvals
    seen = vms.seen(request.name)
    assert seen is not None
    assert (seen["host"], seen["power_state"], seen["tools_running"]) == (host.name, "poweredOn", True)
    assert [gpu["assigned_id"] for gpu in seen["gpus"]] == vms.sbdfs(host)
    assert vms.ledger(request.name) == ["added"]


async def test_a_vm_with_that_very_gpu_is_made_on_its_host_and_warned_about(vms: VmLab) -> None:
    host = vms.ready_host("static", gpus=2)
    _, sbdf = vms.sbdfs(host)
    request = vms.static(host, sbdf)
    handle = await vms.provision(request)
    report = await handle.result()
    assert report.outcome is VmOutcome.PROVISIONED
    assert report.host == host.name
    assert any(sbdf in line and "bound to it" in line for line in report.proof), report.proof
    assert any("stays powered off" in line for line in report.cannot)
    first = next(record for record in report.steps if record.step.kind == "create-vm")
    assert first.status is StepStatus.DONE
    seen = vms.seen(request.name)
    assert seen is not None
    assert [gpu["assigned_id"] for gpu in seen["gpus"]] == [sbdf]


async def test_a_vm_with_shares_of_a_card_is_made_and_proven(vms: VmLab) -> None:
    host = vms.vgpu_host("gpu-02")
    request = vms.vgpu("gpu-02")
    report = await vms.provisioned(request)
    assert report.outcome is VmOutcome.PROVISIONED
    assert report.host == host.name
    assert f"vGPU {PROFILE}" in report.proof
    seen = vms.seen(request.name)
    assert seen is not None
    assert [gpu["profile"] for gpu in seen["gpus"]] == [PROFILE]


async def test_where_drs_places_nothing_the_vm_is_made_on_a_host_that_fits(vms: VmLab) -> None:
    host = vms.ready_host("no-drs", cluster="gpu-02")
    vms.lab.simulator.act("set_drs", cluster="gpu-02", behavior="manual", enabled=False)
    try:
        report = await vms.provisioned(vms.dynamic("no-drs", cluster="gpu-02"))
    finally:
        vms.lab.simulator.act("set_drs", cluster="gpu-02", behavior="fullyAutomated")
    assert (report.outcome, report.host) == (VmOutcome.PROVISIONED, host.name)
    asked = next(record.step for record in report.steps if record.step.kind == "power-on-vm")
    assert asked.change == f"powered on, on {host.name}"


async def test_a_template_with_bios_firmware_is_refused_before_anything_is_made(vms: VmLab) -> None:
    host = vms.ready_host("bios")
    vms.lab.simulator.act("add_template", name="ubuntu-bios", host=host.name, firmware="bios")
    request = vms.dynamic("bios", source=VmSource(template="ubuntu-bios"))
    report = await vms.failed(await vms.provision(request))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "NotSupported")
    assert "installed with BIOS firmware" in report.detail
    assert not report.steps
    assert vms.ledger(request.name) == []


async def test_wrong_names_and_missing_gpus_are_refused_with_their_reasons(vms: VmLab) -> None:
    unknown = vms.dynamic("any", datastore="no-such-store")
    report = await vms.failed(await vms.provision(unknown))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "BadRequest")
    assert "no-such-store" in report.detail
    elsewhere = vms.dynamic("no-host-has-this-label")
    report = await vms.failed(await vms.provision(elsewhere))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "NotSupported")
    assert "no-host-has-this-label" in report.detail
    assert report.placement.hosts
    assert not report.placement.fitting
    assert vms.ledger(unknown.name) == vms.ledger(elsewhere.name) == []


async def test_a_vm_of_somebody_else_with_that_name_is_left_alone(vms: VmLab) -> None:
    vms.ready_host("taken")
    request = vms.dynamic("taken")
    vms.lab.simulator.act("add_vm", host="esx-01-01.gpu.test", name=request.name, on=False)
    report = await vms.failed(await vms.provision(request))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "Conflict")
    assert "there is a VM" in report.detail
    assert vms.ledger(request.name) == ["added"]


async def test_tools_that_never_come_up_are_told_with_the_likely_cause_and_nothing_is_left(vms: VmLab) -> None:
    vms.ready_host("silent")
    request = vms.dynamic("silent")
    vms.lab.simulator.act("no_tools", vm=request.name)
    report = await vms.failed(await vms.provision(request))
    assert (report.outcome, report.error) == (VmOutcome.UNDONE, "NeedsHuman")
    assert "did not answer within 6 s" in report.detail
    assert "VMware Tools (open-vm-tools) may be missing" in report.detail
    assert "nothing is left" in report.detail
    assert vms.seen(request.name) is None
    assert vms.ledger(request.name) == ["added", "removed"]


async def test_a_vm_that_could_not_be_made_right_is_kept_where_the_request_says_so(vms: VmLab) -> None:
    vms.ready_host("kept")
    request = vms.dynamic("kept", keep_on_failure=True)
    vms.lab.simulator.act("no_tools", vm=request.name)
    report = await vms.failed(await vms.provision(request))
    assert report.outcome is VmOutcome.KEPT
    assert "kept for inspection" in report.detail
    seen = vms.seen(request.name)
    assert seen is not None
    assert seen["power_state"] == "poweredOn"


async def test_too_little_mmio_space_is_named_although_vsphere_shows_no_error(vms: VmLab) -> None:
    vms.ready_host("mmio")
    request = vms.dynamic("mmio")
    vms.lab.simulator.act("set_question", vm=request.name, text="Which side is up?")
    handle = await vms.provision(request)
    await vms.until(handle, lambda report: report.stage is VmStage.AWAITING_RESOLUTION)
    await asyncio.to_thread(shrink_mmio_and_answer, vms, request.name)
    report = await vms.failed(handle)
    assert report.outcome is VmOutcome.UNDONE
    assert "its MMIO space is too small" in report.detail
    assert "64bitMMIOSizeGB is 64, and 128 is needed" in report.detail
    assert vms.seen(request.name) is None


async def test_a_question_is_told_and_waited_for_and_its_answer_lets_the_run_go_on(vms: VmLab) -> None:
    vms.ready_host("question")
    request = vms.dynamic("question")
    vms.lab.simulator.act("set_question", vm=request.name, text="Did you move it or copy it?")
    handle = await vms.provision(request)
    told = await vms.until(handle, lambda report: report.stage is VmStage.AWAITING_RESOLUTION)
    assert "waits for an answer: Did you move it or copy it?" in told.detail
    await asyncio.to_thread(answer, vms, request.name)
    report = await handle.result()
    assert report.outcome is VmOutcome.PROVISIONED


async def test_a_question_that_nobody_answers_ends_the_run_within_its_deadline(vms: VmLab) -> None:
    vms.ready_host("unanswered")
    request = vms.dynamic("unanswered")
    vms.lab.simulator.act("set_question", vm=request.name, text="Which disk is which?")
    report = await vms.failed(await vms.provision(request))
    assert (report.outcome, report.error) == (VmOutcome.UNDONE, "NeedsHuman")
    assert "Which disk is which?" in report.detail
    assert "Nobody did within 15 s" in report.detail
    assert vms.seen(request.name) is None


async def test_a_power_on_that_drs_only_recommends_is_named_as_such(vms: VmLab) -> None:
    vms.vgpu_host("gpu-03")
    vms.lab.simulator.act("set_drs", cluster="gpu-03", behavior="manual")
    request = vms.vgpu("gpu-03")
    report = await vms.failed(await vms.provision(request))
    assert (report.outcome, report.error) == (VmOutcome.UNDONE, "NeedsHuman")
    assert "DRS only recommends it" in report.detail
    assert vms.ledger(request.name) == ["added", "removed"]


async def test_a_gpu_that_another_vm_took_meanwhile_is_told_with_who_holds_it(vms: VmLab) -> None:
    host = vms.ready_host("stolen")
    request = vms.dynamic("stolen")
    vms.lab.simulator.act("steal_gpu", vm=request.name)
    report = await vms.failed(await vms.provision(request))
    assert (report.outcome, report.error) == (VmOutcome.UNDONE, "Conflict")
    assert report.detail.startswith("power-on-vm of")
    thief = next(vm["name"] for vm in vms.lab.simulator.act("list_vms", prefix="thief") if vm["host"] == host.name)
    assert f"{vms.sbdfs(host)[0]} by {thief}" in report.detail
    assert vms.ledger(request.name) == ["added", "removed"]


async def test_a_cancelled_run_leaves_nothing(vms: VmLab) -> None:
    vms.ready_host("cancelled")
    request = vms.dynamic("cancelled")
    vms.lab.simulator.act("set_question", vm=request.name, text="Wait for it")
    handle = await vms.provision(request)
    await vms.until(handle, lambda report: report.stage is VmStage.AWAITING_RESOLUTION)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert isinstance(failure.value.cause, CancelledError)
    report = await handle.query(ProvisionGpuVm.report)
    assert report.outcome is VmOutcome.UNDONE
    assert "was cancelled" in report.detail
    assert vms.ledger(request.name) == ["added", "removed"]


async def test_a_run_cancelled_while_its_vm_is_being_cloned_leaves_nothing(vms: VmLab) -> None:
    vms.ready_host("early")
    request = vms.dynamic("early")
    vms.lab.simulator.add_fault(method="CloneVM_Task", delay_s=1.0, times=1)
    handle = await vms.provision(request)
    await vms.until(handle, lambda report: bool(report.steps))
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await handle.query(ProvisionGpuVm.report)
    assert report.outcome is VmOutcome.UNDONE
    assert vms.seen(request.name) is None
    assert vms.ledger(request.name) == ["added", "removed"]


async def test_an_upgrade_of_the_hardware_version_is_asked_for_before_anything_is_made(vms: VmLab) -> None:
    host = vms.ready_host("old", gpus=2)
    vms.lab.simulator.act("add_template", name="ubuntu-old", host=host.name, hardware_version=14)
    request = vms.dynamic("old", source=VmSource(template="ubuntu-old"))
    handle = await vms.provision(request)
    approval = await vms.asked(handle)
    assert [step.kind for step in approval.plan.steps][:2] == ["create-vm", "upgrade-hardware"]
    assert vms.ledger(request.name) == []
    await vms.lab.decide(handle, approval)
    report = await handle.result()
    assert len(report.approvals) == 1
    assert report.outcome is VmOutcome.PROVISIONED
    refused = vms.dynamic("old", source=VmSource(template="ubuntu-old"))
    handle = await vms.provision(refused)
    await vms.lab.decide(handle, await vms.asked(handle), verdict="deny")
    report = await handle.result()
    assert report.outcome is VmOutcome.DENIED
    assert vms.ledger(refused.name) == []


async def test_of_two_requests_for_the_last_gpu_exactly_one_wins_and_the_other_is_told(vms: VmLab) -> None:
    vms.ready_host("last")
    handles = [await vms.provision(vms.dynamic("last")) for _ in range(2)]
    reports = await asyncio.gather(*(ended(handle) for handle in handles))
    won = [report for report in reports if report.outcome is VmOutcome.PROVISIONED]
    lost = [report for report in reports if report.outcome is not VmOutcome.PROVISIONED]
    assert (len(won), len(lost)) == (1, 1), [(report.outcome, report.detail) for report in reports]
    assert lost[0].error == "Conflict"
    assert f"by {won[0].name}" in lost[0].detail
    assert vms.seen(lost[0].name) is None


async def ended(handle: VmHandle) -> GpuVmReport:
    """The report, however the run ended."""
    results = await asyncio.gather(handle.result(), return_exceptions=True)
    if isinstance(results[0], WorkflowFailureError) and isinstance(results[0].cause, ApplicationError):
        return GpuVmReport.model_validate(results[0].cause.details[0])
    assert isinstance(results[0], GpuVmReport), results[0]
    return results[0]


def machine_named(vms: VmLab, si: Any, name: str) -> Any:
    seen = vms.seen(name)
    assert seen is not None
    return vim.VirtualMachine(seen["moid"], si._stub)


def answer(vms: VmLab, name: str) -> None:
    """Somebody answers the VM's question so that it goes on."""
    si = vms.lab.simulator.connect()
    try:
        machine = machine_named(vms, si, name)
        question = machine.runtime.question
        choice = next(each.key for each in question.choice.choiceInfo if each.label != "Cancel")
        machine.AnswerVM(question.id, choice)
    finally:
        vms.lab.simulator.disconnect(si)


def shrink_mmio_and_answer(vms: VmLab, name: str) -> None:
    """Somebody writes another size behind our back, before the guest boots."""
    si = vms.lab.simulator.connect()
    try:
        option = vim.option.OptionValue(key="pciPassthru.64bitMMIOSizeGB", value="64")
        task = machine_named(vms, si, name).ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[option]))
        while task.info.state in ("queued", "running"):
            time.sleep(0.1)
        assert task.info.state == "success", task.info.error
    finally:
        vms.lab.simulator.disconnect(si)
    answer(vms, name)
