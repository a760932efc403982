"""What makes readers of events lose some: hidden runs, broken events, stalled collectors, ends of sessions."""

from __future__ import annotations

import time
from typing import Any
from xml.etree.ElementTree import ParseError, fromstring
from xml.parsers.expat import ExpatError

import pytest
from pyVmomi import vim, vmodl

from simulator.poison import POISONS
from tests.simulator.raw_reader import RawReader, keys_in
from tests.simulator.small_world import USER, RunningSimulator
from tests.simulator.test_wire_faults import add, control

Spec = vim.event.EventFilterSpec


def collector_of(client: Any, **spec: Any) -> Any:
    return client.content.eventManager.CreateCollectorForEvents(Spec(**spec))


def only_this(wire: RunningSimulator, count: int = 1) -> list[int]:
    posted = wire.act("post_backlog", count=count, matching=0.0)
    return list(range(posted["first"], posted["last"] + 1))


def test_a_run_of_hidden_events_longer_than_the_page_is_an_empty_page_with_more_behind_it(
    wire: RunningSimulator,
) -> None:
    with RawReader(wire) as reader:
        reader.open()
        reader.rest()
        before = only_this(wire)[-1]
        client = wire.connect()
        assert reader.rest()[0] == before
        latest = client.content.eventManager.latestEvent.key
        hidden = wire.act("post_hidden_events", count=2500)
        assert client.content.eventManager.latestEvent.key == latest
        seen = only_this(wire, 3)
        assert client.content.eventManager.latestEvent.key == seen[-1]
        assert [keys_in(reader.read()) for _ in range(4)] == [[], [], seen, []]
        assert wire.act("posted_events", hidden=True)[-2500:] == hidden
        assert not set(hidden) & set(wire.act("posted_events"))


@pytest.mark.parametrize("kind", [kind for kind in POISONS if kind not in ("oversized", "no_key", "key_beyond_int")])
def test_a_broken_event_costs_pyvmomi_the_whole_page_and_the_collector_has_moved_on(
    wire: RunningSimulator, client: Any, kind: str
) -> None:
    collector = collector_of(client)
    while collector.ReadNextEvents(1000):
        pass
    with RawReader(wire) as reader:
        reader.open()
        reader.rest()
        before = only_this(wire, 2)
        (poisoned,) = wire.act("post_poison", host="esx-1", kinds=[kind]).values()
        after = only_this(wire, 2)
        # pyVmomi takes the sound ones down with it …
        with pytest.raises((TypeError, ValueError, KeyError, AttributeError, ExpatError)):
            collector.ReadNextEvents(1000)
        assert collector.ReadNextEvents(1000) == []
        # … and all were there.
        page = reader.read()
        assert {*before, *after} <= set(keys_in(page))
        assert b"<name>esx-1</name>" in page
        assert poisoned in wire.act("posted_events", about="esx-1")
    wire.act("purge_events", keep=0)  # other tests read this log, too


def test_broken_events_are_broken_as_they_say(wire: RunningSimulator) -> None:
    keys = wire.act("post_poison", host="esx-2", size=5000, event_type="HostConnectedEvent")
    assert list(keys) == list(POISONS)
    elements = {
        kind: next(e.element for e in wire.registry.events.forwards(0) if e.key == key) for kind, key in keys.items()
    }
    for kind, element in elements.items():
        assert b"<name>esx-2</name>" in element
        assert (b'xsi:type="HostConnectedEvent"' in element) == (kind != "unknown_type")
        readable_key = kind not in ("empty_key", "no_key", "key_beyond_int")
        assert (b"<key>%d</key>" % keys[kind] in element) == readable_key
        document = b'<a xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">' + element + b"</a>"
        if kind == "bad_character":
            with pytest.raises(ParseError):
                fromstring(document)  # noqa: S314 - the simulator's own
        else:
            assert len(fromstring(document)) == 1  # noqa: S314 - the simulator's own
    assert len(elements["oversized"]) > 5000 > len(elements["bad_time"])
    with RawReader(wire, "6.5") as older:
        older.open("<type>HostEvent</type>")
        assert elements["bad_character"] in older.read(), "older clients are not spared"
    with pytest.raises(ValueError, match="'rotten' is none of unknown_type"):
        wire.act("post_poison", host="esx-2", kinds=["rotten"])
    wire.act("purge_events", keep=0)


def test_the_latest_page_is_in_no_order_but_the_same_until_there_is_news(wire: RunningSimulator, client: Any) -> None:
    collector = collector_of(client)
    collector.SetCollectorPageSize(50)
    posted = only_this(wire, 60)

    def latest() -> list[int]:
        return [event.key for event in collector.latestPage]

    page = latest()
    assert sorted(page) == posted[-50:]
    assert page != sorted(page)
    assert page != sorted(page, reverse=True)
    assert latest() == page


@pytest.mark.parametrize("silent", [False, True])
def test_a_stalled_collector_shows_nothing_until_it_is_made_again(silent: bool) -> None:
    with RunningSimulator() as wire:
        client = wire.connect()
        collector = collector_of(client)
        collector.SetCollectorPageSize(1)
        while collector.ReadNextEvents(1000):
            pass
        updates, version = _watch(client, collector)
        assert wire.act("stall_collectors", silent=silent) == 1
        posted = only_this(wire, 5)
        assert collector.ReadNextEvents(1000) == []
        collector.RewindCollector()
        assert collector.ReadNextEvents(1000) == []
        assert client.content.eventManager.latestEvent.key == posted[-1]
        assert [event.key for event in collector.latestPage] == [posted[0] - 1 if silent else posted[-1]]
        told = updates.WaitForUpdatesEx(version, vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=0))
        assert (told is None) == silent
        assert wire.act("event_log")["collectors"] == [{"stalled": True, "behind": posted[-1]}]
        collector.DestroyCollector()
        assert [event.key for event in collector_of(client).ReadNextEvents(1000)][-5:] == posted
        assert [each["stalled"] for each in wire.act("event_log")["collectors"]] == [False]


def _watch(client: Any, collector: Any) -> tuple[Any, str]:
    pc = vmodl.query.PropertyCollector
    updates = client.content.propertyCollector.CreatePropertyCollector()
    kind = vim.event.EventHistoryCollector
    spec = pc.FilterSpec(
        objectSet=[pc.ObjectSpec(obj=collector)], propSet=[pc.PropertySpec(type=kind, pathSet=["latestPage"])]
    )
    updates.CreateFilter(spec, partialUpdates=False)
    return updates, updates.WaitForUpdatesEx("", pc.WaitOptions(maxWaitSeconds=0)).version


def test_a_cut_answer_ends_in_the_middle_of_an_event_and_its_events_are_not_shown_again(wire: RunningSimulator) -> None:
    with RawReader(wire) as reader:
        reader.open()
        reader.rest()
        posted = only_this(wire, 100)
        add(wire, method="ReadNextEvents", truncate=0.5, times=1)
        page = reader.read()
        assert not page.endswith(b"Envelope>")
        found = keys_in(page)
        assert 0 < len(found) < 90
        assert found == posted[: len(found)]
        assert reader.rest() == []


@pytest.mark.parametrize("part", [1, -0.1, "half"])
def test_a_cut_that_is_no_part_of_an_answer_is_refused(wire: RunningSimulator, part: Any) -> None:
    status, answer = control(wire, "POST", "/simulator/faults", {"truncate": part})
    assert (status, "no part of the answer" in answer["error"]) == (422, True)


def test_the_sessions_of_one_user_are_killed_with_their_collectors_and_others_go_on() -> None:
    with RunningSimulator() as wire:
        assert control(wire, "POST", "/simulator/users", {"user": "listener", "password": "l-secret"})[0] == 200
        listener, other = wire.connect(user="Listener", pwd="l-secret"), wire.connect()
        doomed, spared = collector_of(listener), collector_of(other)
        assert listener.content.sessionManager.currentSession.userName == "Listener"
        assert control(wire, "POST", "/simulator/sessions/kill", {"user": "LISTENER"}) == (200, {"killed": 1})
        with pytest.raises(vim.fault.NotAuthenticated):
            doomed.ReadNextEvents(1)
        assert spared.ReadNextEvents(1)
        assert len(wire.act("event_log")["collectors"]) == 1
        again = wire.connect(user="listener", pwd="l-secret")
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            vim.event.EventHistoryCollector(doomed._moId, again._stub).ReadNextEvents(1)
        with pytest.raises(vim.fault.InvalidLogin):
            wire.stranger().RetrieveContent().sessionManager.Login("listener", "wrong")
        for body in ({"user": USER.upper(), "password": "x"}, {"user": "x", "password": ""}, {"user": "x"}):
            assert control(wire, "POST", "/simulator/users", body)[0] == 422


def test_a_restart_ends_sessions_without_a_word_and_a_new_certificate_needs_new_trust() -> None:
    with RunningSimulator() as wire:
        client = wire.connect()
        collector, uuid = collector_of(client), client.content.about.instanceUuid
        old_trust = wire.ssl_context()
        body = {"seconds": 0.3, "restart": True, "new_certificate": True}
        assert control(wire, "POST", "/simulator/outage", body)[0] == 200
        ends_at = time.monotonic() + 60
        while wire.do(lambda: tuple(wire.simulator.sessions)):
            assert time.monotonic() < ends_at, "it does not go down"
            time.sleep(0.02)
        while (again := _connected(wire)) is None:
            assert time.monotonic() < ends_at, "it does not come back"
            time.sleep(0.02)
        assert wire.act("posted_events", kind="UserLogoutSessionEvent") == []
        assert again.content.about.instanceUuid == uuid
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            wire.connect(sslContext=old_trust)
        with pytest.raises((OSError, vim.fault.NotAuthenticated)):
            collector.ReadNextEvents(1)
        assert wire.act("event_log")["collectors"] == []
        for body in ({"seconds": 1, "restart": 1}, {"seconds": 1, "reboot": True}, {"seconds": 1, "lose": True}):
            assert control(wire, "POST", "/simulator/outage", body)[0] == 422


def test_a_failover_may_lose_the_newest_events_and_a_renewed_certificate_is_of_the_same_ca() -> None:
    with RunningSimulator() as wire:
        client, trust = wire.connect(), wire.ssl_context()
        uuid, before = client.content.about.instanceUuid, wire.simulator.identity.certificate_pem
        keys = wire.act("post_backlog", count=50)
        body = {"seconds": 0.3, "restart": True, "renewed_certificate": True, "lose": 10}
        assert control(wire, "POST", "/simulator/outage", body)[0] == 200
        ends_at = time.monotonic() + 60
        while wire.do(lambda: wire.simulator.identity.certificate_pem) == before or _connected(wire) is None:
            assert time.monotonic() < ends_at, "it does not come back"
            time.sleep(0.02)
        again = wire.connect(sslContext=trust)
        assert again.content.about.instanceUuid == uuid
        log = wire.act("event_log")
        assert log["life"] == 1
        # The logins since have keys that were given before.
        assert wire.act("posted_events", life=1)[0] == keys["last"] - 9


def _connected(wire: RunningSimulator) -> Any:
    try:
        return wire.connect()
    except ConnectionRefusedError:
        return None
