"""What the preparation of a whole cluster needs done: looking at all its hosts, and following runs of others."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.heartbeats import beating
from contracts import names
from contracts.activities import ClusterActivities
from contracts.approvals import ApprovalTerms
from contracts.cluster import AwaitPreparation, ClusterHost, ClusterPlan, Fit, LookAtCluster, PreparationEnd
from contracts.cluster_grant import cluster_plan_hash
from contracts.errors import BadRequest, GpuwrightError, Unreachable
from contracts.host import HostRef
from contracts.plan import Blocker
from contracts.prepare import HostPlan, LookAtHost, PrepareGpuHostReport
from vsphere.inventory import host_index
from vsphere.sessions import SessionPool, pool_named

__all__ = ["VCenterClusterActivities"]

_LOOKS_AT_ONCE = 4
"""A look asks the host itself a few things, so a cluster of 64 takes a while one by one; vCenter should not notice."""
_FOLLOW_S = 1.0
_NO_GPU = {"no-gpu", "no-matching-gpu"}


class VCenterClusterActivities(ClusterActivities):
    """`ClusterActivities` through vCenter and the worker's own Temporal client.

    `look` is the look at one host that the host's own run will do at its turn: same configuration, same plan.
    """

    def __init__(
        self, pools: Mapping[str, SessionPool], look: Callable[[LookAtHost], HostPlan], terms: ApprovalTerms
    ) -> None:
        self._pools = pools
        self._look = look
        self._terms = terms

    @activity.defn(name="look_and_plan_cluster")
    def look_and_plan_cluster(self, order: LookAtCluster) -> ClusterPlan:
        """See `ClusterActivities`."""
        pool = pool_named(self._pools, order.vcenter)
        with beating("look at the cluster"):
            with pool.session() as si:
                index = host_index(si, order.vcenter)
            members = [each for each in index.hosts if each.cluster_moid == order.cluster_moid]
            if not members:
                raise BadRequest(
                    f"cluster {order.cluster_moid} of {order.vcenter} has no host that the service account may see"
                )
            refs = sorted((each.ref for each in members), key=lambda ref: ref.name)
            with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="look") as executor:
                hosts = tuple(executor.map(lambda ref: self._host(ref, order.profile), refs))
        lacking = tuple((each.host.key, each.plan_hash) for each in hosts if each.fit is Fit.LACKS)
        return ClusterPlan(
            cluster_name=members[0].cluster_name,
            hosts=hosts,
            plan_hash=cluster_plan_hash(order.vcenter, order.cluster_moid, lacking),
            terms=self._terms,
        )

    def _host(self, ref: HostRef, profile: str) -> ClusterHost:
        try:
            look = self._look(LookAtHost(host=ref, profile=profile))
        except BadRequest:
            # The profile is unknown, or the host is gone since the list was read: another look will tell.
            raise
        except GpuwrightError as error:
            if error.retryable:
                raise
            return ClusterHost(host=ref, fit=Fit.BLOCKED, why=str(error))
        plan = look.plan
        if plan.blockers:
            fit = Fit.NO_GPU if any(blocker.code in _NO_GPU for blocker in plan.blockers) else Fit.BLOCKED
            return ClusterHost(host=ref, fit=fit, why=" ".join(map(_in_words, plan.blockers)))
        return ClusterHost(
            host=ref,
            fit=Fit.LACKS if plan.steps else Fit.RIGHT,
            plan=plan,
            plan_hash=look.plan_hash if plan.steps else "",
        )

    @activity.defn(name="await_preparation")
    async def await_preparation(self, order: AwaitPreparation) -> PreparationEnd:
        """See `ClusterActivities`."""
        handle: WorkflowHandle[object, PrepareGpuHostReport] = activity.client().get_workflow_handle(
            order.workflow_id, result_type=PrepareGpuHostReport
        )
        while True:
            activity.heartbeat()
            try:
                found = await handle.describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return PreparationEnd(text=f"{order.workflow_id} is no longer known to Temporal")
                raise Unreachable(f"{order.workflow_id} could not be described: {error.message}") from error
            if found.status is not WorkflowExecutionStatus.RUNNING:
                break
            await asyncio.sleep(_FOLLOW_S)
        pinned: WorkflowHandle[object, PrepareGpuHostReport] = activity.client().get_workflow_handle(
            order.workflow_id, run_id=found.run_id, result_type=PrepareGpuHostReport
        )
        if found.status is WorkflowExecutionStatus.COMPLETED:
            report = await pinned.result()
            return PreparationEnd(profile=report.profile, outcome=report.outcome, text=report.detail)
        how = found.status.name.lower().replace("_", " ") if found.status else "ended"
        try:
            report = await pinned.query(names.QUERY_REPORT, result_type=PrepareGpuHostReport)
        except RPCError as error:
            return PreparationEnd(text=f"{how}; it does not say why: {error.message}")
        return PreparationEnd(profile=report.profile, text=f"{how}: {report.detail}")


def _in_words(blocker: Blocker) -> str:
    return f"{blocker.text}. Fix: {blocker.fix}."
