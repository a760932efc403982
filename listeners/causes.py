"""Why something happened to a host: on purpose (maintenance mode, DPM standby, work of our own) or not. Pure.

The order of belief: what vCenter's events said up to then; what vCenter shows now, of what happened just now; leases.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from contracts import names
from contracts.gate import Lease
from contracts.incidents import INCIDENT_TYPES, Meaning, meaning_of
from contracts.rules import Rule
from vsphere.event_xml import RawEvent
from vsphere.host_modes import HostModes

__all__ = ["NOTHING_TOLD", "TELLING_TYPES", "Cause", "Told", "cause_of", "concerns", "lease_of", "needs_look", "told"]

_NOW = timedelta(minutes=2)
"""How a host is now says nothing about longer ago: whoever reads old events had rather account for too much."""
_CLOCKS = timedelta(minutes=1)
"""A lease's time is Temporal's, an event's is vCenter's."""


class Cause(StrEnum):
    """Why a host's event begins no incident."""

    MAINTENANCE = "it is in maintenance mode"
    STANDBY = "it is in standby"
    LEASE = "gpuwright works on it"


@dataclass(frozen=True, slots=True)
class Told:
    """What events told of a host; None where they did not."""

    maintenance: bool | None = None
    standby: bool | None = None


NOTHING_TOLD = Told()


@dataclass(frozen=True, slots=True)
class _Turn:
    """What an event tells of the time before it, and of the time from it on."""

    mode: str
    before: bool | None
    after: bool | None


def _turn(type_name: str) -> _Turn | None:
    name, meaning = type_name.casefold(), meaning_of(type_name)
    match meaning:
        case Meaning.MAINTENANCE_BEGINS if name.startswith("entering"):
            # Its VMs still run there: a host that fails now is an incident.
            return _Turn("maintenance", before=False, after=False)
        case Meaning.MAINTENANCE_BEGINS:
            return _Turn("maintenance", before=False, after=True)
        case Meaning.MAINTENANCE_ENDS if name.startswith("canceled"):
            # Nobody says what was cancelled. A host that was entering maintenance mode was not in it yet anyway.
            return _Turn("standby", before=None, after=None)
        case Meaning.MAINTENANCE_ENDS:
            return _Turn("maintenance", before=True, after=False)
        case Meaning.STANDBY_BEGINS:
            # It goes down between the two events, and not by itself.
            return _Turn("standby", before="entered" in name, after=True)
        case Meaning.STANDBY_ENDS:
            return _Turn("standby", before=True, after=False)
    return None


TELLING_TYPES = tuple(name for name in INCIDENT_TYPES if _turn(name) is not None)
"""The types that tell how a host stands."""


@dataclass
class _Host:
    """One host on the way through the events."""

    told: Told
    open: dict[str, list[int]] = field(default_factory=lambda: {"maintenance": [], "standby": []})
    """Keys of events that came before anything was told of a mode."""


def told(
    events: Iterable[RawEvent], before: Mapping[str, Told] = MappingProxyType({})
) -> tuple[dict[int, Told], dict[str, Told]]:
    """For each event, by key, what the others tell of its host at that time; and for each host, by moid, of the end.

    `events` are in order; `before` is the end of those before them. What was told last holds; before anything was told,
    what comes next tells it too: a host that leaves maintenance mode was in it.
    """
    at: dict[int, Told] = {}
    hosts = {moid: _Host(each) for moid, each in before.items()}
    for event in events:
        if not event.host_moid or _is_about_vm(event):
            continue
        host = hosts.setdefault(event.host_moid, _Host(NOTHING_TOLD))
        if turn := _turn(event.type_name):
            for key in host.open[turn.mode]:
                at[key] = replace(at[key], **{turn.mode: turn.before})
            host.open[turn.mode].clear()
            host.told = replace(host.told, **{turn.mode: turn.after})
        at[event.key] = host.told
        for mode, waiting in host.open.items():
            if getattr(host.told, mode) is None:
                waiting.append(event.key)
    return at, {moid: host.told for moid, host in hosts.items() if host.told != NOTHING_TOLD}


def concerns(rule: Rule, event: RawEvent) -> bool:
    """Whether it has to be asked why: an audit would be started or joined for what happened to a host.

    Not for what happened to a VM: the host that a VM was restarted on is not the one that failed.
    """
    return rule.start == names.HA_RECOVERY_AUDIT and bool(event.host_moid) and not _is_about_vm(event)


def _is_about_vm(event: RawEvent) -> bool:
    meaning = meaning_of(event.type_name)
    return bool(event.vm_moid) if meaning is None else meaning.value.startswith("vm-")


def needs_look(told: Told) -> bool:
    """Whether events leave open how the host was."""
    return None in (told.maintenance, told.standby) and not (told.maintenance or told.standby)


def lease_of(event: RawEvent, leases: Sequence[Lease]) -> Lease | None:
    """The lease under which the host was worked on then.

    One whose holder is gone does not count: nobody knows what its host is up to.
    """
    return next(
        (
            lease
            for lease in leases
            if lease.request.host.moid == event.host_moid
            and lease.gone is None
            and lease.granted_at <= event.created + _CLOCKS
        ),
        None,
    )


def cause_of(
    event: RawEvent, told: Told, modes: HostModes | None, now: datetime | None, *, leased: bool
) -> Cause | None:
    """Why the event begins no incident; None where it may.

    `modes` is how vCenter shows the host at `now` (vCenter's clock); None where that is not known. `leased`: the run
    that works on the host was told of the event.
    """
    recent = modes is not None and now is not None and event.created >= now - _NOW
    maintenance, standby = told.maintenance, told.standby
    if modes is not None and recent:
        maintenance = modes.maintenance if maintenance is None else maintenance
        standby = modes.standby if standby is None else standby
    if maintenance:
        return Cause.MAINTENANCE
    if standby:
        return Cause.STANDBY
    return Cause.LEASE if leased else None
