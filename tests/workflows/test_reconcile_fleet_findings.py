"""The whole vCenter at one look: who is where is kept, what is odd is told, and rules alone act on it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.testing import ActivityEnvironment

from activities import snapshots
from activities.fleet import VCenterFleetActivities
from cli.fleet import look_now
from contracts import ids
from contracts.audit import (
    AuditOutcome,
    AuditStage,
    HaRecoveryAuditInput,
    HaRecoveryAuditReport,
)
from contracts.errors import Unreachable
from contracts.fleet import GpuFleet
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.packing import unpacked
from contracts.prepare import Outcome
from contracts.reconcile import (
    REQUESTER,
    Finding,
    FindingKind,
    LookAfterGap,
    LookAtFleet,
    Proposal,
    ReconcileFleetInput,
    ReconcileFleetReport,
)
from contracts.rules import Rule, RulesFile
from contracts.snapshots import ClusterSnapshot
from contracts.verdicts import HostStanding, IncidentHost, Recovery
from planning.snapshots import before
from tests.support.drift import configure, eventually, last_run, listed, prepared, proposal
from tests.support.ended_audit import EndedAudit
from tests.support.lab import TRAINING, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from workers.assembly import Parts, build_workers
from workers.schedules import ensure_drift_schedules
from workers.settings import DriftSettings
from workflows.reconcile_fleet import ReconcileFleet

SELDOM = DriftSettings(every_s=7 * 24 * 3600, max_open=1000)
"""The tests say when to look."""
RULES = tuple(
    Rule.model_validate(rule)
    for rule in (
        {
            "name": "prepare-found",
            "on": ["gpuwright.HostNeverPrepared"],
            # As hosts are called that tests add, and not those that were there.
            "where": {"host": "esx-????????.gpu.test"},
            "start": "PrepareGpuHost",
            "with": {"profile": "training"},
        },
        {"name": "audit-found", "on": ["GPUWRIGHT.hostdown"], "start": "HaRecoveryAudit"},
    )
)


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    """In each of two clusters three hosts; in the last one two VMs have dynamic devices, and one a static device."""
    with SimulatorProcess(clusters=2, hosts=3, gpus=2, vms=2, gpu_vms=3, time_scale=120) as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("findings")
    async with open_lab(vcenter, temporal_client, TaskQueues("findings"), folder, rules=RULES) as made:
        await ensure_drift_schedules(temporal_client, made.queues, [made.vcenter], SELDOM)
        yield made
        await temporal_client.get_schedule_handle(ids.reconcile_fleet(made.vcenter)).delete()


@pytest.fixture(autouse=True)
def _no_fault_outlives_its_test(vcenter: SimulatorProcess) -> Iterator[None]:
    yield
    vcenter.clear_faults()


def cluster_of(lab: Lab, number: int) -> str:
    """The moid of a cluster."""
    si = lab.simulator.connect()
    try:
        return str(lab.system(lab.find(f"esx-{number:02}-01.gpu.test"), si).parent._moId)
    finally:
        lab.simulator.disconnect(si)


def told(report: ReconcileFleetReport, kind: FindingKind, name: str) -> Finding | None:
    """The finding about a host or VM of this name."""
    assert report.fleet is not None, report.fleet_trouble
    named = (each for each in report.fleet.findings if each.kind is kind)
    return next((each for each in named if name == each.vm_name or (each.host and name == each.host.name)), None)


def found(report: ReconcileFleetReport, kind: FindingKind, name: str) -> Finding:
    finding = told(report, kind, name)
    assert finding is not None, report.fleet
    return finding


async def look_by_hand(lab: Lab, **fields: Any) -> ReconcileFleetReport:
    """A look that remembers nothing."""
    return await lab.client.execute_workflow(
        ReconcileFleet.run,
        ReconcileFleetInput(vcenter=lab.vcenter, **fields),
        id=f"by-hand-{lab.vcenter}",
        task_queue=lab.queues.main,
    )


async def connection(lab: Lab, host: HostRef, wanted: str) -> None:
    async def holds() -> bool:
        return bool(lab.witness(host)["connection"] == wanted)

    await eventually(holds)


async def test_a_look_keeps_who_is_where_in_each_cluster_with_a_handful_of_calls(lab: Lab) -> None:
    started = datetime.now(UTC)
    report = await look_now(lab.client, lab.vcenter)
    look = report.fleet
    assert look is not None, report.fleet_trouble
    assert (look.hosts, look.gpus, look.vms, look.snapshots) == (6, 12, 3, 2)
    assert 0 < look.calls < 20
    kept = await snapshots.recall(lab.client, lab.vcenter, cluster_of(lab, 2))
    newest = before(kept, datetime.now(UTC))
    assert newest is not None
    assert (newest.name, newest.vms, newest.taken_at) == ("gpu-02", 3, look.at)
    assert newest.taken_at >= started
    fleet = unpacked(GpuFleet, newest.fleet)
    on = {vm.name: next(host.ref.name for host in fleet.hosts if host.ref.moid == vm.host_moid) for vm in fleet.vms}
    assert on == {
        "train-001": "esx-02-03.gpu.test",
        "train-002": "esx-02-03.gpu.test",
        "static-003": "esx-02-02.gpu.test",
    }
    assert all(gpu.assigned for vm in fleet.vms for gpu in vm.gpus)


async def test_what_is_not_as_expected_is_told_in_report_and_ui_and_nothing_is_started(lab: Lab) -> None:
    lab.simulator.act("relabel", host="esx-02-03.gpu.test", device=_gpu_of(lab, "train-001"), label="Trainnig")
    report = await look_now(lab.client, lab.vcenter)
    unsaved = found(report, FindingKind.VM_NOT_SAVED_BY_HA, "static-003")
    assert "static DirectPath I/O" in unsaved.text
    odd = found(report, FindingKind.VM_ON_UNEXPECTED_GPU, "train-001")
    assert "label 'Training'" in odd.text
    assert "'Trainnig'" in found(report, FindingKind.UNKNOWN_LABEL, "esx-02-03.gpu.test").text
    fresh = found(report, FindingKind.HOST_NEVER_PREPARED, "esx-01-01.gpu.test")
    assert {each.rule for each in (unsaved, odd, fresh)} == {""}
    assert {each.action for each in (unsaved, odd, fresh)} == {Proposal.NONE}
    assert report.fleet is not None
    assert report.fleet.counts["gpuwright.HostNeverPrepared"] == 6
    assert report.proposed == report.audits == ()
    details = (await (await last_run(lab)).query("__temporal_workflow_metadata")).current_details
    assert "static-003" in details
    assert "none: told only" in details


async def test_a_rule_prepares_a_host_that_never_was_and_asks_no_second_time(lab: Lab) -> None:
    host = lab.add_host()
    report = await look_now(lab.client, lab.vcenter)
    started = found(report, FindingKind.HOST_NEVER_PREPARED, host.name)
    assert (started.rule, started.action) == ("prepare-found", Proposal.STARTED)
    assert report.proposed == (started.run_id,)
    approval = await lab.asked(proposal(lab, host))
    assert (approval.run_id, approval.requester) == (started.run_id, REQUESTER)
    assert "rule prepare-found" in approval.reason
    await listed(lab, host, "Running")
    while_open = await look_now(lab.client, lab.vcenter)
    assert told(while_open, FindingKind.HOST_NEVER_PREPARED, host.name) is None
    await lab.decide(proposal(lab, host), approval, verdict="deny")
    assert (await proposal(lab, host).result()).outcome is Outcome.DENIED
    await listed(lab, host, "Completed")
    for _ in range(2):
        again = await look_now(lab.client, lab.vcenter)
        declined = found(again, FindingKind.HOST_NEVER_PREPARED, host.name)
        assert declined.action is Proposal.DECLINED
        assert again.proposed == ()
    # Whoever remembers nothing would ask once more, but not beside so many others.
    crowded = await look_by_hand(lab, max_open=1, memory="")
    other = await lab.start(lab.find("esx-01-02.gpu.test"))
    await lab.asked(other)
    assert found(crowded, FindingKind.HOST_NEVER_PREPARED, host.name).action is Proposal.STARTED
    await listed(lab, host, "Running")
    await lab.decide(proposal(lab, host), await lab.asked(proposal(lab, host)))
    assert (await proposal(lab, host).result()).outcome is Outcome.PREPARED
    await listed(lab, host, "Completed", 2)
    waiting = lab.add_host()
    crowded = await look_by_hand(lab, max_open=1)
    assert found(crowded, FindingKind.HOST_NEVER_PREPARED, waiting.name).action is Proposal.WANTED
    assert told(crowded, FindingKind.HOST_NEVER_PREPARED, host.name) is None
    await other.cancel()


async def test_hosts_found_down_are_audited_together_once_for_as_long_as_they_are_down(lab: Lab) -> None:
    hosts = [lab.find(f"esx-02-{number:02}.gpu.test") for number in (2, 3)]
    cluster = cluster_of(lab, 2)
    lab.simulator.act("fail_hosts", hosts=[host.name for host in hosts])
    for host in hosts:
        await connection(lab, host, "notResponding")
    report = await look_now(lab.client, lab.vcenter)
    down = [found(report, FindingKind.HOST_DOWN, host.name) for host in hosts]
    assert [each.action for each in down] == [Proposal.STARTED, Proposal.STARTED]
    assert {each.run_id for each in down} == set(report.audits)
    assert len(report.audits) == 1
    assert report.fleet is not None
    audit = lab.client.get_workflow_handle(ids.ha_recovery_audit(lab.vcenter, cluster), run_id=report.audits[0])
    order = await _input(lab.client, audit)
    assert (order.cluster_moid, order.cluster_name, order.host, order.incident) == (cluster, "gpu-02", None, ())
    assert order.requester == REQUESTER
    assert "rule audit-found" in order.reason
    while_open = await look_now(lab.client, lab.vcenter)
    assert {found(while_open, FindingKind.HOST_DOWN, host.name).run_id for host in hosts} == set(report.audits)
    assert {found(while_open, FindingKind.HOST_DOWN, host.name).action for host in hosts} == {Proposal.OPEN}
    assert while_open.audits == ()
    accounted: HaRecoveryAuditReport = await eventually(lambda: _settled(audit))
    assert {each.host.key for each in accounted.hosts} == {host.key for host in hosts}
    assert accounted.snapshot_at is not None
    assert accounted.snapshot_at < report.fleet.at
    verdicts = {each.name: each.recovery for each in accounted.verdicts}
    assert verdicts["static-003"] is Recovery.NOT_RESTARTED
    assert set(verdicts) == {"train-001", "train-002", "static-003"}
    await audit.terminate()
    again = await look_now(lab.client, lab.vcenter)
    assert {found(again, FindingKind.HOST_DOWN, host.name).action for host in hosts} == {Proposal.DECLINED}
    for host in hosts:
        lab.simulator.act("restore_host", host=host.name)
        await connection(lab, host, "connected")
    after = await look_now(lab.client, lab.vcenter)
    assert all(told(after, FindingKind.HOST_DOWN, host.name) is None for host in hosts)
    lab.simulator.act("fail_host", host=hosts[0].name)
    await connection(lab, hosts[0], "notResponding")
    anew = await look_now(lab.client, lab.vcenter)
    assert found(anew, FindingKind.HOST_DOWN, hosts[0].name).action is Proposal.STARTED
    await lab.client.get_workflow_handle(audit.id).terminate()
    lab.simulator.act("restore_host", host=hosts[0].name)
    await connection(lab, hosts[0], "connected")


async def test_a_host_that_an_audit_accounted_for_is_not_audited_again_when_it_is_found_down(lab: Lab) -> None:
    host, cluster = lab.find("esx-01-03.gpu.test"), cluster_of(lab, 1)
    lab.simulator.act("fail_host", host=host.name)
    await connection(lab, host, "notResponding")
    now = datetime.now(UTC)
    report = HaRecoveryAuditReport(
        vcenter=lab.vcenter,
        subject=cluster,
        name="gpu-01",
        requester="rule:test",
        stage=AuditStage.FINISHED,
        outcome=AuditOutcome.ALL_RECOVERED,
        hosts=(IncidentHost(host=host, standing=HostStanding.DOWN, lost_at=now),),
    )
    (worker,) = build_workers(lab.client, TaskQueues("ended-audits"), Parts(workflows=[EndedAudit]))
    async with worker:
        await lab.client.execute_workflow(
            EndedAudit.run, report, id=ids.ha_recovery_audit(lab.vcenter, cluster), task_queue="ended-audits"
        )
    # By the schedule's memory too, whose next look finds that the audit is older than the look before.
    for _ in range(2):
        look = await look_now(lab.client, lab.vcenter)
        assert found(look, FindingKind.HOST_DOWN, host.name).action is Proposal.DECLINED
        assert look.audits == ()
    lab.simulator.act("restore_host", host=host.name)
    await connection(lab, host, "connected")


async def test_a_look_at_the_fleet_that_fails_is_told_and_stops_no_other(lab: Lab) -> None:
    host = await prepared(lab)
    configure(lab, host, on=True)
    # Only the look at the whole fleet takes lists of objects.
    lab.simulator.add_fault(method="CreateListView", error="NoPermission")
    report = await look_now(lab.client, lab.vcenter)
    assert report.fleet is None
    assert "NoPermission" in report.fleet_trouble or "permission" in report.fleet_trouble
    assert [each.host.name for each in report.hosts if each.proposal is Proposal.STARTED] == [host.name]
    await proposal(lab, host).cancel()
    details = (await (await last_run(lab)).query("__temporal_workflow_metadata")).current_details
    assert "The whole fleet could not be looked at" in details


async def test_a_snapshot_that_cannot_be_kept_is_told_and_the_others_are_kept(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = snapshots.keep

    async def keep_most(client: Client, task_queue: str, snapshot: ClusterSnapshot) -> None:
        if snapshot.name == "gpu-01":
            raise Unreachable("the snapshot of gpu-01 could not be kept: no answer")
        await keep(client, task_queue, snapshot)

    monkeypatch.setattr(snapshots, "keep", keep_most)
    fleet = VCenterFleetActivities({lab.vcenter: lab.pool}, RulesFile(), lab.queues.main)
    look = await ActivityEnvironment(lab.client).run(fleet.look_at_fleet, LookAtFleet(vcenter=lab.vcenter))
    assert look.snapshots == 1
    assert "the snapshot of gpu-01 could not be kept: no answer" in look.unread
    assert look.findings
    kept = await snapshots.recall(lab.client, lab.vcenter, cluster_of(lab, 2))
    assert kept[-1].taken_at == look.at


async def test_after_a_gap_the_schedule_looks_and_without_one_a_look_is_started_that_remembers(lab: Lab) -> None:
    fleet = VCenterFleetActivities(
        {lab.vcenter: lab.pool}, RulesFile(rules=RULES, profiles={TRAINING.name: TRAINING}), lab.queues.main
    )
    gap = LookAfterGap(vcenter=lab.vcenter, reason="events were purged")
    # One that a rule asked about and nobody decided.
    host = lab.add_host()
    first = await look_now(lab.client, lab.vcenter)
    assert found(first, FindingKind.HOST_NEVER_PREPARED, host.name).action is Proposal.STARTED
    last = await last_run(lab)
    words = [await ActivityEnvironment(lab.client).run(fleet.look_after_gap, gap) for _ in range(3)]
    assert words == [f"{ids.reconcile_fleet(lab.vcenter)} looks at the whole fleet"] * 3

    async def looked() -> bool:
        run = await last_run(lab)
        described = await run.describe()
        return run.run_id != last.run_id and described.status is WorkflowExecutionStatus.COMPLETED

    await eventually(looked)
    cluster = cluster_of(lab, 1)
    newest = (await snapshots.recall(lab.client, lab.vcenter, cluster))[-1].taken_at
    assert first.fleet is not None
    assert newest > first.fleet.at
    await proposal(lab, host).cancel()
    await listed(lab, host, "Canceled")
    schedule = lab.client.get_schedule_handle(ids.reconcile_fleet(lab.vcenter))

    async def idle() -> bool:
        return not (await schedule.describe()).info.running_actions

    await eventually(idle)
    await schedule.delete()
    for action in (Proposal.STARTED, Proposal.DECLINED):
        said = await ActivityEnvironment(lab.client).run(fleet.look_after_gap, gap)
        assert "there is no schedule" in said
        run = lab.client.get_workflow_handle_for(ReconcileFleet.run, ids.reconcile_fleet(lab.vcenter))
        report = await asyncio.wait_for(run.result(), 60)
        assert found(report, FindingKind.HOST_NEVER_PREPARED, host.name).action is action
        if action is Proposal.STARTED:
            await proposal(lab, host).cancel()
        await listed(lab, host, "Canceled", 2)
    await ensure_drift_schedules(lab.client, lab.queues, [lab.vcenter], SELDOM)


def _gpu_of(lab: Lab, vm: str) -> str:
    """The address of the GPU that a VM holds."""
    with lab.pool.session() as si:
        view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [], True)
        try:
            found = next(each for each in view.view if each.name == vm)
            device = next(each for each in found.config.hardware.device if each.key == 13000)
            return str(device.backing.assignedId)
        finally:
            view.DestroyView()


async def _settled(audit: Any) -> HaRecoveryAuditReport | None:
    """What the audit says, once it judged."""
    report: HaRecoveryAuditReport = await audit.query("report", result_type=HaRecoveryAuditReport)
    return report if report.settled_at else None


async def _input(client: Client, audit: Any) -> HaRecoveryAuditInput:
    began = (await anext(audit.fetch_history_events())).workflow_execution_started_event_attributes
    (order,) = await client.data_converter.decode(began.input.payloads, [HaRecoveryAuditInput])
    assert isinstance(order, HaRecoveryAuditInput)
    return order
