"""Weekly windows: open or not, and when next."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.windows import Day, Window
from planning.windows import covered_until, next_opening

NIGHT = Window.model_validate({"days": ["sat"], "from": "22:00", "to": "06:00", "timezone": "Europe/Berlin"})
moments = st.integers(0, 2 * 365 * 24 * 3600).map(lambda s: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=s))
windows = st.builds(
    lambda days, begin, end: Window.model_validate({"days": days, "from": begin, "to": end}),
    st.lists(st.sampled_from(list(Day)), min_size=1, max_size=7),
    st.times(),
    st.times(),
)


def test_without_windows_it_is_always_allowed() -> None:
    assert next_opening([], datetime(2026, 11, 21, tzinfo=UTC)) is None


def test_a_window_past_midnight_is_open_on_the_next_morning_in_its_own_time_zone() -> None:
    assert next_opening([NIGHT], datetime(2026, 11, 22, 4, 59, tzinfo=UTC)) is None
    assert next_opening([NIGHT], datetime(2026, 11, 22, 5, 0, tzinfo=UTC)) == datetime(2026, 11, 28, 21, tzinfo=UTC)
    assert next_opening([NIGHT], datetime(2026, 11, 21, 20, 59, tzinfo=UTC)) == datetime(2026, 11, 21, 21, tzinfo=UTC)


def test_summer_time_moves_the_window() -> None:
    assert next_opening([NIGHT], datetime(2026, 7, 1, tzinfo=UTC)) == datetime(2026, 7, 4, 20, tzinfo=UTC)


@given(st.lists(windows, min_size=1, max_size=3), moments)
def test_at_its_opening_it_is_open_and_just_before_it_is_not(some: list[Window], now: datetime) -> None:
    opening = next_opening(some, now)
    if opening is not None:
        assert now < opening <= now + timedelta(days=8)
        assert next_opening(some, opening) is None
        assert next_opening(some, opening - timedelta(microseconds=1)) == opening


@pytest.mark.parametrize(
    "wrong", [{"days": []}, {"timezone": "Mars/Base"}, {"days": ["noday"]}, {"from": "25:00"}, {"until": "06:00"}]
)
def test_mistakes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate({"from": "22:00", "to": "06:00"} | wrong)


def test_what_follows_without_a_pause_belongs_together() -> None:
    evening = Window.model_validate({"from": "18:00", "to": "22:00", "timezone": "Europe/Berlin"})
    saturday = datetime(2026, 11, 21, 18, tzinfo=UTC)
    assert covered_until([evening], saturday) == datetime(2026, 11, 21, 21, tzinfo=UTC)
    assert covered_until([NIGHT, evening], saturday) == datetime(2026, 11, 22, 5, tzinfo=UTC)
    assert covered_until([NIGHT, evening], datetime(2026, 11, 22, 5, tzinfo=UTC)) is None
    assert covered_until([], saturday) is None


@given(st.lists(windows, min_size=1, max_size=3), moments)
def test_at_the_end_of_what_covers_a_moment_nothing_does(some: list[Window], now: datetime) -> None:
    over = covered_until(some, now)
    assert (over is not None) == any(next_opening([window], now) is None for window in some)
    if over is not None and over < now + timedelta(days=6):
        assert covered_until(some, over) is None
        assert covered_until(some, over - timedelta(microseconds=1)) == over
