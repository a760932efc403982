"""How the hosts of an incident stand, who else is down, and the incident's story."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from contracts.durations import duration_words
from contracts.fleet import FleetHost, GpuFleet
from contracts.incidents import INCIDENT_BEGINS, HostDown, IncidentEvent, Meaning
from contracts.verdicts import (
    HostStanding,
    IncidentHost,
    Recovery,
    TimelineEntry,
    Victim,
    VmVerdict,
)
from planning.chronicle import EARLY, about, host_now, in_order, moids_of, outages, taken_down, told

__all__ = ["also_down", "last_event_at", "standings", "timeline"]

_ALIVE = frozenset({"master", "connectedToMaster", "election", "networkPartitionedFromMaster", "fdmUnreachable"})
"""States (`ClusterDasFdmAvailabilityState`) of a host that runs, as far as HA's master knows."""
_OF_HOSTS = frozenset(
    {
        *INCIDENT_BEGINS,
        Meaning.HOST_BACK,
        Meaning.MAINTENANCE_BEGINS,
        Meaning.MAINTENANCE_ENDS,
        Meaning.STANDBY_BEGINS,
        Meaning.STANDBY_ENDS,
    }
)
_WORDS: Mapping[Meaning, str] = {
    Meaning.HOST_FAILED: "HA says that {host} failed",
    Meaning.HOST_ISOLATED: "HA says that {host} is isolated from its network",
    Meaning.HOST_LOST: "vCenter lost the connection to {host}",
    Meaning.HOST_BACK: "{host} is connected again",
    Meaning.MAINTENANCE_BEGINS: "{host} goes into maintenance mode",
    Meaning.MAINTENANCE_ENDS: "{host} leaves maintenance mode",
    Meaning.STANDBY_BEGINS: "{host} goes into standby",
    Meaning.STANDBY_ENDS: "{host} leaves standby",
    Meaning.VM_RESTARTED: "HA restarted {vm} on {host}",
    Meaning.VM_RESTART_FAILED: "HA could not restart {vm}",
    Meaning.VM_NO_RESOURCES: "no host had the resources to start {vm}",
    Meaning.VM_OFF_ON_ISOLATION: "HA stopped {vm} on isolated {host}",
    Meaning.VM_LOST: "vCenter lost {vm}",
    Meaning.VM_ON: "{vm} was powered on on {host}",
    Meaning.VM_OFF: "{vm} was powered off",
    Meaning.VM_MOVED: "{vm} was moved to {host}",
    Meaning.VM_GONE: "{vm} was removed from the inventory",
    Meaning.VM_MADE: "{vm} was added to the inventory",
    Meaning.VM_CHANGED: "{vm} was reconfigured",
}
_TELL_WHY = frozenset({Meaning.VM_RESTART_FAILED, Meaning.VM_NO_RESOURCES, Meaning.VM_LOST})


def standings(hosts: Sequence[HostDown], events: Sequence[IncidentEvent], fleet: GpuFleet) -> tuple[IncidentHost, ...]:
    """How each host stands now, in the order in which they were lost."""
    ordered = in_order(events)
    first: dict[str, HostDown] = {}
    for down in sorted(hosts, key=lambda down: (down.at, down.host.key)):
        first.setdefault(down.host.key, down)
    return tuple(_standing(down, ordered, fleet) for down in first.values())


def _standing(down: HostDown, ordered: Sequence[IncidentEvent], fleet: GpuFleet) -> IncidentHost:
    now = host_now(down.host, fleet)
    own = [
        event
        for event in ordered
        if event.created >= down.at - EARLY and about(down.host, moids_of(down.host, fleet))(event)
    ]
    if now is None:
        evidence = f"no host with GPUs and the hardware UUID {down.host.key} is in the inventory"
        return IncidentHost(host=down.host, standing=HostStanding.REMOVED, lost_at=down.at, evidence=evidence)
    standing, evidence = _by_state(now, own, fleet)
    backs = [event for event in own if event.meaning is Meaning.HOST_BACK and event.created >= down.at]
    back = backs[-1] if backs else None
    if standing is HostStanding.BACK and back is not None:
        evidence += f"; {told(back)}"
    at = back.created if back is not None and standing is HostStanding.BACK else None
    return IncidentHost(host=now.ref, standing=standing, lost_at=down.at, back_at=at, evidence=evidence)


def _by_state(now: FleetHost, own: Sequence[IncidentEvent], fleet: GpuFleet) -> tuple[HostStanding, str]:
    """What vCenter and HA say now, before what HA said last, before what follows from silence."""
    seen = f"runtime.connectionState is {now.connection_state}"
    state = f"{seen}, runtime.dasHostState is {now.ha_state or 'not set'}"
    open_outages = [outage for outage in outages(own) if outage.back is None]
    said = open_outages[-1].by_ha if open_outages else None
    isolated = said is not None and said.meaning is Meaning.HOST_ISOLATED
    if now.connection_state == "connected":
        if now.ha_state == "networkIsolated" or (isolated and not now.ha_state):
            return HostStanding.ISOLATED, state if said is None else f"{state}; {told(said)}"
        return HostStanding.BACK, seen
    if now.ha_state == "hostDown":
        return HostStanding.DOWN, state
    if now.ha_state == "networkIsolated":
        return HostStanding.ISOLATED, state
    if said is not None:
        return HostStanding.ISOLATED if isolated else HostStanding.DOWN, f"{seen}; {told(said)}"
    if now.ha_state in _ALIVE:
        return HostStanding.CUT_OFF, f"{state}, and no event of HA says that it failed"
    cluster = fleet.cluster(now.cluster_moid) if now.cluster_moid else None
    if now.power_state != "poweredOff" and cluster is not None and cluster.ha_enabled and cluster.ha_host_monitoring:
        return HostStanding.CUT_OFF, f"{state}, and no event of HA says that it failed"
    return HostStanding.DOWN, f"{state}, runtime.powerState is {now.power_state or 'not set'}"


def also_down(
    hosts: Sequence[HostDown], events: Sequence[IncidentEvent], fleet: GpuFleet, at: datetime
) -> tuple[HostDown, ...]:
    """Hosts of the same clusters that are down too, and that nobody took down; lost when their own events say, or
    else `at`.
    """
    ordered = in_order(events)
    keys = {down.host.key for down in hosts}
    known = {there.cluster_moid for down in hosts if (there := host_now(down.host, fleet)) is not None}
    found: list[HostDown] = []
    for host in fleet.hosts:
        if host.ref.key in keys or host.connection_state == "connected" or host.in_maintenance or host.standby:
            continue
        if known and (not host.cluster_moid or host.cluster_moid not in known):
            continue
        own = [event for event in ordered if about(host.ref, frozenset({host.ref.moid}))(event)]
        last = [outage for outage in outages(own) if outage.back is None][-1:]
        if host.connection_state == "disconnected" and not last:
            # Only people put a host there; `notResponding` is what a failure looks like.
            continue
        if not last or not taken_down(last[0], own, host):
            found.append(HostDown(host=host.ref, at=last[0].at if last else at))
    return tuple(sorted(found, key=lambda down: (down.at, down.host.key)))


def last_event_at(
    hosts: Sequence[HostDown], victims: Sequence[Victim], events: Sequence[IncidentEvent]
) -> datetime | None:
    """When HA, DRS or a power event last told of these hosts and VMs; reconfigurations say nothing about recovery."""
    return max(
        (
            event.created
            for event in _concerning(hosts, victims, events)
            if event.meaning is not None and event.meaning is not Meaning.VM_CHANGED
        ),
        default=None,
    )


def timeline(
    hosts: Sequence[HostDown],
    victims: Sequence[Victim],
    verdicts: Sequence[VmVerdict],
    events: Sequence[IncidentEvent],
) -> tuple[TimelineEntry, ...]:
    """The story of the incident, oldest first: what vCenter told, each event once, and when which VM was up again."""
    first = min((down.at for down in hosts), default=None)
    lines = [
        _line(event, event.meaning)
        for event in _concerning(hosts, victims, events)
        if event.meaning is not None and (first is None or event.created >= first - EARLY)
    ]
    told_at = {(line.at, line.host) for line in lines}
    lines += [
        TimelineEntry(at=down.at, what=f"{down.host.name} was seen down", host=down.host.name)
        for down in {down.host.key: down for down in hosts}.values()
        if (down.at, down.host.name) not in told_at
    ]
    for verdict in verdicts:
        if verdict.recovered_at is not None and (took := verdict.took) is not None:
            other = ", on another GPU" if verdict.recovery is Recovery.OTHER_GPU else ""
            what = f"{verdict.name} is up again on {verdict.now_on} after {duration_words(took)}{other}"
            lines.append(TimelineEntry(at=verdict.recovered_at, what=what, host=verdict.now_on, vm=verdict.name))
    return tuple(sorted(lines, key=lambda line: (line.at, line.key < 0, line.key, line.what)))


def _concerning(
    hosts: Sequence[HostDown], victims: Sequence[Victim], events: Sequence[IncidentEvent]
) -> list[IncidentEvent]:
    """Each event about these hosts themselves or about these VMs, once and in order."""
    own = [about(down.host, frozenset({down.host.moid})) for down in hosts]
    vms = {victim.vm.moid for victim in victims}
    return [
        event
        for event in in_order(events)
        if (any(matches(event) for matches in own) if event.meaning in _OF_HOSTS else event.vm_moid in vms)
    ]


def _line(event: IncidentEvent, meaning: Meaning) -> TimelineEntry:
    what = _WORDS[meaning].format(
        host=event.host_name or event.host_moid or "a host", vm=event.vm_name or event.vm_moid
    )
    name = event.type_name.casefold()
    if "suspend" in name:
        what = what.replace("powered off", "suspended")
    elif "guestshutdown" in name:
        what = what.replace("powered off", "shut down in its guest")
    elif "orphan" in name:
        what = f"{event.vm_name or event.vm_moid} is orphaned"
    why = event.reason or event.message
    if meaning in _TELL_WHY and why:
        what += f": {why}"
    return TimelineEntry(at=event.created, what=what, host=event.host_name, vm=event.vm_name, key=event.key.key)
