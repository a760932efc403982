"""Large backlogs: posted in seconds, served as fast as anybody can read, and as right as single events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyVmomi import vim

from simulator.wire.soap_write import timestamp
from tests.simulator.raw_reader import RawReader, created_in, keys_in, types_in
from tests.simulator.small_world import PASSWORD, USER, RunningSimulator

COUNT = 100_000
_HOST = '<entity type="HostSystem">host-101</entity>'
_CLUSTER = '<entity type="ClusterComputeResource">domain-c5</entity>'


@pytest.fixture(scope="module")
def backlog() -> Iterator[tuple[RunningSimulator, dict[str, Any], float]]:
    """A simulator with a backlog of an hour, what posting it returned, and the processor time that it took."""
    with RunningSimulator() as wire:
        begun = wire.do(time.thread_time)
        posted = wire.act("post_backlog", count=COUNT, seed=3, over_s=3600.0)
        yield wire, posted, wire.do(time.thread_time) - begun


def test_a_hundred_thousand_events_are_posted_and_served_fast_and_each_once(backlog: Any) -> None:
    wire, posted, took_s = backlog
    assert took_s < 5
    with RawReader(wire) as reader:
        # What its clients are compared with has to be faster than they are: 10,000 a second is their aim.
        reader.open(f"<time><beginTime>{timestamp(datetime.now(UTC) - timedelta(hours=2))}</beginTime></time>")
        begun = wire.do(time.thread_time)
        pages = list(reader.pages())
        assert wire.do(time.thread_time) - begun < COUNT / 40_000
    keys = [key for page in pages for key in keys_in(page)]
    assert [key for key in keys if posted["first"] <= key <= posted["last"]] == [
        *range(posted["first"], posted["last"] + 1)
    ]
    assert len(keys) == len(set(keys))
    assert all(len(keys_in(page)) == 1000 for page in pages[:-1])


def test_types_and_times_narrow_a_backlog_to_exactly_what_was_posted(backlog: Any) -> None:
    wire, posted, _ = backlog
    with RawReader(wire) as reader:
        reader.open("<eventTypeId>HostAddedEvent</eventTypeId>")
        assert reader.rest() == posted["matching"] == wire.act("posted_events", kind="HostAddedEvent")
        assert len(posted["matching"]) == COUNT // 100
        added = "<eventTypeId>HostAddedEvent</eventTypeId>"
        reader.open(f"<entity>{_HOST}<recursion>self</recursion></entity>{added}")
        assert reader.rest() == wire.act("posted_events", kind="HostAddedEvent", about="esx-1")
        reader.open(f"<entity>{_CLUSTER}<recursion>children</recursion></entity>{added}")
        assert reader.rest() == posted["matching"]
        reader.open("<type>VmEvent</type>")
        pages = list(reader.pages())
        assert {kind for page in pages for kind in types_in(page)} >= {"VmPoweredOnEvent", "VmMessageEvent"}
        assert [key for page in pages for key in keys_in(page)] == wire.act("posted_events", kind="VmEvent")
        reader.open()
        times = [moment for page in reader.pages() for moment in created_in(page)]
        assert times == sorted(times)
        assert times[COUNT - 1] - times[0] > timedelta(seconds=3590)
        late = times[COUNT - 2500]
        reader.open(f"<time><beginTime>{timestamp(late)}</beginTime></time>")
        found = [moment for page in reader.pages() for moment in created_in(page)]
        assert found[:2500] == times[COUNT - 2500 : COUNT]


def test_what_a_filter_held_back_is_not_looked_at_again(backlog: Any) -> None:
    wire, _, _ = backlog
    with RawReader(wire) as reader:
        reader.open("<eventTypeId>NobodyPostsThis</eventTypeId>")
        assert reader.rest() == []
        (collector,) = (each for each in wire.registry.events.collectors if "NobodyPostsThis" in each.filter._type_ids)
        assert collector.behind() == 0
        key = wire.act("post_backlog", count=1, matching=1, matching_type="esx.test.late")["last"]
        reader.open("<eventTypeId>esx.test.late</eventTypeId>")
        assert reader.rest() == [key]
        key = wire.act("post_backlog", count=1, matching=1, matching_type="esx.test.late")["last"]
        assert reader.rest() == [key]


def test_pyvmomi_reads_the_mix_and_older_clients_do_too(backlog: Any) -> None:
    wire, posted, _ = backlog
    client = wire.connect()
    collector = client.content.eventManager.CreateCollectorForEvents(vim.event.EventFilterSpec())
    page = collector.ReadNextEvents(1000)
    assert len(page) == 1000
    assert len({type(event) for event in page}) > 8
    by_type = vim.event.EventFilterSpec(type=[vim.event.HostAddedEvent])
    event = client.content.eventManager.CreateCollectorForEvents(by_type).ReadNextEvents(1)[0]
    assert event.key == posted["matching"][0]
    assert (event.host.name[:4], event.computeResource.name, event.datacenter.name) == ("esx-", "gpu-a", "dc")
    assert event.fullFormattedMessage == f"Host added: {event.host.name} in gpu-a"
    stranger = wire.stranger("vim.version.version9")
    stranger.RetrieveContent().sessionManager.Login(USER, PASSWORD)
    older = stranger.content.eventManager.CreateCollectorForEvents(by_type).ReadNextEvents(1)[0]
    assert (older.key, older.host.name) == (event.key, event.host.name)


def test_the_same_seed_makes_the_same_mix_and_chosen_entities_are_what_it_is_about() -> None:
    def kinds(seed: int) -> list[str]:
        with RunningSimulator() as wire:
            wire.act("post_backlog", count=300, seed=seed)
            return [event.wsdl_type for event in wire.registry.events.forwards(0)]

    assert kinds(5) == kinds(5) != kinds(6)
    with RunningSimulator() as wire:
        posted = wire.act("post_backlog", count=50, matching=0.2, about=["esx-1", "vm-1003"], matching_type="esx.test")
        assert len(posted["matching"]) == 10
        on_host = wire.act("posted_events", kind="esx.test", about="esx-1")
        on_vm = wire.act("posted_events", kind="esx.test", about="vm-3")
        assert sorted(on_host + on_vm) == posted["matching"]
        assert on_host
        assert on_vm
        newest = wire.act("post_backlog", count=3, over_s=3600.0)
        created = {event.key: event.created for event in wire.registry.events.forwards(0)}
        assert created[newest["first"]] >= created[newest["first"] - 1], "older than what was there before"


def test_one_piece_of_news_is_told_for_a_whole_backlog_and_the_newest_event_is_its_last(backlog: Any) -> None:
    wire, _, _ = backlog
    client = wire.connect()
    manager = client.content.eventManager
    told: list[int] = []
    wire.do(wire.registry.events.listeners.append, lambda events: told.append(len(events)))
    last = wire.act("post_backlog", count=2000)["last"]
    wire.do(wire.registry.events.listeners.pop)
    assert told == [2000]
    assert manager.latestEvent.key == last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "not between 1"),
        ({"count": 2_000_000}, "not between 1"),
        ({"count": 10, "matching": 1.5}, "no share"),
        ({"count": 10, "matching": 1, "matching_type": "HostSangEvent"}, "no type of event"),
        ({"count": 10, "matching": 1, "matching_type": "HostSystem"}, "no type of event"),
        ({"count": 10, "matching": 1, "matching_type": "HostSyncFailedEvent"}, "reason is not optional"),
        ({"count": 10, "about": ["esx-lost"]}, "esx-lost"),
        ({"count": 10, "over_s": -1.0}, "over_s"),
    ],
)
def test_a_backlog_that_cannot_be_is_refused(wire: RunningSimulator, arguments: dict[str, Any], words: str) -> None:
    posted = wire.act("event_log")["posted"]
    with pytest.raises((ValueError, KeyError), match=words):
        wire.act("post_backlog", **arguments)
    assert wire.act("event_log")["posted"] == posted
