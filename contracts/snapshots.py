"""Messages of `ClusterSnapshots`: who ran on which GPUs of a cluster, kept for when its hosts cannot be asked."""

from datetime import datetime

from contracts.base import Message

__all__ = ["KEPT", "ClusterSnapshot", "ClusterSnapshotsInput", "ClusterSnapshotsStatus"]

KEPT = 3
"""Snapshots of a cluster that are kept: one may have been taken while hosts were failing."""


class ClusterSnapshot(Message):
    """One cluster, or one host that is in none, as it was; the signal `snapshot_taken`."""

    vcenter: str
    subject: str
    """The cluster's moid, or the host's key."""
    name: str = ""
    taken_at: datetime
    """vCenter's clock when its read began."""
    vms: int = 0
    """GPU VMs in it."""
    fleet: str
    """The `GpuFleet` of the cluster, `packed`."""


class ClusterSnapshotsInput(Message):
    """Keep the snapshots of one subject. Whoever starts it leaves `snapshots` empty; it carries them on by itself."""

    vcenter: str
    subject: str
    name: str = ""
    snapshots: tuple[ClusterSnapshot, ...] = ()


class ClusterSnapshotsStatus(Message):
    """The answer to the query `snapshots`, and the result once no snapshot has come for a month. Oldest first."""

    snapshots: tuple[ClusterSnapshot, ...] = ()
