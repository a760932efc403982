"""What the gate of a cluster needs done: asking, looking after holders, and looking at the cluster to decide."""

from collections.abc import Mapping
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.activities import GateActivities
from contracts.errors import BadRequest
from contracts.gate import (
    DescribeHolders,
    GateDecision,
    GateInput,
    GateLimits,
    GateLook,
    HolderGone,
    HoldersGone,
    LeaseRequest,
)
from planning.gate import decide_leases
from vsphere.cluster import read_cluster
from vsphere.sessions import SessionPool

__all__ = ["VCenterGateActivities"]

_ENDED = {
    WorkflowExecutionStatus.COMPLETED,
    WorkflowExecutionStatus.FAILED,
    WorkflowExecutionStatus.CANCELED,
    WorkflowExecutionStatus.TERMINATED,
    WorkflowExecutionStatus.TIMED_OUT,
}


class VCenterGateActivities(GateActivities):
    """`GateActivities` through vCenter and the worker's own Temporal client."""

    def __init__(self, pools: Mapping[str, SessionPool], limits: GateLimits) -> None:
        self._pools = pools
        self._limits = limits

    @activity.defn(name="request_lease")
    async def request_lease(self, request: LeaseRequest) -> None:
        """See `GateActivities`."""
        vcenter = request.host.vcenter
        await activity.client().start_workflow(
            names.CLUSTER_GATE,
            GateInput(
                vcenter=vcenter,
                cluster_moid=request.cluster_moid,
                cluster_name=request.cluster_name,
                limits=self._limits,
            ),
            id=ids.cluster_gate(vcenter, request.cluster_moid),
            # The holder runs on the queue that serves gates too.
            task_queue=activity.info().task_queue,
            start_signal=names.LEASE_REQUESTED,
            start_signal_args=[request],
            static_summary=f"Hosts of {request.cluster_name} that may be down for work",
        )

    @activity.defn(name="describe_holders")
    async def describe_holders(self, order: DescribeHolders) -> HoldersGone:
        """See `GateActivities`."""
        gone: list[HolderGone] = []
        trouble = ""
        for holder in order.holders:
            try:
                found = await _gone(activity.client(), holder)
            except RPCError as error:
                trouble = f"{holder.workflow_id} could not be described: {error.message}"
                continue
            if found:
                gone.append(found)
        return HoldersGone(gone=tuple(gone), trouble=trouble)

    @activity.defn(name="look_and_decide_leases")
    def look_and_decide_leases(self, order: GateLook) -> GateDecision:
        """See `GateActivities`."""
        if order.vcenter not in self._pools:
            known = ", ".join(self._pools)
            raise BadRequest(f"there is no vCenter {order.vcenter!r} in the configuration; known: {known}")
        with self._pools[order.vcenter].session() as si:
            cluster = read_cluster(si, order.cluster_moid)
        return decide_leases(cluster, order.leases, order.queue, self._limits, datetime.now(UTC))


async def _gone(client: Client, holder: LeaseRequest) -> HolderGone | None:
    """That the holder is gone, if it is. The latest run of its ID tells: continue-as-new and retries keep the first
    run's ID, any other first run is another holder."""
    try:
        latest = await client.get_workflow_handle(holder.workflow_id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return HolderGone(
            token=holder.token, why="its holder is no longer known to Temporal", since=holder.requested_at
        )
    if latest.raw_info.first_run_id != holder.first_run_id:
        return HolderGone(token=holder.token, why="its holder ended and another run followed", since=latest.start_time)
    if latest.status not in _ENDED:
        return None
    how = latest.status.name.lower().replace("_", " ")
    since = latest.close_time or datetime.now(UTC)
    return HolderGone(token=holder.token, why=f"its holder ended ({how}) at {since:%H:%M:%S} UTC", since=since)
