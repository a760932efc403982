"""Prometheus metrics of events on their way to webhooks, through the SDK's meter."""

import asyncio

from temporalio.common import MetricMeter

from contracts.events import Cursor

__all__ = ["ForwardMetrics"]

_STALE_S = 60.0
"""The webhook is tried again at least each half a minute, here or elsewhere; when it is elsewhere, nothing more is
known here."""
_TOTALS = {
    "matched": ("gpuwright_events_forwarded_total", "Events that a webhook has taken."),
    "quarantined": ("gpuwright_events_refused_total", "Events that a webhook refused for good, or that are broken."),
    "gaps": ("gpuwright_forward_gaps_total", "Gaps: events that can no longer be read, and never get to the webhook."),
}


class ForwardMetrics:
    """The metrics of one vCenter's events for one webhook in this process. Totals begin at zero with each process."""

    def __init__(self, meter: MetricMeter, vcenter: str, webhook: str) -> None:
        meter = meter.with_additional_attributes({"vcenter": vcenter, "webhook": webhook})
        self._totals = {name: meter.create_counter(*words) for name, words in _TOTALS.items()}
        self._lag = meter.create_gauge_float(
            "gpuwright_forward_lag_seconds",
            "From the creation of the newest event sent until the webhook has it (two clocks).",
        )
        self._cursor = meter.create_gauge("gpuwright_forward_cursor_key", "The webhook has the events up to this key.")
        self._stuck = meter.create_gauge(
            "gpuwright_forward_stuck", "1 while events cannot be read, or the webhook does not take them."
        )
        self._stale: asyncio.TimerHandle | None = None
        for counter in self._totals.values():
            # So that a rate sees the first one, too.
            counter.add(0)

    def count(self, cursor: Cursor, **counted: int) -> None:
        """Add to totals, by the names of `WatchCounters` and `gaps`; tell where the cursor is now."""
        for name, value in counted.items():
            if value and name in self._totals:
                self._totals[name].add(value)
        self._cursor.set(max(cursor.key, 0))

    def lag(self, seconds: float) -> None:
        """The webhook has an event that was created so long ago; clocks may differ, and then it is 0."""
        self._lag.set(max(seconds, 0.0))

    def stuck(self, stuck: bool) -> None:
        """Whether something is in the way; taken back by itself when this process hears no more of it."""
        self._stuck.set(int(stuck))
        if self._stale is not None:
            self._stale.cancel()
            self._stale = None
        if stuck:
            self._stale = asyncio.get_running_loop().call_later(_STALE_S, self._stuck.set, 0)
