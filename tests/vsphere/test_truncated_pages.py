"""A page that arrives truncated: the missing events are read again, and what truncates every page is stepped over."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import Unreachable
from tests.support.event_pages import mixed_events, page_of
from vsphere.connection import GatewayStub
from vsphere.event_xml import decode_events
from vsphere.events import EventReader, RawEvent

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class _Collector:
    """Serves events from the time on that the reader asks for, and cuts answers short.

    The wire is a function here, so that answers can be cut at a chosen byte: `cut` is given the
    events of an answer and the answer.
    """

    def __init__(self, reader: EventReader, cut: Callable[[list[Any], bytes], bytes]) -> None:
        self.events = mixed_events(40)
        self.cut = cut
        self.sizes: list[int] = []
        self._at = 0
        self._reader, self._open = reader, reader._open

    def open(self, begin: datetime) -> None:
        self._open(begin)
        self._at = sum(event.createdTime < begin for event in self.events)

    def invoke_raw(self, _: Any, method: str, *args: Any) -> bytes:
        if method != "ReadNextEvents":
            raise AssertionError(f"only pages are asked for here, not {method}")
        (size,) = args
        page = self.events[self._at : self._at + size]
        self._at += size
        self.sizes.append(size)
        return self.cut(page, page_of(page))


@pytest.fixture
def reading(gpu_si: vim.ServiceInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., _Collector]]:
    """A reader of the simulator whose pages come from a `_Collector`."""
    made = []

    def make(cut: Callable[[list[Any], bytes], bytes]) -> _Collector:
        reader = EventReader(gpu_si)
        collector = _Collector(reader, cut)
        monkeypatch.setattr(reader, "_open", collector.open)
        reader.open(BEGIN, 20)
        real = gpu_si._stub.invoke_raw
        monkeypatch.setattr(
            GatewayStub,
            "invoke_raw",
            lambda _, mo, method, *args: (
                collector.invoke_raw(mo, method, *args) if method == "ReadNextEvents" else real(mo, method, *args)
            ),
        )
        made.append(reader)
        return collector

    yield make
    monkeypatch.undo()
    for reader in made:
        reader.close()


def read_all(collector: _Collector) -> list[RawEvent]:
    events = []
    for _ in range(500):
        page = collector._reader.read_page()
        if not page:
            return events
        events += page
    raise AssertionError("the reading goes round in circles")


def within(event_key: int) -> Callable[[list[Any], bytes], bytes]:
    """Truncates every answer inside one event, as a server that fails to write it."""

    def cut(page: list[Any], answer: bytes) -> bytes:
        at = answer.find(f"<key>{event_key}</key>".encode())
        return answer[: at + 200] if event_key in [event.key for event in page] else answer

    return cut


def test_events_behind_a_truncation_that_does_not_last_are_read(reading: Callable[..., _Collector]) -> None:
    cuts = [600, 5000, 12_000]

    def cut(_: list[Any], answer: bytes) -> bytes:
        return answer[: cuts.pop()] if cuts and len(answer) > 12_000 else answer

    collector = reading(cut)
    events = read_all(collector)
    assert not cuts
    assert {event.key for event in events} == {event.key for event in collector.events}
    assert not [event for event in events if event.problem]
    assert collector.sizes[-1] == 20


@pytest.mark.parametrize("bad", [{1}, {7}, {40}, {7, 8}, {7, 9, 21, 22, 23}])
def test_events_that_truncate_every_page_are_told_and_cost_no_other(
    reading: Callable[..., _Collector], bad: set[int]
) -> None:
    def cut(page: list[Any], answer: bytes) -> bytes:
        return min((within(key)(page, answer) for key in bad), key=len)

    collector = reading(cut)
    events = read_all(collector)
    assert {event.key for event in events if not event.problem} == {event.key for event in collector.events} - bad
    assert {event.key for event in events if event.problem} == bad
    assert all("ends in the middle" in event.problem and event.xml for event in events if event.problem)


def test_an_answer_that_ends_between_events_is_no_end_of_the_history(reading: Callable[..., _Collector]) -> None:
    def cut(page: list[Any], answer: bytes) -> bytes:
        return answer[: answer.rindex(b"<returnval")] if len(page) > 1 else answer

    collector = reading(cut)
    assert {event.key for event in read_all(collector)} == {event.key for event in collector.events}


def test_an_answer_without_a_trace_of_events_is_told(reading: Callable[..., _Collector]) -> None:
    collector = reading(lambda page, answer: answer[:100])
    with pytest.raises(Unreachable, match="not XML"):
        read_all(collector)


def test_the_time_of_what_was_missing_is_asked_for_again(reading: Callable[..., _Collector]) -> None:
    asked = []
    collector = reading(within(30))
    opened = collector.open
    collector._reader._open = lambda begin: (asked.append(begin), opened(begin))  # type: ignore[method-assign]
    read_all(collector)
    before = decode_events(page_of(collector.events[28:29]))[0].created
    assert asked
    assert before - timedelta(seconds=10) < asked[0] <= before
