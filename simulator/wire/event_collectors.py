"""Event history collectors: a filtered view of the event log that a client pages through."""

from __future__ import annotations

from itertools import islice
from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, method, prop
from simulator.eventlog import LoggedEvent
from simulator.wire.event_filter import EventFilter
from simulator.wire.session import Session
from simulator.wire.soap_write import RawXml
from simulator.wire.versions import parse_version

__all__ = ["COLLECTORS_PER_SESSION", "MAX_PAGE", "EventHistoryCollector", "events_xml"]

COLLECTORS_PER_SESSION = 32
MAX_PAGE = 1000
_DEFAULT_PAGE = 10


class EventHistoryCollector(Managed):
    """Reads forwards and backwards from a position; dies with its session.

    A page is cut out of the matching events first, then loses those that the user may not see: it can come back
    empty although there is more to read.
    """

    vim_type = vim.event.EventHistoryCollector

    def __init__(self, session: Session, spec: Any) -> None:
        super().__init__(session.registry, session.new_moid())
        self.session = session
        self.filter = EventFilter(spec, session.registry)
        self.page_size = min(spec.maxCount or _DEFAULT_PAGE, MAX_PAGE)
        self._position = 0
        self.registry.events.listeners.append(self._news)

    def closed(self) -> None:
        """Called when the collector goes."""
        self.registry.events.listeners.remove(self._news)

    def _news(self, event: LoggedEvent) -> None:
        if self.filter.matches(event):
            self.touch()

    @prop("filter")
    def filter_shown(self) -> Any:
        return self.filter.spec

    @prop("initialized")
    def initialized(self) -> bool:
        return True

    @prop("latestPage")
    def latest_page(self) -> RawXml:
        """The newest events, newest first: clients may not rely on an order."""
        log = self.registry.events
        newest = islice(filter(self.filter.matches, log.backwards(log.end_serial)), self.page_size)
        return RawXml("ArrayOfEvent", events_xml("Event", [e for e in newest if not e.hidden], log.version))

    @method("SetCollectorPageSize")
    def set_page_size(self, call: Call, maxCount: int) -> None:
        if maxCount <= 0:
            raise vmodl.fault.InvalidArgument(invalidProperty="maxCount", msg=f"maxCount is {maxCount}.")
        self.page_size = min(maxCount, MAX_PAGE)
        self.touch()

    @method("RewindCollector")
    def rewind(self, call: Call) -> None:
        self._position = 0

    @method("ResetCollector")
    def reset(self, call: Call) -> None:
        """Move to just before the latest page."""
        log = self.registry.events
        page = list(islice(filter(self.filter.matches, log.backwards(log.end_serial)), self.page_size))
        self._position = page[-1].serial if page else log.end_serial

    @method("ReadNextEvents")
    def read_next(self, call: Call, maxCount: int) -> RawXml:
        log = self.registry.events
        page = list(islice(filter(self.filter.matches, log.forwards(self._position)), _page(maxCount)))
        if page:
            self._position = page[-1].serial + 1
        return _result(page, call)

    @method("ReadPreviousEvents")
    def read_previous(self, call: Call, maxCount: int) -> RawXml:
        log = self.registry.events
        page = list(islice(filter(self.filter.matches, log.backwards(self._position)), _page(maxCount)))
        if page:
            self._position = page[-1].serial
        return _result(page, call)

    @method("DestroyCollector")
    def destroy(self, call: Call) -> None:
        self.session.drop(self)


def _page(max_count: int) -> int:
    if max_count <= 0:
        raise vmodl.fault.InvalidArgument(invalidProperty="maxCount", msg=f"maxCount is {max_count}.")
    return min(max_count, MAX_PAGE)


def _result(page: list[LoggedEvent], call: Call) -> RawXml:
    shown = [event for event in page if not event.hidden]
    return RawXml("ArrayOfEvent", events_xml("returnval", shown, parse_version(call.api_version)))


def events_xml(tag: str, events: list[LoggedEvent], version: str) -> str:
    """Events as elements called `tag`: what the log keeps, joined."""
    return "".join(f'<{tag} xsi:type="{e.wire_type(version)}">{e.inner(version)}</{tag}>' for e in events)
