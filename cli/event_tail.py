"""Events live from several vCenters: a thread and a session each, merged into one stream."""

import heapq
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase

from contracts.errors import GpuwrightError
from contracts.events import Cursor
from listeners.cursor import advance, begin_at, fresh, new_epoch
from vsphere.events import EventReader, RawEvent
from vsphere.sessions import SessionPool

__all__ = ["EventFilter", "Told", "tail"]

_WAIT_S = 2
"""Longest wait for a push, and so for the end after Ctrl-C."""
_SILENCE_S = 15
"""After this long without news the collector is held against `latestEvent`."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
_END_S = 10.0
"""For readers to give their collectors back at the end."""


@dataclass(frozen=True)
class EventFilter:
    """Globs without letter case; an event without the name in question does not match. None: any."""

    kind: str | None = None
    """Of the event's type, or of the `eventTypeId` of an `EventEx`."""
    host: str | None = None
    cluster: str | None = None
    vm: str | None = None

    def fits(self, event: RawEvent) -> bool:
        """Whether the event is wanted."""
        return (
            _like(self.kind, event.type_name, event.base_type)
            and _like(self.host, event.host_name)
            and _like(self.cluster, event.cluster_name)
            and _like(self.vm, event.vm_name)
        )


def _like(glob: str | None, *names: str) -> bool:
    return glob is None or any(name and fnmatchcase(name.casefold(), glob.casefold()) for name in names)


@dataclass(frozen=True)
class Told:
    """An event of a vCenter, or a word about the reading of its events."""

    vcenter: str
    event: RawEvent | None = None
    word: str = ""
    failed: bool = False
    """Its reader has ended for good."""


class _Caught(Told):
    """All that was there when the reader began has been told."""


def tail(
    pools: Sequence[SessionPool], since: timedelta, wanted: EventFilter, *, follow: bool
) -> Generator[Told, None, None]:
    """Events created since so long ago (vCenter's clock), those that are there merged by time, then the new ones.

    A reader that loses vCenter is resumed after its last event, and says so; without `follow` it fails instead. Close
    the iterator to end the readers and give their collectors back.
    """
    out: queue.Queue[Told] = queue.Queue()
    stop = threading.Event()
    readers = [_Reader(pool, since, wanted, follow, stop, out.put) for pool in pools]
    threads = [threading.Thread(target=reader.run, name=f"tail-{reader.vcenter}", daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        yield from _merged(out, [reader.vcenter for reader in readers])
        left = {reader.vcenter for reader in readers} if follow else set()
        while left:
            told = out.get()
            if told.failed:
                left.discard(told.vcenter)
            if not isinstance(told, _Caught):
                yield told
    finally:
        stop.set()
        give_up_at = time.monotonic() + _END_S
        for thread in threads:
            thread.join(max(give_up_at - time.monotonic(), 0))


def _merged(out: "queue.Queue[Told]", vcenters: Sequence[str]) -> Iterator[Told]:
    """What was there, by time of creation, when every reader has told it or failed; words at once."""
    history: dict[str, list[Told]] = {vcenter: [] for vcenter in vcenters}
    left = set(vcenters)
    while left:
        told = out.get()
        if isinstance(told, _Caught) or told.failed:
            left.discard(told.vcenter)
        if told.event is not None:
            history[told.vcenter].append(told)
        elif told.word:
            yield told
            # Who is away for now keeps nobody waiting.
            left.discard(told.vcenter)
    yield from heapq.merge(*history.values(), key=lambda told: told.event.created.timestamp() if told.event else 0.0)


class _Reader:
    """Reads the events of one vCenter on its own thread."""

    def __init__(
        self,
        pool: SessionPool,
        since: timedelta,
        wanted: EventFilter,
        follow: bool,
        stop: threading.Event,
        put: Callable[[Told], None],
    ) -> None:
        self._pool, self._since, self._wanted, self._follow = pool, since, wanted, follow
        self._stop, self._put = stop, put
        self._cursor: Cursor | None = None
        self._broken: set[str] = set()
        self._lost = False
        self._stalled_at = 0

    @property
    def vcenter(self) -> str:
        return self._pool.name

    def run(self) -> None:
        """Until `stop`, or what was there is read, or nothing but a person helps."""
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            begun_at = time.monotonic()
            try:
                with self._pool.session() as si:
                    reader = EventReader(si)
                    try:
                        self._read(reader)
                    finally:
                        reader.close()
            except GpuwrightError as error:
                if not (self._follow and error.retryable):
                    self._put(Told(self.vcenter, word=str(error), failed=True))
                    return
                if not self._lost:
                    self._lost = True
                    self._put(Told(self.vcenter, word=f"{error}; trying again"))
            except Exception as error:
                self._put(Told(self.vcenter, word=f"{type(error).__name__}: {error}", failed=True))
                raise
            else:
                return
            pause_s = _FIRST_PAUSE_S if time.monotonic() - begun_at > _LONGEST_PAUSE_S else pause_s
            self._stop.wait(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _read(self, reader: EventReader) -> None:
        if self._cursor is None:
            begin = reader.now() - self._since
            self._cursor = Cursor(epoch=f"{reader.instance_uuid}.0", key=0, created=begin)
        # Opened before anything is asked: that logs in again where the session was lost.
        reader.open(begin_at(self._cursor))
        self._begin_again_in_new_epoch(reader, reader.latest())
        if self._lost:
            self._lost = False
            self._put(Told(self.vcenter, word=f"reading on after event {self._cursor.key}"))
        self._read_all(reader)
        self._put(_Caught(self.vcenter))
        heard_at = time.monotonic()
        while self._follow and not self._stop.is_set():
            if reader.wait_for_news(_WAIT_S) and self._read_all(reader):
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_S:
                heard_at = time.monotonic()
                self._compare(reader)

    def _compare(self, reader: EventReader) -> None:
        """Begin again where there are events that the collector does not show; once for what nobody may see."""
        latest = reader.latest()
        if latest is None or self._cursor is None or latest.key in (self._cursor.key, self._stalled_at):
            return
        self._stalled_at = latest.key
        reader.open(begin_at(self._cursor))
        self._begin_again_in_new_epoch(reader, latest)
        self._read_all(reader)

    def _begin_again_in_new_epoch(self, reader: EventReader, latest: RawEvent | None) -> None:
        """Say it where vCenter's keys begin anew, and take them as new ones."""
        if self._cursor is not None and (moved := new_epoch(self._cursor, reader.instance_uuid, latest)):
            self._cursor, gap = moved
            self._put(Told(self.vcenter, word=gap.reason))
            reader.open(begin_at(self._cursor))

    def _read_all(self, reader: EventReader) -> bool:
        """Tell the new events of every page; whether there were any."""
        any_new = False
        while not self._stop.is_set() and (page := reader.read_page()):
            if self._cursor is None:
                raise RuntimeError("the reader has no cursor yet")
            new = fresh(page, self._cursor)
            keyless = [event for event in page if event.key < 0 and event.xml not in self._broken]
            self._broken.update(event.xml for event in keyless)
            for event in (*new, *keyless):
                # Whatever is asked for: what cannot be read in full may be it.
                if event.problem or self._wanted.fits(event):
                    self._put(Told(self.vcenter, event))
            self._cursor = advance(self._cursor, new)
            any_new = any_new or bool(new or keyless)
        return any_new
