"""The watches that services keep: one a vCenter, which several services may start and stop at once."""

from collections.abc import Iterable
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.watch import WatchInput

__all__ = ["ensure_watches", "stop_watch", "watched_vcenters"]

_CALL_TIMEOUT = timedelta(seconds=10)


async def ensure_watches(client: Client, queues: names.TaskQueues, vcenters: Iterable[str]) -> None:
    """Start the watch of each vCenter that is not being watched already; one that was just stopped goes on."""
    for vcenter in vcenters:
        await client.start_workflow(
            names.WATCH_VCENTER,
            WatchInput(vcenter=vcenter),
            id=ids.watch(vcenter),
            task_queue=queues.main,
            start_signal=names.RESUME,
            static_summary=f"Watch the events of {vcenter}",
            rpc_timeout=_CALL_TIMEOUT,
        )


async def stop_watch(client: Client, vcenter: str) -> None:
    """Have the watch of a vCenter end, if it has one."""
    try:
        await client.get_workflow_handle(ids.watch(vcenter)).signal(names.STOP, rpc_timeout=_CALL_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # else it has ended: another service stopped it
            raise


async def watched_vcenters(client: Client, task_queue: str) -> list[str]:
    """The vCenters with a live watch for this task queue, whether they are configured or not."""
    query = f'WorkflowType = "{names.WATCH_VCENTER}" AND ExecutionStatus = "Running" AND TaskQueue = "{task_queue}"'
    return sorted([ids.parse(run.id).vcenter async for run in client.list_workflows(query, rpc_timeout=_CALL_TIMEOUT)])
