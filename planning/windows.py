"""When a time of the week begins next, and when it is over. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from contracts.windows import Day, Window

__all__ = ["covered_until", "next_opening"]


def next_opening(windows: Iterable[Window], now: datetime) -> datetime | None:
    """When disruption is allowed next, UTC; None when it is allowed at `now`: no windows at all, or one is open."""
    windows = tuple(windows)
    if not windows:
        return None
    spans = [span for window in windows for span in _spans(window, now)]
    if any(begin <= now < end for begin, end in spans):
        return None
    return min(begin for begin, _ in spans if begin > now)


def covered_until(windows: Iterable[Window], now: datetime) -> datetime | None:
    """When the windows around `now`, and those that follow without a pause, are over, UTC; None when there is none.

    Windows without any pause are over in a week or later: see them as being without end.
    """
    spans = sorted(span for window in windows for span in _spans(window, now))
    end = now
    for begin, over in spans:
        if begin <= end < over:
            end = over
    return end if end > now else None


def _spans(window: Window, now: datetime) -> list[tuple[datetime, datetime]]:
    """The window's occurrences from the day before `now` to a week and a day after."""
    zone = ZoneInfo(window.timezone)
    today = now.astimezone(zone).date()
    spans = []
    for offset in range(-1, 9):
        day = today + timedelta(days=offset)
        if list(Day)[day.weekday()] not in window.days:
            continue
        begin = datetime.combine(day, window.begin, zone)
        last = day if window.end > window.begin else day + timedelta(days=1)
        spans.append((begin.astimezone(UTC), datetime.combine(last, window.end, zone).astimezone(UTC)))
    return spans
