"""Keys that go back, by what the events of a page tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from contracts.events import Cursor
from listeners import cursor as cursors
from vsphere.events import RawEvent

_BEGIN = datetime(2026, 5, 1, tzinfo=UTC)


def at(key: int, second: float, problem: str = "") -> RawEvent:
    created = _BEGIN + timedelta(seconds=second)
    return RawEvent(key=key, created=created, type_name="HostAddedEvent", problem=problem)


def cursor_at(key: int, second: float, epoch: str = "uuid.0") -> Cursor:
    return Cursor(epoch=epoch, key=key, created=_BEGIN + timedelta(seconds=second))


def test_another_event_with_the_cursors_key_is_a_new_epoch() -> None:
    here = cursor_at(40, 10)
    moved = cursors.reissued(here, [at(39, 60), at(40, 61), at(41, 62)])
    assert moved is not None
    after, gap = moved
    assert (after.epoch, after.key, after.created) == ("uuid.1", 0, here.created)
    assert (gap.epoch, gap.after_key, gap.before_key) == ("uuid.0", 40, 0)
    assert "restored from a backup" in gap.reason
    # Its own event, one that cannot be read, and one of an earlier epoch that had the key before.
    assert cursors.reissued(here, [at(39, 9), at(40, 10), at(41, 11)]) is None
    assert cursors.reissued(here, [at(40, 61, problem="createdTime 'x' is not a time")]) is None
    assert cursors.reissued(here, [at(40, 2)]) is None


def test_a_new_epoch_begins_behind_what_is_left_of_the_old_one() -> None:
    """Keys went back from 44 to 21 at second 13; 40 was handed over, 41 to 44 came too late for it."""
    old = [at(20, 5), at(21, 6), at(40, 10), at(41, 11), at(44, 12)]
    new = [at(21, 13), at(22, 14), at(23, 15)]
    first = cursor_at(0, 10, "uuid.1")
    ours = cursors.of_this_epoch([*old, *new, at(45, 16)], first, new[-1])
    assert [(event.key, event.created.second) for event in ours] == [(21, 13), (22, 14), (23, 15), (45, 16)]

    here = cursors.advance(first, new[:1])
    assert (here.key, here.epoch_since) == (21, new[0].created)
    # A collector that begins a little earlier shows what is left again, with keys that are to come.
    assert cursors.of_this_epoch([*old, *new], here, new[-1]) == new
    assert cursors.advance(here, new).epoch_since == new[0].created


def test_a_clock_that_was_set_back_begins_a_collector_much_earlier() -> None:
    here = cursor_at(40, 10)
    assert cursors.begin_at(here, at(41, 11)) == cursors.begin_at(here) == here.created - cursors.OVERLAP
    assert cursors.begin_at(here, at(41, -3600)) < at(41, -3600).created - timedelta(hours=12)
    # What is not behind the cursor, or cannot be read, tells nothing.
    assert (
        cursors.begin_at(here, at(40, 10)) == cursors.begin_at(here, at(41, 1, problem="x")) == cursors.begin_at(here)
    )


def test_in_a_first_epoch_every_event_counts() -> None:
    page = [at(5, 9), at(6, 1), at(7, 2)]
    assert cursors.of_this_epoch(page, cursor_at(4, 8), page[0]) == page
    assert cursors.of_this_epoch(page, cursor_at(0, 8), page[0]) == page
