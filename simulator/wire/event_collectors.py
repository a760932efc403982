"""Event history collectors: a filtered view of the event log that a client pages through."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, method, prop
from simulator.eventlog import LoggedEvent
from simulator.wire.event_filter import EventFilter
from simulator.wire.session import Session
from simulator.wire.soap_write import RawAnswer, RawXml
from simulator.wire.versions import parse_version

__all__ = ["COLLECTORS_PER_SESSION", "MAX_PAGE", "EventHistoryCollector", "page_of"]

COLLECTORS_PER_SESSION = 32
MAX_PAGE = 1000
_DEFAULT_PAGE = 10


class EventHistoryCollector(Managed):
    """Reads forwards and backwards from a position; dies with its session.

    A page is cut out of the matching events first, then loses those that the user may not see: it can come back
    empty although there is more to read. `stalled`, it reads nothing any more, whatever is done to it.
    """

    vim_type = vim.event.EventHistoryCollector

    def __init__(self, session: Session, spec: Any) -> None:
        super().__init__(session.registry, session.new_moid())
        self.session = session
        self.filter = EventFilter(spec, session.registry)
        self.page_size = min(spec.maxCount or _DEFAULT_PAGE, MAX_PAGE)
        self.stalled = False
        self._silent_since: int | None = None
        self._position = 0
        self.registry.events.listeners.append(self._news)
        self.registry.events.collectors.append(self)

    def closed(self) -> None:
        """Called when the collector goes."""
        self.registry.events.listeners.remove(self._news)
        self.registry.events.collectors.remove(self)

    def _news(self, events: Sequence[LoggedEvent]) -> None:
        if any(map(self.filter.matches, events)):
            self.touch()

    def behind(self) -> int:
        """How many events it has not read, whether its filter lets them through or not."""
        log = self.registry.events
        return log.end_serial - max(self._position, log.first_serial)

    def stall(self, silent: bool) -> None:
        """Show nothing more by `ReadNextEvents`; silent, not even news."""
        self.stalled = True
        if silent:
            self._silent_since = self.registry.events.end_serial

    @prop("filter")
    def filter_shown(self) -> Any:
        return self.filter.spec

    @prop("initialized")
    def initialized(self) -> bool:
        return True

    @prop("latestPage")
    def latest_page(self) -> RawXml:
        """The newest events in no order, as clients may not rely on any; the same until there are newer ones."""
        version, newest = self.registry.events.version, self._newest()
        Random(newest[0].serial if newest else 0).shuffle(newest)
        shown = (event for event in newest if not event.hidden)
        elements = (f'<Event xsi:type="{e.wire_type(version)}">{e.inner(version)}</Event>' for e in shown)
        return RawXml("ArrayOfEvent", "".join(elements))

    def _newest(self) -> list[LoggedEvent]:
        log = self.registry.events
        end = log.end_serial if self._silent_since is None else self._silent_since
        return self.filter.first(log.backwards(end), self.page_size)

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
        page = self._newest()
        self._position = page[-1].serial if page else self.registry.events.end_serial

    @method("ReadNextEvents")
    def read_next(self, call: Call, maxCount: int) -> RawAnswer:
        log, most = self.registry.events, _page(maxCount)
        if self.stalled:
            return page_of([], call)
        page = self.filter.first(log.forwards(self._position), most)
        # What the filter kept back is not looked at again.
        self._position = page[-1].serial + 1 if len(page) == most else log.end_serial
        return page_of(page, call)

    @method("ReadPreviousEvents")
    def read_previous(self, call: Call, maxCount: int) -> RawAnswer:
        page = self.filter.first(self.registry.events.backwards(self._position), _page(maxCount))
        if page:
            self._position = page[-1].serial
        return page_of(page, call)

    @method("DestroyCollector")
    def destroy(self, call: Call) -> None:
        self.session.drop(self)


def _page(max_count: int) -> int:
    if max_count <= 0:
        raise vmodl.fault.InvalidArgument(invalidProperty="maxCount", msg=f"maxCount is {max_count}.")
    return min(max_count, MAX_PAGE)


def page_of(events: Sequence[LoggedEvent], call: Call) -> RawAnswer:
    """Those of the events that may be seen, as an operation's result: what the log keeps, joined."""
    version = parse_version(call.api_version)
    return RawAnswer(b"".join([event.element_for(version) for event in events if not event.hidden]))
