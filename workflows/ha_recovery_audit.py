"""`HaRecoveryAudit`: one a cluster and incident. Who ran on the hosts that were lost, what became of each, what to do.

A loop, not a script: look into hosts that are said to be lost, look at everybody, ask about remedies and carry them
out beside it, offer hosts that are back; until nothing is left to wait for. The proof of a remedy is the next look.
"""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.activities import AuditActivities
    from contracts.approvals import ApprovalState
    from contracts.audit import (
        MOST_TOLD,
        AuditLimits,
        AuditOutcome,
        AuditStage,
        HaRecoveryAuditInput,
        HaRecoveryAuditReport,
        IdentifyVictims,
        IncidentEvents,
        IncidentLook,
        LookAtIncident,
    )
    from contracts.incidents import HostDown
    from contracts.packing import packed, unpacked
    from contracts.verdicts import Findings, Recovery, TimelineEntry

from workflows import policies
from workflows.asking import cause
from workflows.audit_asking import AskingAudit
from workflows.audit_incident import AWAY, OPEN, Incident, is_settled, pause_s
from workflows.audit_offers import Offers
from workflows.audit_story import headline, tell_audit

__all__ = ["HaRecoveryAudit"]

_LOOK_S = 300
"""For one read of a cluster and its events."""
_WORST = 10


@workflow.defn(name=names.HA_RECOVERY_AUDIT)
class HaRecoveryAudit(AskingAudit):
    """Accounts for every GPU VM of an incident, and brings back what can be brought back."""

    @workflow.init
    def __init__(self, order: HaRecoveryAuditInput) -> None:
        self._order = order
        self._begin(order)
        self._incident = Incident(order.vcenter)
        self._offers = Offers(order)
        self._stage = AuditStage.IDENTIFYING
        self._outcome: AuditOutcome | None = None
        self._detail = self._trouble = ""
        self._look: IncidentLook | None = None
        self._findings = Findings()
        self._planned: dict[str, None] = {}
        self._snapshot_at: datetime | None = None
        self._news = False
        now = workflow.now()
        self._heard_at = self._lost_at = self._changed_at = self._answered_at = now
        self._settled_at: datetime | None = None
        self._finished_at: datetime | None = None
        self._incident.hear(order.incident)
        if order.host is not None and not self._incident.unidentified:
            self._incident.suspect(HostDown(host=order.host, at=workflow.info().start_time))

    # -- what others may say and ask ------------------------------------------------------------------------------

    @workflow.signal(name=names.INCIDENT_EVENTS)
    def incident_events(self, message: IncidentEvents) -> None:
        """More events of the incident; those that are known already only keep the audit open for longer."""
        known = self._incident.events
        self._incident.hear(message.incident)
        self._heard_at = workflow.now()
        if self._incident.events > known:
            self._changed_at, self._news = self._heard_at, True

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """Look again now instead of at the next interval."""
        self._news = True

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> HaRecoveryAuditReport:
        """What is known so far."""
        findings = self._findings.model_copy(update={"timeline": self._timeline()})
        return self._report().model_copy(update={"findings": packed(findings)})

    # -- the run --------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, order: HaRecoveryAuditInput) -> HaRecoveryAuditReport:
        """Run until every GPU VM of the incident is accounted for and nothing is left to wait for."""
        pairs = [
            search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter)),
            search_attributes.GPU_STAGE.value_set(self._stage),
            search_attributes.GPU_APPROVAL.value_set(ApprovalState.NONE),
        ]
        if order.cluster_moid:
            pairs.append(search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(order.name)))
        workflow.upsert_search_attributes(pairs)
        try:
            await self._account()
        except (asyncio.CancelledError, ActivityError, ChildWorkflowError) as error:
            if not is_cancelled_exception(error):
                raise
            await self._stop("the audit was cancelled")
            self._tell(AuditStage.FINISHED, "Cancelled. What vCenter was told to do goes on; nothing more is done.")
            raise
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.report()

    async def _account(self) -> None:
        while True:
            self._news = False
            # Before the look: one that was read while steps were carried out does not show what came of them.
            await self._end_work()
            await self._look_again()
            if self._trouble:
                await self._give_up_when_late()
            elif self._look is not None:
                await self._act(self._look)
                if self._over(self._look):
                    self._finish(self._look)
                    return
            await self._rest()

    # -- looking --------------------------------------------------------------------------------------------------

    async def _look_again(self) -> None:
        """Who was there, where that is not known yet, and how everything stands now."""
        try:
            for _ in range(2):
                if self._incident.unidentified:
                    await self._identify()
                self._take(await self._look_at_incident())
                if not self._incident.unidentified:
                    break
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            self._trouble = ": ".join(cause(error))
            self._tell(self._stage, "")
            return
        self._trouble, self._answered_at = "", workflow.now()

    async def _identify(self) -> None:
        asked = tuple(self._incident.unidentified.values())
        if self._look is None:
            self._tell(AuditStage.IDENTIFYING, f"Finding out who ran on {', '.join(each.host.name for each in asked)}.")
        found = await workflow.execute_activity_method(
            AuditActivities.identify_victims,
            IdentifyVictims(
                vcenter=self._order.vcenter,
                cluster_moid=self._order.cluster_moid,
                subject=self._order.subject,
                hosts=asked,
            ),
            **policies.watchful(_LOOK_S),
            task_queue=policies.wait_queue(),
            summary=f"who ran on {len(asked)} hosts",
        )
        first = not self._incident.lost
        self._planned |= dict.fromkeys(found.planned)
        self._notes |= dict.fromkeys(found.notes)
        if self._incident.identified(asked, found):
            self._lost_at = self._heard_at = self._changed_at = workflow.now()
            self._settled_at = None
            self._snapshot_at = found.snapshot_at or self._snapshot_at
            if first:
                name = next(iter(self._incident.lost.values())).host.name
                workflow.upsert_search_attributes([search_attributes.GPU_HOST.value_set(search_attributes.cut(name))])

    async def _look_at_incident(self) -> IncidentLook:
        return await workflow.execute_activity_method(
            AuditActivities.look_at_incident,
            LookAtIncident(
                vcenter=self._order.vcenter,
                cluster_moid=self._order.cluster_moid,
                subject=self._order.subject,
                hosts=tuple(self._incident.lost.values()),
                victims=self._incident.victims,
                known=self._look.digest if self._look is not None else "",
                unregistered=self._remedies.unregistered,
            ),
            **policies.watchful(_LOOK_S),
            task_queue=policies.wait_queue(),
            summary=f"look at {self._incident.count} GPU VMs of {self._order.name}",
        )

    def _take(self, look: IncidentLook) -> None:
        before = self._look
        if look.same and before is not None:
            look = look.model_copy(update={"plan": before.plan})
        else:
            self._findings = unpacked(Findings, look.findings)
        self._look = look
        if before is None or (look.counts, look.hosts, look.plan_hash) != (
            before.counts,
            before.hosts,
            before.plan_hash,
        ):
            self._changed_at = workflow.now()
        self._incident.seen(look)
        # Hosts that this look alone found down are judged by the next one.
        known = not self._incident.unidentified
        if self._settled_at is None and known and is_settled(look, self._incident.lost.values()):
            self._settled_at = workflow.now()

    # -- acting ---------------------------------------------------------------------------------------------------

    async def _act(self, look: IncidentLook) -> None:
        self._close_question(look)
        if self._settled_at is not None:
            await self._remedy(look)
        if look.offers:
            for told in await self._offers.make(look.hosts):
                self._note_own(told)
            self._notes |= dict.fromkeys(self._offers.notes)
        self._tell(self._stage_now(), "")

    # -- waiting and ending ---------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Wait for news, at most until the next look is due."""
        now, limits = workflow.now(), self._limits
        if self._trouble:
            seconds = pause_s(limits, (now - self._answered_at).total_seconds(), settled=False)
        else:
            # What a remedy powered on is proven as soon as its guest is up.
            coming = self._working or (self._look is not None and self._look.count(Recovery.RESTARTING) > 0)
            settled = self._settled_at is not None and not coming
            seconds = pause_s(limits, (now - self._changed_at).total_seconds(), settled=settled)
        due = [now + timedelta(seconds=seconds)]
        if (asked := self._open_question) is not None:
            due.append(asked.deadline)
        ends = (
            self._heard_at + timedelta(seconds=limits.linger_s),
            self._lost_at + timedelta(seconds=limits.host_wait_s),
        )
        due += [at for at in ends if at > now]
        try:
            await workflow.wait_condition(
                lambda: self._news or self._answered or self._work_ended,
                timeout=max(min(due) - now, timedelta(milliseconds=100)),
                timeout_summary="until the next look",
            )
        except TimeoutError:
            return

    @property
    def _limits(self) -> AuditLimits:
        return self._look.limits if self._look is not None else AuditLimits()

    def _over(self, look: IncidentLook) -> bool:
        now = workflow.now()
        if self._news or self._incident.unidentified or self._settled_at is None:
            return False
        if self._working or self._open_question is not None:
            return False
        if look.count(Recovery.RESTARTING):
            # On its way up, however late somebody approved: a look says soon what came of it.
            return False
        if now < self._heard_at + timedelta(seconds=look.limits.linger_s):
            return False
        return not self._waited_for(look) or now >= self._lost_at + timedelta(seconds=look.limits.host_wait_s)

    def _waited_for(self, look: IncidentLook) -> bool:
        """A host is still away: VMs need it, or it is to be offered to `PrepareGpuHost` when it is back."""
        away = {each.host.name for each in look.hosts if each.standing in AWAY}
        return self._offers.waits_for(look.hosts) or any(
            each.was_on in away and each.recovery in OPEN for each in self._findings.verdicts
        )

    async def _give_up_when_late(self) -> None:
        """End the run when nothing could be seen for as long as a host would be waited for, or ever can be."""
        limits = self._limits
        longest = timedelta(seconds=max(limits.host_wait_s, limits.settle_s))
        kind, _, text = self._trouble.partition(": ")
        wrong = kind == "BadRequest" and self._look is None
        if not wrong and workflow.now() - self._answered_at < longest:
            return
        await self._stop("the audit ends without having seen the cluster")
        self._tell(AuditStage.FINISHED, "Nothing can be seen of the incident; audit it again when that is mended.")
        raise ApplicationError(f"{text}. {self._detail}", self.report(), type=kind, non_retryable=True)

    def _finish(self, look: IncidentLook) -> None:
        if not self._incident.lost:
            outcome = AuditOutcome.NOT_A_FAILURE
        elif not self._incident.count:
            outcome = AuditOutcome.NOBODY_THERE
        elif look.count(*OPEN):
            outcome = AuditOutcome.NOT_ALL_RECOVERED
        else:
            outcome = AuditOutcome.ALL_RECOVERED
        self._outcome, self._finished_at = outcome, workflow.now()
        self._tell(AuditStage.FINISHED, "")

    # -- telling --------------------------------------------------------------------------------------------------

    def _stage_now(self) -> AuditStage:
        if self._working:
            return AuditStage.RECOVERING
        if self._open_question is not None:
            return AuditStage.AWAITING_APPROVAL
        return AuditStage.SETTLING if self._settled_at is None else AuditStage.WATCHING

    def _timeline(self) -> tuple[TimelineEntry, ...]:
        """What happened and what this run did, by two clocks that differ a little."""
        own = [*self._own]
        own += [
            TimelineEntry(
                at=each.finished_at, what=f"{each.step.kind} of {each.step.target} {each.status}", vm=each.step.target
            )
            for each in self._remedies.records
            if each.finished_at is not None
        ]
        return tuple(sorted((*self._findings.timeline, *own), key=lambda each: each.at))

    def _report(self) -> HaRecoveryAuditReport:
        order, look = self._order, self._look
        return HaRecoveryAuditReport(
            vcenter=order.vcenter,
            subject=order.subject,
            name=order.name,
            requester=order.requester,
            reason=order.reason,
            stage=self._stage,
            outcome=self._outcome,
            detail=self._detail,
            hosts=look.hosts if look else (),
            planned=tuple(self._planned),
            counts=look.counts if look else {},
            verdicts=self._findings.verdicts[:MOST_TOLD],
            timeline=self._timeline()[-MOST_TOLD:],
            capacity_summary=look.capacity_summary if look else "",
            capacity=self._findings.capacity[:_WORST],
            plan=look.plan if look else None,
            steps=tuple(self._remedies.records),
            approvals=self._approvals(),
            offered=tuple(self._offers.made),
            snapshot_at=self._snapshot_at,
            notes=tuple(self._notes),
            events=self._incident.events,
            started_at=workflow.info().start_time,
            settled_at=self._settled_at,
            finished_at=self._finished_at,
        )

    def _tell(self, stage: AuditStage, detail: str) -> None:
        """Keep the stage, the search attribute and the current details in step."""
        if stage is not self._stage:
            workflow.upsert_search_attributes([search_attributes.GPU_STAGE.value_set(stage)])
        self._stage = stage
        if self._trouble:
            detail = f"{self._trouble}. Looking again by itself. {detail}"
        self._detail = detail.strip() or headline(self._report())
        workflow.set_current_details(tell_audit(self._report()))
