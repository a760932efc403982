"""10,000 damaged pages of events: every event that was not touched is read as from the undamaged page, once."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyVmomi import vim

from contracts.errors import Unreachable
from contracts.host import HostRef
from tests.support.event_pages import mixed_events, page_of, read_next_answer
from tests.vsphere.conftest import World
from vsphere.event_xml import RawEvent, decode_events
from vsphere.sessions import content

_CLOSE = b"</returnval>"
_SEEDS, _CHUNKS, _EXAMPLES = 9_000, 10, 1_000


@dataclass(frozen=True)
class Page:
    """A page that a vCenter could have sent, in its parts."""

    before: bytes
    events: tuple[bytes, ...]
    after: bytes

    @classmethod
    def of(cls, answer: bytes) -> "Page":
        first, last = answer.index(b"<returnval"), answer.rindex(_CLOSE) + len(_CLOSE)
        events = tuple(each + _CLOSE for each in answer[first:last].split(_CLOSE)[:-1])
        return cls(answer[:first], events, answer[last:])

    def with_events(self, events: tuple[bytes, ...]) -> bytes:
        return self.before + b"".join(events) + self.after


Damage = Callable[[random.Random, bytes], bytes]


def _flip(chance: random.Random, event: bytes) -> bytes:
    damaged = bytearray(event)
    for _ in range(chance.randint(1, 8)):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _insert(*what: bytes) -> Damage:
    def damage(chance: random.Random, event: bytes) -> bytes:
        at = chance.randint(event.index(b">") + 1, len(event) - len(_CLOSE))
        return event[:at] + chance.choice(what) + event[at:]

    return damage


def _delete(chance: random.Random, event: bytes) -> bytes:
    begin, end = sorted(chance.sample(range(len(event)), 2))
    return event[:begin] + event[end:]


def _field(change: Callable[[bytes, bytes], bytes]) -> Damage:
    """Changes a field without children: given its start tag and text, what comes instead of it."""

    def damage(chance: random.Random, event: bytes) -> bytes:
        field = chance.choice(list(re.finditer(rb"(<(\w+)[^<>]*>)([^<>]*)</\2>", event)))
        return event[: field.start()] + change(field[0], field[1]) + event[field.end() :]

    return damage


def _value(field: bytes, *values: bytes) -> Damage:
    def damage(chance: random.Random, event: bytes) -> bytes:
        value = chance.choice(values)
        return re.sub(rb"(<%s>)[^<]*" % field, lambda found: found[1] + value, event, count=1)

    return damage


def _attribute(chance: random.Random, event: bytes) -> bytes:
    what = (b' a="1"', b' xmlns:q="urn:q" q:b="&lt;"', b' nil:type="x"', b" bare", b' a="1" a="2"', b' xsi:nil="true"')
    tag = chance.choice(list(re.finditer(rb"<\w+(?= |>)", event)))
    return event[: tag.end()] + chance.choice(what) + event[tag.end() :]


def _prefix(chance: random.Random, event: bytes) -> bytes:
    """vSphere's own namespace by another name, or a prefix that nothing binds."""
    bound = b' xmlns:v="urn:vim25"' if chance.random() < 0.5 else b""
    prefixed = re.sub(rb"<(/?)(?=\w)", rb"<\1v:", event)
    return prefixed.replace(b"<v:returnval", b"<v:returnval" + bound, 1)


DAMAGES: dict[str, Damage] = {
    "bits flipped": _flip,
    "bytes deleted": _delete,
    "bytes inserted": _insert(
        b"<", b">", b"&", b'"', b"</", b"<!--", b"<![CDATA[", b"]]>", b"<?x", b"<!DOCTYPE a>", b"\0"
    ),
    "a tag too many": _insert(b"<host>", b"</host>", b"</returnval>", b"<returnval>", b"</soapenv:Body>", b"<key>"),
    "a field removed": _field(lambda whole, tag: b""),
    "a field doubled": _field(lambda whole, tag: whole + whole),
    "a field emptied": _field(lambda whole, tag: tag + b"</" + re.findall(rb"\w+", tag)[0] + b">"),
    "a field empty, in short": _field(lambda whole, tag: tag[:-1] + b"/>"),
    "unknown elements": _insert(b"<new/>", b"<new><deep a='1'>x</deep></new>", b"<n:new xmlns:n='urn:n'>x</n:new>"),
    "unbound prefix": _insert(b"<n:new>1</n:new>", b"<new n:a='1'/>"),
    "another element of that name": _insert(b"<returnval>x</returnval>", b"<val/>", b"<Event><key>1</key></Event>"),
    "attributes": _attribute,
    "prefixes": _prefix,
    "bad time": _value(b"createdTime", b"", b"soon", b"2026-13-01T00:00:00Z", b"0001-01-01T00:00:00Z", b"\xff", b"1"),
    "bad number": _value(b"key", b"", b"x", b"1.5", b"1_0", b"9" * 40, b"9" * 9000, b"-3", b"0x10", "\u0663".encode()),
    "unknown type": lambda _, event: re.sub(rb'xsi:type="\w+"', b'xsi:type="EventOfTheFuture"', event, count=1),
    "no type": lambda _, event: re.sub(rb' xsi:type="\w+"', b"", event, count=1),
    "huge text": _insert(b"x" * 5_000, b"<new>" + b"y" * 5_000 + b"</new>", b"<a>" * 500),
    "bad characters": _insert(b"\x07", b"\x00", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xef\xbf\xbf"),
    "bad references": _insert(b"&#0;", b"&#x1b;", b"&#xD800;", b"&#99999999999;", b"&nbsp;", b"&a b;", b"&#x;", b"&"),
}


@cache
def _mixed() -> Page:
    return Page.of(page_of(mixed_events(60)))


@cache
def _clean(page: Page) -> list[RawEvent]:
    clean = decode_events(page.with_events(page.events))
    assert len(clean) == len(page.events)
    assert not [event for event in clean if event.problem]
    return clean


def _excerpt(page: Page, chance: random.Random) -> Page:
    at = chance.randrange(max(1, len(page.events) - 5))
    return Page(page.before, page.events[at : at + chance.randint(1, 5)], page.after)


def _wanted(event: RawEvent) -> bool:
    return event.key % 3 == 0


def _identity(event: RawEvent) -> tuple[object, ...]:
    return event.key, event.created, event.type_name, event.base_type


def read_damaged(answer: bytes, clean: list[RawEvent], touched: set[int], what: object) -> None:
    """Of the undamaged page's events (`clean`), `touched` are the places of those that may be broken."""
    found = decode_events(answer)
    # Some damage changes nothing that is read; then the event has to be as good as an untouched one.
    touched = {place for place in touched if clean[place] not in found}
    good = [event for place, event in enumerate(clean) if place not in touched]
    keys = {event.key for event in good}
    why = f"{what}\n{answer!r}"
    assert [event for event in found if event in good] == good, why
    others = [event for event in found if event not in good]
    assert sum(not event.problem for event in others) <= len(touched), why
    assert others or not touched, why
    for event in others:
        if event.problem and not event.truncated:
            assert event.xml, why
            assert event.xml in answer.decode(errors="replace"), why
    quick = decode_events(answer, _wanted)
    assert [event for event in quick if event in good and _wanted(event)] == [e for e in good if _wanted(e)], why
    assert [_identity(e) for e in quick if e.key in keys and not e.problem] == [
        _identity(e) for e in found if e.key in keys and not e.problem
    ], why


def _damage_and_read(page: Page, chance: random.Random) -> None:
    page = _excerpt(page, chance)
    clean = _clean(page)
    events, touched, done = list(page.events), set(), []
    for place in chance.sample(range(len(events)), chance.randint(1, min(3, len(events)))):
        kind = chance.choice(list(DAMAGES))
        events[place] = DAMAGES[kind](chance, events[place])
        done.append(f"event {place}: {kind}")
        if events[place] != page.events[place]:
            touched.add(place)
    read_damaged(page.with_events(tuple(events)), clean, touched, done)


@pytest.mark.parametrize("chunk", range(_CHUNKS))
def test_damage_to_some_events_of_a_page_costs_no_other(chunk: int) -> None:
    for seed in range(chunk, _SEEDS, _CHUNKS):
        _damage_and_read(_mixed(), random.Random(seed))


@given(chance=st.randoms(use_true_random=False), kind=st.sampled_from(sorted(DAMAGES)), place=st.integers(0, 7))
@settings(max_examples=_EXAMPLES // 2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_kind_of_damage_costs_a_neighbour(chance: random.Random, kind: str, place: int) -> None:
    page = _mixed()
    events = page.events[20:28]
    clean = _clean(Page(page.before, events, page.after))
    damaged = DAMAGES[kind](chance, events[place])
    answer = page.with_events((*events[:place], damaged, *events[place + 1 :]))
    read_damaged(answer, clean, {place}, kind)


@given(share=st.floats(0, 1))
@settings(max_examples=_EXAMPLES // 2, deadline=None)
def test_a_truncated_page_has_every_event_that_is_whole(share: float) -> None:
    page = _mixed()
    events = page.events[8:16]
    whole = page.with_events(events)
    clean = _clean(Page(page.before, events, page.after))
    answer = whole[: int(share * len(whole))]
    ends = [len(page.before) + len(b"".join(events[: count + 1])) for count in range(len(events))]
    left = sum(end <= len(answer) for end in ends)
    if len(answer) < len(page.before):
        with pytest.raises(Unreachable, match="not XML"):
            decode_events(answer)
        return
    found = decode_events(answer)
    assert found[:left] == clean[:left]
    complete = len(answer) >= ends[-1] + 2
    assert [event.truncated for event in found[left:]] == ([] if complete else [True])
    assert all(event.problem for event in found[left:])


def test_damage_to_a_page_as_it_came_over_the_wire_costs_no_good_event(
    si: vim.ServiceInstance, world: World, host: HostRef
) -> None:
    for event in mixed_events(20):
        event.host = vim.event.HostEventArgument(name=host.name, host=vim.HostSystem(host.moid))
        event.computeResource = event.datacenter = None
        if isinstance(event, (vim.event.HostConnectedEvent, vim.event.UserLoginSessionEvent)):
            content(si).eventManager.PostEvent(event, None)
    begin = vim.event.EventFilterSpec.ByTime(beginTime=datetime.now(UTC) - timedelta(days=1))
    collector = content(si).eventManager.CreateCollectorForEvents(vim.event.EventFilterSpec(time=begin))
    try:
        page = Page.of(si._stub.invoke_raw(collector, "ReadNextEvents", 1000))
    finally:
        collector.DestroyCollector()
    assert {"HostConnectedEvent", "UserLoginSessionEvent"} <= {e.base_type for e in _clean(page)}
    for seed in range(200):
        _damage_and_read(page, random.Random(seed))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_neither_expanded_nor_fetched(encoding: str) -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    doctype = f'<!DOCTYPE x [<!ENTITY l0 "ha"><!ENTITY file SYSTEM "file:///etc/passwd">{laughs}]>'
    for entity in ("&l9;", "&file;"):
        event = f'<returnval xsi:type="E"><key>1</key><createdTime>2026-01-01T00:00:00Z</createdTime><reason>{entity}'
        answer = read_next_answer([event + "</reason></returnval>"]).decode()
        answer = answer.replace('encoding="UTF-8"', f'encoding="{encoding}"').replace("?>", "?><!-- <a> -->" + doctype)
        with pytest.raises(Unreachable, match="not XML"):
            decode_events(answer.encode(encoding))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b" ",
        b"\x00\xff",
        b"<!DOCTYPE html><html><body>503</body></html>",
        b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>503</p></body></html>",
        b"<html><body><p>Bad gateway",
        b'{"error": "no"}',
    ],
)
def test_an_answer_that_is_something_else_is_told(answer: bytes) -> None:
    for wanted in (None, _wanted):
        with pytest.raises(Unreachable, match="not XML"):
            decode_events(answer, wanted)
