"""Having events followed, round after round: what a watch and a forward share.

Each round is one call of a long-lived, heartbeating activity. Temporal gives it to another worker when its own dies or
freezes: high availability without a leader election. The cursor travels by the activity's result and heartbeats only;
signals are for people to see. People are told of gaps, and of trouble that lasts.
"""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeout

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.notices import Notice
    from contracts.watch import Followed, FollowPosition, FollowResult, Gap, QuarantinedEvent, WatchProgress

from workflows.telling import Teller
from workflows.watch_outage import OutageGuard, OutageNotices

__all__ = ["KEPT", "Rounds"]

KEPT = 100
"""Gaps and quarantined events that are kept, the newest ones."""
_LONG_HISTORY = 2000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60, 600
"""After an error that trying again does not mend. Wrong passwords tried each second would lock the account."""


class Rounds(ABC):
    """Keeps how far events are taken care of; a workflow that is one says by which activity."""

    def __init__(self, order: Followed, outages: OutageNotices) -> None:
        self._vcenter = order.vcenter
        self._cursor = order.cursor
        self._round = order.round
        self._counters = order.counters
        self._gaps = order.gaps
        self._quarantined = order.quarantined
        self._teller = Teller()
        self._guard = OutageGuard(outages, order.outage, order.unreachable_after_s, self._teller.tell, self._show)
        self._progress: WatchProgress | None = None
        self._heard = (order.round, 0)
        self._finished_round = order.round
        """Rounds up to this one are in the counters already."""
        self._trouble = ""
        self._pause_s = _FIRST_PAUSE_S
        self._stopping = False
        self._try_now = False

    @abstractmethod
    def _start_round(self, unheard_s: float, what: str) -> workflow.ActivityHandle[FollowResult]:
        """Call the activity; without a worker that takes it up it is given up after `unheard_s`."""

    @abstractmethod
    def _gap_notice(self, gap: Gap, now: datetime, by: str) -> Notice:
        """What people are told of a gap."""

    @abstractmethod
    def _show(self) -> None:
        """Show how it is in the Temporal UI."""

    @property
    @abstractmethod
    def _unfit(self) -> str:
        """What is wrong with quarantined events, and of whom, in words."""

    @property
    @abstractmethod
    def _needs(self) -> str:
        """What a worker has to have to take a round up, in words."""

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

    @workflow.signal(name=names.STOP)
    def stop(self) -> None:
        """End; started again, it begins at the newest event then."""
        self._stopping = True

    @workflow.signal(name=names.RESUME)
    def resume(self) -> None:
        """Somebody wants the events followed, which takes back a stop that has not ended the run yet.

        Whoever starts the run sends it along: a start that met a run about to end would come to nothing. What was
        wrong may be mended by then, so a run that waits after an error tries again now.
        """
        self._stopping = False
        self._try_now = True

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """After an error was mended: try again now."""
        self._try_now = True

    def _told(self) -> dict[str, Any]:
        """The fields of `FollowedStatus`."""
        progress = self._progress
        current = progress if progress and progress.round > self._finished_round else None
        return {
            "vcenter": self._vcenter,
            "cursor": (current and current.cursor) or self._cursor,
            "counters": self._counters + current.counters if current else self._counters,
            "gaps": self._gaps,
            "quarantined": self._quarantined,
            "round": self._round,
            "worker": progress.worker if progress else "",
            "lag_s": progress.lag_s if progress else None,
            "longest_lag_s": progress.longest_lag_s if progress else None,
            "events_per_minute": progress.events_per_minute if progress else None,
            "trouble": "; ".join(filter(None, (self._trouble, self._teller.trouble))),
            "outage": self._guard.outage,
        }

    def _carried(self) -> dict[str, Any]:
        """The fields of `Followed`."""
        return {
            "vcenter": self._vcenter,
            "cursor": self._cursor,
            "round": self._round,
            "counters": self._counters,
            "gaps": self._gaps,
            "quarantined": self._quarantined,
            "outage": self._guard.outage,
            "unreachable_after_s": self._guard.limit_s,
        }

    async def _one_round(self) -> None:
        """One call of the activity, with what it brings back."""
        self._round += 1
        unheard_s = self._guard.limit_s
        what = f"events after {self._cursor.key}" if self._cursor else "find the newest event"
        following = self._start_round(unheard_s, f"round {self._round}: {what}")
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
        self._gaps = (*self._gaps, *result.gaps)[-KEPT:]
        self._pause_s = _FIRST_PAUSE_S
        self._guard.found_gaps(len(result.gaps))
        self._fares("")
        for gap in result.gaps:
            workflow.logger.warning("events of %s are missing: %s", self._vcenter, gap.reason)
            self._teller.tell(self._gap_notice(gap, workflow.now(), workflow.info().workflow_id))

    def _lost(self, timeout: ActivityTimeout, unheard_s: float) -> None:
        """The reader is gone; what is left is its last heartbeat."""
        if timeout.last_heartbeat_details:
            position = FollowPosition.model_validate(timeout.last_heartbeat_details[0])
            self._cursor = position.cursor
            self._counters += position.counters
            self._finished_round = self._round
        if timeout.type is TimeoutType.SCHEDULE_TO_START:
            self._fares(
                f"no worker has taken it up for {unheard_s:g} s; is `gpuwright serve` running, with {self._needs}?",
                since=workflow.now() - timedelta(seconds=unheard_s),
            )

    def _fares(self, trouble: str, since: datetime | None = None) -> None:
        """How the reader fares; empty trouble is none."""
        self._trouble = trouble
        self._guard.fares(trouble, self._told()["cursor"], since)

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
            first = fresh[0]
            workflow.logger.warning(
                "%d events of %s %s, the first is %s: %s",
                len(fresh),
                self._vcenter,
                self._unfit,
                first.key,
                first.reason,
            )
        self._quarantined = (*self._quarantined, *fresh)[-KEPT:]

    def _long(self) -> bool:
        info = workflow.info()
        return info.is_continue_as_new_suggested() or info.get_current_history_length() > _LONG_HISTORY
