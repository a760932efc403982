"""What vCenter's events tell about hosts that come and go, whatever their order and however often they were told."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.fleet import FleetHost, GpuFleet
from contracts.host import HostRef
from contracts.incidents import INCIDENT_BEGINS, HostDown, IncidentEvent, Meaning

__all__ = [
    "EARLY",
    "Outage",
    "about",
    "down_by",
    "host_now",
    "in_order",
    "moids_of",
    "outage_at",
    "outages",
    "place_in_order",
    "taken_down",
    "told",
]

EARLY = timedelta(minutes=2)
"""HA acts on its own: what it does may be told so long before vCenter tells that it lost the host."""
_OF_HA = frozenset({Meaning.HOST_FAILED, Meaning.HOST_ISOLATED})
_ON_PURPOSE = (
    (Meaning.MAINTENANCE_BEGINS, Meaning.MAINTENANCE_ENDS, "maintenance mode", "runtime.inMaintenanceMode"),
    (Meaning.STANDBY_BEGINS, Meaning.STANDBY_ENDS, "standby", "runtime.standbyMode"),
)


@dataclass(frozen=True)
class Outage:
    """A host from its loss until it is back."""

    at: datetime
    events: tuple[IncidentEvent, ...] = ()
    """Those that tell of the loss, oldest first; none where it was seen only."""
    back: IncidentEvent | None = None

    @property
    def by_ha(self) -> IncidentEvent | None:
        """What HA itself said last: that the host failed, or is isolated."""
        return next((event for event in reversed(self.events) if event.meaning in _OF_HA), None)


def place_in_order(event: IncidentEvent) -> tuple[datetime, str, int]:
    """Where an event belongs: by its time, then by its key."""
    return event.created, event.key.epoch, event.key.key


def in_order(events: Iterable[IncidentEvent]) -> tuple[IncidentEvent, ...]:
    """Each event once, oldest first. A restored vCenter gives keys out again, so the time counts too."""
    return tuple(sorted({place_in_order(event): event for event in events}.values(), key=place_in_order))


def told(event: IncidentEvent) -> str:
    """An event as evidence."""
    said = event.message or event.reason
    return f"event {event.key.key}, {event.type_name} of {event.created:%H:%M:%S} UTC" + (f": {said}" if said else "")


def host_now(host: HostRef, fleet: GpuFleet) -> FleetHost | None:
    """The host as the inventory has it: by its key, as its moid changes when it is added again."""
    return next((found for found in fleet.hosts if found.ref.key == host.key), None) or next(
        (found for found in fleet.hosts if found.ref.moid == host.moid), None
    )


def moids_of(host: HostRef, *fleets: GpuFleet | None) -> frozenset[str]:
    """Every moid that the host has had, as far as these reads tell."""
    found = [host_now(host, fleet) for fleet in fleets if fleet is not None]
    return frozenset({host.moid, *(each.ref.moid for each in found if each is not None)} - {""})


def about(host: HostRef, moids: frozenset[str]) -> Callable[[IncidentEvent], bool]:
    """Whether an event is about this host; one that names no moid is matched by name."""
    name = host.name.casefold()

    def matches(event: IncidentEvent) -> bool:
        if event.host_moid:
            return event.host_moid in moids
        return bool(name) and event.host_name.casefold() == name

    return matches


def outages(events: Sequence[IncidentEvent]) -> tuple[Outage, ...]:
    """The outages that one host's events tell of, oldest first; `events` are in order."""
    found: list[Outage] = []
    current: list[IncidentEvent] = []
    for event in events:
        if event.meaning in INCIDENT_BEGINS:
            current.append(event)
        elif event.meaning is Meaning.HOST_BACK and current:
            found.append(Outage(current[0].created, tuple(current), event))
            current = []
    if current:
        found.append(Outage(current[0].created, tuple(current)))
    return tuple(found)


def outage_at(at: datetime, known: Sequence[Outage]) -> Outage:
    """The outage that goes on at this time; one without events where none of these does."""
    for outage in reversed(known):
        if outage.at <= at:
            return outage if outage.back is None or outage.back.created > at else Outage(at)
    return Outage(at)


def taken_down(outage: Outage, events: Sequence[IncidentEvent], now: FleetHost | None) -> str:
    """That the host was taken down on purpose, with the evidence; empty where it was lost.

    `events` are those about this host, in order. HA watches no host in maintenance mode: where HA itself tells of a
    failure, a host that was only entering it was lost.
    """
    lost = place_in_order(outage.events[0]) if outage.events else None
    for begins, ends, name, path in _ON_PURPOSE:
        steps = [event for event in events if event.meaning in (begins, ends)]
        before = [step for step in steps if (place_in_order(step) < lost if lost else step.created <= outage.at)]
        after = steps[len(before) :]
        if before:
            last = before[-1]
            entering = "entering" in last.type_name.casefold()
            if last.meaning is begins and not (entering and outage.by_ha):
                return f"{name}: {told(last)}"
        elif outage.by_ha is not None:
            continue
        elif after:
            if after[0].meaning is ends and "cancel" not in after[0].type_name.casefold():
                return f"{name}, left after it: {told(after[0])}"
        elif now is not None and (now.in_maintenance if begins is Meaning.MAINTENANCE_BEGINS else now.standby):
            return f"{name}: {path} of {now.ref.name} says so"
    return ""


def down_by(event: IncidentEvent, hosts: Sequence[HostDown]) -> HostDown | None:
    """Of these hosts, the one whose loss an event of HA without a source follows."""
    before = [down for down in hosts if down.at - EARLY <= event.created]
    return max(before, key=lambda down: (down.at, down.host.key), default=None)
