"""What changes behind our back is seen by the schedule and proposed, against a simulated vCenter and Temporal."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus

from cli.fleet import last_look, look_now
from contracts import ids
from contracts.errors import Conflict
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import Outcome, Stage
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from contracts.reconcile import REQUESTER, HostDrift, Proposal, ReconcileFleetInput, ReconcileFleetReport, Standing
from tests.support.drift import configure, eventually, last_run, listed, prepared, proposal, run_of
from tests.support.lab import TRAINING, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from workers.schedules import ensure_drift_schedules
from workers.settings import DriftSettings
from workflows.reconcile_fleet import ReconcileFleet

A40 = "10de:2235"
OLD, NEW = "NVD-VGPU-800_535.129.03-1OEM.800.1.0.20613240", "NVD-VGPU-800_550.54.16-1OEM.800.1.0.20613240"
SELDOM = DriftSettings(every_s=7 * 24 * 3600, max_open=1000)
"""The tests say when to look."""


def inference(simulator: SimulatorProcess) -> Profile:
    site = simulator.control("GET", "/simulator/depots")["depots"][NEW]
    manager = VgpuManager(
        name="NVD-VGPU_ESXi_8.0.0_Driver",
        version=">=550",
        depot=f"https://{simulator.host}:{simulator.port}{site['url']}",
        sha256=site["sha256"],
    )
    return Profile(name="inference", gpus=(GpuWanted(match=A40, mode=GpuMode.VGPU),), vgpu_manager=manager)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(
    fast_vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("drift")
    profiles = (TRAINING, inference(fast_vcenter))
    async with open_lab(fast_vcenter, temporal_client, TaskQueues("drift"), folder, profiles=profiles) as made:
        await ensure_drift_schedules(temporal_client, made.queues, [made.vcenter], SELDOM)
        yield made
        await temporal_client.get_schedule_handle(ids.reconcile_fleet(made.vcenter)).delete()


@pytest_asyncio.fixture(scope="module", loop_scope="session", autouse=True)
async def deleted(lab: Lab) -> HostRef:
    """A host that was prepared and looked at, and whose run is being deleted: Temporal takes half a minute for that."""
    host = await prepared(lab)
    assert about(await look_now(lab.client, lab.vcenter), host) is None
    await lab.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=lab.client.namespace, workflow_execution=WorkflowExecution(workflow_id=run_of(host))
        )
    )
    return host


def about(report: ReconcileFleetReport, host: HostRef) -> HostDrift | None:
    return next((each for each in report.hosts if each.host.key == host.key), None)


async def drifted(lab: Lab, host: HostRef) -> HostDrift:
    """How the next look finds the host, which must have drifted."""
    found = about(await look_now(lab.client, lab.vcenter), host)
    assert found is not None
    assert found.standing is Standing.DRIFTED
    return found


async def test_a_removed_label_is_proposed_each_time_and_put_back_only_with_approval(lab: Lab) -> None:
    host = await prepared(lab)
    report = await look_now(lab.client, lab.vcenter)
    assert about(report, host) is None
    assert report.right == report.remembered - report.drifted - report.unknown - report.busy
    for times in (2, 3):
        configure(lab, host, on=True)
        found = await drifted(lab, host)
        assert [step.kind for step in found.steps] == ["set-hardware-label"]
        assert found.proposal is Proposal.STARTED
        handle = proposal(lab, host)
        approval = await lab.asked(handle)
        assert approval.run_id == found.run_id
        assert approval.requester == REQUESTER
        assert "set-hardware-label" in approval.reason
        assert [step.kind for step in approval.plan.steps] == ["set-hardware-label"]
        assert lab.witness(host)["label"] is None
        await lab.decide(handle, approval)
        assert (await handle.result()).outcome is Outcome.PREPARED
        assert lab.witness(host)["label"] == "Training"
        await listed(lab, host, "Completed", times)
    assert about(await look_now(lab.client, lab.vcenter), host) is None


async def test_a_denied_proposal_is_not_repeated_until_the_plan_changes(lab: Lab) -> None:
    host = await prepared(lab, rebind_without_reboot=True)
    configure(lab, host, on=True)
    first = await drifted(lab, host)
    approval = await lab.asked(proposal(lab, host))
    while_open = await drifted(lab, host)
    assert (while_open.proposal, while_open.run_id) == (Proposal.OPEN, first.run_id)
    await lab.decide(proposal(lab, host), approval, verdict="deny")
    assert (await proposal(lab, host).result()).outcome is Outcome.DENIED
    await listed(lab, host, "Completed", 2)
    again = await drifted(lab, host)
    assert (again.proposal, again.run_id) == (Proposal.DECLINED, first.run_id)
    # Passthrough switched off as well: another plan, and a whole one.
    configure(lab, host, on=False)
    other = await drifted(lab, host)
    assert other.proposal is Proposal.STARTED
    assert other.run_id != first.run_id
    approval = await lab.asked(proposal(lab, host))
    assert [step.kind for step in approval.plan.steps] == [step.kind for step in other.steps]
    assert [step.kind for step in approval.plan.steps][:2] == ["enter-maintenance", "enable-passthrough"]
    await lab.decide(proposal(lab, host), approval)
    assert (await proposal(lab, host).result()).outcome is Outcome.PREPARED
    seen = lab.witness(host)
    assert (seen["active"], seen["label"], seen["maintenance"]) == (True, "Training", False)


async def test_a_replaced_vib_is_seen_and_told_in_the_temporal_ui(lab: Lab) -> None:
    host = await prepared(lab, "inference", gpus=[A40])
    lab.simulator.act("set_package", host=host.name, depot=OLD)
    found = await drifted(lab, host)
    assert "install-vgpu-manager" in [step.kind for step in found.steps]
    assert "535.129.03" in found.words
    run = await last_run(lab)
    details = (await run.query("__temporal_workflow_metadata")).current_details
    assert host.name in details
    assert "install-vgpu-manager" in details
    values = {pair.key.name: pair.value for pair in (await run.describe()).typed_search_attributes}
    assert (values["GpuVCenter"], values["GpuStage"]) == (lab.vcenter, "finished")
    assert ids.parse(run.id) == ("reconcile-fleet", lab.vcenter, "")
    await proposal(lab, host).cancel()


async def test_a_host_that_goes_is_unknown_then_left_alone_and_told_once_when_it_is_gone(lab: Lab) -> None:
    host = await prepared(lab)
    lab.simulator.act("disconnect_host", host=host.name)
    unknown = about(await look_now(lab.client, lab.vcenter), host)
    assert unknown
    assert (unknown.standing, unknown.proposal) == (Standing.UNKNOWN, Proposal.NONE)
    assert "in vCenter" in unknown.words
    handle = await lab.start(host)
    await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
    await listed(lab, host, "Running")
    busy = about(await look_now(lab.client, lab.vcenter), host)
    assert busy
    assert (busy.standing, busy.proposal) == (Standing.BUSY, Proposal.NONE)
    assert handle.id in busy.words
    await handle.terminate()
    si = lab.simulator.connect()
    try:
        task = lab.system(host, si).Destroy_Task()

        async def done() -> bool:
            return str(task.info.state) == "success"

        await eventually(done)
    finally:
        lab.simulator.disconnect(si)
    report = await look_now(lab.client, lab.vcenter)
    (left,) = [each for each in report.left if each.host.key == host.key]
    assert "no longer in the inventory" in left.why
    again = await look_now(lab.client, lab.vcenter)
    assert not [each for each in again.left if each.host.key == host.key]
    assert again.remembered == report.remembered


async def test_nothing_is_proposed_where_that_is_off_or_enough_preparations_run(lab: Lab) -> None:
    host = await prepared(lab)
    configure(lab, host, on=True)

    async def look(**limits: Any) -> Proposal:
        order = ReconcileFleetInput(vcenter=lab.vcenter, **limits)
        report = await lab.client.execute_workflow(
            ReconcileFleet.run, order, id=f"by-hand-{lab.vcenter}", task_queue=lab.queues.main
        )
        found = about(report, host)
        assert found
        return found.proposal

    assert await look(propose=False) is Proposal.NONE
    other = await lab.start(lab.add_host())
    await lab.asked(other)
    assert await look(max_open=1) is Proposal.WANTED
    assert (await proposal(lab, host).describe()).status is WorkflowExecutionStatus.COMPLETED
    await other.cancel()


async def test_what_was_prepared_is_known_after_its_run_was_deleted(lab: Lab, deleted: HostRef) -> None:
    await listed(lab, deleted, "Completed", 0)
    for _ in range(2):
        assert about(await look_now(lab.client, lab.vcenter), deleted) is None
    configure(lab, deleted, on=True)
    assert (await drifted(lab, deleted)).proposal is Proposal.STARTED
    await proposal(lab, deleted).cancel()


async def test_a_look_that_failed_forgets_nothing_and_a_paused_schedule_looks_when_told(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    good = await look_now(lab.client, lab.vcenter)
    lab.simulator.add_fault(method="CreateContainerView", error="NoPermission", times=1)
    with pytest.raises(Conflict):
        await look_now(lab.client, lab.vcenter)
    schedule = lab.client.get_schedule_handle(ids.reconcile_fleet(lab.vcenter))
    await schedule.pause(note="while we move hosts")
    assert (await last_look(lab.client, lab.vcenter)).finished_at == good.finished_at
    told = capsys.readouterr().err
    assert "is paused (while we move hosts)" in told
    assert "came to nothing" in told
    # Looking at once works all the same, and does not set the schedule going again.
    assert (await look_now(lab.client, lab.vcenter)).remembered == good.remembered > 0
    assert (await schedule.describe()).schedule.state.paused
    await schedule.unpause()
