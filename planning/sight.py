"""What is seen of a cluster after a failure, and what a verdict looks up in it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from contracts.audit import AuditLimits
from contracts.fleet import FleetCluster, FleetHost, FleetVm, GpuFleet
from contracts.host import HostRef
from contracts.incidents import HostDown, IncidentEvent, Meaning
from contracts.verdicts import HostStanding, IncidentHost, Victim
from planning.chronicle import EARLY, in_order
from planning.incident import standings
from planning.rooms import Refusal, Room, room_of, wishes_of

__all__ = ["Sight", "View"]

_UP = frozenset({Meaning.VM_ON, Meaning.VM_RESTARTED})


@dataclass(frozen=True)
class Sight:
    """One look at an incident: the fleet as read, the events since some minutes before, and the time."""

    fleet: GpuFleet
    events: Sequence[IncidentEvent]
    standings: Mapping[str, IncidentHost]
    """The hosts of the incident, by key."""
    at: datetime
    """vCenter's clock."""
    limits: AuditLimits
    unregistered: Collection[str] = ()
    """Instance UUIDs of VMs that the audit's own steps took out of the inventory, to register them elsewhere."""


class View:
    """A look, indexed for many VMs."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self._by_uuid: dict[str, list[FleetVm]] = {}
        self._by_moid = {vm.moid: vm for vm in sight.fleet.vms}
        for vm in sight.fleet.vms:
            if vm.instance_uuid:
                self._by_uuid.setdefault(vm.instance_uuid, []).append(vm)
        self._hosts = {host.ref.moid: host for host in sight.fleet.hosts}
        self._keys = {host.ref.key: host for host in sight.fleet.hosts}
        self._events: dict[str, list[IncidentEvent]] = {}
        for event in in_order(sight.events):
            if event.vm_moid:
                self._events.setdefault(event.vm_moid, []).append(event)
        self._guessed: dict[str, IncidentHost] = {}
        self._refusals: dict[tuple[object, ...], dict[HostRef, str]] = {}

    def vm_now(self, victim: Victim) -> FleetVm | None:
        """The VM by its instance UUID, which stays when it is registered again; else by its moid."""
        same = self._by_uuid.get(victim.vm.instance_uuid, [])
        usable = sorted(same, key=lambda vm: (vm.connection_state != "connected", not vm.powered_on))
        return usable[0] if usable else self._by_moid.get(victim.vm.moid)

    def host_of(self, vm: FleetVm) -> FleetHost | None:
        """The host that a VM is registered on, if it has GPUs."""
        return self._hosts.get(vm.host_moid)

    def same_host(self, victim: Victim, vm: FleetVm) -> bool:
        """The VM is where it was, even if the host was added again meanwhile."""
        host = self.host_of(vm)
        return vm.host_moid == victim.host.moid or (host is not None and host.ref.key == victim.host.key)

    def cluster_of(self, victim: Victim, vm: FleetVm) -> FleetCluster | None:
        """The cluster of the lost host; None where it was in none."""
        host = self._keys.get(victim.host.key) or self._hosts.get(victim.host.moid) or self.host_of(vm)
        if host is None and len(self.sight.fleet.clusters) == 1:
            return self.sight.fleet.clusters[0]
        return self.sight.fleet.cluster(host.cluster_moid) if host is not None and host.cluster_moid else None

    def standing(self, host: FleetHost, victim: Victim) -> IncidentHost:
        """How a host stands; one that is not of the incident is judged by the same rules."""
        known = self.sight.standings.get(host.ref.key) or self._guessed.get(host.ref.key)
        if known is None:
            down = HostDown(host=host.ref, at=victim.lost_at)
            (known,) = standings([down], self.sight.events, self.sight.fleet)
            self._guessed[host.ref.key] = known
        return known

    def events_of(self, victim: Victim, vm: FleetVm | None = None) -> list[IncidentEvent]:
        """What events tell of a VM, under its old moid and its new one, oldest first."""
        moids = {victim.vm.moid} | ({vm.moid} if vm is not None else set())
        return list(in_order(event for moid in moids for event in self._events.get(moid, ())))

    def since(self, victim: Victim, vm: FleetVm | None, *meanings: Meaning) -> list[IncidentEvent]:
        """Events of these meanings about a VM since its host was lost, oldest first."""
        return [
            event
            for event in self.events_of(victim, vm)
            if event.meaning in meanings and event.created >= victim.lost_at - EARLY
        ]

    def came_up(self, victim: Victim, vm: FleetVm) -> IncidentEvent | None:
        """The event by which the VM was powered on first since its host was lost."""
        found = self.since(victim, vm, *_UP)
        return next(
            (each for each in found if each.meaning is Meaning.VM_RESTARTED or each.created > victim.lost_at), None
        )

    @cached_property
    def _rooms(self) -> dict[str, list[Room]]:
        """Rooms of the hosts that HA can use, by cluster."""
        vms: dict[str, list[FleetVm]] = {}
        for vm in self.sight.fleet.vms:
            vms.setdefault(vm.host_moid, []).append(vm)
        found: dict[str, list[Room]] = {}
        for host in self.sight.fleet.hosts:
            if host.cluster_moid and self._left(host):
                found.setdefault(host.cluster_moid, []).append(room_of(host, vms.get(host.ref.moid, ())))
        return found

    def refusals(self, cluster: FleetCluster, vm: FleetVm, memory_mib: int) -> Mapping[HostRef, str]:
        """Why hosts cannot take such a VM, in words, empty where they can: those of the cluster that are up, not
        isolated, and not in maintenance or standby.

        VMs of a cluster look alike, so each look is asked once.
        """
        wishes = wishes_of(vm)
        look = (cluster.moid, memory_mib, *((gpu.kind, gpu.allowed, gpu.label, gpu.profile) for gpu in vm.gpus))
        if look not in self._refusals:
            self._refusals[look] = {
                room.host.ref: "; ".join(
                    each.text for each in room.copy().take(wishes, memory_mib) if isinstance(each, Refusal)
                )
                for room in self._rooms.get(cluster.moid, ())
            }
        return self._refusals[look]

    def _left(self, host: FleetHost) -> bool:
        known = self.sight.standings.get(host.ref.key)
        up = known is None or known.standing is HostStanding.BACK
        usable = host.connection_state == "connected" and not host.in_maintenance and not host.standby
        return up and usable and host.ha_state not in ("networkIsolated", "hostDown")
