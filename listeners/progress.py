"""What a watch is told while its activity runs: signals, few and far between, because each one grows its history."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from contracts import ids, names
from contracts.watch import UNREACHABLE_AFTER_S, FollowPosition, QuarantinedEvent, WatchProgress
from listeners.patience import CALL_TIMEOUT, until_answered

__all__ = ["Reporter"]

_log = structlog.get_logger(__name__)

_EVERY_S = 30
_TURN_S = 5
"""Trouble that begins or ends, waits for Temporal that do, and hand-overs are told sooner."""
_REPEAT_S = 120
"""Trouble that another reader may have said something else about meanwhile is told again, not more often than this."""
_LONG_WAIT_S = 5.0
"""A shorter wait for Temporal is nothing to tell."""
_QUARANTINED_A_SIGNAL = 100


class Reporter:
    """Tells one watch how its reader fares. It outlives calls of the activity, so that quick retries flood nothing."""

    def __init__(
        self, vcenter: str, unreachable_after_s: float = UNREACHABLE_AFTER_S, workflow_id: str | None = None
    ) -> None:
        """`unreachable_after_s`: how long trouble may last before the watch tells people. `workflow_id`: whom to tell
        instead of the vCenter's watch.
        """
        self._vcenter = vcenter
        self._workflow_id = workflow_id or ids.watch(vcenter)
        self._unreachable_after_s = unreachable_after_s
        self._round = self._attempt = 0
        self._unsure = False
        """The watch may have heard something else since: from another reader, or because a message was lost."""
        self._told: WatchProgress | None = None
        self._told_at = float("-inf")
        self._lag_s: float | None = None
        self._longest_lag_s: float | None = None
        self._waiting_s = 0.0
        self._narrowed = ""
        self._rate_since, self._rate_events = time.monotonic(), 0

    def begin(self, client: Client, round_: int, attempt: int, position: FollowPosition | None) -> None:
        """A new call of the activity."""
        if (round_, attempt) != (self._round, self._attempt + 1):
            self._unsure = True
        self._client, self._round, self._attempt = client, round_, attempt
        self._lag_s = self._longest_lag_s = None
        self._waiting_s = 0.0
        self._rate_since, self._rate_events = time.monotonic(), position.counters.events if position else 0

    def handed_over(self, created: datetime) -> float:
        """An event of this creation time (vCenter's clock) has just been handed over; how old it is, in seconds."""
        self._lag_s = round((datetime.now(UTC) - created).total_seconds(), 3)
        self._longest_lag_s = max(self._lag_s, self._longest_lag_s or self._lag_s)
        return self._lag_s

    def narrowed(self, text: str) -> None:
        """What vCenter is asked for, in words."""
        self._narrowed = text

    def waits(self, seconds: float) -> None:
        """The hand-over under way has been waiting for Temporal for so long; 0: none is."""
        self._waiting_s = round(seconds, 1) if seconds >= _LONG_WAIT_S else 0.0

    async def progress(self, position: FollowPosition | None, trouble: str = "") -> None:
        """Tell where the reader is and what is in its way: when it is new and the last word is old enough.

        A watch that cannot be told is no reason to stop reading, so a failure is only logged.
        """
        message, told, now = self._message(position, trouble), self._told, time.monotonic()
        again = told is not None and _told_already(message, told)
        if again and not self._unsure:
            return
        turned = told is not None and (
            bool(told.trouble) != bool(trouble)
            or bool(told.waiting_s) != bool(message.waiting_s)
            or told.counters.matched != message.counters.matched
        )
        if now - self._told_at < (_TURN_S if turned else _REPEAT_S if again and trouble else _EVERY_S):
            return
        minutes = (now - self._rate_since) / 60
        if position is not None and minutes > 0:
            rate = round((position.counters.events - self._rate_events) / minutes, 1)
            message = message.model_copy(update={"events_per_minute": rate})
            self._rate_since, self._rate_events = now, position.counters.events
        self._told, self._told_at, self._unsure = message, now, False
        try:
            await self._signal(message)
        except RPCError as error:
            self._unsure = True
            _log.warning("watch_not_told", vcenter=self._vcenter, error=str(error))

    async def quarantine(
        self, events: Sequence[QuarantinedEvent], position: FollowPosition, still_here: Callable[[], None]
    ) -> None:
        """Give events to the watch's quarantine; returns when Temporal has them durably."""
        for event in events:
            _log.warning("event_quarantined", vcenter=self._vcenter, key=event.key, reason=event.reason)
        for start in range(0, len(events), _QUARANTINED_A_SIGNAL):
            some = tuple(events[start : start + _QUARANTINED_A_SIGNAL])
            message = self._message(position, "").model_copy(update={"quarantined": some})
            await until_answered(lambda message=message: self._signal(message), still_here)  # type: ignore[misc]

    def _message(self, position: FollowPosition | None, trouble: str) -> WatchProgress:
        report = WatchProgress(
            round=self._round,
            attempt=self._attempt,
            worker=self._client.identity,
            lag_s=self._lag_s,
            longest_lag_s=self._longest_lag_s,
            waiting_s=self._waiting_s,
            narrowed=self._narrowed,
            trouble=trouble[:1000],
            unreachable_after_s=self._unreachable_after_s,
        )
        if position is None:
            return report
        return report.model_copy(update={"cursor": position.cursor, "counters": position.counters})

    async def _signal(self, message: WatchProgress) -> None:
        watch = self._client.get_workflow_handle(self._workflow_id)
        await watch.signal(names.WATCH_PROGRESS, message, rpc_timeout=CALL_TIMEOUT)


def _told_already(message: WatchProgress, told: WatchProgress) -> bool:
    """Nothing new for a person: a retry that meets the same trouble, or a reader with nothing to read."""
    if message.trouble:
        return message.trouble == told.trouble
    same = {"attempt": told.attempt, "events_per_minute": told.events_per_minute, "quarantined": told.quarantined}
    return message.model_copy(update=same) == told
