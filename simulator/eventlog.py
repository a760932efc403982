"""The event log: gives every event its key and time, and keeps it as XML so that pages are joined bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetWsdlName

from simulator.core import CURRENT_CALL
from simulator.event_ledger import EventLedger
from simulator.event_templates import EventTemplate, event_template
from simulator.logged_event import CLOSING, LoggedEvent, names_of, opening
from simulator.wire.soap_read import wire_type
from simulator.wire.soap_write import RawXml, compatible_type, inner_xml, timestamp, type_of
from simulator.wire.versions import NEWEST

if TYPE_CHECKING:
    from simulator.core import Managed, Registry

__all__ = ["EventLog", "LoggedEvent"]

_CHUNK = 4096
_ENTITY_ARGUMENTS = {
    "datacenter": "datacenter",
    "computeResource": "computeResource",
    "host": "host",
    "vm": "vm",
    "ds": "datastore",
    "net": "network",
    "dvs": "dvs",
}
_PLACES = (
    (vim.Datacenter, "datacenter", vim.event.DatacenterEventArgument, "datacenter"),
    (vim.ComputeResource, "computeResource", vim.event.ComputeResourceEventArgument, "computeResource"),
    (vim.HostSystem, "host", vim.event.HostEventArgument, "host"),
)
"""Where something happened: filled into every event from the inventory."""
_TYPE_ID = re.compile(r"<eventTypeId>([^<]+)</eventTypeId>")
_EVENT_NAME_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+|\d+")


class _Collector(Protocol):
    """What the log knows of a collector that reads it."""

    stalled: bool

    def behind(self) -> int:
        """How many events it has not read, whether its filter lets them through or not."""

    def stall(self, silent: bool) -> None:
        """Show nothing more by `ReadNextEvents`; silent, not even news."""


class EventLog:
    """Events in the order of their posting, at most `max_events` and not older than `max_age`."""

    def __init__(self, registry: Registry, max_events: int = 500_000, max_age: timedelta = timedelta(days=30)) -> None:
        self.registry = registry
        self.max_events = max_events
        self.max_age = max_age
        self.version = NEWEST
        """The API version in which events are kept, pyVmomi's name: the server's own."""
        self.next_key = 1
        """The next event's key; set it lower to make keys regress, as a vCenter restored from a backup does."""
        self.listeners: list[Callable[[Sequence[LoggedEvent]], None]] = []
        """Called with what was posted, one event or many of one moment."""
        self.on_restore: list[Callable[[], object]] = []
        """Called before a restore takes events away: whoever reads them is gone with the vCenter that was."""
        self.collectors: list[_Collector] = []
        self.ledger = EventLedger()
        self._events: list[LoggedEvent] = []
        self._start = 0
        """So many of `_events` are purged; they are taken out now and then, as it takes time."""
        self._next_serial = 1
        self._latest: LoggedEvent | None = None
        self._latest_shown: Any = None
        self._arguments: dict[tuple[str, str], Any] = {}
        self._lineage: dict[str, frozenset[str]] = {}

    def post(self, event: Any, hidden: bool = False) -> Any:
        """Log a pyVmomi event and return it, with `key`, `chainId`, `createdTime` and `userName` filled in.

        Also fills in the `datacenter` and `computeResource` arguments from the host or VM that it names, and a
        `fullFormattedMessage` when there is none.
        """
        now = self.registry.clock.now()
        event.key = self._take_key()
        event.chainId = event.chainId or event.key
        event.createdTime = now
        call = CURRENT_CALL.get()
        event.userName = event.userName or (call.session.user if call else "")
        about, within = self._fill_in(event)
        wsdl_type = GetWsdlName(compatible_type(type_of(event), self.version))
        logged = LoggedEvent(
            serial=self._next_serial,
            key=event.key,
            created=now,
            chain_id=event.chainId,
            user=event.userName,
            wsdl_type=wsdl_type,
            names=names_of(type_of(event), getattr(event, "eventTypeId", None) or ""),
            about=about,
            within=within,
            element=opening(wsdl_type) + inner_xml(event, self.version) + CLOSING,
            version=self.version,
            hidden=hidden,
        )
        self._append([logged])
        if not hidden:
            self._latest_shown = event
        return event

    def template(self, event: Any) -> EventTemplate:
        """A pyVmomi event to post many times: what `post` fills in is filled in once, but for key and time.

        Raises `ValueError` when a field that its type needs is not set.
        """
        about, within = self._fill_in(event)
        names = names_of(type_of(event), getattr(event, "eventTypeId", None) or "")
        return event_template(event, names, about, within, self.version)

    def post_many(self, events: Iterable[tuple[EventTemplate, datetime]], hidden: bool = False) -> list[int]:
        """Log events made of templates, each with its time, as one piece of news; returns their keys."""
        batch: list[LoggedEvent] = []
        serial, version = self._next_serial, self.version
        for template, created in events:
            key = self._take_key()
            batch.append(
                LoggedEvent(
                    serial + len(batch), key, created, key, template.user, template.wsdl_type, template.names,
                    template.about, template.within, template.element(key, created), version, hidden,
                )
            )  # fmt: skip
        self._append(batch)
        return [event.key for event in batch]

    def post_raw(self, wsdl_type: str, fields: str, count: int = 1, about: Collection[str] = ()) -> list[int]:
        """Log `count` events of one point in time whose fields are this XML, and return their keys.

        For what a pyVmomi event cannot hold: unknown types, missing and broken fields. `{key}` and `{created}` in
        `fields` are replaced; an event without them has these only in the log. Filters find it by its type, its
        `eventTypeId`, and by the moids that it is `about`. Shown to all clients as it is.
        """
        now, moids, names = self.registry.clock.now(), frozenset(about), _names_of_raw(wsdl_type, fields)
        begin = opening(wsdl_type)
        batch: list[LoggedEvent] = []
        for _ in range(count):
            key = self._take_key()
            xml = fields.replace("{key}", str(key)).replace("{created}", timestamp(now))
            batch.append(
                LoggedEvent(
                    serial=self._next_serial + len(batch),
                    key=key,
                    created=now,
                    chain_id=key,
                    user="",
                    wsdl_type=wsdl_type,
                    names=names,
                    about=moids,
                    within=frozenset(),
                    element=begin + xml.encode() + CLOSING,
                    version=self.version,
                    raw=True,
                )
            )
        self._append(batch)
        return [event.key for event in batch]

    def _take_key(self) -> int:
        key = self.next_key
        self.next_key = key + 1 if key < 2**31 - 1 else 1
        return key

    def _append(self, batch: Sequence[LoggedEvent]) -> None:
        if not batch:
            return
        self._next_serial += len(batch)
        self._events.extend(batch)
        self.ledger.record(batch)
        self._show_as_latest(next((event for event in reversed(batch) if not event.hidden), self._latest))
        self.purge(keep=self.max_events, before=batch[-1].created - self.max_age)
        for listener in tuple(self.listeners):
            listener(batch)

    def _show_as_latest(self, event: LoggedEvent | None) -> None:
        if event is not self._latest:
            self._latest, self._latest_shown = event, None

    @property
    def latest(self) -> Any:
        """The newest event that anybody may see (a pyVmomi event, or XML where it was posted so), or `None`."""
        if self._latest_shown is None and self._latest is not None:
            event = self._latest
            self._latest_shown = RawXml(event.wsdl_type, event.inner(self.version)) if event.raw else event.parsed()
        return self._latest_shown

    @property
    def first_serial(self) -> int:
        """The serial of the oldest event kept (the next one's, when the log is empty)."""
        return self._next_serial - len(self)

    @property
    def end_serial(self) -> int:
        """The serial that the next event will get."""
        return self._next_serial

    def __len__(self) -> int:
        return len(self._events) - self._start

    def forwards(self, serial: int) -> Iterator[LoggedEvent]:
        """Events from `serial` on, oldest first."""
        events, begin = self._events, self._start + max(0, serial - self.first_serial)
        return chain.from_iterable(events[at : at + _CHUNK] for at in range(begin, len(events), _CHUNK))

    def backwards(self, serial: int) -> Iterator[LoggedEvent]:
        """Events before `serial`, newest first."""
        events, end = self._events, len(self._events) - max(0, self._next_serial - serial)
        return chain.from_iterable(
            reversed(events[max(at - _CHUNK, self._start) : at]) for at in range(end, self._start, -_CHUNK)
        )

    def purge(self, keep: int | None = None, before: datetime | None = None) -> int:
        """Drop the oldest events: all but the newest `keep`, and those created `before`; returns how many."""
        start = self._start
        if keep is not None:
            start = max(start, len(self._events) - keep)
        while before is not None and start < len(self._events) and self._events[start].created < before:
            start += 1
        dropped, self._start = start - self._start, start
        if self._start >= _CHUNK:
            del self._events[: self._start]
            self._start = 0
        return dropped

    def restore(self, lose: int) -> int:
        """Be as a backup is that does not have the newest `lose` events; returns the key that is given out next.

        Keys go on from the newest event that is left, and the ledger begins a new life. All sessions are gone, as
        the vCenter was down for it. Raises `ValueError` when so many events are not there.
        """
        if not 0 < lose <= len(self):
            raise ValueError(f"lose: {lose} is not between 1 and {len(self)}, the events that there are")
        for forget in tuple(self.on_restore):
            forget()
        del self._events[-lose:]
        self._next_serial -= lose
        newest = next(self.backwards(self._next_serial), None)
        self.next_key = newest.key + 1 if newest is not None else 1
        self._show_as_latest(next((event for event in self.backwards(self._next_serial) if not event.hidden), None))
        self.ledger.begin_life()
        return self.next_key

    def _fill_in(self, event: Any) -> tuple[frozenset[str], frozenset[str]]:
        about, within = self._fill_in_entities(event)
        if not event.fullFormattedMessage:
            event.fullFormattedMessage = default_message(event)
        return about, within

    def _fill_in_entities(self, event: Any) -> tuple[frozenset[str], frozenset[str]]:
        moids: set[str] = set()
        for name, field in _ENTITY_ARGUMENTS.items():
            if (argument := getattr(event, name, None)) is not None and (ref := getattr(argument, field, None)):
                moids.add(ref._moId)
        if (args := getattr(event, "entity", None)) is not None and getattr(args, "entity", None) is not None:
            moids.add(args.entity._moId)
        if (managed := getattr(event, "managedObject", None)) is not None:
            moids.add(managed._moId)
        if isinstance(event, vim.event.TaskEvent) and event.info and event.info.entity:
            moids.add(event.info.entity._moId)
        within: set[str] = set()
        for moid in tuple(moids):
            for ancestor in self._ancestors(moid):
                within.add(ancestor.moid)
                argument = self._argument_for(ancestor)
                if argument is not None and getattr(event, argument[0]) is None:
                    setattr(event, *argument)
                    moids.add(ancestor.moid)
        return frozenset(moids), self._shared(within)

    def _ancestors(self, moid: str) -> Iterator[Managed]:
        """The entity's host, as far as it runs on one, and the chain of its parents."""
        obj = self.registry.objects.get(moid)
        if obj is None:
            return
        if issubclass(obj.vim_type, vim.VirtualMachine):
            host = obj.read("runtime.host")
            if host is not None and (found := self.registry.objects.get(host._moId)):
                yield found
                yield from self._ancestors(found.moid)
        while obj is not None and "parent" in obj.readers:
            parent = obj.read("parent")
            obj = self.registry.objects.get(parent._moId) if parent is not None else None
            if obj is not None:
                yield obj

    def _argument_for(self, entity: Managed) -> tuple[str, Any] | None:
        """The event argument that names a datacenter, compute resource or host: field and value."""
        for kind, field, argument, reference in _PLACES:
            if issubclass(entity.vim_type, kind):
                key = (entity.moid, entity.read("name"))
                if key not in self._arguments:
                    self._arguments[key] = argument(name=key[1], **{reference: entity.ref()})
                return field, self._arguments[key]
        return None

    def _shared(self, moids: set[str]) -> frozenset[str]:
        """One frozen set for all events of the same ancestors: 100,000 events have few different ones."""
        frozen = frozenset(moids)
        return self._lineage.setdefault("/".join(sorted(frozen)), frozen)


def _names_of_raw(wsdl_type: str, fields: str) -> frozenset[str]:
    try:
        known = wire_type(wsdl_type)
    except vmodl.fault.InvalidRequest:
        return frozenset({wsdl_type})
    type_id = _TYPE_ID.search(fields)
    return (
        names_of(known, type_id[1] if type_id else "") if issubclass(known, vim.event.Event) else frozenset({wsdl_type})
    )


def default_message(event: Any) -> str:
    """A sentence made of the event's type and the names of its entities: `Host added: esx-1 in gpu-a`."""
    if getattr(event, "message", None):
        return str(event.message)
    text = words_of(GetWsdlName(type(event)))
    names = [getattr(getattr(event, name, None), "name", None) for name in ("vm", "host", "computeResource")]
    return f"{text}: " + " in ".join(name for name in names if name) if any(names) else text


def words_of(type_name: str) -> str:
    """`HostAddedEvent` as words: `Host added`."""
    return " ".join(_EVENT_NAME_WORDS.findall(type_name.removesuffix("Event"))).capitalize()
