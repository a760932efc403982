"""Whether gpuwright itself took a host down: its preparation had emptied it, or was rebooting it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.gate import GateStatus
from contracts.incidents import HostDown
from contracts.plan import StepKind
from contracts.prepare import PrepareGpuHostReport, StepRecord, StepStatus

__all__ = ["OwnWork", "by_own_work", "took_down"]

_ASK = timedelta(seconds=10)
_REBOOTS = {StepKind.REBOOT, StepKind.REMEDIATE_IMAGE}


class OwnWork:
    """Of the hosts that were asked about: who was taken down by gpuwright, in words, and what could not be told."""

    def __init__(self) -> None:
        self.planned: dict[str, str] = {}
        """Host key → evidence."""
        self.notes: list[str] = []


async def by_own_work(client: Client, vcenter: str, cluster_moid: str, hosts: Sequence[HostDown]) -> OwnWork:
    """Ask the preparations of these hosts, and whoever holds a lease of the cluster's gate for them.

    A host counts as taken down only where a preparation's own steps say so; a crash before it was emptied is a loss.
    """
    found = OwnWork()
    holders = await _holders(client, vcenter, cluster_moid, found) if cluster_moid else {}
    for down in hosts:
        own = ids.prepare_gpu_host(vcenter, down.host.key)
        for workflow_id in dict.fromkeys([own, *holders.get(down.host.moid, ())]):
            activity.heartbeat(workflow_id)
            try:
                report = await _report(client, workflow_id, down.at)
            except RPCError as error:
                found.notes.append(
                    f"{workflow_id} does not tell whether it took {down.host.name} down ({error.message}); "
                    "the host counts as lost"
                )
                continue
            if report is not None and (why := took_down(report.steps, down.at)):
                found.planned[down.host.key] = f"{down.host.name}: {workflow_id} {why}"
    return found


def took_down(steps: Sequence[StepRecord], at: datetime) -> str:
    """What these steps did that took their host down at that time, in words; empty: nothing.

    Times are Temporal's and `at` is vCenter's: where the clocks differ, a loss may count that was none, never the other
    way round; vCenter's own events tell of maintenance too.
    """
    emptied: datetime | None = None
    for record in steps:
        ended = record.finished_at
        if record.started_at > at or record.status is StepStatus.SKIPPED:
            continue
        if record.step.kind in _REBOOTS and (ended is None or at <= ended):
            return f"rebooted it ({record.step.kind} since {record.started_at:%H:%M:%S} UTC)"
        if (
            record.step.kind is StepKind.ENTER_MAINTENANCE
            and record.status is StepStatus.DONE
            and ended
            and ended <= at
        ):
            emptied = ended
        if record.step.kind is StepKind.EXIT_MAINTENANCE:
            emptied = None
    return f"had it in maintenance mode (since {emptied:%H:%M:%S} UTC)" if emptied else ""


async def _holders(client: Client, vcenter: str, cluster_moid: str, found: OwnWork) -> dict[str, list[str]]:
    """Host moid → workflow IDs of those that hold a lease for it."""
    gate = ids.cluster_gate(vcenter, cluster_moid)
    try:
        handle = client.get_workflow_handle(gate)
        if (await handle.describe(rpc_timeout=_ASK)).status is not WorkflowExecutionStatus.RUNNING:
            return {}
        status: GateStatus = await handle.query(names.QUERY_STATUS, result_type=GateStatus, rpc_timeout=_ASK)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            found.notes.append(f"{gate} does not tell whose work a host is under: {error.message}")
        return {}
    holders: dict[str, list[str]] = {}
    for lease in status.leases:
        holders.setdefault(lease.request.host.moid, []).append(lease.request.workflow_id)
    return holders


async def _report(client: Client, workflow_id: str, at: datetime) -> PrepareGpuHostReport | None:
    """What the latest run of that ID says, if it may have been at work then."""
    handle = client.get_workflow_handle(workflow_id)
    try:
        latest: WorkflowExecutionDescription = await handle.describe(rpc_timeout=_ASK)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    if latest.start_time > at or (latest.close_time is not None and latest.close_time < at):
        return None
    run = client.get_workflow_handle(workflow_id, run_id=latest.run_id)
    report: PrepareGpuHostReport = await run.query(
        names.QUERY_REPORT, result_type=PrepareGpuHostReport, rpc_timeout=_ASK
    )
    return report
