"""What of the past is left: retention, restores from a backup, and the ledger that forgets nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pyVmomi import vim

from simulator.core import Registry
from simulator.event_knobs import event_knobs
from tests.simulator.law_world import world_of
from tests.simulator.raw_reader import RawReader, keys_in
from tests.simulator.small_world import RunningSimulator


def backlog(wire: RunningSimulator, count: int, **more: Any) -> list[int]:
    posted = wire.act("post_backlog", count=count, **more)
    return list(range(posted["first"], posted["last"] + 1))


def test_a_purge_takes_the_oldest_and_a_collector_goes_on_with_the_oldest_that_is_left() -> None:
    with RunningSimulator() as wire, RawReader(wire) as reader:
        reader.open()
        mine = backlog(wire, 20_000)
        assert keys_in(reader.read())[-1] < mine[2000]
        assert wire.act("purge_events", keep=5000) == mine[-5000] - 1
        assert wire.act("event_log")["first_key"] == mine[-5000]
        assert reader.rest() == mine[-5000:], "without a word about those in between"
        reader.open()
        assert reader.rest() == mine[-5000:]
        assert wire.act("posted_events")[-20_000:] == mine
        assert wire.act("purge_events", keep=0) == 5000
        assert (reader.rest(), wire.act("event_log")["first_key"]) == ([], None)
        assert backlog(wire, 3) == reader.rest() == [mine[-1] + 1, mine[-1] + 2, mine[-1] + 3]


def test_a_purge_by_age_takes_what_is_older() -> None:
    with RunningSimulator() as wire, RawReader(wire) as reader:
        wire.act("purge_events", keep=0)
        mine = backlog(wire, 1000, over_s=1000.0)
        wire.act("purge_events", older_than_s=300.0)
        reader.open()
        left = reader.rest()
        assert left == mine[-len(left) :]
        assert 280 <= len(left) <= 300
        for wrong in ({}, {"keep": 1, "older_than_s": 1.0}, {"keep": -1}):
            with pytest.raises(ValueError, match=r"keep"):
                wire.act("purge_events", **wrong)


def test_the_log_never_keeps_more_than_its_retention_while_a_backlog_comes() -> None:
    with RunningSimulator(max_events=7000) as wire, RawReader(wire) as reader:
        mine = [key for _ in range(4) for key in backlog(wire, 3000)]
        assert wire.act("event_log")["kept"] == 7000
        reader.open()
        assert reader.rest() == mine[-7000:]
        latest = reader.call("ReadPreviousEvents", reader._collector, "<maxCount>1000</maxCount>")
        assert keys_in(latest) == mine[:-1001:-1]


def test_a_restored_vcenter_is_the_same_one_without_its_newest_events_sessions_and_collectors() -> None:
    with RunningSimulator() as wire:
        client = wire.connect()
        uuid = client.content.about.instanceUuid
        collector = client.content.eventManager.CreateCollectorForEvents(vim.event.EventFilterSpec())
        kept, lost = backlog(wire, 10), backlog(wire, 25)
        assert wire.act("restore_vcenter", lose=25) == lost[0]
        with pytest.raises(vim.fault.NotAuthenticated):
            collector.ReadNextEvents(1)
        assert wire.act("event_log") | {"posted": 0} == {
            "life": 1, "posted": 0, "kept": kept[-1], "first_key": 1, "next_key": lost[0], "collectors": [],
        }  # fmt: skip
        with RawReader(wire) as reader:
            # Its own login is the first event of the new life, with a key that was there before.
            again = backlog(wire, 3)
            assert again == lost[1:4]
            reader.open()
            assert reader.rest() == [*range(1, kept[-1] + 1), lost[0], *again]
            assert wire.act("posted_events", life=0)[-35:] == kept + lost
            assert wire.act("posted_events") == [lost[0], *again]
        restored = wire.connect()
        assert restored.content.about.instanceUuid == uuid
        assert restored.content.eventManager.latestEvent.key == again[-1] + 1


def test_a_restore_by_time_takes_what_was_created_since_and_shows_the_newest_that_is_left() -> None:
    with RunningSimulator() as wire:
        wire.act("purge_events", keep=0)
        mine = backlog(wire, 100, over_s=1000.0)
        next_key = wire.act("restore_vcenter", lose_s=505.0)
        assert 48 <= mine.index(next_key) <= 51
        assert wire.registry.events.latest.key == next_key - 1
        log = wire.registry.events
        assert [event.key for event in log.backwards(log.end_serial)] == mine[mine.index(next_key) - 1 :: -1]
        for wrong in ({}, {"lose": 1, "lose_s": 1.0}, {"lose": 1000}, {"lose": 0}, {"lose_s": 0.0}):
            with pytest.raises(ValueError, match="lose"):
                wire.act("restore_vcenter", **wrong)
        assert wire.act("event_log")["life"] == 1
        wire.act("restore_vcenter", lose=mine.index(next_key))
        assert (wire.registry.events.latest, wire.act("event_log")["next_key"]) == (None, 1)


def test_keys_that_go_back_on_their_own_begin_a_new_life_and_collectors_live_on(wire: RunningSimulator) -> None:
    with RawReader(wire) as reader:
        reader.open()
        reader.rest()
        before = backlog(wire, 3)
        life = wire.act("event_log")["life"]
        wire.act("set_next_event_key", key=2)
        after = backlog(wire, 3)
        assert after == [2, 3, 4]
        assert reader.rest() == before + after
        assert wire.act("posted_events", life=life)[-3:] == before
        assert wire.act("posted_events") == after
        wire.act("set_next_event_key", key=2**31 - 2)
        wire.act("post_backlog", count=3)
        assert reader.rest() == [2**31 - 2, 2**31 - 1, 1], "keys are int32"
        assert wire.act("posted_events") == [1]
        for wrong in (0, 2**31):
            with pytest.raises(ValueError, match="key"):
                wire.act("set_next_event_key", key=wrong)
        wire.act("set_next_event_key", key=1000 + before[-1])


async def test_the_ledger_tells_all_posted_events_by_kind_entity_and_life() -> None:
    async with world_of(hosts=2, vms=1) as world:
        act, log = world.actions, world.registry.events
        before = act["event_log"]()["posted"]
        first, second = (host.name for host in world.hosts.values())
        one = act["post_backlog"](count=200, matching=0.25, matching_type="HostRemovedEvent", about=[first])
        two = act["post_backlog"](count=40, matching=0.5, matching_type="com.vmware.vc.HA.DasHostFailedEvent")
        raw = act["post_raw_events"]("HostRemovedEvent", "<key>{key}</key>", 2)
        unknown = act["post_poison"](second, kinds=["unknown_type"])["unknown_type"]
        posted = act["posted_events"]
        assert posted("HostRemovedEvent", about=first) == one["matching"]
        assert posted("HostRemovedEvent") == one["matching"] + raw
        assert posted("com.vmware.vc.HA.*") == two["matching"]
        assert sorted(posted(about=first) + posted(about=second))[-1] == unknown
        assert set(posted("HostEvent")) >= {*one["matching"], *raw}, "base types are names, too"
        assert posted("HostSang*") == [unknown]
        assert len(posted()) == before + 200 + 40 + 3 == act["event_log"]()["posted"]
        act["purge_events"](keep=1)
        assert posted("HostRemovedEvent") == one["matching"] + raw
        log.restore(1)
        assert posted() == []
        assert posted("com.vmware.vc.HA.*", life=0) == two["matching"]
        with pytest.raises(ValueError, match="life: 2 has not been: there are 0 to 1"):
            posted(life=2)
        with pytest.raises(KeyError, match="esx-nowhere"):
            posted(about="esx-nowhere")


def test_old_events_go_by_themselves_after_the_maximum_age() -> None:
    registry = Registry()
    act = event_knobs(registry, lambda work: work.close())
    registry.events.max_age = timedelta(seconds=50)
    posted = act["post_backlog"](count=100, matching=0.0, over_s=100.0)
    assert 45 <= act["event_log"]()["kept"] <= 52
    assert act["event_log"]()["next_key"] == posted["last"] + 1
