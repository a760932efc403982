"""When an audit looks, asks, waits and ends: incidents that are told look by look, on a real Temporal server."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from contracts import ids
from contracts.approvals import ApprovalState, ApprovalTerms
from contracts.audit import (
    AuditLimits,
    AuditOutcome,
    AuditStage,
    IncidentEvents,
    IncidentLook,
    LookAtIncident,
    RemedyOrder,
)
from contracts.errors import BadRequest, Unreachable
from contracts.incidents import HostDown
from contracts.names import TaskQueues
from contracts.packing import unpacked
from contracts.plan import StepKind
from contracts.prepare import StepStatus
from contracts.provision import VmStepOutcome
from contracts.verdicts import Findings, HostStanding, Recovery
from tests.support.audits import QUICK, Script, asked, decide, event_of, scripted, until
from workflows.audit_incident import pause_s
from workflows.audit_story import report_markdown
from workflows.ha_recovery_audit import HaRecoveryAudit


async def test_it_settles_when_the_cluster_is_quiet_and_stays_open_for_late_events(
    temporal_client: Client, queues: TaskQueues
) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        first = event_of(script.host(), 1)
        handle = await script.start(temporal_client, queues, first)
        report = await until(handle, lambda report: report.counts)
        assert (report.stage, report.settled_at) == (AuditStage.SETTLING, None)
        script.recovery = Recovery.NOT_RESTARTED
        await until(handle, lambda report: report.stage is AuditStage.WATCHING)
        # Doubled, late, and of a second host: all of them join, each counts once.
        for events in ((first,), (first, event_of(script.host("esx-2"), 3), event_of(script.host(), 2))):
            await handle.signal(HaRecoveryAudit.incident_events, IncidentEvents(incident=events))
        told_at = datetime.now(UTC)
        await until(handle, lambda report: len(report.verdicts) == 2)
        script.recovery, script.standing = Recovery.RECOVERED, HostStanding.BACK
        report = await handle.result()
        assert (report.outcome, report.events) == (AuditOutcome.ALL_RECOVERED, 3)
        assert {each.host.key for each in report.hosts} == {"uuid-esx-1", "uuid-esx-2"}
        assert sorted(each.name for each in report.verdicts) == ["vm of esx-1", "vm of esx-2"]
        assert report.finished_at is not None
        assert report.finished_at >= told_at + timedelta(seconds=0.9 * QUICK.linger_s)
        markdown = report_markdown(report, unpacked(Findings, report.findings))
        assert "| vm of esx-1 | recovered | esx-1 |" in markdown
        assert "42 s" in markdown


async def test_a_host_that_nobody_told_of_is_found_by_looking(temporal_client: Client, queues: TaskQueues) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.recovery = Recovery.RECOVERED
        script.also_down = (HostDown(host=script.host(), at=datetime.now(UTC)),)
        report = await (await script.start(temporal_client, queues)).result()
        assert [each.host.name for each in report.hosts] == ["esx-1"]
        assert (report.outcome, report.events) == (AuditOutcome.ALL_RECOVERED, 0)
        assert script.identified == [("esx-1",)]


async def test_what_was_taken_down_on_purpose_is_no_failure_and_is_told(
    temporal_client: Client, queues: TaskQueues
) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.planned = {"esx-1"}
        # A reboot of our own: it is down, and stays in sight of every look.
        script.also_down = (HostDown(host=script.host(), at=datetime.now(UTC)),)
        report = await (await script.start(temporal_client, queues, event_of(script.host(), 1))).result()
        assert report.outcome is AuditOutcome.NOT_A_FAILURE
        assert report.planned == ("esx-1: maintenance",)
        assert script.identified == [("esx-1",)]


async def test_a_host_that_is_lost_again_counts_anew(temporal_client: Client, queues: TaskQueues) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.recovery = Recovery.NOT_RESTARTED
        began = datetime.now(UTC)
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1, at=began))
        await until(handle, lambda report: report.settled_at)
        again = event_of(script.host(), 2, at=began + timedelta(seconds=5))
        await handle.signal(HaRecoveryAudit.incident_events, IncidentEvents(incident=(again,)))
        await until(handle, lambda report: len(script.identified) == 2)
        script.recovery = Recovery.RECOVERED
        await handle.signal(HaRecoveryAudit.recheck)
        report = await handle.result()
        assert [each.lost_at for each in report.verdicts] == [again.created]
        assert script.identified == [("esx-1",), ("esx-1",)]


async def test_vms_wait_for_a_failed_host_only_so_long(temporal_client: Client, queues: TaskQueues) -> None:
    limits = QUICK.model_copy(update={"host_wait_s": 3})
    async with scripted(temporal_client, queues, Script(limits)) as script:
        script.recovery = Recovery.NOT_RESTARTED
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1))
        report = await handle.result()
        assert report.outcome is AuditOutcome.NOT_ALL_RECOVERED
        assert report.finished_at is not None
        assert report.started_at is not None
        assert report.finished_at - report.started_at >= timedelta(seconds=3)
        assert "1 not restarted" in report.detail


async def test_a_prepared_host_is_waited_for_although_every_vm_is_back_and_offered(
    temporal_client: Client, queues: TaskQueues
) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.recovery, script.prepared = Recovery.RECOVERED, {"esx-1"}
        first, second = event_of(script.host(), 1), event_of(script.host("esx-2"), 2)
        handle = await script.start(temporal_client, queues, first, second)
        report = await until(handle, lambda report: report.stage is AuditStage.WATCHING)
        lingered = datetime.now(UTC) + timedelta(seconds=2 * QUICK.linger_s)
        await until(handle, lambda report: datetime.now(UTC) > lingered)
        assert not report.offered
        script.standing = HostStanding.BACK
        report = await until(handle, lambda report: report.outcome, recheck=True)
        assert [(offer.host.name, offer.profile) for offer in report.offered] == [("esx-1", "training")]
        assert any("gpuwright did not prepare it" in each.what for each in report.timeline)
        await temporal_client.get_workflow_handle(
            ids.prepare_gpu_host(script.vcenter, script.host().key), run_id=report.offered[0].run_id
        ).terminate()


async def test_a_vcenter_that_is_away_is_told_and_looked_at_again(temporal_client: Client, queues: TaskQueues) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.recovery = Recovery.RECOVERED
        script.trouble = Unreachable("vCenter does not answer")
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1))
        await until(handle, lambda report: "vCenter does not answer" in report.detail)
        script.trouble = None
        await handle.signal(HaRecoveryAudit.recheck)
        assert (await handle.result()).outcome is AuditOutcome.ALL_RECOVERED


async def test_what_can_never_be_looked_at_ends_at_once_with_its_reason(
    temporal_client: Client, queues: TaskQueues
) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.trouble = BadRequest("there is no cluster domain-c1")
        with pytest.raises(WorkflowFailureError) as caught:
            await (await script.start(temporal_client, queues)).result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "BadRequest"
        assert "no cluster domain-c1" in caught.value.cause.message


async def test_a_question_is_replaced_when_the_plan_changes_and_withdrawn_when_all_is_well(
    temporal_client: Client, queues: TaskQueues
) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.recovery, script.steps = Recovery.NOT_RESTARTED, (script.step("a"),)
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1))
        first = await asked(handle)
        assert (await handle.query(HaRecoveryAudit.approval)) == first
        script.steps = (script.step("a"), script.step("b"))
        await handle.signal(HaRecoveryAudit.recheck)
        report = await until(handle, lambda report: len(report.approvals) == 2)
        assert [each.state for each in report.approvals] == [ApprovalState.EXPIRED, ApprovalState.PENDING]
        assert "the situation changed" in report.approvals[0].comment
        script.steps, script.recovery = (), Recovery.RECOVERED
        await handle.signal(HaRecoveryAudit.recheck)
        report = await handle.result()
        assert [each.state for each in report.approvals] == [ApprovalState.EXPIRED] * 2
        assert "nothing left to do" in report.approvals[1].comment
        assert (report.outcome, report.steps) == (AuditOutcome.ALL_RECOVERED, ())


async def test_a_denied_plan_is_not_asked_again_and_another_one_is(temporal_client: Client, queues: TaskQueues) -> None:
    async with scripted(temporal_client, queues, Script()) as script:
        script.recovery, script.steps = Recovery.NOT_RESTARTED, (script.step("a"),)
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1))
        approval = await asked(handle)
        await decide(handle, approval, verdict="deny", comment="they are being retired")
        await until(handle, lambda report: report.stage is AuditStage.WATCHING)
        looks = script.looks
        await handle.signal(HaRecoveryAudit.recheck)
        report = await until(handle, lambda report: script.looks > looks)
        assert [(each.state, each.comment) for each in report.approvals] == [
            (ApprovalState.DENIED, "they are being retired")
        ]
        script.steps = (script.step("b"),)
        await handle.signal(HaRecoveryAudit.recheck)
        await asked(handle)
        assert len((await handle.query(HaRecoveryAudit.report)).approvals) == 2
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert isinstance(caught.value.cause, CancelledError)
        report = await handle.query(HaRecoveryAudit.report)
        assert (report.stage, report.approvals[-1].state) == (AuditStage.FINISHED, ApprovalState.EXPIRED)
        assert "cancelled" in report.approvals[-1].comment


async def test_nobody_answering_in_time_is_told_and_the_audit_ends(temporal_client: Client, queues: TaskQueues) -> None:
    limits = QUICK.model_copy(update={"host_wait_s": 0})
    script = Script(limits, ApprovalTerms(deadline_s=2))
    async with scripted(temporal_client, queues, script):
        script.recovery, script.steps = Recovery.NOT_RESTARTED, (script.step("a"),)
        report = await (await script.start(temporal_client, queues, event_of(script.host(), 1))).result()
        assert [(each.state, each.comment) for each in report.approvals] == [
            (ApprovalState.EXPIRED, "nobody answered in time")
        ]


async def test_approved_steps_run_in_order_for_each_vm_and_at_most_twice(
    temporal_client: Client, queues: TaskQueues
) -> None:
    script, ran = Script(), list[RemedyOrder]()

    @activity.defn(name="configure_lost_vm")
    async def configure_lost_vm(order: RemedyOrder) -> VmStepOutcome:
        ran.append(order)
        return VmStepOutcome(changed=True, text="reserved")

    @activity.defn(name="power_on_lost_vm")
    async def power_on_lost_vm(order: RemedyOrder) -> VmStepOutcome:
        ran.append(order)
        if order.step.target == "b":
            raise BadRequest("b has no disk")
        return VmStepOutcome(changed=True, text="is on")

    def configure(name: str) -> Any:
        return script.step(name).model_copy(update={"kind": StepKind.CONFIGURE_VM})

    script.recovery = Recovery.NOT_RESTARTED
    script.steps = (configure("a"), script.step("a"), script.step("b"), configure("b"))
    async with scripted(temporal_client, queues, script, [configure_lost_vm, power_on_lost_vm]):
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1))
        approval = await asked(handle)
        await decide(handle, approval)
        report = await until(handle, lambda report: len(report.steps) == 6 and report.stage is AuditStage.WATCHING)
        assert [(each.step.kind, each.status) for each in report.steps if each.step.target == "a"] == [
            (StepKind.CONFIGURE_VM, StepStatus.DONE),
            (StepKind.POWER_ON_VM, StepStatus.DONE),
        ] * 2
        failed = [each for each in report.steps if each.step.target == "b"]
        assert [(each.status, each.text) for each in failed] == [(StepStatus.FAILED, "BadRequest: b has no disk")] * 2
        assert {order.plan_hash for order in ran} == {approval.plan_hash}
        assert all(order.grant and order.subject == f"{script.vcenter}/domain-c1" for order in ran)
        # The proof is the verdict of the next look, not that a step ended well.
        script.recovery = Recovery.RECOVERED
        await handle.signal(HaRecoveryAudit.recheck)
        report = await handle.result()
        assert (report.outcome, len(report.approvals)) == (AuditOutcome.ALL_RECOVERED, 1)
        assert "power-on-vm of b failed" in [each.what for each in report.timeline]


class SlowLook(Script):
    """Its looks take as long as the test says."""

    def __init__(self, limits: AuditLimits) -> None:
        super().__init__(limits)
        self.under_way, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    @activity.defn(name="look_at_incident")
    def look_at_incident(self, order: LookAtIncident) -> IncidentLook:
        """What was there when it began."""
        look = super().look_at_incident(order)
        self.under_way.set()
        assert self.may_end.wait(60)
        return look


async def test_what_a_look_saw_while_steps_were_carried_out_is_not_the_last_word(
    temporal_client: Client, queues: TaskQueues
) -> None:
    script, powered_on = SlowLook(QUICK.model_copy(update={"host_wait_s": 0})), asyncio.Event()

    @activity.defn(name="power_on_lost_vm")
    async def power_on_lost_vm(order: RemedyOrder) -> VmStepOutcome:
        await powered_on.wait()
        return VmStepOutcome(changed=True, text="is on")

    async with scripted(temporal_client, queues, script, [power_on_lost_vm]):
        script.recovery, script.steps = Recovery.NOT_RESTARTED, (script.step("a"),)
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1))
        await decide(handle, await asked(handle))
        await until(handle, lambda report: [each.status for each in report.steps] == [StepStatus.RUNNING])
        await asyncio.sleep(QUICK.linger_s)
        # Between leaving the inventory and coming back to it on another host.
        script.recovery, script.steps = Recovery.RETIRED, ()
        script.may_end.clear()
        script.under_way.clear()
        await handle.signal(HaRecoveryAudit.recheck)
        assert await asyncio.to_thread(script.under_way.wait, 60)
        powered_on.set()
        await until(handle, lambda report: [each.status for each in report.steps] == [StepStatus.DONE])
        script.recovery = Recovery.RECOVERED
        script.may_end.set()
        assert (await handle.result()).counts == {Recovery.RECOVERED: 1}


async def test_a_vm_that_boots_is_waited_for_however_late_its_remedy_was_approved(
    temporal_client: Client, queues: TaskQueues
) -> None:
    script = Script(QUICK.model_copy(update={"host_wait_s": 0}))

    @activity.defn(name="power_on_lost_vm")
    async def power_on_lost_vm(order: RemedyOrder) -> VmStepOutcome:
        script.recovery, script.steps = Recovery.RESTARTING, ()
        return VmStepOutcome(changed=True, text="is on")

    async with scripted(temporal_client, queues, script, [power_on_lost_vm]):
        script.recovery, script.steps = Recovery.NOT_RESTARTED, (script.step("a"),)
        handle = await script.start(temporal_client, queues, event_of(script.host(), 1))
        approval = await asked(handle)
        # Nobody waits for its host any more.
        script.standing = HostStanding.BACK
        await decide(handle, approval)
        await until(handle, lambda report: report.counts == {Recovery.RESTARTING: 1} and script.looks > 3)
        script.recovery = Recovery.RECOVERED
        assert (await handle.result()).counts == {Recovery.RECOVERED: 1}


def test_an_audit_of_default_limits_ends_before_temporal_wants_a_new_history() -> None:
    limits = AuditLimits()

    def looks(seconds: float, *, settled: bool) -> int:
        passed, count = 0.0, 0
        while passed < seconds:
            passed += pause_s(limits, passed, settled=settled)
            count += 1
        return count

    # A look: an activity (3 events), a timer (2), their workflow tasks (6), and attributes that may change (1).
    events = 12 * (looks(limits.settle_s, settled=False) + looks(limits.host_wait_s, settled=True))
    assert events < 4096
    # A question that nobody answers for days stays far below what Temporal takes at all.
    assert 12 * looks(ApprovalTerms().deadline_s, settled=True) < 10_000
