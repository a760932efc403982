"""After a failure every GPU VM is accounted for, against a simulated vCenter and Temporal."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import CancelledError

from contracts.approvals import ApprovalState
from contracts.audit import AuditOutcome, AuditStage, IncidentEvents
from contracts.names import TaskQueues
from contracts.packing import unpacked
from contracts.plan import StepKind
from contracts.prepare import Outcome, Stage, StepStatus
from contracts.verdicts import (
    Findings,
    HostStanding,
    Reason,
    Recovery,
)
from tests.support.audits import asked, decide, until
from tests.support.drift import listed, proposal
from tests.support.failures import FailureLab, verdict
from tests.support.lab import A100, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from workflows.audit_offers import REQUESTER
from workflows.audit_story import report_markdown
from workflows.ha_recovery_audit import HaRecoveryAudit

_CLUSTERS = 14
_free = iter(range(1, _CLUSTERS + 1))


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    """A vCenter where HA tries again after half a second, with a cluster for each test."""
    with SimulatorProcess(clusters=_CLUSTERS, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    async with open_lab(vcenter, temporal_client, TaskQueues("audit"), tmp_path_factory.mktemp("audit")) as made:
        yield made


@pytest.fixture
def failures(lab: Lab) -> FailureLab:
    return FailureLab(lab, f"gpu-{next(_free):02d}")


async def test_who_came_back_is_proven_and_who_did_not_has_a_reason(failures: FailureLab) -> None:
    lost, spare = failures.host(gpus=2), failures.host()
    dynamic, static = failures.vm(lost), failures.vm(lost, "static")
    await failures.remember()
    failures.fail(lost)
    handle = await failures.audit(*await failures.told(lost))
    report = await until(handle, lambda report: report.stage in (AuditStage.WATCHING, AuditStage.AWAITING_APPROVAL))
    back = verdict(report, dynamic)
    assert (back.recovery, back.was_on, back.now_on) == (Recovery.RECOVERED, lost.name, spare.name)
    assert [(gpu.vendor_device, gpu.label) for gpu in back.held] == [(A100, "Training")]
    assert [(gpu.vendor_device, gpu.label) for gpu in back.holds] == [(A100, "Training")]
    assert back.took is not None
    assert back.evidence
    off = verdict(report, static)
    assert (off.recovery, off.reason) == (Recovery.NOT_RESTARTED, Reason.STATIC_PINNED)
    assert off.evidence
    assert [each.name for each in report.verdicts] == [static, dynamic]
    assert [(each.host.key, each.standing) for each in report.hosts] == [(lost.key, HostStanding.DOWN)]
    assert report.snapshot_at is not None
    assert any(dynamic in each.what for each in report.timeline)
    assert report.capacity_summary
    details = (await handle.query("__temporal_workflow_metadata")).current_details
    assert static in details
    assert Reason.STATIC_PINNED in details
    values = {pair.key.name: pair.value for pair in (await handle.describe()).typed_search_attributes}
    assert (values["GpuVCenter"], values["GpuCluster"], values["GpuHost"]) == (
        failures.lab.vcenter,
        failures.name,
        lost.name,
    )
    document = report_markdown(report, unpacked(Findings, report.findings))
    assert f"| {static} | not-restarted: static-pinned | {lost.name} |" in document
    # The static VM waits for its host, so the audit is open.
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)


async def test_without_a_free_gpu_the_kind_that_is_missing_is_told(failures: FailureLab) -> None:
    lost, _ = failures.host(), failures.host("Inference")
    name = failures.vm(lost)
    await failures.remember()
    failures.fail(lost)
    handle = await failures.audit(*await failures.told(lost))
    report = await until(handle, lambda report: report.stage is AuditStage.WATCHING)
    found = verdict(report, name)
    assert (found.recovery, found.reason) == (Recovery.NOT_RESTARTED, Reason.NO_FREE_GPU)
    await handle.cancel()


async def test_all_recovered_ends_by_itself_and_late_and_doubled_events_join(failures: FailureLab) -> None:
    lost, _, _ = failures.host(), failures.host(), failures.host()
    names = {failures.vm(lost)}
    await failures.remember()
    failures.fail(lost)
    first, *others = await failures.told(lost, 2)
    handle = await failures.audit(first)
    await handle.signal(HaRecoveryAudit.incident_events, IncidentEvents(incident=(first, *others)))
    report = await handle.result()
    assert (report.outcome, report.events) == (AuditOutcome.ALL_RECOVERED, 1 + len(others))
    assert {each.name for each in report.verdicts} == names
    assert report.finished_at is not None
    assert report.settled_at is not None


async def test_a_host_whose_events_were_lost_is_found_by_looking(failures: FailureLab) -> None:
    lost, other, _, _ = (failures.host() for _ in range(4))
    names = {failures.vm(lost), failures.vm(other)}
    await failures.remember()
    failures.fail(lost, other)
    events = await failures.told(lost)
    await failures.told(other)
    report = await (await failures.audit(*events)).result()
    assert {each.host.key for each in report.hosts} == {lost.key, other.key}
    assert {each.name for each in report.verdicts} == names
    assert report.outcome is AuditOutcome.ALL_RECOVERED


async def test_vms_that_ha_stops_on_an_isolated_host_are_followed(failures: FailureLab) -> None:
    lost, spare = failures.host(gpus=2), failures.host()
    dynamic, static = failures.vm(lost), failures.vm(lost, "static")
    failures.lab.simulator.act("set_ha", cluster=failures.name, isolation_response="powerOff")
    await failures.remember()
    failures.lab.simulator.act("isolate_host", host=lost.name)
    handle = await failures.audit(*await failures.told(lost))
    report = await until(handle, lambda report: report.settled_at)
    assert verdict(report, dynamic).recovery is Recovery.RECOVERED
    assert verdict(report, dynamic).now_on == spare.name
    assert verdict(report, static).recovery is Recovery.NOT_RESTARTED
    await handle.cancel()


async def test_a_host_in_maintenance_that_goes_down_is_no_failure(failures: FailureLab) -> None:
    host = failures.host()
    failures.lab.simulator.act("set_maintenance", host=host.name, on=True)
    failures.fail(host)
    report = await (await failures.audit(*await failures.told(host))).result()
    assert report.outcome is AuditOutcome.NOT_A_FAILURE
    assert host.name in report.planned[0]
    assert report.hosts == ()


async def test_an_empty_host_that_fails_leaves_nobody_behind_and_capacity_is_told(failures: FailureLab) -> None:
    lost, other = failures.host(), failures.host()
    name = failures.vm(other)
    await failures.remember()
    failures.fail(lost)
    report = await (await failures.audit(*await failures.told(lost))).result()
    assert report.outcome is AuditOutcome.NOBODY_THERE
    assert any(not vm.comes_back and vm.name == name for each in report.capacity for vm in each.vms)
    assert report.capacity_summary


async def test_a_vcenter_that_is_away_for_a_while_delays_the_audit(failures: FailureLab) -> None:
    lost, _ = failures.host(), failures.host()
    name = failures.vm(lost)
    await failures.remember()
    failures.fail(lost)
    events = await failures.told(lost)
    failures.lab.simulator.outage(8)
    handle = await failures.audit(*events)
    await until(handle, lambda report: "Unreachable" in report.detail)
    await until(handle, lambda report: report.verdicts, recheck=True)
    report = await handle.result()
    assert report.outcome is AuditOutcome.ALL_RECOVERED
    assert verdict(report, name).recovery is Recovery.RECOVERED


async def test_a_host_that_comes_back_is_offered_to_a_preparation_that_asks(failures: FailureLab) -> None:
    lab = failures.lab
    host = lab.add_host(cluster=failures.name)
    run = await lab.start(host)
    await lab.decide(run, await lab.asked(run))
    assert (await run.result()).outcome is Outcome.PREPARED
    await listed(lab, host, "Completed")
    # A VM waits for the host, and the audit with it.
    name = failures.vm(host, "static")
    failures.fail(host)
    handle = await failures.audit(*await failures.told(host))
    await until(handle, lambda report: report.hosts)
    await failures.back(host)
    report = await until(handle, lambda report: report.offered, recheck=True)
    (offer,) = report.offered
    assert (offer.host.key, offer.profile) == (host.key, "training")
    offered = await proposal(lab, host).result()
    assert (offered.requester, offered.stage) == (REQUESTER, Stage.FINISHED)
    approval = await asked(handle)
    assert [(step.kind, step.target) for step in approval.plan.steps] == [(StepKind.POWER_ON_VM, name)]
    await handle.cancel()


async def test_a_reboot_of_our_own_is_no_failure(failures: FailureLab) -> None:
    lab = failures.lab
    host = lab.add_host(cluster=failures.name)
    run = await lab.start(host)
    await lab.decide(run, await lab.asked(run))
    events = await failures.told(host)
    report = await (await failures.audit(*events)).result()
    assert report.outcome is AuditOutcome.NOT_A_FAILURE
    assert "prepare-gpu-host" in report.planned[0]
    assert (await run.result()).outcome is Outcome.PREPARED


async def test_an_approved_remedy_brings_a_static_vm_back_and_the_next_look_proves_it(failures: FailureLab) -> None:
    lost = failures.host()
    name = failures.vm(lost, "static")
    await failures.remember()
    failures.fail(lost)
    handle = await failures.audit(*await failures.told(lost))
    await until(handle, lambda report: report.settled_at)
    # Nothing can be done until there is a GPU for it.
    spare = failures.host()
    await handle.signal(HaRecoveryAudit.recheck)
    approval = await asked(handle)
    kinds = [step.kind for step in approval.plan.steps if step.params["for"] == failures.seen(name)["instance_uuid"]]
    assert kinds[0] is StepKind.REGISTER_VM
    assert kinds[-1] is StepKind.POWER_ON_VM
    assert StepKind.SET_VM_GPUS in kinds
    await decide(handle, approval)
    report = await handle.result()
    assert {each.status for each in report.steps} == {StepStatus.DONE}
    back = verdict(report, name)
    assert (back.recovery, back.now_on) == (Recovery.RECOVERED, spare.name)
    assert report.outcome is AuditOutcome.ALL_RECOVERED
    seen = failures.seen(name)
    assert (seen["host"], seen["power_state"]) == (spare.name, "poweredOn")
    assert [gpu["kind"] for gpu in seen["gpus"]] == ["dynamic"]
    document = report_markdown(report, unpacked(Findings, report.findings))
    assert "by cli:approver" in document


async def test_a_denied_remedy_leaves_the_vm_off_and_says_who_decided(failures: FailureLab) -> None:
    lost, _ = failures.host(), failures.host()
    name = failures.vm(lost, "static")
    await failures.remember()
    failures.fail(lost)
    handle = await failures.audit(*await failures.told(lost))
    await decide(handle, await asked(handle), verdict="deny", comment="it is moved tomorrow")
    report = await until(handle, lambda report: report.stage is AuditStage.WATCHING)
    assert (report.approvals[-1].state, report.approvals[-1].approver) == (ApprovalState.DENIED, "cli:approver")
    assert report.steps == ()
    assert (failures.seen(name)["host"], failures.seen(name)["power_state"]) == (lost.name, "poweredOff")
    values = {pair.key.name: pair.value for pair in (await handle.describe()).typed_search_attributes}
    assert (values["GpuStage"], values["GpuApproval"]) == ("watching", "denied")
    await handle.cancel()
