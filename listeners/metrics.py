"""Prometheus metrics of the listener, through the SDK's meter: they are served where `metrics.listen` says."""

import asyncio
from collections.abc import Mapping

from temporalio.common import MetricCounter, MetricMeter

from contracts.events import Cursor
from listeners.hand_over import Delivery

__all__ = ["EventMetrics", "ThrottleMetrics"]

_STALE_S, _STALE_AFTER_PAUSE_S = 60.0, 700.0
"""A reader is tried again each second, or after a pause of up to ten minutes (see `WatchVCenter`), here or elsewhere;
when it is elsewhere, nothing more is known here."""

_FORGOTTEN_S = 900.0
"""A throttle with something to do looks more often; when it does elsewhere, nothing more is known here."""

_TOTALS = {
    "events": ("gpuwright_events_read_total", "Events read from vCenter."),
    "matched": ("gpuwright_events_matched_total", "Events that at least one rule matched."),
    "on_purpose": ("gpuwright_events_on_purpose_total", "Events of what was done on purpose, which start no audit."),
    "quarantined": ("gpuwright_events_quarantined_total", "Events that could not be handed over."),
    "redriven": ("gpuwright_events_redriven_total", "Quarantined events that were handed over after all."),
    "rebuilt": ("gpuwright_collectors_rebuilt_total", "Event collectors built anew because they had stalled."),
    "gaps": ("gpuwright_event_gaps_total", "Gaps: events that can no longer be read."),
}
_DELIVERIES = {
    Delivery.STARTED: ("gpuwright_runs_started_total", "Workflow runs started by events."),
    Delivery.JOINED: ("gpuwright_groups_joined_total", "Groups of events handed to a live run."),
    Delivery.REPEATED: ("gpuwright_groups_repeated_total", "Groups of events that a run had been given before."),
    Delivery.THROTTLED: ("gpuwright_groups_throttled_total", "Groups of events given to the throttle of their rule."),
}


class EventMetrics:
    """The metrics of one vCenter's events in this process.

    Totals begin at zero with each process, and a page that is read again after a failure counts again.
    """

    def __init__(self, meter: MetricMeter, vcenter: str) -> None:
        meter = meter.with_additional_attributes({"vcenter": vcenter})
        self._totals = {name: meter.create_counter(*words) for name, words in _TOTALS.items()}
        self._deliveries: Mapping[Delivery, MetricCounter] = {
            kind: meter.create_counter(*words) for kind, words in _DELIVERIES.items()
        }
        self._seconds = meter.create_histogram_float(
            "gpuwright_hand_over_seconds", "From the end of matching until Temporal has a group of events durably."
        )
        self._lag = meter.create_gauge_float(
            "gpuwright_event_lag_seconds",
            "From the creation of the newest event handed over (vCenter's clock) to its hand-over (the worker's).",
        )
        self._cursor = meter.create_gauge("gpuwright_event_cursor_key", "Events up to this key are handed over.")
        self._unreachable = meter.create_gauge("gpuwright_vcenter_unreachable", "1 while events cannot be read.")
        self._waiting = meter.create_gauge_float(
            "gpuwright_waiting_for_temporal_seconds",
            "How long the hand-over under way has been waiting for Temporal; 0 while none does for a second.",
        )
        self._stale: asyncio.TimerHandle | None = None
        for counter in self._totals.values():
            # So that a rate sees the first one, too.
            counter.add(0)

    def count(self, cursor: Cursor | None = None, **counted: int) -> None:
        """Add to totals, by the names of `WatchCounters` and `gaps`; tell where the cursor is now."""
        for name, value in counted.items():
            if value and name in self._totals:
                self._totals[name].add(value)
        if cursor is not None:
            self._cursor.set(max(cursor.key, 0))

    def delivered(self, delivery: Delivery, rule: str, seconds: float) -> None:
        """A group of events that this rule matched first was handed over, which took so long."""
        if delivery in self._deliveries:
            self._deliveries[delivery].add(1, {"rule": rule})
        self._seconds.record(seconds)

    def lag(self, seconds: float) -> None:
        """An event was handed over so long after its creation; clocks may differ, and then it is 0."""
        self._lag.set(max(seconds, 0.0))

    def waiting(self, seconds: float) -> None:
        """The hand-over under way has been waiting for Temporal for so long; 0: none is."""
        self._waiting.set(seconds)

    def reachable(self) -> None:
        """vCenter answers."""
        self._unreachable.set(0)
        if self._stale is not None:
            self._stale.cancel()

    def unreachable(self, *, tried_again_soon: bool = True) -> None:
        """vCenter does not answer; taken back by itself when this process hears no more of it."""
        self.reachable()
        self._unreachable.set(1)
        stale_s = _STALE_S if tried_again_soon else _STALE_AFTER_PAUSE_S
        self._stale = asyncio.get_running_loop().call_later(stale_s, self._unreachable.set, 0)


class ThrottleMetrics:
    """The metrics of one rule's throttle, for the events of one vCenter, in this process."""

    def __init__(self, meter: MetricMeter, vcenter: str, rule: str) -> None:
        meter = meter.with_additional_attributes({"vcenter": vcenter, "rule": rule})
        self._deliveries = {kind: meter.create_counter(*words) for kind, words in _DELIVERIES.items()}
        self._suppressed = meter.create_counter(
            "gpuwright_rule_suppressed_total", "Events for which the rule started nothing: once_within."
        )
        self._waiting = meter.create_gauge("gpuwright_rule_waiting", "Targets that wait for the rule's throttles.")
        self._forget: asyncio.TimerHandle | None = None
        self._suppressed.add(0)

    def delivered(self, delivery: Delivery) -> None:
        """The events of a target went to a run."""
        self._deliveries[delivery].add(1)

    def suppressed(self, events: int) -> None:
        """So many events came too soon after a start."""
        self._suppressed.add(events)

    def waiting(self, targets: int) -> None:
        """So many targets wait now; taken back by itself when this process hears no more of it."""
        self._waiting.set(targets)
        if self._forget is not None:
            self._forget.cancel()
        self._forget = asyncio.get_running_loop().call_later(_FORGOTTEN_S, self._waiting.set, 0)
