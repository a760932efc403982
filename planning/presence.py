"""Who was there: which hosts were really lost, and which GPU VMs ran on them, known from before and from events."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from contracts.fleet import FleetVm, GpuFleet, VmGpu
from contracts.incidents import INCIDENT_BEGINS, HostDown, IncidentEvent, Meaning
from contracts.verdicts import Victim
from planning.chronicle import (
    EARLY,
    Outage,
    about,
    down_by,
    host_now,
    in_order,
    moids_of,
    outage_at,
    outages,
    place_in_order,
    taken_down,
)
from planning.holdings import held_gpus

__all__ = ["lost_hosts", "victims_of"]


def lost_hosts(
    hosts: Sequence[HostDown], events: Sequence[IncidentEvent], fleet: GpuFleet
) -> tuple[tuple[HostDown, ...], tuple[str, ...]]:
    """The hosts that were really lost, each once, with the time that the events tell; and those that were taken down
    on purpose, in words with their evidence.

    `events` begin some minutes before the incident. Of a host that was lost several times, the first loss counts that
    nobody planned.
    """
    ordered = in_order(events)
    given: dict[str, list[HostDown]] = {}
    for down in sorted(hosts, key=lambda down: (down.at, down.host.key)):
        given.setdefault(down.host.key, []).append(down)
    lost, planned = [], []
    for downs in given.values():
        host = downs[0].host
        own = [event for event in ordered if about(host, moids_of(host, fleet))(event)]
        now, why = host_now(host, fleet), ""
        for outage in _candidates([down.at for down in downs], outages(own)):
            reason = taken_down(outage, own, now)
            if not reason:
                lost.append(HostDown(host=host, at=outage.at))
                break
            why = why or reason
        else:
            planned.append(f"{host.name} was taken down on purpose, {why}")
    return tuple(sorted(lost, key=lambda down: (down.at, down.host.key))), tuple(sorted(planned))


def _candidates(times: Sequence[datetime], known: Sequence[Outage]) -> list[Outage]:
    """The outages of these times, and what came after the first of them."""
    found = {outage.at: outage for outage in (outage_at(at, known) for at in times)}
    first = min(found)
    found |= {outage.at: outage for outage in known if outage.at > first}
    return [found[at] for at in sorted(found)]


def victims_of(
    hosts: Sequence[HostDown],
    before: GpuFleet | None,
    before_at: datetime | None,
    events: Sequence[IncidentEvent],
    now: GpuFleet,
) -> tuple[Victim, ...]:
    """The GPU VMs that ran on these hosts when each was lost, every VM once: by a host's first loss.

    `before` is a snapshot from `before_at`, and `events` tell what happened since. Without a snapshot: what vCenter
    still shows on the hosts, and whom HA's events name.
    """
    ordered = in_order(events)
    board = _Board(before, now)
    since = [event for event in ordered if before is None or before_at is None or event.created > before_at]
    found: dict[str, Victim] = {}
    applied = 0
    downs = sorted(hosts, key=lambda down: (down.at, down.host.key))
    for down in downs:
        moids = moids_of(down.host, before, now)
        loss = _loss(down, moids, ordered)
        while applied < len(since) and _precedes(since[applied], loss, down.at):
            if (early := board.restarted_from(moids, since[applied], down.at)) is not None:
                _add(found, board.victim(early, down))
            board.apply(since[applied])
            applied += 1
        for spot in board.running(moids):
            _add(found, board.victim(spot, down))
        if before is None:
            for vm in _still_shown(now, moids, board):
                _add(found, board.victim(_Spot(vm, vm.host_moid, True, "inventory"), down))
    homes = _homes(downs, before, now)
    for event in ordered:
        if (named := _named(event, downs, homes, board)) is not None:
            _add(found, board.victim(*named))
    return tuple(sorted(found.values(), key=lambda victim: (victim.lost_at, victim.host.key, victim.vm.moid)))


def _loss(down: HostDown, moids: frozenset[str], ordered: Sequence[IncidentEvent]) -> IncidentEvent | None:
    """The event that tells of this loss."""
    own = about(down.host, moids)
    return next(
        (each for each in ordered if each.created == down.at and each.meaning in INCIDENT_BEGINS and own(each)), None
    )


def _precedes(event: IncidentEvent, loss: IncidentEvent | None, at: datetime) -> bool:
    return place_in_order(event) < place_in_order(loss) if loss is not None else event.created <= at


def _add(found: dict[str, Victim], victim: Victim) -> None:
    if victim.vm.gpus and not victim.vm.template:
        found.setdefault(victim.vm.instance_uuid or victim.vm.moid, victim)


@dataclass(frozen=True)
class _Spot:
    """Where a VM is, while the events are replayed."""

    vm: FleetVm
    host_moid: str
    on: bool
    known_by: str
    restarted: bool = False
    """It was powered on or moved after the snapshot, so it may hold other devices."""


class _Board:
    """Every GPU VM's place at a time, from a snapshot and the events since."""

    def __init__(self, before: GpuFleet | None, now: GpuFleet) -> None:
        self._before, self._now = before, now
        self._now_by_moid = {vm.moid: vm for vm in now.vms}
        self._snapshot = {vm.moid: vm for vm in before.vms} if before is not None else {}
        self._new = "events" if before is not None else "inventory"
        self.spots = {
            vm.moid: _Spot(vm, vm.host_moid, vm.powered_on, "snapshot") for vm in (before.vms if before else ())
        }

    def apply(self, event: IncidentEvent) -> None:
        """What an event says about a VM's place, power or devices."""
        spot = self.spots.get(event.vm_moid) or self.look_up(event.vm_moid)
        if spot is None:
            return
        there = event.host_moid or spot.host_moid
        match event.meaning:
            case Meaning.VM_ON | Meaning.VM_RESTARTED:
                self.spots[event.vm_moid] = replace(spot, host_moid=there, on=True, restarted=True)
            case Meaning.VM_OFF:
                self.spots[event.vm_moid] = replace(spot, host_moid=there, on=False)
            case Meaning.VM_MOVED:
                on = spot.on or (event.vm_moid not in self.spots and _ran(spot.vm, event.created))
                self.spots[event.vm_moid] = replace(spot, host_moid=there, on=on, restarted=True)
            case Meaning.VM_MADE:
                self.spots[event.vm_moid] = replace(spot, host_moid=there, on=False)
            case Meaning.VM_GONE:
                self.spots.pop(event.vm_moid, None)
            case Meaning.VM_CHANGED if event.vm_moid in self.spots:
                self.spots[event.vm_moid] = replace(spot, vm=self._with_devices_of_now(spot.vm))

    def running(self, moids: frozenset[str]) -> list[_Spot]:
        """Who runs on a host."""
        return [spot for spot in self.spots.values() if spot.on and spot.host_moid in moids]

    def restarted_from(self, moids: frozenset[str], event: IncidentEvent, at: datetime) -> _Spot | None:
        """Whom HA restarted before vCenter told that the host was lost."""
        spot = self.spots.get(event.vm_moid)
        early = event.meaning is Meaning.VM_RESTARTED and event.created >= at - EARLY
        return spot if early and spot is not None and spot.on and spot.host_moid in moids else None

    def look_up(self, moid: str) -> _Spot | None:
        """A VM whose place nothing told yet: as the snapshot or the inventory has it."""
        if (vm := self._snapshot.get(moid)) is not None:
            return _Spot(vm, vm.host_moid, False, "events")
        vm = self._now_by_moid.get(moid)
        return _Spot(vm, vm.host_moid, False, self._new, restarted=True) if vm is not None else None

    def victim(self, spot: _Spot, down: HostDown) -> Victim:
        """The VM as it was on the host that was lost."""
        vm, now = spot.vm, self._now_by_moid.get(spot.vm.moid)
        moids = moids_of(down.host, self._before, self._now)
        update: dict[str, object] = {"powered_on": True, "power_state": "poweredOn", "host_moid": down.host.moid}
        still = now is not None and now.host_moid in moids and now.powered_on and _ran(now, down.at)
        if now is not None and still and (spot.restarted or spot.known_by != "snapshot"):
            update |= {"gpus": now.gpus, "boot_time": now.boot_time, "tools_running": now.tools_running}
        elif spot.restarted or spot.known_by != "snapshot":
            update |= {"gpus": tuple(map(_unbound, vm.gpus)), "boot_time": None}
        if spot.restarted and vm.ha_protected is False:
            # The snapshot saw it off; HA protects a VM only while it runs.
            update["ha_protected"] = True if now is not None and now.ha_protected else None
        was = vm.model_copy(update=update)
        then = host_now(down.host, self._before) if self._before is not None else None
        host = then or host_now(down.host, self._now)
        return Victim(vm=was, host=down.host, held=held_gpus(was, host), lost_at=down.at, known_by=spot.known_by)

    def _with_devices_of_now(self, vm: FleetVm) -> FleetVm:
        now = self._now_by_moid.get(vm.moid)
        if now is None:
            return vm
        known = {gpu.key: gpu for gpu in vm.gpus}
        return vm.model_copy(update={"gpus": tuple(_rebound(gpu, known.get(gpu.key)) for gpu in now.gpus)})


def _ran(vm: FleetVm, at: datetime) -> bool:
    """It was up then, as far as its boot time tells."""
    return vm.powered_on and (vm.boot_time is None or vm.boot_time <= at)


def _unbound(gpu: VmGpu) -> VmGpu:
    return gpu.model_copy(update={"assigned": gpu.sbdf if gpu.kind == "static" else ""})


def _rebound(gpu: VmGpu, had: VmGpu | None) -> VmGpu:
    """A device as it is now, bound to what it was bound to, if it still asks for the same."""
    asks = {"assigned": ""}
    if had is not None and had.model_copy(update=asks) == gpu.model_copy(update=asks):
        return had
    return _unbound(gpu)


def _still_shown(now: GpuFleet, moids: frozenset[str], board: _Board) -> Iterable[FleetVm]:
    """Without a snapshot: those that vCenter still shows there, running, or off and protected by HA: it ran."""
    for vm in now.vms:
        known = board.spots.get(vm.moid)
        if vm.host_moid in moids and (vm.powered_on or vm.ha_protected) and (known is None or known.on):
            yield vm


def _homes(downs: Sequence[HostDown], *fleets: GpuFleet | None) -> dict[str, HostDown]:
    """The lost hosts by every moid, and by name for events that tell no moid."""
    found: dict[str, HostDown] = {}
    for down in downs:
        for one in (*moids_of(down.host, *fleets), down.host.name.casefold()):
            found.setdefault(one, down)
    return found


def _named(
    event: IncidentEvent, downs: Sequence[HostDown], homes: Mapping[str, HostDown], board: _Board
) -> tuple[_Spot, HostDown] | None:
    """Whom an event of HA names as a VM of a lost host, wherever snapshot and inventory have it."""
    spot = board.look_up(event.vm_moid)
    if spot is None:
        return None
    known, down = board.spots.get(event.vm_moid), None
    if event.meaning is Meaning.VM_RESTARTED and (event.source_host_moid or event.source_host_name):
        down = homes.get(event.source_host_moid or event.source_host_name.casefold())
    elif event.meaning is Meaning.VM_RESTARTED and (known is None or not known.on):
        # `EventEx` does not say from where. HA restarts who ran: it was on a lost host if nothing placed it elsewhere.
        down = homes.get(spot.host_moid) if spot.known_by != "inventory" else None
        if down is None and spot.host_moid not in homes:
            down = down_by(event, downs)
    elif event.meaning is Meaning.VM_OFF_ON_ISOLATION:
        down = homes.get(event.host_moid)
    elif event.meaning in (Meaning.VM_RESTART_FAILED, Meaning.VM_NO_RESOURCES) and spot.known_by == "inventory":
        down = homes.get(spot.host_moid)
    if down is None or event.created < down.at - EARLY:
        return None
    return replace(spot, on=True, restarted=True), down
