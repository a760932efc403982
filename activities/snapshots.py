"""Keeping snapshots of who ran on which GPUs in `ClusterSnapshots`, and recalling them."""

from datetime import timedelta

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.errors import Unreachable
from contracts.snapshots import ClusterSnapshot, ClusterSnapshotsInput, ClusterSnapshotsStatus

__all__ = ["keep", "recall"]

_CALL_TIMEOUT = timedelta(seconds=10)


async def keep(client: Client, task_queue: str, snapshot: ClusterSnapshot) -> None:
    """Hand a snapshot over, to a new run on `task_queue` if none is live; raises `Unreachable`.

    Doing it twice is harmless: a snapshot is known by its subject and its time.
    """
    try:
        await client.start_workflow(
            names.CLUSTER_SNAPSHOTS,
            ClusterSnapshotsInput(vcenter=snapshot.vcenter, subject=snapshot.subject, name=snapshot.name),
            id=ids.cluster_snapshots(snapshot.vcenter, snapshot.subject),
            task_queue=task_queue,
            start_signal=names.SNAPSHOT_TAKEN,
            start_signal_args=[snapshot],
            static_summary=f"Who ran on which GPUs of {snapshot.name}"[:200],
            rpc_timeout=_CALL_TIMEOUT,
        )
    except RPCError as error:
        raise Unreachable(f"the snapshot of {snapshot.name} could not be kept: {error.message}") from error


async def recall(client: Client, vcenter: str, subject: str) -> tuple[ClusterSnapshot, ...]:
    """What is kept of a cluster (by moid) or of a host that is in none (by key), oldest first; also by a run that has
    ended. Raises `Unreachable`."""
    handle: WorkflowHandle[object, ClusterSnapshotsStatus] = client.get_workflow_handle(
        ids.cluster_snapshots(vcenter, subject), result_type=ClusterSnapshotsStatus
    )
    try:
        described = await handle.describe(rpc_timeout=_CALL_TIMEOUT)
        if described.status is WorkflowExecutionStatus.COMPLETED:
            return (await handle.result(rpc_timeout=_CALL_TIMEOUT)).snapshots
        status: ClusterSnapshotsStatus = await handle.query(
            names.QUERY_SNAPSHOTS, result_type=ClusterSnapshotsStatus, rpc_timeout=_CALL_TIMEOUT
        )
    except (RPCError, WorkflowQueryFailedError) as error:
        if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
            return ()
        raise Unreachable(f"what {handle.id} keeps could not be recalled: {error}") from error
    return status.snapshots
