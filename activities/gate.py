"""What the gate of a cluster needs done: asking, looking after holders, and looking at the cluster to decide."""

from collections.abc import Mapping
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistoryEventFilterType
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.activities import GateActivities
from contracts.errors import Unreachable
from contracts.gate import (
    DescribeHolders,
    GateDecision,
    GateInput,
    GateLimits,
    GateLook,
    GateStatus,
    HolderGone,
    HoldersGone,
    Lease,
    LeaseRequest,
    Legacy,
    TakeOver,
)
from planning.gate import decide_leases
from vsphere.cluster import read_cluster
from vsphere.sessions import SessionPool, pool_named

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
        client, gate = activity.client(), ids.cluster_gate(vcenter, request.cluster_moid)
        await client.start_workflow(
            names.CLUSTER_GATE,
            GateInput(
                vcenter=vcenter,
                cluster_moid=request.cluster_moid,
                cluster_name=request.cluster_name,
                limits=self._limits,
                after=await _unfinished(client, gate),
            ),
            id=gate,
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

    @activity.defn(name="read_legacy")
    async def read_legacy(self, order: TakeOver) -> Legacy:
        """See `GateActivities`."""
        client = activity.client()
        leases: dict[str, Lease] = {}
        queue: dict[str, LeaseRequest] = {}
        run_id = order.run_id
        while run_id:
            try:
                run_id = await _last_of_chain(client, order.workflow_id, run_id)
                left = await _left(client, order.workflow_id, run_id)
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    # Deleted, by hand or because it is long ago.
                    break
                raise Unreachable(
                    f"what run {run_id} of {order.workflow_id} had leased could not be read: {error.message}"
                ) from error
            leases |= {lease.request.token: lease for lease in left.leases}
            queue |= {request.token: request for request in left.queue}
            # One that was ended before it could take over itself.
            run_id = left.after
        return Legacy(
            leases=tuple(leases.values()),
            queue=tuple(request for token, request in queue.items() if token not in leases),
        )

    @activity.defn(name="look_and_decide_leases")
    def look_and_decide_leases(self, order: GateLook) -> GateDecision:
        """See `GateActivities`."""
        with pool_named(self._pools, order.vcenter).session() as si:
            cluster = read_cluster(si, order.cluster_moid)
        return decide_leases(cluster, order.leases, order.queue, self._limits, datetime.now(UTC))


async def _unfinished(client: Client, gate: str) -> str:
    """The gate's latest run, unless it ended by itself, which it does with nothing leased.

    A run that lives is named too: it may be ended between this look and the start of the next one.
    """
    try:
        latest = await client.get_workflow_handle(gate).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return ""
    return "" if latest.status is WorkflowExecutionStatus.COMPLETED else latest.run_id


async def _last_of_chain(client: Client, gate: str, run_id: str) -> str:
    """The run that `run_id` continued as, if it did."""
    while True:
        events = client.get_workflow_handle(gate, run_id=run_id).fetch_history_events(
            event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT
        )
        closed = await anext(events)
        if not closed.HasField("workflow_execution_continued_as_new_event_attributes"):
            return run_id
        run_id = closed.workflow_execution_continued_as_new_event_attributes.new_execution_run_id


async def _left(client: Client, gate: str, run_id: str) -> GateStatus | GateInput:
    """What a run that has ended held: as it says itself, or what it was started with if it never got to work."""
    handle = client.get_workflow_handle(gate, run_id=run_id)
    events = handle.fetch_history_events()
    began = (await anext(events)).workflow_execution_started_event_attributes
    async for event in events:
        if event.HasField("workflow_task_completed_event_attributes"):
            status: GateStatus = await handle.query(names.QUERY_STATUS, result_type=GateStatus)
            return status
    order: GateInput
    (order,) = await client.data_converter.decode(began.input.payloads, [GateInput])
    return order


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
