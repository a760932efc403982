"""Messages of `ClusterGate`, which limits how many hosts of a cluster are down for work at once."""

from datetime import datetime

from pydantic import Field

from contracts.base import Message
from contracts.host import HostRef

__all__ = [
    "ClusterState",
    "DescribeHolders",
    "GateDecision",
    "GateHost",
    "GateInput",
    "GateLimits",
    "GateLook",
    "GateStatus",
    "Grant",
    "HolderGone",
    "HoldersGone",
    "Lease",
    "LeaseGrant",
    "LeaseRelease",
    "LeaseRequest",
    "Legacy",
    "TakeOver",
]


class GateLimits(Message):
    """How many hosts may be down, from the worker's configuration; recorded with each decision."""

    hosts_down: int = Field(default=1, ge=1)
    """Hosts of one cluster that may be down for work at once. Hosts seen down without a lease count too."""
    sweep_s: float = Field(default=60, gt=0)
    """How often the holders of leases are looked after while there are any."""
    holder_grace_s: float = Field(default=90, ge=0)
    """How long after its holder's end a lease is kept at least: the holder's last call may still be on its way.
    Longer than any activity that changes a host may take (`workflows/policies.py`, `change`)."""


class LeaseRequest(Message):
    """The signal `lease_requested`, and the input of `request_lease`: said again with the same token it means the
    same request."""

    token: str
    """Unique to one acquisition."""
    workflow_id: str
    first_run_id: str
    """With the workflow ID it names the holder through its continue-as-new and retries."""
    host: HostRef
    cluster_moid: str
    cluster_name: str
    requested_at: datetime


class LeaseRelease(Message):
    """The signal `lease_released`: gives a lease back, or takes a request back. Unknown tokens are no harm."""

    token: str


class LeaseGrant(Message):
    """The signal `lease_granted` to a holder, which gives a lease back that it does not wait for."""

    token: str
    gate: str
    """Workflow ID of the gate."""


class HolderGone(Message):
    """A holder whose run has ended, or whose ID another run has taken over."""

    token: str
    why: str
    since: datetime
    """Not earlier than its end."""


class Lease(Message):
    """A host that may be down for work."""

    request: LeaseRequest
    granted_at: datetime
    gone: HolderGone | None = None
    """Set once its holder was found to be gone."""
    kept: str = ""
    """Why the lease of a holder that is gone is not free yet."""


class DescribeHolders(Message):
    """Input of `describe_holders`."""

    holders: tuple[LeaseRequest, ...]


class HoldersGone(Message):
    """Result of `describe_holders`: those that are gone; all others live, or could not be asked."""

    gone: tuple[HolderGone, ...] = ()
    trouble: str = ""
    """Why some could not be asked."""


class GateHost(Message):
    """One host of the cluster, as far as the gate looks at it."""

    moid: str
    name: str
    uuid: str = ""
    connection_state: str = "connected"
    """`runtime.connectionState`."""
    in_maintenance: bool = False
    standby: bool = False
    """In DPM standby, or on its way in or out (`runtime.standbyMode`)."""
    going_down: str = ""
    """The queued or running task that takes it down (`recentTask`), e.g. `HostSystem.enterMaintenanceMode`."""
    running_vms: int = 0
    """Powered-on VMs; those of agents (vCLS among them) do not count."""
    cpu_mhz: int = 0
    """All cores together."""
    memory_mib: int = 0

    def is_of(self, host: HostRef) -> bool:
        """This is that host, also after it was removed and added again with a new moid."""
        return self.moid == host.moid or (bool(self.uuid) and self.uuid == host.key)


class ClusterState(Message):
    """A cluster as one read of vCenter shows it: `ClusterComputeResource` and its hosts."""

    moid: str
    name: str
    hosts: tuple[GateHost, ...] = ()
    ha_enabled: bool = False
    """`configuration.dasConfig.enabled`."""
    admission_control: bool = False
    """`configuration.dasConfig.admissionControlEnabled`."""
    failover_level: int | None = None
    """Host failures that HA can make up for now (`admissionControlInfo`, else `summary.currentFailoverLevel`)."""
    free_cpu_percent: int | None = None
    """`currentCpuFailoverResourcesPercent`: unreserved share of the hosts in use; with the percentage policy only."""
    free_memory_percent: int | None = None
    failover_hosts: tuple[str, ...] | None = None
    """Moids of the dedicated failover hosts that are ready (status green); with that policy only."""
    drs_enabled: bool = False
    drs_behavior: str = ""
    """`configuration.drsConfig.defaultVmBehavior`; `fullyAutomated` empties hosts by itself."""

    def find(self, host: HostRef) -> GateHost | None:
        """That host, if it is in this cluster."""
        return next((found for found in self.hosts if found.is_of(host)), None)


class GateLook(Message):
    """Input of `look_and_decide_leases`. The queue is in order of request."""

    vcenter: str
    cluster_moid: str
    leases: tuple[Lease, ...] = ()
    queue: tuple[LeaseRequest, ...] = ()


class Grant(Message):
    """A request to be granted."""

    token: str
    in_place_of: str = ""
    """Token of the lease that it takes over: the same host's, whose holder is gone."""


class GateDecision(Message):
    """Result of `look_and_decide_leases`, recorded in history as data; the gate only carries it out."""

    cluster_name: str
    limits: GateLimits
    grants: tuple[Grant, ...] = ()
    freed: tuple[str, ...] = ()
    """Tokens of leases to free: their holders are gone and their hosts are back."""
    kept: dict[str, str] = Field(default_factory=dict)
    """Token → why the lease of a holder that is gone stays."""
    waiting: str = ""
    """Why the first request that is not granted waits."""
    down: tuple[str, ...] = ()
    """Hosts seen down that nobody leases, in words."""
    notes: tuple[str, ...] = ()


class TakeOver(Message):
    """Input of `read_legacy`: what did the gate of `workflow_id` leave behind when its run ended?"""

    workflow_id: str
    run_id: str


class Legacy(Message):
    """Result of `read_legacy`: what a gate that was ended by hand had not finished."""

    leases: tuple[Lease, ...] = ()
    queue: tuple[LeaseRequest, ...] = ()


class GateInput(Message):
    """Guard one cluster. Whoever starts a gate leaves leases and queue empty; they are carried over by itself."""

    vcenter: str
    cluster_moid: str
    cluster_name: str
    limits: GateLimits = GateLimits()
    """Until the first decision brings the worker's own."""
    leases: tuple[Lease, ...] = ()
    queue: tuple[LeaseRequest, ...] = ()
    again: tuple[str, ...] = ()
    """Leases whose holders asked once more and were not answered yet."""
    after: str = ""
    """The gate's run before this one, where it did not end by itself: its leases go on."""
    longest_history: int = 2000
    """Events after which the gate continues as new."""


class GateStatus(Message):
    """The answer to the query `status`, and the result when an idle gate ended."""

    vcenter: str
    cluster_moid: str
    cluster_name: str
    hosts_down: int
    """The limit."""
    leases: tuple[Lease, ...]
    queue: tuple[LeaseRequest, ...]
    waiting: str
    """Why the first in the queue waits."""
    down: tuple[str, ...]
    """Hosts seen down that nobody leases, in words."""
    notes: tuple[str, ...] = ()
    trouble: str = ""
    """What keeps the gate from looking."""
    looked_at: datetime | None = None
    after: str = ""
    """The run before this one, as long as its leases were not taken over."""
