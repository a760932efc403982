"""The event log: gives every event its key and time, and keeps it as XML so that pages are joined bytes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from pyVmomi import vim
from pyVmomi.VmomiSupport import GetWsdlName

from simulator.core import CURRENT_CALL
from simulator.wire.soap_read import parse_data, wire_type
from simulator.wire.soap_write import RawXml, compatible_type, inner_xml, timestamp, type_of
from simulator.wire.versions import NEWEST

if TYPE_CHECKING:
    from simulator.core import Managed, Registry

__all__ = ["EventLog", "LoggedEvent"]

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
_EVENT_NAME_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+|\d+")


@dataclass(frozen=True, slots=True, eq=False)
class LoggedEvent:
    """One event as the log keeps it.

    `serial` counts posts and never goes back, unlike `key`. `names` are the type's name, those of its base types
    and the `eventTypeId`; `about` are moids of the entities it names, `within` those of their ancestors. `xml`
    holds the event's fields, without the outer element. A `hidden` event is one that the reader may not see: it
    takes room in pages without showing up.
    """

    serial: int
    key: int
    created: datetime
    chain_id: int
    user: str
    wsdl_type: str
    names: frozenset[str]
    about: frozenset[str]
    within: frozenset[str]
    xml: bytes
    version: str
    hidden: bool

    def wire_type(self, version: str) -> str:
        """The type as a client of an API version sees it."""
        return self.wsdl_type if version == self.version else GetWsdlName(compatible_type(self._type(), version))

    def inner(self, version: str) -> str:
        """The fields as XML; an older client gets them without what its API version does not know."""
        if version == self.version:
            return self.xml.decode()
        return inner_xml(parse_data(self.xml.decode(), self._type(), self.version), version).decode()

    def _type(self) -> Any:
        return wire_type(self.wsdl_type)


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
        self.listeners: list[Callable[[LoggedEvent], None]] = []
        self._events: deque[LoggedEvent] = deque()
        self._next_serial = 1
        self._latest: Any = None
        self._arguments: dict[tuple[str, str], Any] = {}
        self._lineage: dict[str, frozenset[str]] = {}

    def post(self, event: Any, hidden: bool = False) -> Any:
        """Log a pyVmomi event and return it, with `key`, `chainId`, `createdTime` and `userName` filled in.

        Also fills in the `datacenter` and `computeResource` arguments from the host or VM that it names, and a
        `fullFormattedMessage` when there is none.
        """
        now = self.registry.clock.now()
        event.key, self.next_key = self.next_key, self.next_key + 1 if self.next_key < 2**31 - 1 else 1
        event.chainId = event.chainId or event.key
        event.createdTime = now
        call = CURRENT_CALL.get()
        event.userName = event.userName or (call.session.user if call else "")
        about, within = self._fill_in_entities(event)
        if not event.fullFormattedMessage:
            event.fullFormattedMessage = default_message(event)
        logged = LoggedEvent(
            serial=self._next_serial,
            key=event.key,
            created=now,
            chain_id=event.chainId,
            user=event.userName,
            wsdl_type=GetWsdlName(compatible_type(type_of(event), self.version)),
            names=_names(type(event)) | ({event.eventTypeId} if getattr(event, "eventTypeId", None) else frozenset()),
            about=about,
            within=within,
            xml=inner_xml(event, self.version),
            version=self.version,
            hidden=hidden,
        )
        self._append(logged, event)
        return event

    def post_raw(self, wsdl_type: str, fields: str, count: int = 1) -> list[int]:
        """Log `count` events of one point in time whose fields are this XML, and return their keys.

        For what a pyVmomi event cannot hold: unknown types, missing and broken fields. `{key}` and `{created}` in
        `fields` are replaced; an event without them has these only in the log. Shown to clients of the server's own
        API version as it is.
        """
        now, keys = self.registry.clock.now(), []
        for _ in range(count):
            key, self.next_key = self.next_key, self.next_key + 1
            xml = fields.replace("{key}", str(key)).replace("{created}", timestamp(now))
            logged = LoggedEvent(
                serial=self._next_serial,
                key=key,
                created=now,
                chain_id=key,
                user="",
                wsdl_type=wsdl_type,
                names=frozenset({wsdl_type}),
                about=frozenset(),
                within=frozenset(),
                xml=xml.encode(),
                version=self.version,
                hidden=False,
            )
            self._append(logged, RawXml(wsdl_type, xml))
            keys.append(key)
        return keys

    def _append(self, logged: LoggedEvent, latest: Any) -> None:
        self._next_serial += 1
        self._events.append(logged)
        if not logged.hidden:
            self._latest = latest
        self._purge(logged.created)
        for listener in tuple(self.listeners):
            listener(logged)

    @property
    def latest(self) -> Any:
        """The newest event (a pyVmomi event, or XML where it was posted so), or `None`."""
        return self._latest

    @property
    def first_serial(self) -> int:
        """The serial of the oldest event kept (the next one's, when the log is empty)."""
        return self._next_serial - len(self._events)

    @property
    def end_serial(self) -> int:
        """The serial that the next event will get."""
        return self._next_serial

    def forwards(self, serial: int) -> Iterator[LoggedEvent]:
        """Events from `serial` on, oldest first."""
        return islice(self._events, max(0, serial - self.first_serial), None)

    def backwards(self, serial: int) -> Iterator[LoggedEvent]:
        """Events before `serial`, newest first."""
        return islice(reversed(self._events), max(0, self._next_serial - serial), None)

    def _purge(self, now: datetime) -> None:
        """Drop what retention no longer keeps."""
        oldest = now - self.max_age
        while self._events and (len(self._events) > self.max_events or self._events[0].created < oldest):
            self._events.popleft()

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


_NAMES: dict[type, frozenset[str]] = {}


def _names(event_type: type) -> frozenset[str]:
    if event_type not in _NAMES:
        bases = [GetWsdlName(base) for base in event_type.__mro__ if issubclass(base, vim.event.Event)]
        own = GetWsdlName(event_type)
        _NAMES[event_type] = frozenset([*bases, f"vim.event.{own}"])
    return _NAMES[event_type]


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
