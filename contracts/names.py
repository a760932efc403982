"""The names that Temporal stores: workflow types, updates, signals, queries and task queues.

They are explicit strings so that moving or renaming a Python module never orphans a running workflow.
"""

from typing import NamedTuple
from urllib.parse import quote

__all__ = [
    "CLUSTER_GATE",
    "CLUSTER_SNAPSHOTS",
    "DECIDE",
    "DELIVER_NOTICE",
    "FORWARD_EVENTS",
    "HA_RECOVERY_AUDIT",
    "HOST_EVENTS",
    "INCIDENT_EVENTS",
    "LEASE_GRANTED",
    "LEASE_RELEASED",
    "LEASE_REQUESTED",
    "PAUSE",
    "PREPARE_GPU_CLUSTER",
    "PREPARE_GPU_HOST",
    "PROVISION_GPU_VM",
    "PROVISION_GPU_VMS",
    "QUERY_APPROVAL",
    "QUERY_REPORT",
    "QUERY_SNAPSHOTS",
    "QUERY_STATUS",
    "RECHECK",
    "RECONCILE_FLEET",
    "REDRIVE",
    "RESOLVE",
    "RESUME",
    "RETIRE_GPU_VM",
    "RULE_THROTTLE",
    "RULE_THROTTLED",
    "SNAPSHOT_TAKEN",
    "STOP",
    "THROTTLED_EVENTS",
    "WATCH_PROGRESS",
    "WATCH_VCENTER",
    "TaskQueues",
]

PREPARE_GPU_HOST = "PrepareGpuHost"
PREPARE_GPU_CLUSTER = "PrepareGpuCluster"
WATCH_VCENTER = "WatchVCenter"
FORWARD_EVENTS = "ForwardEvents"
CLUSTER_GATE = "ClusterGate"
RECONCILE_FLEET = "ReconcileFleet"
PROVISION_GPU_VM = "ProvisionGpuVm"
PROVISION_GPU_VMS = "ProvisionGpuVms"
RETIRE_GPU_VM = "RetireGpuVm"
HA_RECOVERY_AUDIT = "HaRecoveryAudit"
CLUSTER_SNAPSHOTS = "ClusterSnapshots"
RULE_THROTTLE = "RuleThrottle"
DELIVER_NOTICE = "DeliverNotice"

# Updates: a person's decisions, with validators.
DECIDE = "decide"
REDRIVE = "redrive"
RESOLVE = "resolve"

# Signals.
HOST_EVENTS = "host_events"
LEASE_REQUESTED = "lease_requested"
LEASE_RELEASED = "lease_released"
LEASE_GRANTED = "lease_granted"
PAUSE = "pause"
RECHECK = "recheck"
RESUME = "resume"
RULE_THROTTLED = "rule_throttled"
INCIDENT_EVENTS = "incident_events"
SNAPSHOT_TAKEN = "snapshot_taken"
STOP = "stop"
THROTTLED_EVENTS = "throttled_events"
WATCH_PROGRESS = "watch_progress"

# Queries.
QUERY_REPORT = "report"
QUERY_APPROVAL = "approval"
QUERY_STATUS = "status"
QUERY_SNAPSHOTS = "snapshots"


class TaskQueues(NamedTuple):
    """The task queues of a service; `base` is `temporal.task_queue` in the configuration.

    Long waits (reboots, maintenance) have a queue of their own so that they starve nothing, and each vCenter's listener
    has one because it needs a worker with other heartbeat settings and a single slot.
    """

    base: str = "gpuwright"

    @property
    def main(self) -> str:
        """Workflows and short activities."""
        return self.base

    @property
    def wait(self) -> str:
        """Activities that mostly wait."""
        return f"{self.base}-wait"

    def listen(self, vcenter: str) -> str:
        """`follow_events` of one vCenter."""
        return f"{self.base}-listen-{quote(vcenter, safe='')}"

    def forward(self, vcenter: str, webhook: str) -> str:
        """`forward_events` of one vCenter to one webhook; names hold no dots."""
        return f"{self.base}-forward-{quote(vcenter, safe='')}.{quote(webhook, safe='')}"
