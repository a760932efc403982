"""One reader of one vCenter's events, for asyncio: every blocking call happens on a thread of its own."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, TypeVar

import structlog

from contracts.errors import GpuwrightError, Unreachable
from vsphere.events import EventReader, RawEvent
from vsphere.host_modes import HostModes, read_host_modes
from vsphere.inventory import IndexedHost, host_index
from vsphere.sessions import SessionPool

__all__ = ["Reading"]

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)

_ANSWER_S = 4.0
"""For one call. Below the heartbeat time-out, so that a vCenter that hangs is named instead of a missed heartbeat."""
_LONG_ANSWER_S = 30.0
"""For calls that may take longer than the heartbeat time-out: logging in, reading all hosts."""
_STILL_HERE_S = 1.0


class Reading:
    """An `EventReader` and the session it lives in. Every method raises `GpuwrightError`.

    One thread makes the calls one after the other: after a cancellation it ends the call under way (a wait of
    seconds, or until the socket's time-out), then gives the collector back, while the event loop goes on at once.
    Whoever calls while another call is under way waits for it first, so that each has its own time to answer.
    """

    def __init__(self, pool: SessionPool, still_here: Callable[[], None]) -> None:
        """`still_here` is called while a long answer is awaited, for as long as such an answer may take."""
        self._pool = pool
        self._still_here = still_here
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"events-{pool.name}")
        self._turn = asyncio.Lock()
        self._lent: AbstractContextManager[Any] | None = None
        self._si: Any = None
        self._reader: EventReader | None = None
        self._beside: EventReader | None = None

    async def connect(self) -> str:
        """Take a session; the `instanceUuid` of the vCenter that answers."""
        return await self._call("log in", self._connect, _LONG_ANSWER_S)

    async def latest(self) -> tuple[RawEvent | None, datetime]:
        """The newest event and vCenter's time."""
        return await self._call("the newest event", lambda: (self._opened.latest(), self._opened.now()))

    async def type_ids(self) -> frozenset[str]:
        """The types and `eventTypeId`s of vCenter's catalogue."""
        return await self._call("its catalogue of events", lambda: self._opened.type_ids(), _LONG_ANSWER_S)

    async def open(self, begin: datetime, page_size: int, type_ids: Sequence[str] = ()) -> None:
        """Begin (again) at a point in time, with events of all types or of some."""
        await self._call("a collector of events", lambda: self._opened.open(begin, page_size, type_ids))

    async def shown(
        self, begin: datetime, type_ids: Sequence[str] = (), *, up_to: int | None = None, empty_pages: int = 0
    ) -> list[RawEvent]:
        """What another collector shows from a point in time on; until it shows the key `up_to` or a later one.

        With key, time and types only. It is read on behind so many empty pages. What is open stays as it is.
        """
        beside = self._beside = EventReader(self._si)
        await self._call("another collector of events", lambda: beside.open(begin, type_ids=type_ids, pushed=False))
        events: list[RawEvent] = []
        while page := await self._page_of(beside, empty_pages):
            events += page
            if up_to is not None and max(event.key for event in page) >= up_to:
                break
        await self._call("the end of a collector", beside.close)
        return events

    async def _page_of(self, beside: EventReader, empty_pages: int) -> list[RawEvent]:
        for _ in range(empty_pages + 1):
            page = await self._call("a page of events", lambda: beside.read_page(lambda _: False))
            self._still_here()
            if page:
                return page
        return []

    async def read_page(self, wanted: Callable[[RawEvent], bool] | None = None) -> list[RawEvent]:
        """The next events, oldest first; those that are not `wanted` may come with key, time and types only."""
        return await self._call("a page of events", lambda: self._opened.read_page(wanted))

    async def wait_for_news(self, max_wait_s: int) -> bool:
        """Wait for a push."""
        return await self._call("news", lambda: self._opened.wait_for_news(max_wait_s), max_wait_s + 1.5)

    async def hosts(self) -> Mapping[str, IndexedHost]:
        """The hosts of the inventory by moid, without those whose hardware UUID is not known yet.

        Such a host's key would change as soon as it is known, and with it the one workflow that the host may have.
        """
        index = await self._call("the hosts", lambda: host_index(self._si, self._pool.name), _LONG_ANSWER_S)
        return {moid: host for moid, host in index.by_moid.items() if host.ref.key != moid}

    async def modes(self, moids: Sequence[str]) -> tuple[Mapping[str, HostModes], datetime]:
        """Which of these hosts are in maintenance mode or standby, and vCenter's time then."""
        return await self._call("the modes of hosts", lambda: read_host_modes(self._si, moids))

    async def close(self) -> None:
        """Give everything back; a call that still hangs is waited for on its thread, not here."""
        given_back = asyncio.wrap_future(self._thread.submit(self._give_back))
        self._thread.shutdown(wait=False)
        await asyncio.wait([given_back], timeout=_ANSWER_S)

    @property
    def _opened(self) -> EventReader:
        if self._reader is None:
            raise RuntimeError("connect first")
        return self._reader

    async def _call(self, what: str, function: Callable[[], _T], limit_s: float = _ANSWER_S) -> _T:
        async with self._turn:
            return await self._answer(what, function, limit_s)

    async def _answer(self, what: str, function: Callable[[], _T], limit_s: float) -> _T:
        future = asyncio.get_running_loop().run_in_executor(self._thread, function)
        # Nobody asks after an answer that comes too late or after a cancellation.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        give_up_at = time.monotonic() + limit_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            done, _ = await asyncio.wait([future], timeout=min(left_s, _STILL_HERE_S))
            if done:
                return future.result()
            if limit_s == _LONG_ANSWER_S:
                self._still_here()
        raise Unreachable(f"vCenter {self._pool.name}: no answer within {limit_s:g} s when asked for {what}")

    def _connect(self) -> str:
        lent = self._pool.session()
        self._si = lent.__enter__()
        self._lent = lent
        self._reader = EventReader(self._si)
        return self._reader.instance_uuid

    def _give_back(self) -> None:
        try:
            for reader in (self._reader, self._beside):
                if reader is not None:
                    reader.close()
        except GpuwrightError as error:
            _log.warning("collector_not_destroyed", vcenter=self._pool.name, error=str(error))
        finally:
            if self._lent is not None:
                self._lent.__exit__(None, None, None)
