"""`WatchVCenter`: one a vCenter. It keeps how far events were handed over and lets `follow_events` do the reading.

After a gap it has the whole fleet looked at, beside following: what the missed events told is found by looking.
Beside following, too, it has quarantined events handed over after all when somebody asks for that (`redrive`).

Temporal gives the activity to another worker when its own dies or freezes: high availability without a leader
election. The cursor travels by the activity's result and heartbeats only; signals are for people to see.
"""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType, is_cancelled_exception
from temporalio.exceptions import TimeoutError as ActivityTimeout
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.activities import FleetActivities
    from contracts.errors import BadRequest, to_application_error
    from contracts.listen_activities import ListenActivities, QuarantineActivities
    from contracts.reconcile import LookAfterGap
    from contracts.throttles import RuleTold
    from contracts.watch import (
        FollowOrder,
        FollowPosition,
        FollowResult,
        QuarantinedEvent,
        Redrive,
        Redriven,
        RedriveOrder,
        RedriveResult,
        WatchInput,
        WatchProgress,
        WatchStatus,
    )

from workflows import policies, watch_notices
from workflows.telling import Teller
from workflows.watch_outage import OutageGuard
from workflows.watch_story import one_line, tell

__all__ = ["WatchVCenter"]

_KEPT = 100
"""Gaps and quarantined events that are kept, the newest ones."""
_LONG_HISTORY = 2000
_REDRIVE_S = 300
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60, 600
"""After an error that trying again does not mend. Wrong passwords tried each second would lock the account."""


@workflow.defn(name=names.WATCH_VCENTER)
class WatchVCenter:
    """Follows one vCenter's events until it is stopped."""

    @workflow.init
    def __init__(self, order: WatchInput) -> None:
        self._vcenter = order.vcenter
        self._cursor = order.cursor
        self._round = order.round
        self._counters = order.counters
        self._gaps = order.gaps
        self._quarantined = order.quarantined
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
        self._teller = Teller()
        self._guard = OutageGuard(
            watch_notices.of_outages(order.vcenter),
            order.outage,
            order.unreachable_after_s,
            self._teller.tell,
            self._show,
        )
        self._leaving = False
        self._progress: WatchProgress | None = None
        self._heard = (order.round, 0)
        self._finished_round = order.round
        """Rounds up to this one are in the counters already."""
        self._trouble = ""
        self._pause_s = _FIRST_PAUSE_S
        self._stopping = False
        self._try_now = False

    @workflow.signal(name=names.WATCH_PROGRESS)
    def watch_progress(self, message: WatchProgress) -> None:
        """How the reader fares. A reader that was overtaken is not believed: its successor reads the same events."""
        if (message.round, message.attempt) < self._heard:
            return
        self._heard = (message.round, message.attempt)
        self._progress = message
        self._guard.limit_s = message.unreachable_after_s
        self._fares(message.trouble)
        self._quarantine(message.quarantined)
        self._show()

    @workflow.signal(name=names.RULE_THROTTLED)
    def rule_throttled(self, told: RuleTold) -> None:
        """How the throttle of a rule fares. One of a rule that has no throttles any more is forgotten at its end."""
        self._throttles[told.rule] = told
        if told.ended and not told.terms:
            del self._throttles[told.rule]
        self._show()

    @workflow.signal(name=names.STOP)
    def stop(self) -> None:
        """End the watch; started again, it begins at the newest event then."""
        self._stopping = True

    @workflow.signal(name=names.RESUME)
    def resume(self) -> None:
        """Somebody wants the events followed, which takes back a stop that has not ended the watch yet.

        Whoever starts the watch sends it along: a start that met a watch about to end would come to nothing. What was
        wrong may be mended by then, so a watch that waits after an error tries again now.
        """
        self._stopping = False
        self._try_now = True

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """After an error was mended: try again now."""
        self._try_now = True

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
        progress = self._progress
        current = progress if progress and progress.round > self._finished_round else None
        return WatchStatus(
            vcenter=self._vcenter,
            cursor=(current and current.cursor) or self._cursor,
            counters=self._counters + current.counters if current else self._counters,
            gaps=self._gaps,
            quarantined=self._quarantined,
            round=self._round,
            worker=progress.worker if progress else "",
            lag_s=progress.lag_s if progress else None,
            longest_lag_s=progress.longest_lag_s if progress else None,
            events_per_minute=progress.events_per_minute if progress else None,
            waiting_s=progress.waiting_s if progress else 0.0,
            narrowed=progress.narrowed if progress else "",
            trouble="; ".join(filter(None, (self._trouble, self._look_trouble, self._teller.trouble))),
            unseen=self._unseen,
            looked=self._looked,
            redriving=self._redriving,
            throttles=tuple(self._throttles.values()),
            outage=self._guard.outage,
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
            await self._follow()
            self._show()
            if self._long() and not self._stopping:
                await self._leave()
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(
                    WatchInput(
                        vcenter=self._vcenter,
                        cursor=self._cursor,
                        round=self._round,
                        counters=self._counters,
                        gaps=self._gaps,
                        quarantined=self._quarantined,
                        unseen=self._unseen,
                        redriving=self._redriving,
                        throttles=tuple(self._throttles.values()),
                        outage=self._guard.outage,
                        unreachable_after_s=self._guard.limit_s,
                    )
                )

    async def _follow(self) -> None:
        """One call of `follow_events`, with what it brings back."""
        self._round += 1
        unheard_s = self._guard.limit_s
        following = workflow.start_activity_method(
            ListenActivities.follow_events,
            FollowOrder(vcenter=self._vcenter, cursor=self._cursor, round=self._round),
            task_queue=names.TaskQueues(workflow.info().task_queue).listen(self._vcenter),
            # Its last position comes with the result even when it is cancelled.
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"round {self._round}: "
            + (f"events after {self._cursor.key}" if self._cursor else "find the newest event"),
            **policies.listen(unheard_s),
        )
        await workflow.wait_condition(lambda: following.done() or self._stopping or self._long())
        if not following.done():
            following.cancel()
        try:
            self._advance(await following)
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError):
                await self._pause(error.cause)
            elif isinstance(error.cause, ActivityTimeout):
                self._lost(error.cause, unheard_s)
            # Else cancelled before it could say how far it was: the next round begins where this one did, and what is
            # read twice is recognised.

    def _advance(self, result: FollowResult) -> None:
        self._cursor = result.cursor
        self._counters += result.counters
        self._finished_round = self._round
        self._gaps = (*self._gaps, *result.gaps)[-_KEPT:]
        self._unseen = (*self._unseen, *result.gaps)[-_KEPT:]
        self._pause_s = _FIRST_PAUSE_S
        self._guard.found_gaps(len(result.gaps))
        self._fares("")
        for gap in result.gaps:
            workflow.logger.warning("events of %s are missing: %s", self._vcenter, gap.reason)
            self._teller.tell(watch_notices.of_gap(self._vcenter, gap, workflow.now(), workflow.info().workflow_id))

    def _lost(self, timeout: ActivityTimeout, unheard_s: float) -> None:
        """The reader is gone; what is left is its last heartbeat."""
        if timeout.last_heartbeat_details:
            position = FollowPosition.model_validate(timeout.last_heartbeat_details[0])
            self._cursor = position.cursor
            self._counters += position.counters
            self._finished_round = self._round
        if timeout.type is TimeoutType.SCHEDULE_TO_START:
            self._fares(
                f"no worker has taken it up for {unheard_s:g} s; is `gpuwright serve` running, with this vCenter?",
                since=workflow.now() - timedelta(seconds=unheard_s),
            )

    def _fares(self, trouble: str, since: datetime | None = None) -> None:
        """How the reader fares; empty trouble is none."""
        self._trouble = trouble
        self._guard.fares(trouble, self.status().cursor, since)

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

    async def _pause(self, cause: ApplicationError) -> None:
        """Wait before trying again what a person has to mend."""
        self._fares(f"{cause.type}: {cause.message} (tried again in {self._pause_s} s, or at once by `recheck`)")
        self._show()
        self._try_now = False
        try:
            await workflow.wait_condition(
                lambda: self._stopping or self._try_now,
                timeout=timedelta(seconds=self._pause_s),
                timeout_summary="pause after an error",
            )
        except TimeoutError:
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def _quarantine(self, events: tuple[QuarantinedEvent, ...]) -> None:
        # A page can bring thousands: each is looked up once, and one line tells of all, for a workflow may not dawdle.
        known = {event.identity for event in self._quarantined}
        fresh = [event for name, event in {event.identity: event for event in events}.items() if name not in known]
        if fresh:
            workflow.logger.warning(
                "%d events of %s are quarantined, the first is %s: %s",
                len(fresh),
                self._vcenter,
                fresh[0].key,
                fresh[0].reason,
            )
        self._quarantined = (*self._quarantined, *fresh)[-_KEPT:]

    def _long(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.get_current_history_length() > _LONG_HISTORY

    def _show(self) -> None:
        workflow.set_current_details(tell(self.status()))


def _goes_on(event: QuarantinedEvent) -> Redriven:
    text = "not yet: the watch begins a new run, which goes on with it"
    return Redriven(key=event.key, type_name=event.type_name, settled=False, text=text)


def _words(error: ActivityError) -> str:
    """Why an activity failed."""
    cause = error.cause
    return f"{cause.type}: {cause.message}" if isinstance(cause, ApplicationError) else str(cause or error)
