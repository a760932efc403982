"""When disruption is allowed: weekly windows, as people write them in the service's configuration."""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from contracts.profiles import Strict

__all__ = ["Day", "Window", "next_opening"]


class Day(StrEnum):
    """Days of the week, in the order of `datetime.weekday`."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class Window(Strict):
    """A time of the week; one whose end is not after its begin goes on past midnight."""

    days: tuple[Day, ...] = tuple(Day)
    """The days on which it begins."""
    begin: time = Field(alias="from")
    end: time = Field(alias="to")
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is no time zone; write it like 'Europe/Berlin'") from error
        return value

    @model_validator(mode="after")
    def _opens(self) -> Self:
        if not self.days:
            raise ValueError("'days' is empty, so the window never opens")
        return self


def next_opening(windows: Iterable[Window], now: datetime) -> datetime | None:
    """When disruption is allowed next, UTC; None when it is allowed at `now`: no windows at all, or one is open."""
    windows = tuple(windows)
    if not windows:
        return None
    spans = [span for window in windows for span in _spans(window, now)]
    if any(begin <= now < end for begin, end in spans):
        return None
    return min(begin for begin, _ in spans if begin > now)


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
