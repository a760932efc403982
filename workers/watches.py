"""The watches that services keep, one a vCenter, and the forwards, one a vCenter and webhook.

Several services may start and stop them at once.
"""

from collections.abc import Collection, Iterable
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names, search_attributes
from contracts.forward import ForwardInput
from contracts.watch import WatchInput

__all__ = ["ensure_forwards", "ensure_watches", "forwards", "stop_watch", "watched_vcenters"]

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
    await _stop(client, ids.watch(vcenter))


async def _stop(client: Client, workflow_id: str) -> None:
    try:
        await client.get_workflow_handle(workflow_id).signal(names.STOP, rpc_timeout=_CALL_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # else it has ended: another service stopped it
            raise


async def ensure_forwards(client: Client, queues: names.TaskQueues, vcenter: str, webhooks: Collection[str]) -> None:
    """Have the events of a vCenter go to these webhooks, and to no other."""
    for webhook in webhooks:
        await client.start_workflow(
            names.FORWARD_EVENTS,
            ForwardInput(vcenter=vcenter, webhook=webhook),
            id=ids.forward(vcenter, webhook),
            task_queue=queues.main,
            start_signal=names.RESUME,
            static_summary=f"Send the events of {vcenter} to {webhook}",
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(vcenter))]
            ),
            rpc_timeout=_CALL_TIMEOUT,
        )
    for of, webhook in await forwards(client, queues.main):
        if of == vcenter and webhook not in webhooks:
            await _stop(client, ids.forward(vcenter, webhook))


async def forwards(client: Client, task_queue: str) -> list[tuple[str, str]]:
    """vCenter and webhook of each live forward of this task queue, whether they are configured or not."""
    return [(run.vcenter, run.subject) for run in await _live(client, names.FORWARD_EVENTS, task_queue)]


async def watched_vcenters(client: Client, task_queue: str) -> list[str]:
    """The vCenters with a live watch for this task queue, whether they are configured or not."""
    return [run.vcenter for run in await _live(client, names.WATCH_VCENTER, task_queue)]


async def _live(client: Client, workflow_type: str, task_queue: str) -> list[ids.SubjectId]:
    """Whom the live runs of this type are for, in order."""
    query = f'WorkflowType = "{workflow_type}" AND ExecutionStatus = "Running" AND TaskQueue = "{task_queue}"'
    return sorted({ids.parse(run.id) async for run in client.list_workflows(query, rpc_timeout=_CALL_TIMEOUT)})
