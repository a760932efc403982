"""What looking for drift needs done: knowing who was prepared with what, and looking at these hosts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.heartbeats import beating, in_thread
from contracts import ids, names, search_attributes
from contracts.activities import ReconcileActivities
from contracts.errors import GpuwrightError, NeedsHuman, Unreachable
from contracts.host import HostRef
from contracts.packing import packed
from contracts.prepare import HostPlan, LookAtHost, Outcome, PrepareGpuHostReport, StepStatus
from contracts.reconcile import (
    DriftFound,
    HostDrift,
    LivePreparation,
    LookForDrift,
    Preparation,
    Recalled,
    RecallPreparations,
    RememberedHost,
    Standing,
    recollect,
)
from contracts.rules import RulesFile
from planning.drift import Place, group, judge, locate, merge, read_from
from vsphere.inventory import host_index
from vsphere.sessions import SessionPool, pool_named

__all__ = ["VCenterReconcileActivities", "preparations"]

_READS_AT_ONCE = 10
_LOOKS_AT_ONCE = 4
"""Times the groups that a run looks at together; vCenter should not notice."""
_GOOD = {Outcome.PREPARED, Outcome.ALREADY_RIGHT, Outcome.PREPARED_IN_PART}


class VCenterReconcileActivities(ReconcileActivities):
    """`ReconcileActivities` through vCenter and the worker's own Temporal client.

    `look` is the look at one host that a preparation would begin with: same configuration, same plan.
    """

    def __init__(
        self, pools: Mapping[str, SessionPool], rules: RulesFile, look: Callable[[LookAtHost], HostPlan]
    ) -> None:
        self._pools = pools
        self._rules = rules
        self._look = look

    @activity.defn(name="recall_preparations")
    async def recall_preparations(self, order: RecallPreparations) -> Recalled:
        """See `ReconcileActivities`."""
        memory, now = recollect(order.memory), datetime.now(UTC)
        client = activity.client()
        try:
            closed = [each async for each in preparations(client, order.vcenter, read_from(memory))]
            live = [_live(run) async for run in _runs(client, order.vcenter, 'ExecutionStatus = "Running"')]
        except RPCError as error:
            raise Unreachable(f"Temporal does not list the preparations: {error.message}") from error
        memory = merge(memory, closed, now)
        places = await in_thread(lambda: self._places(order.vcenter)) if memory.hosts else {}
        memory, left = locate(memory, places, self._rules.profiles)
        return Recalled(memory=packed(memory), groups=group(memory), live=tuple(live), left=left)

    def _places(self, vcenter: str) -> dict[str, Place]:
        with pool_named(self._pools, vcenter).session() as si:
            hosts = host_index(si, vcenter).hosts
        if not hosts:
            # Were this believed, every host would be forgotten.
            raise NeedsHuman(f"{vcenter} shows no host at all; check the service account's role at the root")
        return {each.ref.key: (each.ref, each.cluster_moid, each.cluster_name) for each in hosts}

    @activity.defn(name="look_for_drift")
    def look_for_drift(self, order: LookForDrift) -> DriftFound:
        """See `ReconcileActivities`."""
        live = {each.host_key: each for each in order.live}
        with beating("look for drift"), ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="drift") as executor:
            found = executor.map(lambda each: self._stands(each, live.get(each.host.key)), order.hosts)
            return DriftFound(hosts=tuple(each for each in found if each is not None))

    def _stands(self, remembered: RememberedHost, live: LivePreparation | None) -> HostDrift | None:
        if live is not None and not live.asks:
            return remembered.stands(Standing.BUSY, f"{live.workflow_id} works on it", run_id=live.run_id)
        try:
            look = self._look(LookAtHost(host=remembered.host, profile=remembered.profile, skip=remembered.skip))
        except GpuwrightError as error:
            # One host that does not answer must not keep back what is known of the others.
            return remembered.stands(Standing.UNKNOWN, f"{type(error).__name__}: {error}")
        return judge(remembered, look.plan, connected=look.state.connection_state == "connected", live=live)


async def _runs(client: Client, vcenter: str, condition: str) -> AsyncIterator[WorkflowExecution]:
    """Preparations of hosts of a vCenter."""
    query = (
        f'WorkflowType = "{names.PREPARE_GPU_HOST}" AND {search_attributes.GPU_VCENTER.name} = "{vcenter}" '
        f"AND {condition}"
    )
    async for run in client.list_workflows(query):
        activity.heartbeat()
        yield run


def _live(run: WorkflowExecution) -> LivePreparation:
    return LivePreparation(
        host_key=ids.parse(run.id).subject,
        workflow_id=run.id,
        run_id=run.run_id,
        asks=run.typed_search_attributes.get(search_attributes.GPU_APPROVAL) == "pending",
    )


async def preparations(
    client: Client, vcenter: str, since: datetime | None = None, hosts: Sequence[HostRef] = ()
) -> AsyncIterator[Preparation]:
    """The newest good preparation of each host that closed since then; of these hosts only, where some are given."""
    condition = 'ExecutionStatus = "Completed"' + (f' AND CloseTime >= "{since.isoformat()}"' if since else "")
    if hosts:
        wanted = ", ".join(f'"{ids.prepare_gpu_host(vcenter, host.key)}"' for host in hosts)
        condition += f" AND WorkflowId IN ({wanted})"
    closed: dict[str, list[tuple[datetime, str]]] = {}
    async for run in _runs(client, vcenter, condition):
        if run.close_time is not None and run.status is WorkflowExecutionStatus.COMPLETED:
            closed.setdefault(run.id, []).append((run.close_time, run.run_id))
    slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def newest_good(workflow_id: str) -> Preparation | None:
        async with slots:
            for closed_at, run_id in sorted(closed[workflow_id], reverse=True):
                activity.heartbeat()
                report = await _report(client, workflow_id, run_id)
                if report and report.outcome in _GOOD:
                    skipped = [each.step.id for each in report.steps if each.status is StepStatus.SKIPPED]
                    return Preparation(
                        host=report.host, profile=report.profile, closed_at=closed_at, skip=tuple(skipped)
                    )
        return None

    for found in await asyncio.gather(*map(newest_good, closed)):
        if found:
            yield found


async def _report(client: Client, workflow_id: str, run_id: str) -> PrepareGpuHostReport | None:
    """The result of a completed run; None where it was deleted since it was listed."""
    handle: WorkflowHandle[object, PrepareGpuHostReport] = client.get_workflow_handle(
        workflow_id, run_id=run_id, result_type=PrepareGpuHostReport
    )
    try:
        return await handle.result(follow_runs=False)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
