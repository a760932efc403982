"""Proof that a step was allowed, asked for by every activity that changes something.

The order comes from workflow history, which anybody with raw access to Temporal could have written: so the step, the
plan and the host are held against a signed grant, and the risk is judged by kind here, not by what the order says.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from temporalio import activity

from activities.parents import Run, parent
from contracts import ids
from contracts.cluster_grant import ClusterGrant, cluster_plan_hash
from contracts.errors import Conflict
from contracts.host import HostRef
from contracts.plan import StepKind, plan_hash
from contracts.prepare import StepOrder
from contracts.signing import Keyring
from vsphere.sessions import SessionPool, pool_named

__all__ = ["Guard", "check_permit", "plan_subject"]

_NEEDS_NO_GRANT = {StepKind.SET_LABEL}
_GIVES_BACK = {StepKind.EXIT_MAINTENANCE, StepKind.POWER_ON_VM}


def plan_subject(host: HostRef) -> str:
    """What a host plan's hash is bound to besides its steps."""
    return f"{host.vcenter}/{host.key}"


def check_permit(
    order: StepOrder,
    kind: StepKind,
    keyring: Keyring,
    *,
    workflow_id: str,
    run_id: str,
    started_by: Run | None = None,
    now: datetime | None = None,
) -> None:
    """Raise `Conflict` unless `order` is a step of `kind` that its signed grant allows in this run.

    `started_by` is the parent of the run, as Temporal's server tells.
    """
    where = f"{kind} on {order.host.name}"
    if order.step.kind is not kind:
        raise Conflict(f"{where}: the order is for {order.step.kind}")
    if plan_hash(plan_subject(order.host), order.plan) != order.plan_hash:
        raise Conflict(f"{where}: the plan in the order does not have the hash {order.plan_hash}")
    if order.step.id not in {step.id for step in order.plan.steps}:
        raise Conflict(f"{where}: the step is not part of plan {order.plan_hash}")
    if kind in _NEEDS_NO_GRANT:
        return
    if not order.grant:
        raise Conflict(f"{where}: nobody approved plan {order.plan_hash}")
    # Hosts and VMs are given back even when the grant has run out meanwhile: that harms nobody.
    expiry_counts = kind not in _GIVES_BACK
    if order.cluster_grant is not None:
        _check_cluster_grant(
            order,
            order.cluster_grant,
            keyring,
            workflow_id,
            started_by,
            (now or datetime.now(UTC)) if expiry_counts else None,
        )
        return
    keyring.verify_grant(
        order.grant,
        workflow_id=workflow_id,
        run_id=run_id,
        plan_hash=order.plan_hash,
        now=(now or datetime.now(UTC)) if expiry_counts else None,
    )


def _check_cluster_grant(
    order: StepOrder,
    grant: ClusterGrant,
    keyring: Keyring,
    workflow_id: str,
    started_by: Run | None,
    now: datetime | None,
) -> None:
    """Raise `Conflict` unless a cluster's approval covers the order's plan, which has its hash.

    The signed claims alone name the cluster and its run. They must cover the hash of the list of hosts, which must hold
    this host with this plan; and the run that acts must be this host's one, started by the very run that asked: whoever
    copies the grant out of a history cannot make his run a child of that one.
    """
    where = f"{order.step.kind} on {order.host.name}"
    claims = keyring.verify(grant.token)
    try:
        cluster = ids.parse(claims.workflow_id)
    except ValueError as error:
        raise Conflict(f"{where}: the grant is for {claims.workflow_id!r}, which prepares no cluster") from error
    if (cluster.kind, cluster.vcenter) != ("prepare-gpu-cluster", order.host.vcenter):
        raise Conflict(f"{where}: the grant is for {claims.workflow_id}, not for a cluster of {order.host.vcenter}")
    if workflow_id != ids.prepare_gpu_host(order.host.vcenter, order.host.key):
        raise Conflict(f"{where}: {workflow_id} is not the run of this host")
    if started_by != (claims.workflow_id, claims.run_id):
        by = f"by run {started_by.run_id} of {started_by.workflow_id}" if started_by else "by no workflow"
        raise Conflict(
            f"{where}: the grant is for the runs that run {claims.run_id} of {claims.workflow_id} starts, and "
            f"{workflow_id} was started {by}; prepare the cluster, or this host with an approval of its own"
        )
    if (order.host.key, order.plan_hash) not in grant.hosts:
        raise Conflict(f"{where}: plan {order.plan_hash} of this host is not part of the cluster's plan")
    keyring.verify_grant(
        grant.token,
        workflow_id=claims.workflow_id,
        run_id=claims.run_id,
        plan_hash=cluster_plan_hash(cluster.vcenter, cluster.subject, grant.hosts),
        now=now,
    )


class Guard:
    """The way to vCenter for activities: reads go through `pool`, changes through `permitted` only."""

    def __init__(self, pools: Mapping[str, SessionPool], keyring: Keyring) -> None:
        self._pools = pools
        self._keyring = keyring

    def pool(self, vcenter: str) -> SessionPool:
        """The sessions of a vCenter; raises `BadRequest` for one that is not configured."""
        return pool_named(self._pools, vcenter)

    def permitted(self, order: StepOrder, kind: StepKind) -> SessionPool:
        """The sessions to act through, once the order's grant was verified for the activity's very run."""
        info = activity.info()
        check_permit(
            order,
            kind,
            self._keyring,
            workflow_id=info.workflow_id or "",
            run_id=info.workflow_run_id or "",
            started_by=parent(),
        )
        return self.pool(order.host.vcenter)
