"""The loop that reads one vCenter's events from a cursor on, whatever becomes of them.

First a page is taken care of durably, then the cursor moves: what is read twice after a crash is recognised by whoever
takes it, what is never read is lost. While a page is taken care of the next one is read, but no more than that: who is
slow to take pages slows the reading down, and memory stays bounded. Heartbeats come from the loop's progress alone, so
a reader that hangs anywhere is replaced within the heartbeat time-out. The old and the new one may overlap for seconds,
which whoever takes pages bears.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import structlog
from temporalio import activity

from contracts.errors import BadRequest
from contracts.events import Cursor
from contracts.watch import FollowPosition, FollowResult, Gap, QuarantinedEvent, WatchCounters
from listeners import cursor as cursors
from listeners.narrowing import EVERYTHING, Narrowing, narrowing
from listeners.reading import Reading
from listeners.rules import with_names
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost
from vsphere.sessions import SessionPool

__all__ = ["Follower", "broken", "page_size_of", "position_of", "unfit"]

_log = structlog.get_logger(__name__)

_RAW_LIMIT = 2000
"""Characters of a quarantined event that are kept."""
_ROUND_S = 3600
_PAGES_A_ROUND = 2000
_PAGE_SIZE, _SMALLEST_PAGE = 1000, 25
_WAIT_S = 3
"""Longest wait for a push; with the reading of a page it has to stay below the heartbeat time-out (5 s)."""
_EMPTY_PAGES = 100
"""So many are read on end at most, before the collector is held to be at its end or stalled."""
_SILENCE_S = 15
"""After this long without news the collector is held against `latestEvent`."""


def position_of(cursor: Cursor | None, heartbeat_details: object) -> FollowPosition | None:
    """Where to begin: the previous attempt's last heartbeat that arrived, else the cursor of the order."""
    if isinstance(heartbeat_details, (list, tuple)) and heartbeat_details:
        return FollowPosition.model_validate(heartbeat_details[0])
    return FollowPosition(cursor=cursor) if cursor else None


def page_size_of(position: FollowPosition | None) -> int:
    """Events a page for an attempt that begins there.

    A page that takes longer than the heartbeat time-out would be asked for over and over. So an attempt that reads
    nothing leaves half its size to the next one; after one that could read, whatever ended it, it grows again.
    """
    return position.next_page_size if position else _PAGE_SIZE


class _KeysReissued(Exception):
    """Where to go on, and the gap."""

    def __init__(self, cursor: Cursor, gap: Gap) -> None:
        super().__init__(gap.reason)
        self.cursor, self.gap = cursor, gap


class Follower(ABC):
    """One call of an activity that follows events: reads with one session, has pages taken, moves the cursor."""

    def __init__(self, pool: SessionPool, position: FollowPosition | None, page_size: int) -> None:
        self.reading = Reading(pool, self.still_here)
        self.vcenter = pool.name
        self._page_size = page_size
        self._next_page_size = max(_SMALLEST_PAGE, page_size // 2)
        self.position = position and self._at(position.cursor, position.counters)
        """How far it is; None before there is a cursor."""
        self._latest: RawEvent | None = None
        """The newest event when this reader took over."""
        self.horizon = 0
        """Events up to this key were there when this reader took over: another one may have taken care of them."""
        self._stalled_at = 0
        self._begin = datetime.min.replace(tzinfo=UTC)
        """Where the collector began."""
        self._shown_to = 0
        """The highest key that the collector has shown."""
        self._narrow = pool.settings.narrow_events
        self._narrowing = EVERYTHING
        self._settled: RawEvent | None = None
        """What was the newest event some time ago: whatever is up to it had time to be shown."""
        self._settled_at = 0.0
        self._broken: set[str] = set()
        self.hosts: Mapping[str, IndexedHost] = {}
        """By moid, as of the last page with an unknown one."""

    @abstractmethod
    def wanted(self, event: RawEvent) -> bool:
        """Whether more than its key, time and types matters."""

    def needed(self) -> Collection[str] | None:
        """The types and `eventTypeId`s of all events that have to be shown; None: all events have to be."""
        return None

    def narrowed(self, narrowing: Narrowing) -> None:  # noqa: B027 - nobody has to care
        """This is what vCenter is asked for."""

    @abstractmethod
    async def take(self, page: list[RawEvent]) -> None:
        """Take care of the events of a page that are new, durably; then `move`. Raises `GpuwrightError`."""

    @abstractmethod
    async def progress(self) -> None:
        """Between two reads: tell people how it goes."""

    @abstractmethod
    def counted(self, cursor: Cursor, **counted: int) -> None:
        """The cursor is here now, and totals rise: those of `WatchCounters`, and `gaps`."""

    @abstractmethod
    def reachable(self) -> None:
        """vCenter answers."""

    async def run(self) -> FollowResult:
        """Follow until there is a reason to return; raises `GpuwrightError` when vCenter or Temporal is in the way."""
        try:
            return await self._follow()
        except _KeysReissued as found:
            return self._end_at_gap(found.cursor, found.gap)
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if self.position and details and (details.worker_shutdown or details.cancel_requested):
                # With a result the next reader begins right here, without waiting for a missed heartbeat.
                return self._result("the worker shuts down" if details.worker_shutdown else "cancelled")
            raise
        finally:
            await self.reading.close()

    @property
    def here(self) -> FollowPosition:
        """The cursor and what was counted so far; raises `RuntimeError` where there is no cursor yet."""
        if self.position is None:
            raise RuntimeError("the reader has no cursor yet")
        return self.position

    def still_here(self) -> None:
        """Heartbeat: the loop makes progress."""
        if self.position is not None:
            activity.heartbeat(self.position)
        else:
            activity.heartbeat()

    def move(self, cursor: Cursor, **counted: int) -> None:
        """Everything up to this cursor is taken care of."""
        self._reads(cursor, **counted)
        self.counted(cursor, **counted)
        self.still_here()

    def _reads(self, cursor: Cursor, **counted: int) -> None:
        self._next_page_size = min(_PAGE_SIZE, 2 * self._page_size)
        self.position = self._at(cursor, self.here.counters.plus(**counted))

    def _at(self, cursor: Cursor, counters: WatchCounters) -> FollowPosition:
        return FollowPosition(cursor=cursor, counters=counters, next_page_size=self._next_page_size)

    def _result(self, ended: str, *gaps: Gap) -> FollowResult:
        return FollowResult(cursor=self.here.cursor, counters=self.here.counters, gaps=gaps, ended=ended)

    def _end_at_gap(self, cursor: Cursor, gap: Gap) -> FollowResult:
        """Return, so that the gap and the cursor behind it are durable before anything else is read."""
        self.position = self._at(cursor, self.here.counters)
        self.counted(cursor, gaps=1)
        return self._result(f"gap: {gap.reason}", gap)

    async def _follow(self) -> FollowResult:
        uuid = await self.reading.connect()
        if self.position is None:
            # Returned at once: a beginning that is not durable would move with each crash.
            latest, now = await self.reading.latest()
            return FollowResult(cursor=cursors.first_cursor(uuid, latest, now), ended="begins at the newest event")
        catalogue: Collection[str] = ()
        if self.needed() is not None and self._narrow != "never":
            catalogue = await self.reading.type_ids()
            self.still_here()
        self._narrowing = narrowing(self.needed(), catalogue, self._narrow)
        await self._open()
        self.reachable()
        self.counted(self.here.cursor)
        _log.info("following", cursor=self.here.cursor.key)
        latest, _ = await self.reading.latest()
        if moved := cursors.new_epoch(self.here.cursor, uuid, latest):
            return self._end_at_gap(*moved)
        self._latest, self.horizon = latest, latest.key if latest else 0
        self._settled, self._settled_at = latest, time.monotonic()
        if latest is not None and self._too_late_for(latest):
            await self._open(latest)
        pages_then, ends_at = self.here.counters.pages, time.monotonic() + _ROUND_S
        if ended := await self._read_from_oldest(latest):
            return ended
        self._reads(self.here.cursor)
        heard_at = time.monotonic()
        while time.monotonic() < ends_at and self.here.counters.pages < pages_then + _PAGES_A_ROUND:
            if activity.is_worker_shutdown():
                return self._result("the worker shuts down")
            self.still_here()
            await self.progress()
            news = await self.reading.wait_for_news(_WAIT_S)
            if news and await self._read_all():
                heard_at = time.monotonic()
            elif news or time.monotonic() - heard_at > _SILENCE_S:
                heard_at = time.monotonic()
                if ended := await self._compare(uuid):
                    return ended
        return self._result("the round is over")

    async def _open(self, latest: RawEvent | None = None) -> None:
        self._shown_to = 0
        self._begin = begin = cursors.begin_at(self.here.cursor, latest)
        try:
            await self.reading.open(begin, self._page_size, self._narrowing.type_ids)
        except BadRequest as refused:
            if not self._narrowing.type_ids:
                raise
            self._narrowing = Narrowing(text=f"not narrowed: vCenter refuses the filter: {refused}")
            await self.reading.open(begin, self._page_size)
        self.narrowed(self._narrowing)
        self.still_here()

    def _too_late_for(self, latest: RawEvent) -> bool:
        """Whether the collector began after this event was created: vCenter's clock was set back since."""
        return cursors.clock_went_back(self.here.cursor, latest) and latest.created < self._begin

    async def _read_from_oldest(self, latest: RawEvent | None) -> FollowResult | None:
        """Read all that a new collector has; a result when the past is gone."""
        page = await self._first_page(latest)
        oldest = page
        if self._narrowing.type_ids:
            # The cursor's own event and the next one need not be of those that are shown, so the past is looked at
            # beside. After the page was read: what is there now was there then.
            oldest = await self._past(latest)
        if moved := cursors.purged(self.here.cursor, oldest):
            return self._end_at_gap(*moved)
        await self._take_from(page)
        if latest is not None and latest.key > self.here.cursor.key:
            await self._read_up_to(latest)
        return None

    async def _read_up_to(self, latest: RawEvent) -> bool:
        """Read on until something is new, or nothing can be left up to the newest event; whether anything was."""
        # So many pages can be empty by keys: a run of events that this user may not see makes such ones.
        shown_to = max(self._shown_to, self.here.cursor.key) if self._narrowing.type_ids else self._shown_to
        pages = max(0, latest.key - shown_to) // self._page_size + 1
        # Who passes over what is not shown has to be sure.
        for _ in range(pages if self._narrowing.type_ids else min(pages, _EMPTY_PAGES)):
            if await self._read_all():
                return True
            self.still_here()
        return False

    async def _past(self, latest: RawEvent | None) -> list[RawEvent]:
        """Events of all types around the cursor."""
        cursor = self.here.cursor
        # The cursor's own event is there, be it behind a run of events that this user may not see.
        empty = _EMPTY_PAGES if latest is not None and latest.key >= cursor.key > 0 else 0
        begin = cursors.begin_at(cursor)
        return self._of_this_epoch(await self.reading.shown(begin, up_to=cursor.key, empty_pages=empty))

    async def _read_all(self) -> bool:
        """Read and hand over until a page is empty; whether anything was new."""
        before = self.here.cursor
        await self._take_from(await self.reading.read_page(self.wanted))
        return self.here.cursor != before

    async def _take_from(self, page: list[RawEvent]) -> None:
        """Have this page and all that follow taken care of, until one is empty or the worker shuts down."""
        while page and not activity.is_worker_shutdown():
            ours = self._ours(page)
            # What follows a page that is not full is most often nothing, and asking for it would only be in the way.
            if len(page) < self._page_size:
                await self.take(ours)
                page = await self.reading.read_page(self.wanted)
            else:
                page = await self._take_and_read(ours)
            await self.progress()
            self.still_here()

    async def _take_and_read(self, page: list[RawEvent]) -> list[RawEvent]:
        """Have a page taken care of while the next one is read."""
        ahead = asyncio.create_task(self.reading.read_page(self.wanted))
        try:
            await self.take(page)
            return await ahead
        finally:
            # After an error or a cancellation nobody needs the page, or the reason why there is none: the next reader
            # begins at the cursor.
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _first_page(self, latest: RawEvent | None) -> list[RawEvent]:
        """The first events of this epoch that a new collector has; empty when there are none now."""
        # Unless narrowed, it has the cursor's own event, be it behind a run of events that this user may not see.
        there = latest is not None and latest.key >= self.here.cursor.key > 0 and not self._narrowing.type_ids
        for _ in range(_EMPTY_PAGES if there else 1):
            while page := await self.reading.read_page(self.wanted):
                if ours := self._ours(page):
                    return ours
            self.still_here()
        return []

    def _ours(self, page: list[RawEvent]) -> list[RawEvent]:
        """The events of this epoch that the collector shows; raises `_KeysReissued` where the cursor is not of it."""
        self._shown_to = max(self._shown_to, *(event.key for event in page))
        return self._of_this_epoch(page)

    def _of_this_epoch(self, page: list[RawEvent]) -> list[RawEvent]:
        if moved := cursors.reissued(self.here.cursor, page):
            raise _KeysReissued(*moved)
        return cursors.of_this_epoch(page, self.here.cursor, self._latest)

    async def _compare(self, uuid: str) -> FollowResult | None:
        """Hold the collector against the newest event; a result when vCenter's past changed."""
        latest, _ = await self.reading.latest()
        self.still_here()
        if moved := cursors.new_epoch(self.here.cursor, uuid, latest):
            return self._end_at_gap(*moved)
        settled, now = self._settled, time.monotonic()
        if ripe := now - self._settled_at >= cursors.OVERLAP.total_seconds():
            self._settled, self._settled_at = latest, now
        if latest is None or latest.key <= max(self.here.cursor.key, self._stalled_at):
            return None
        if self._too_late_for(latest):
            await self._open(latest)
            return await self._read_from_oldest(latest)
        if await self._read_up_to(latest):
            return None
        if self._narrowing.type_ids and not await self._hides(latest.key):
            if ripe:
                self._pass_over(settled)
            return None
        # What a new collector does not show either is not for this user to see: not tried again for the same event.
        self._stalled_at = latest.key
        self.move(self.here.cursor, rebuilt=1)
        _log.info("collector_rebuilt", cursor=self.here.cursor.key, latest=latest.key)
        await self._open()
        return await self._read_from_oldest(latest)

    async def _hides(self, up_to: int) -> bool:
        """Whether another collector for the same events shows one, up to this key, that is not taken care of."""
        cursor = self.here.cursor
        # A run of events that this user may not see makes empty pages, at most so many.
        empty = max(0, up_to - cursor.key) // _PAGE_SIZE + 1
        shown = await self.reading.shown(cursors.begin_at(cursor), self._narrowing.type_ids, empty_pages=empty)
        return any(event.key <= up_to for event in cursors.fresh(self._of_this_epoch(shown), cursor))

    def _pass_over(self, settled: RawEvent | None) -> None:
        """Move the cursor over events that nobody needs, or it would fall behind what vCenter keeps.

        Two collectors show nothing behind the cursor, so nothing up to the newest event is needed. It moves to what
        was the newest seconds ago only: an event that vCenter writes a little later than one with a higher key had all
        the time since to be shown.
        """
        if settled is not None and not settled.problem and settled.key > self.here.cursor.key:
            self.move(cursors.advance(self.here.cursor, [settled]))
            self._shown_to = max(self._shown_to, settled.key)

    async def named(self, events: list[RawEvent]) -> list[RawEvent]:
        """The events with names; new hosts make the inventory be read, once a page."""
        if any(event.host_moid and event.host_moid not in self.hosts for event in events):
            self.hosts = await self.reading.hosts()
        return [with_names(event, self.hosts) for event in events]

    def newly_broken(self, event: RawEvent) -> bool:
        """Whether an unreadable event is one that this reader has not put into quarantine yet."""
        if not event.problem:
            return False
        known = event.xml in self._broken if event.key < 0 else event.key <= self.here.cursor.key
        if not known:
            self._broken.add(event.xml)
        return not known


def unfit(cursor: Cursor, event: RawEvent, reason: str) -> QuarantinedEvent:
    """A readable event that nobody can take, for quarantine."""
    return QuarantinedEvent(
        epoch=cursor.epoch,
        key=event.key,
        created=event.created,
        type_name=event.type_name,
        reason=reason,
        raw=event.message[:_RAW_LIMIT],
        after=cursor.created,
    )


def broken(cursor: Cursor, event: RawEvent) -> QuarantinedEvent:
    """An event that cannot be read, for quarantine."""
    return QuarantinedEvent(
        epoch=cursor.epoch,
        key=event.key,
        type_name=event.type_name,
        reason=f"the event is broken: {event.problem}",
        raw=event.xml[:_RAW_LIMIT],
        after=cursor.created,
    )
