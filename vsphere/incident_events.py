"""Events about hosts that fail and VMs that HA restarts: as audits are told of them, and as vCenter's history has them.

Unlike `vsphere.events`, which follows everything for ever, this reads to the end of a filtered history and stops.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import Unreachable
from contracts.events import EventKey
from contracts.incidents import INCIDENT_TYPES, IncidentEvent, meaning_of
from vsphere.connection import GatewayStub
from vsphere.event_xml import RawEvent, decode_events
from vsphere.faults import translated, words
from vsphere.sessions import content

__all__ = ["EVENT_TYPE_IDS", "incident_event", "newest_events", "read_incident_events"]

_MESSAGE_LIMIT = 300
_PAGE = 1000
"""vCenter's limit for one `ReadNextEvents`."""
_NEWEST = 100
_EMPTY_PAGES = 50
"""Pages of events that the account may not see, in a row, after which the reading ends."""


def _spellings(name: str) -> tuple[str, ...]:
    """A classic type as it is; the `eventTypeId` of an `EventEx` as releases spell it.

    vCenter filters with letter case, and releases differ in that of HA's name.
    """
    if "." not in name:
        return (name,)
    both = (name.replace(".HA.", ".ha."), name.replace(".ha.", ".HA."))
    return tuple(dict.fromkeys((name, *both, name.casefold())))


EVENT_TYPE_IDS = tuple(spelling for name in INCIDENT_TYPES for spelling in _spellings(name))
"""For `EventFilterSpec.eventTypeId`: WSDL names of classic events, which it compares with an event's type, and the
`eventTypeId`s of `EventEx`. The older `type` cannot name these, and the two may not be combined."""


def incident_event(raw: RawEvent, epoch: str) -> IncidentEvent:
    """The event as far as an audit cares."""
    return IncidentEvent(
        key=EventKey(epoch=epoch, key=raw.key),
        type_name=raw.type_name,
        created=raw.created,
        host_moid=raw.host_moid,
        host_name=raw.host_name,
        source_host_moid=raw.source_host_moid,
        source_host_name=raw.source_host_name,
        vm_moid=raw.vm_moid,
        vm_name=raw.vm_name,
        reason=raw.reason[:_MESSAGE_LIMIT],
        message=raw.message[:_MESSAGE_LIMIT],
    )


def read_incident_events(
    si: vim.ServiceInstance,
    vcenter: str,
    *,
    cluster_moid: str,
    host_moids: Sequence[str],
    since: datetime,
    most: int = 20_000,
) -> tuple[tuple[IncidentEvent, ...], str]:
    """What happened to a cluster, its hosts and their VMs from `since` on (vCenter's clock), oldest first.

    Without a cluster: to these hosts and their VMs. With it a note about what is not in it, empty when nothing is
    missing: only the `most` newest are kept, and events that cannot be read and entities that are gone are counted.
    The keys' epoch is that of a vCenter that was never restored. Raises the translated faults of the reads.
    """
    stub = si._stub
    if not isinstance(stub, GatewayStub):
        raise TypeError("read_incident_events needs a session of a SessionPool")
    epoch = f"{content(si).about.instanceUuid}.0"
    entities = [vim.ClusterComputeResource(cluster_moid)] if cluster_moid else [vim.HostSystem(m) for m in host_moids]
    notes: list[str] = []
    with translated(f"read the events of {cluster_moid or ', '.join(host_moids)} of {vcenter}"):
        read = (raw for entity in entities for raw in _history(si, stub, entity, since, notes))
        return newest_events(read, epoch, most, notes), "; ".join(notes)


def newest_events(raws: Iterable[RawEvent], epoch: str, most: int, notes: list[str]) -> tuple[IncidentEvent, ...]:
    """The `most` newest of those that mean something for an incident, oldest first and each once.

    `notes` gets what is left out: older ones, and events that cannot be read.
    """
    broken = 0

    def usable() -> Iterator[RawEvent]:
        nonlocal broken
        # A key alone is not enough: a vCenter restored from a backup gives keys out again.
        seen: set[tuple[int, datetime]] = set()
        for raw in raws:
            if raw.problem:
                broken += 1
            elif meaning_of(raw.type_name) is not None and (raw.key, raw.created) not in seen:
                seen.add((raw.key, raw.created))
                yield raw

    newest = heapq.nlargest(most + 1, usable(), key=lambda raw: (raw.created, raw.key))
    if len(newest) > most:
        newest.pop()
        notes.append(f"only the {most} newest events are kept: none before {newest[-1].created:%Y-%m-%d %H:%M:%S} UTC")
    if broken:
        notes.append(f"{broken} events could not be read")
    return tuple(incident_event(raw, epoch) for raw in reversed(newest))


def _history(
    si: vim.ServiceInstance, stub: GatewayStub, entity: Any, since: datetime, notes: list[str]
) -> Iterator[RawEvent]:
    """Every event about the entity and what is below it, oldest first.

    An empty page does not prove the end (vCenter gives one where the account may see none of the next thousand), so
    the newest events tell whether it is reached.
    """
    seen: set[tuple[int, datetime]] = set()
    empty = 0
    with _collector(si, entity, since) as collector:
        if collector is None:
            notes.append(f"{entity._moId} is no longer in the inventory, so its events cannot be found by it")
            return
        while empty < _EMPTY_PAGES:
            if page := decode_events(stub.invoke_raw(collector, "ReadNextEvents", _PAGE)):
                empty = 0
                seen.update((raw.key, raw.created) for raw in page)
                yield from page
                continue
            empty += 1
            latest = max(_latest(si, stub, collector), key=lambda raw: (raw.created, raw.key), default=None)
            if latest is None or (latest.key, latest.created) in seen:
                return
    notes.append(f"the account may not see all events of {entity._moId}")


@contextmanager
def _collector(si: vim.ServiceInstance, entity: Any, since: datetime) -> Iterator[Any]:
    """A collector of the entity's events, until the block ends; None when the entity is gone."""
    spec = vim.event.EventFilterSpec(
        entity=vim.event.EventFilterSpec.ByEntity(entity=entity, recursion="all"),
        time=vim.event.EventFilterSpec.ByTime(beginTime=since),
        eventTypeId=list(EVENT_TYPE_IDS),
        disableFullMessage=False,
        maxCount=_NEWEST,
    )
    try:
        collector = content(si).eventManager.CreateCollectorForEvents(spec)
    except vmodl.fault.ManagedObjectNotFound:
        yield None
        return
    try:
        yield collector
    except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated) as fault:
        raise Unreachable(f"the session ended and its collector of events with it ({words(fault)})") from fault
    finally:
        try:
            collector.DestroyCollector()
        except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated, Unreachable):
            # It ended with its session: there is nothing left to destroy.
            collector = None


def _latest(si: vim.ServiceInstance, stub: GatewayStub, collector: Any) -> list[RawEvent]:
    """The collector's newest events, in no order."""
    pc = vmodl.query.PropertyCollector
    spec = pc.FilterSpec(
        objectSet=[pc.ObjectSpec(obj=collector)],
        propSet=[pc.PropertySpec(type=vim.event.EventHistoryCollector, pathSet=["latestPage"])],
    )
    return decode_events(
        stub.invoke_raw(content(si).propertyCollector, "RetrievePropertiesEx", [spec], pc.RetrieveOptions())
    )
