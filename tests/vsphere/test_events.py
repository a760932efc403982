"""The event reader on both worlds."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pyVmomi import vim

from contracts.errors import Unreachable
from contracts.host import HostRef
from tests.vsphere.conftest import World
from vsphere.events import EventReader, RawEvent
from vsphere.hosts import enter_maintenance, exit_maintenance
from vsphere.sessions import SessionPool, content
from vsphere.tasks import await_task


@pytest.fixture
def reader(si: vim.ServiceInstance) -> Iterator[EventReader]:
    made = EventReader(si)
    yield made
    made.close()


def drain(reader: EventReader) -> list[RawEvent]:
    events: list[RawEvent] = []
    while page := reader.read_page():
        events += page
    return events


def make_event(si: vim.ServiceInstance, world: World, host: HostRef) -> None:
    """Both worlds log an event about the host: vcsim when one is posted, the simulator when something happens."""
    if world.name == "vcsim":
        argument = vim.event.HostEventArgument(name=host.name, host=vim.HostSystem(host.moid))
        event = vim.event.HostConnectedEvent(
            key=0, chainId=0, createdTime=datetime.now(UTC), userName="", host=argument
        )
        content(si).eventManager.PostEvent(event, None)
        return
    for start in (enter_maintenance, exit_maintenance):
        if (task := start(si, host, 600)) is not None:
            assert await_task(si, task, lambda _: None, 30).state == "success"


def test_pages_give_every_event_once_and_in_order(reader: EventReader, si: vim.ServiceInstance, world: World) -> None:
    reader.open(reader.now() - timedelta(hours=1))
    whole = drain(reader)
    reader.open(reader.now() - timedelta(hours=1), page_size=1)
    keys = [event.key for event in drain(reader)]
    assert keys[: len(whole)] == [event.key for event in whole]
    assert keys == sorted(set(keys))
    assert not [event for event in whole if event.problem]


def test_reading_begins_where_it_is_told(reader: EventReader) -> None:
    reader.open(reader.now() + timedelta(days=1))
    assert drain(reader) == []


def test_news_wakes_the_reader_at_once_and_is_read(
    reader: EventReader, si: vim.ServiceInstance, world: World, host: HostRef
) -> None:
    reader.open(reader.now() - timedelta(hours=1))
    before = drain(reader)
    with SessionPool(world.settings()) as other, other.session() as other_si:
        reader.wait_for_news(0)
        drain(reader)
        started = time.monotonic()
        late = threading.Timer(0.2, make_event, [other_si, world, host])
        late.start()
        try:
            assert reader.wait_for_news(3)
            assert time.monotonic() - started < 2
        finally:
            late.join()
        news = drain(reader)
        assert (latest := reader.latest()) is not None
    assert host.moid in {event.host_moid for event in news}
    assert {event.host_name for event in news if event.host_moid == host.moid} == {host.name}
    assert {event.cluster_name for event in news if event.cluster_name} <= {world.cluster}
    assert min(event.key for event in news) > max((event.key for event in before), default=0)
    assert latest.key >= max(event.key for event in news)


def test_silence_ends_the_wait(reader: EventReader) -> None:
    reader.open(reader.now() - timedelta(hours=1))
    drain(reader)
    while reader.wait_for_news(0):
        drain(reader)
    assert reader.wait_for_news(1) is False


def test_a_reader_says_which_vcenter_it_reads(reader: EventReader, si: vim.ServiceInstance) -> None:
    assert reader.instance_uuid == content(si).about.instanceUuid


def test_collectors_are_given_back(reader: EventReader) -> None:
    # A session may hold 32.
    for _ in range(40):
        reader.open(reader.now())
    reader.close()
    reader.close()


def test_a_lost_session_is_told_and_a_new_one_reads_on(world: World) -> None:
    with SessionPool(world.settings()) as pool, pool.session() as si:
        reader = EventReader(si)
        reader.open(reader.now() - timedelta(hours=1))
        before = [event.key for event in drain(reader)]
        content(si).sessionManager.Logout()
        with pytest.raises(Unreachable, match="session ended"):
            reader.read_page()
        with pytest.raises(Unreachable, match="session ended"):
            reader.wait_for_news(1)
        reader.open(datetime.now(UTC) - timedelta(hours=1))
        assert [event.key for event in drain(reader)][: len(before)] == before
        reader.close()


def test_only_types_that_are_asked_for_are_shown(
    reader: EventReader, si: vim.ServiceInstance, world: World, host: HostRef
) -> None:
    make_event(si, world, host)
    begin = reader.now() - timedelta(hours=1)
    reader.open(begin)
    everything = drain(reader)
    of_host = {"HostConnectedEvent", "EnteredMaintenanceModeEvent", "ExitMaintenanceModeEvent"}
    reader.open(begin, type_ids=sorted(of_host))
    narrowed = drain(reader)
    assert {event.type_name for event in narrowed} <= of_host
    expected = [event.key for event in everything if event.type_name in of_host]
    assert expected
    assert [event.key for event in narrowed][: len(expected)] == expected
    assert len(narrowed) < len(everything)
    with SessionPool(world.settings()) as other, other.session() as other_si:
        reader.wait_for_news(0)
        make_event(other_si, world, host)
        assert reader.wait_for_news(3)
        assert {event.type_name for event in drain(reader)} <= of_host


def test_the_catalogue_names_the_types_that_vcenter_has(reader: EventReader) -> None:
    names = reader.type_ids()
    assert {"UserLoginSessionEvent", "UserLogoutSessionEvent"} <= names
    assert "EventEx" not in names


def test_a_reader_that_is_not_pushed_reads_all_the_same(reader: EventReader) -> None:
    begin = reader.now() - timedelta(hours=1)
    reader.open(begin)
    keys = [event.key for event in drain(reader)]
    reader.open(begin, pushed=False)
    assert [event.key for event in drain(reader)][: len(keys)] == keys
    with pytest.raises(RuntimeError, match="open the EventReader first"):
        reader.wait_for_news(0)


def test_the_page_size_is_vcenters(reader: EventReader) -> None:
    with pytest.raises(ValueError, match="page_size must be 1 to 1000"):
        reader.open(reader.now(), page_size=1001)
