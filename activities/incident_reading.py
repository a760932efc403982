"""What an audit reads of vCenter: the GPUs and VMs that matter to an incident, and its events."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pyVmomi import vim

from contracts.fleet import FleetVm, GpuFleet
from contracts.host import HostRef
from contracts.incidents import HostDown, IncidentEvent
from vsphere.fleet import read_fleet
from vsphere.incident_events import read_incident_events

__all__ = ["Scene", "named", "read_scene"]

_BEFORE = timedelta(minutes=15)
"""What happened so long before a host was lost may tell why: maintenance, standby, VMs that were shut down."""


@dataclass(frozen=True)
class Scene:
    """One read of what an incident is about."""

    fleet: GpuFleet
    events: tuple[IncidentEvent, ...]
    """Oldest first."""
    at: datetime
    """vCenter's clock when the read began."""
    note: str = ""
    """What of the events could not be had."""


def read_scene(
    si: vim.ServiceInstance,
    vcenter: str,
    cluster_moid: str,
    hosts: Sequence[HostDown],
    *,
    since: datetime | None = None,
    victims: Collection[FleetVm] = (),
) -> Scene:
    """The cluster and its events since a while before its hosts were lost, or since `since` where that is earlier.

    Victims are read whatever they look like now: without their reservation, or inaccessible, they are no GPU VMs at
    first sight. Without a cluster: these hosts, and the victims with whoever hosts them now. Raises the translated
    faults of the reads.
    """
    refs = [down.host for down in hosts]
    fleet = read_fleet(si, vcenter, cluster_moid or None, also={vm.moid for vm in victims})
    if not cluster_moid:
        fleet = _around(fleet, refs, {vm.instance_uuid for vm in victims})
    began = min((down.at for down in hosts), default=fleet.seen_at) - _BEFORE
    events, note = read_incident_events(
        si,
        vcenter,
        cluster_moid=cluster_moid,
        host_moids=[ref.moid for ref in refs],
        since=min(since, began) if since else began,
    )
    return Scene(fleet, events, fleet.seen_at, note)


def _around(fleet: GpuFleet, hosts: Sequence[HostRef], victims: Collection[str]) -> GpuFleet:
    moids, keys = {host.moid for host in hosts}, {host.key for host in hosts}
    vms = tuple(vm for vm in fleet.vms if vm.host_moid in moids or vm.instance_uuid in victims)
    moids |= {vm.host_moid for vm in vms}
    near = tuple(host for host in fleet.hosts if host.ref.moid in moids or host.ref.key in keys)
    return fleet.model_copy(update={"clusters": (), "hosts": near, "vms": vms})


def named(hosts: Sequence[HostDown], fleet: GpuFleet) -> tuple[HostDown, ...]:
    """The hosts with the keys and names that the inventory gives them: events tell no more than a moid."""
    known = {host.ref.moid: host.ref for host in fleet.hosts}
    return tuple(down.model_copy(update={"host": known.get(down.host.moid, down.host)}) for down in hosts)
