"""Messages of `ClusterSnapshots`: who ran on which GPUs of a cluster, kept for when its hosts cannot be asked."""

from datetime import datetime

from pydantic import Field

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
    idle_days: float = Field(default=30, gt=0)
    """It ends when no snapshot has come for so long: the cluster is gone, or nobody looks any more."""
    longest_history: int = Field(default=2000, gt=0)
    """Events after which it continues as new, unless Temporal suggests it before."""


class ClusterSnapshotsStatus(Message):
    """The answer to the query `snapshots`, and the result once no snapshot has come for a month. Oldest first."""

    snapshots: tuple[ClusterSnapshot, ...] = ()
