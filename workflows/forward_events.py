"""`ForwardEvents`: one a vCenter and webhook. It keeps how far the webhook has the events, and `forward_events` sends.

It has a cursor of its own: a webhook that is down for a day gets its events a day later, and holds nobody else up. As
with `WatchVCenter`, the cursor travels by the activity's result and heartbeats only, and signals are for people to see.
People are told of gaps, and of trouble that lasts.
"""

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeout
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.forward import ForwardActivities, ForwardInput, ForwardOrder, ForwardStatus
    from contracts.watch import FollowPosition, FollowResult, QuarantinedEvent, WatchProgress

from workflows import forward_notices, policies
from workflows.forward_story import tell
from workflows.telling import Teller
from workflows.watch_outage import OutageGuard

__all__ = ["ForwardEvents"]

_KEPT = 100
"""Gaps and quarantined events that are kept, the newest ones."""
_LONG_HISTORY = 2000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60, 600
"""After an error that trying again does not mend: wrong passwords tried each second would lock the account."""


@workflow.defn(name=names.FORWARD_EVENTS)
class ForwardEvents:
    """Forwards one vCenter's events to one webhook until it is stopped."""

    @workflow.init
    def __init__(self, order: ForwardInput) -> None:
        self._vcenter, self._webhook = order.vcenter, order.webhook
        self._cursor = order.cursor
        self._round = order.round
        self._counters = order.counters
        self._gaps = order.gaps
        self._quarantined = order.quarantined
        self._teller = Teller()
        self._guard = OutageGuard(
            forward_notices.of_outages(order.vcenter, order.webhook),
            order.outage,
            order.unreachable_after_s,
            self._teller.tell,
            self._show,
        )
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
        """How the reader fares. A reader that was overtaken is not believed: its successor sends the same events."""
        if (message.round, message.attempt) < self._heard:
            return
        self._heard = (message.round, message.attempt)
        self._progress = message
        self._guard.limit_s = message.unreachable_after_s
        self._fares(message.trouble)
        self._quarantine(message.quarantined)
        self._show()

    @workflow.signal(name=names.STOP)
    def stop(self) -> None:
        """End; started again, it begins at the newest event then."""
        self._stopping = True

    @workflow.signal(name=names.RESUME)
    def resume(self) -> None:
        """Somebody wants the events forwarded: that takes back a stop under way, and ends a pause."""
        self._stopping = False
        self._try_now = True

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """After an error was mended: try again now."""
        self._try_now = True

    @workflow.query(name=names.QUERY_STATUS)
    def status(self) -> ForwardStatus:
        """How far it is."""
        progress = self._progress
        current = progress if progress and progress.round > self._finished_round else None
        return ForwardStatus(
            vcenter=self._vcenter,
            webhook=self._webhook,
            cursor=(current and current.cursor) or self._cursor,
            counters=self._counters + current.counters if current else self._counters,
            gaps=self._gaps,
            quarantined=self._quarantined,
            round=self._round,
            worker=progress.worker if progress else "",
            lag_s=progress.lag_s if progress else None,
            longest_lag_s=progress.longest_lag_s if progress else None,
            events_per_minute=progress.events_per_minute if progress else None,
            trouble="; ".join(filter(None, (self._trouble, self._teller.trouble))),
            outage=self._guard.outage,
        )

    @workflow.run
    async def run(self, order: ForwardInput) -> ForwardStatus:
        """Forward until stopped; the result says how far the webhook has the events."""
        workflow.upsert_search_attributes(
            [search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter))]
        )
        self._show()
        while True:
            await self._forward_until_stopped()
            await self._leave()
            if self._stopping:
                self._guard.stop()
                await self._teller.started()
            if self._stopping:
                return self.status()

    async def _forward_until_stopped(self) -> None:
        self._guard.begin()
        while not self._stopping:
            await self._forward()
            self._show()
            if self._long() and not self._stopping:
                await self._leave()
                workflow.continue_as_new(
                    ForwardInput(
                        vcenter=self._vcenter,
                        webhook=self._webhook,
                        cursor=self._cursor,
                        round=self._round,
                        counters=self._counters,
                        gaps=self._gaps,
                        quarantined=self._quarantined,
                        outage=self._guard.outage,
                        unreachable_after_s=self._guard.limit_s,
                    )
                )

    async def _leave(self) -> None:
        """Before a run ends: what it told is on its way, and it tells no more."""
        self._guard.pause()
        await self._teller.started()

    async def _forward(self) -> None:
        """One call of `forward_events`, with what it brings back."""
        self._round += 1
        unheard_s = self._guard.limit_s
        forwarding = workflow.start_activity_method(
            ForwardActivities.forward_events,
            ForwardOrder(vcenter=self._vcenter, webhook=self._webhook, cursor=self._cursor, round=self._round),
            task_queue=names.TaskQueues(workflow.info().task_queue).forward(self._vcenter, self._webhook),
            # Its last position comes with the result even when it is cancelled.
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"round {self._round}: "
            + (f"events after {self._cursor.key}" if self._cursor else "find the newest event"),
            **policies.listen(unheard_s),
        )
        await workflow.wait_condition(lambda: forwarding.done() or self._stopping or self._long())
        if not forwarding.done():
            forwarding.cancel()
        try:
            self._advance(await forwarding)
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError):
                await self._pause(error.cause)
            elif isinstance(error.cause, ActivityTimeout):
                self._lost(error.cause, unheard_s)
            # Else cancelled before it could say how far it was: the next round begins where this one did.

    def _advance(self, result: FollowResult) -> None:
        self._cursor = result.cursor
        self._counters += result.counters
        self._finished_round = self._round
        self._gaps = (*self._gaps, *result.gaps)[-_KEPT:]
        self._pause_s = _FIRST_PAUSE_S
        self._guard.found_gaps(len(result.gaps))
        self._fares("")
        by = workflow.info().workflow_id
        for gap in result.gaps:
            workflow.logger.warning("%s never gets events of %s: %s", self._webhook, self._vcenter, gap.reason)
            self._teller.tell(forward_notices.of_gap(self._vcenter, self._webhook, gap, workflow.now(), by))

    def _lost(self, timeout: ActivityTimeout, unheard_s: float) -> None:
        """The reader is gone; what is left is its last heartbeat."""
        if timeout.last_heartbeat_details:
            position = FollowPosition.model_validate(timeout.last_heartbeat_details[0])
            self._cursor = position.cursor
            self._counters += position.counters
            self._finished_round = self._round
        if timeout.type is TimeoutType.SCHEDULE_TO_START:
            self._fares(
                f"no worker has taken it up for {unheard_s:g} s; is `gpuwright serve` running, with this webhook?",
                since=workflow.now() - timedelta(seconds=unheard_s),
            )

    def _fares(self, trouble: str, since: datetime | None = None) -> None:
        """How the reader fares; empty trouble is none."""
        self._trouble = trouble
        self._guard.fares(trouble, self.status().cursor, since)

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
        known = {event.identity for event in self._quarantined}
        fresh = [event for name, event in {event.identity: event for event in events}.items() if name not in known]
        if fresh:
            workflow.logger.warning(
                "%d events of %s do not get to %s, the first is %s: %s",
                len(fresh),
                self._vcenter,
                self._webhook,
                fresh[0].key,
                fresh[0].reason,
            )
        self._quarantined = (*self._quarantined, *fresh)[-_KEPT:]

    def _long(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.get_current_history_length() > _LONG_HISTORY

    def _show(self) -> None:
        workflow.set_current_details(tell(self.status()))
