"""Snapshots of who ran on which GPUs: one for each cluster, and for each host that is in none."""

from collections.abc import Collection, Sequence
from datetime import datetime

from contracts.fleet import FleetHost, GpuFleet
from contracts.packing import packed, unpacked
from contracts.snapshots import ClusterSnapshot

__all__ = ["before", "by_subject", "snapshot_of"]


def by_subject(fleet: GpuFleet) -> dict[str, GpuFleet]:
    """The fleet in parts: by cluster moid, or by host key for hosts in no cluster.

    A VM goes where its host is; one that is off on a host without GPUs holds none, and is in no part.
    """
    hosts: dict[str, list[FleetHost]] = {}
    subjects: dict[str, str] = {}
    for host in fleet.hosts:
        subject = subjects[host.ref.moid] = host.cluster_moid or host.ref.key
        hosts.setdefault(subject, []).append(host)
    parts = {}
    for subject, found in hosts.items():
        clusters = tuple(each for each in fleet.clusters if each.moid == subject)
        vms = tuple(each for each in fleet.vms if subjects.get(each.host_moid) == subject)
        moids = {subject, *(each.ref.moid for each in found), *(each.moid for each in vms)}
        parts[subject] = GpuFleet(
            vcenter=fleet.vcenter,
            clusters=clusters,
            hosts=tuple(found),
            vms=vms,
            # Each begins with the moid of what could not be read.
            unread=tuple(each for each in fleet.unread if each.partition(" ")[0] in moids),
            read_at=fleet.read_at,
        )
    return parts


def snapshot_of(part: GpuFleet, subject: str) -> ClusterSnapshot:
    """One of the parts that `by_subject` gives, as it is kept; raises `ValueError` where nobody knows of when it is."""
    name = part.clusters[0].name if part.clusters else part.hosts[0].ref.name if part.hosts else subject
    return ClusterSnapshot(
        vcenter=part.vcenter, subject=subject, name=name, taken_at=part.seen_at, vms=len(part.vms), fleet=packed(part)
    )


def before(snapshots: Sequence[ClusterSnapshot], at: datetime, hosts: Collection[str] = ()) -> ClusterSnapshot | None:
    """The newest that was taken before that time (vCenter's clock), and shows none of these hosts (keys) as lost.

    Who was found down by looking may have been down for longer than anybody knows, and a snapshot from since then
    shows its VMs where HA restarted them. Where there is no such snapshot, it is the newest one before that time.
    """
    taken = sorted((each for each in snapshots if each.taken_at < at), key=lambda each: each.taken_at, reverse=True)
    return next((each for each in taken if not _lost(each).intersection(hosts)), taken[0] if taken else None)


def _lost(snapshot: ClusterSnapshot) -> set[str]:
    fleet = unpacked(GpuFleet, snapshot.fleet)
    return {each.ref.key for each in fleet.hosts if each.connection_state != "connected"}
