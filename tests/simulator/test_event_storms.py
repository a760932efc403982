"""Storms of events in the background."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.simulator.raw_reader import RawReader, keys_in
from tests.simulator.small_world import RunningSimulator


def wait_for(wire: RunningSimulator, storm: int, posted: int, timeout_s: float = 60) -> None:
    ends_at = time.monotonic() + timeout_s
    while wire.act("storms_so_far")[storm]["posted"] < posted:
        assert time.monotonic() < ends_at, wire.act("storms_so_far")
        time.sleep(0.02)


def test_a_storm_posts_all_of_its_events_at_its_rate_while_readers_are_served(wire: RunningSimulator) -> None:
    with RawReader(wire) as reader:
        reader.open("<eventTypeId>esx.test.storm</eventTypeId>")
        begun = time.monotonic()
        storm = wire.act("storm", rate_per_s=2000, seconds=1.5, matching=0.1, matching_type="esx.test.storm", seed=1)
        assert wire.act("storms_so_far")[storm]["posted"] < 3000, "it is over before its time"
        found: list[int] = []
        while len(found) < 300:
            found += keys_in(reader.read())
            assert time.monotonic() < begun + 60
        wait_for(wire, storm, 3000)
        assert time.monotonic() - begun >= 1.4, "faster than its rate"
        assert found + reader.rest() == wire.act("posted_events", kind="esx.test.storm")
        assert len(found) == 300


def test_storms_go_on_beside_each_other_until_they_are_ended() -> None:
    with RunningSimulator() as wire:
        first = wire.act("storm", rate_per_s=500, seconds=600, matching_type="esx.test.one")
        second = wire.act("storm", rate_per_s=500, seconds=0.1, matching=1, matching_type="esx.test.two")
        wait_for(wire, second, 50)
        wait_for(wire, first, 100)
        wire.act("end_storms")
        before = wire.act("storms_so_far")
        time.sleep(0.2)
        assert wire.act("storms_so_far") == before
        assert before[first]["posted"] < before[first]["count"] == 300_000
        assert len(wire.act("posted_events", kind="esx.test.two")) == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rate_per_s": 0, "seconds": 5}, "rate_per_s"),
        ({"rate_per_s": 10**6, "seconds": 0.5}, "rate_per_s"),
        ({"rate_per_s": 1000, "seconds": 10_000}, "events are not between"),
        ({"rate_per_s": 1000, "seconds": -1}, "events are not between"),
    ],
)
def test_storms_are_bounded(wire: RunningSimulator, arguments: dict[str, Any], words: str) -> None:
    storms = wire.act("storms_so_far")
    with pytest.raises(ValueError, match=words):
        wire.act("storm", **arguments)
    assert wire.act("storms_so_far") == storms
