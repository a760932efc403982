"""Times of the week, as people write them: when disruption is allowed, when a rule keeps quiet."""

from datetime import time
from enum import StrEnum
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from contracts.profiles import Strict

__all__ = ["Day", "Window"]


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
