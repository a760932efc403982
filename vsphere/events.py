"""Reading vCenter's events: pages of history, and a push when there are new ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pyVmomi import vim, vmodl

from contracts.errors import Unreachable
from vsphere.connection import GatewayStub
from vsphere.event_catalogue import type_ids_in
from vsphere.event_xml import RawEvent, decode_events, update_version
from vsphere.faults import translated, words
from vsphere.sessions import content, vcenter_name

__all__ = ["EventReader", "RawEvent"]

_T = TypeVar("_T")

_PAGE_LIMIT = 1000
"""vCenter's limit for one `ReadNextEvents`."""
_OVERLAP = timedelta(seconds=5)


class EventReader:
    """Reads events from a point in time on, oldest first, through one collector of one session.

    Open it with `open`; then read pages until one is empty, and wait for news. An empty page does not prove that
    nothing is newer (vCenter returns one where the user may see none of the next thousand events): compare with
    `latest` after a silence and `open` again from the cursor. Every method raises `Unreachable` when vCenter does
    not answer or the collector ended with its session (a new reader in a new session is needed then), and
    `NeedsHuman` when a privilege is missing.
    """

    def __init__(self, si: vim.ServiceInstance) -> None:
        if not isinstance(si._stub, GatewayStub):
            raise TypeError("an EventReader needs a session of a SessionPool")
        self._stub = si._stub
        self._content = content(si)
        self._where = f"vCenter {vcenter_name(si)}"
        self._si = si
        self._page_size = _PAGE_LIMIT
        self._type_ids: tuple[str, ...] = ()
        self._pushed = True
        self._collector: vim.event.EventHistoryCollector | None = None
        self._updates: vmodl.query.PropertyCollector | None = None
        self._version = ""
        self._read_to: datetime | None = None
        """Where to read on after a truncated page: at the newest event read, or where the collector began."""
        self._newest_key = -1
        self._behind_truncated = False
        self._truncated: set[str] = set()
        """What came of events that truncate every page."""

    @property
    def instance_uuid(self) -> str:
        """`about.instanceUuid`: which vCenter this is, for good."""
        return str(self._content.about.instanceUuid)

    def now(self) -> datetime:
        """vCenter's clock (UTC): where to begin without a cursor."""
        with translated(f"read the time of {self._where}"):
            return self._si.CurrentTime()

    def type_ids(self) -> frozenset[str]:
        """All that an event's type or `eventTypeId` can be by vCenter's catalogue, spelled as vCenter does."""
        paths = ["description.eventInfo"]
        properties = [vmodl.query.PropertyCollector.PropertySpec(type=vim.event.EventManager, pathSet=paths)]
        objects = [vmodl.query.PropertyCollector.ObjectSpec(obj=self._content.eventManager)]
        spec = vmodl.query.PropertyCollector.FilterSpec(objectSet=objects, propSet=properties)
        options = vmodl.query.PropertyCollector.RetrieveOptions()
        with self._reading("read the catalogue of events"):
            answer = self._stub.invoke_raw(self._content.propertyCollector, "RetrievePropertiesEx", [spec], options)
            return type_ids_in(answer)

    def open(
        self, begin: datetime, page_size: int = _PAGE_LIMIT, type_ids: Sequence[str] = (), *, pushed: bool = True
    ) -> None:
        """Begin at the events created at `begin` or later (vCenter's clock); replaces what was open.

        `begin` is inclusive and keys are not part of vCenter's filter: callers drop keys up to their cursor's. With
        `type_ids` only events of these types (or `eventTypeId`s) are shown. Not `pushed`, there is no waiting for news.
        """
        if not 1 <= page_size <= _PAGE_LIMIT:
            raise ValueError(f"page_size must be 1 to {_PAGE_LIMIT}, got {page_size}")
        self._page_size, self._type_ids, self._pushed = page_size, tuple(type_ids), pushed
        self._newest_key, self._behind_truncated, self._truncated = -1, False, set()
        self._open(begin)

    def _open(self, begin: datetime) -> None:
        self.close()
        self._read_to = begin
        by_time = vim.event.EventFilterSpec.ByTime(beginTime=begin)
        with self._reading("open a collector of events"):
            # A new collector stands before its oldest event, as after RewindCollector.
            self._collector = self._content.eventManager.CreateCollectorForEvents(
                vim.event.EventFilterSpec(time=by_time, eventTypeId=list(self._type_ids))
            )
            if not self._pushed:
                return
            # Only news matters: the pushed page is as small as can be.
            self._collector.SetCollectorPageSize(1)
            self._updates = self._content.propertyCollector.CreatePropertyCollector()
            self._updates.CreateFilter(self._latest_page_filter(), partialUpdates=False)
            self._version = self._wait("", 0) or ""

    def read_page(self, wanted: Callable[[RawEvent], bool] | None = None) -> list[RawEvent]:
        """The next events, oldest first; empty when there are none now. Never repeated: a lost page is lost.

        `wanted` is that of `decode_events`. After any error open the reader again from the cursor. Behind a page that
        arrived truncated events are read again, one at a time, until there is a new one; so one that truncates every
        page comes alone, with its `problem`, and whoever reads gets some events again.
        """
        again = self._behind_truncated
        page = self._read(1 if again else self._page_size, wanted)
        whole = [event for event in page if not event.truncated]
        new = any(event.key > self._newest_key for event in whole)
        self._note(whole)
        if again:
            alone = {event.xml for event in page if event.truncated} - self._truncated
            self._truncated |= alone
            self._behind_truncated = bool(page) and not new and not alone
            return whole or page
        if len(whole) < len(page):
            self._open(_opened(self._read_to))
            self._behind_truncated = True
            return whole or self.read_page(wanted)
        return page

    def _read(self, size: int, wanted: Callable[[RawEvent], bool] | None) -> list[RawEvent]:
        collector = _opened(self._collector)
        with self._reading("read a page of events"):
            return decode_events(self._stub.invoke_raw(collector, "ReadNextEvents", size), wanted)

    def _note(self, whole: list[RawEvent]) -> None:
        self._newest_key = max([self._newest_key, *(event.key for event in whole)])
        if usable := [event for event in whole if not event.problem]:
            # Earlier than the last event, as vCenter's clock may have been set back behind it.
            self._read_to = usable[-1].created - _OVERLAP

    def wait_for_news(self, max_wait_s: int = 3) -> bool:
        """Wait until there are events that were not there at the last call (or `open`); False after `max_wait_s`."""
        with self._reading("wait for events"):
            version = self._wait(self._version, max_wait_s)
        if version is None:
            return False
        self._version = version
        return True

    def latest(self) -> RawEvent | None:
        """The newest event of vCenter (`latestEvent`), or of the open collector where vCenter tells none.

        They may differ, and neither key nor time says which one is newer: keys go back, and so do clocks.
        """
        newest = self._newest(self._content.eventManager, _LATEST_EVENT)
        if newest is None and self._collector is not None:
            newest = self._newest(self._collector, _LATEST_PAGE)
        return newest

    def _newest(self, source: Any, shown: Any) -> RawEvent | None:
        objects = [vmodl.query.PropertyCollector.ObjectSpec(obj=source)]
        spec = vmodl.query.PropertyCollector.FilterSpec(objectSet=objects, propSet=[shown])
        with self._reading("read the latest event"):
            options = vmodl.query.PropertyCollector.RetrieveOptions()
            answer = self._stub.invoke_raw(self._content.propertyCollector, "RetrievePropertiesEx", [spec], options)
            return max(decode_events(answer), key=lambda event: (event.created, event.key), default=None)

    def close(self) -> None:
        """Destroy the collector: a session may hold only 32. Safe to call twice and after a lost session."""
        updates, self._updates = self._updates, None
        collector, self._collector = self._collector, None
        for destroy in (
            updates.DestroyPropertyCollector if updates is not None else None,
            collector.DestroyCollector if collector is not None else None,
        ):
            if destroy is None:
                continue
            try:
                destroy()
            except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated, Unreachable):
                # Collectors die with their session, so there is nothing left to destroy.
                continue

    def _wait(self, version: str, max_wait_s: int) -> str | None:
        updates = _opened(self._updates)
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=max_wait_s)
        # The pushed event itself is not looked at, so it may be one that pyVmomi cannot decode.
        return update_version(self._stub.invoke_raw(updates, "WaitForUpdatesEx", version, options))

    def _latest_page_filter(self) -> vmodl.query.PropertyCollector.FilterSpec:
        objects = [vmodl.query.PropertyCollector.ObjectSpec(obj=self._collector)]
        return vmodl.query.PropertyCollector.FilterSpec(objectSet=objects, propSet=[_LATEST_PAGE])

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        with translated(f"{what} of {self._where}"):
            try:
                yield
            except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated) as fault:
                raise Unreachable(
                    f"{what} of {self._where}: the session ended and its collector with it ({words(fault)}); "
                    "read on from the cursor in a new session"
                ) from fault


def _opened(part: _T | None) -> _T:
    if part is None:
        raise RuntimeError("open the EventReader first")
    return part


_LATEST_EVENT = vmodl.query.PropertyCollector.PropertySpec(type=vim.event.EventManager, pathSet=["latestEvent"])
_LATEST_PAGE = vmodl.query.PropertyCollector.PropertySpec(type=vim.event.EventHistoryCollector, pathSet=["latestPage"])
