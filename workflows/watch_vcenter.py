"""`WatchVCenter`: one a vCenter. It keeps how far events were handed over and lets `follow_events` do the reading.

After a gap it has the whole fleet looked at, beside following: what the missed events told is found by looking.
Beside following, too, it has quarantined events handed over after all when somebody asks for that (`redrive`).
"""

import asyncio
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.activities import FleetActivities
    from contracts.errors import BadRequest, to_application_error
    from contracts.listen_activities import ListenActivities, QuarantineActivities
    from contracts.notices import Notice
    from contracts.reconcile import LookAfterGap
    from contracts.throttles import RuleTold
    from contracts.watch import (
        FollowOrder,
        FollowResult,
        Gap,
        QuarantinedEvent,
        Redrive,
        Redriven,
        RedriveOrder,
        RedriveResult,
        WatchInput,
        WatchStatus,
    )

from workflows import policies, watch_notices
from workflows.rounds import KEPT, Rounds
from workflows.rounds_story import one_line
from workflows.watch_story import tell

__all__ = ["WatchVCenter"]

_REDRIVE_S = 300


@workflow.defn(name=names.WATCH_VCENTER)
class WatchVCenter(Rounds):
    """Follows one vCenter's events until it is stopped."""

    @workflow.init
    def __init__(self, order: WatchInput) -> None:
        self._unseen = order.unseen
        """Gaps after which the fleet was not looked at yet."""
        self._look: asyncio.Task[None] | None = None
        self._looked = ""
        self._look_trouble = ""
        self._redriving = order.redriving
        """Quarantined events that are to be handed over after all, or are just now."""
        self._redriven: dict[tuple[str, int, str, str], Redriven] = {}
        """What became of those of this run, by identity."""
        self._redrive: asyncio.Task[None] | None = None
        self._throttles = {told.rule: told for told in order.throttles}
        self._leaving = False
        super().__init__(order, watch_notices.of_outages(order.vcenter))

    @workflow.signal(name=names.RULE_THROTTLED)
    def rule_throttled(self, told: RuleTold) -> None:
        """How the throttle of a rule fares. One of a rule that has no throttles any more is forgotten at its end."""
        self._throttles[told.rule] = told
        if told.ended and not told.terms:
            del self._throttles[told.rule]
        self._show()

    @workflow.update(name=names.REDRIVE)
    async def redrive(self, order: Redrive) -> RedriveResult:
        """Hand quarantined events over after all, and tell what became of each; what fails again is kept."""
        asked = [event for event in self._quarantined if not order.keys or event.key in order.keys]
        for event in asked:
            self._redriven.pop(event.identity, None)
        self._redriving += tuple(event for event in asked if event not in self._redriving)
        self._begin_redrive()
        self._show()
        await workflow.wait_condition(lambda: self._leaving or all(event.identity in self._redriven for event in asked))
        return RedriveResult(events=tuple(self._redriven.get(event.identity) or _goes_on(event) for event in asked))

    @redrive.validator
    def _may_redrive(self, order: Redrive) -> None:
        known = {event.key for event in self._quarantined}
        if unknown := [str(key) for key in order.keys if key not in known]:
            what = f"it has: {', '.join(map(str, sorted(known)))}" if known else "nothing is quarantined"
            raise to_application_error(
                BadRequest(f"the watch of {self._vcenter} keeps no quarantined event {', '.join(unknown)}; {what}")
            )

    @workflow.query(name=names.QUERY_STATUS)
    def status(self) -> WatchStatus:
        """How far the watch is."""
        told, progress = self._told(), self._progress
        told["trouble"] = "; ".join(filter(None, (told["trouble"], self._look_trouble)))
        return WatchStatus(
            **told,
            waiting_s=progress.waiting_s if progress else 0.0,
            narrowed=progress.narrowed if progress else "",
            unseen=self._unseen,
            looked=self._looked,
            redriving=self._redriving,
            throttles=tuple(self._throttles.values()),
        )

    @workflow.run
    async def run(self, order: WatchInput) -> WatchStatus:
        """Follow until stopped; the result says how far the events were handed over."""
        workflow.upsert_search_attributes(
            [search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter))]
        )
        self._show()
        while True:
            await self._follow_until_stopped()
            await self._leave()
            await workflow.wait_condition(workflow.all_handlers_finished)
            if self._stopping:
                self._guard.stop()
                await self._teller.started()
            if self._stopping:
                return self.status()
            self._leaving = False

    async def _follow_until_stopped(self) -> None:
        self._guard.begin()
        self._begin_redrive()
        while not self._stopping:
            if self._unseen and (self._look is None or self._look.done()):
                self._look = asyncio.create_task(self._look_after_gaps())
            await self._one_round()
            self._show()
            if self._long() and not self._stopping:
                await self._leave()
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(
                    WatchInput(
                        **self._carried(),
                        unseen=self._unseen,
                        redriving=self._redriving,
                        throttles=tuple(self._throttles.values()),
                    )
                )

    def _start_round(self, unheard_s: float, what: str) -> workflow.ActivityHandle[FollowResult]:
        return workflow.start_activity_method(
            ListenActivities.follow_events,
            FollowOrder(vcenter=self._vcenter, cursor=self._cursor, round=self._round),
            task_queue=names.TaskQueues(workflow.info().task_queue).listen(self._vcenter),
            # Its last position comes with the result even when it is cancelled.
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=what,
            **policies.listen(unheard_s),
        )

    def _advance(self, result: FollowResult) -> None:
        self._unseen = (*self._unseen, *result.gaps)[-KEPT:]
        super()._advance(result)

    def _gap_notice(self, gap: Gap, now: datetime, by: str) -> Notice:
        return watch_notices.of_gap(self._vcenter, gap, now, by)

    @property
    def _unfit(self) -> str:
        return "are quarantined"

    @property
    def _needs(self) -> str:
        return "this vCenter"

    async def _look_after_gaps(self) -> None:
        """Have the fleet looked at until no gap is left. A failure is told, and the next round tries again."""
        while gaps := self._unseen:
            try:
                self._looked = await workflow.execute_activity_method(
                    FleetActivities.look_after_gap,
                    LookAfterGap(vcenter=self._vcenter, reason=one_line("; ".join(gap.reason for gap in gaps))),
                    task_queue=policies.wait_queue(),
                    summary=f"look at the fleet: {len(gaps)} gaps in the events",
                    **policies.look(),
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    return
                self._look_trouble = (
                    f"the fleet was not looked at after a gap: {_words(error)} (tried again with the next round)"
                )
                self._show()
                return
            self._unseen = tuple(gap for gap in self._unseen if gap not in gaps)
            self._look_trouble = ""
            self._show()

    def _begin_redrive(self) -> None:
        if self._redriving and (self._redrive is None or self._redrive.done()):
            self._redrive = asyncio.create_task(self._redrive_events())

    async def _redrive_events(self) -> None:
        """Have events handed over until none is left that was asked for."""
        while (events := self._redriving) and self._cursor:
            try:
                result = await workflow.execute_activity_method(
                    QuarantineActivities.redrive_events,
                    RedriveOrder(vcenter=self._vcenter, epoch=self._cursor.epoch, events=events),
                    task_queue=policies.wait_queue(),
                    summary=f"hand over {len(events)} quarantined events",
                    **policies.watchful(_REDRIVE_S),
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    return
                text = f"not tried: {_words(error)}"
                became = [Redriven(key=e.key, type_name=e.type_name, settled=False, text=text) for e in events]
                reasons = {}
            else:
                became = list(result.events)
                reasons = {e.identity: r.text for e, r in zip(events, became, strict=True)}
            settled = {e.identity for e, r in zip(events, became, strict=True) if r.settled}
            self._redriven |= {e.identity: r for e, r in zip(events, became, strict=True)}
            self._redriving = tuple(event for event in self._redriving if event not in events)
            self._quarantined = tuple(
                event.model_copy(update={"reason": reasons.get(event.identity, event.reason)})
                for event in self._quarantined
                if event.identity not in settled
            )
            self._counters = self._counters.plus(redriven=len(settled))
            self._show()

    async def _leave(self) -> None:
        """End before the look and the redrive do: the next run does what this one leaves."""
        self._leaving = True
        self._guard.pause()
        for task in (self._look, self._redrive):
            if task is not None and not task.done():
                task.cancel()
                await workflow.wait_condition(task.done)
        await self._teller.started()

    def _show(self) -> None:
        workflow.set_current_details(tell(self.status()))


def _goes_on(event: QuarantinedEvent) -> Redriven:
    text = "not yet: the watch begins a new run, which goes on with it"
    return Redriven(key=event.key, type_name=event.type_name, settled=False, text=text)


def _words(error: ActivityError) -> str:
    """Why an activity failed."""
    cause = error.cause
    return f"{cause.type}: {cause.message}" if isinstance(cause, ApplicationError) else str(cause or error)
