"""How a workflow holds a lease of its host's `ClusterGate`."""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import ids, names
    from contracts.activities import GateActivities
    from contracts.gate import LeaseGrant, LeaseRelease, LeaseRequest
    from contracts.host import ClusterRef, HostRef

from workflows import policies

__all__ = ["LeaseHolder"]

_ASK_AGAIN = timedelta(minutes=3)


class LeaseHolder:
    """At most one lease of a workflow.

    The workflow passes its signal `lease_granted` on to `granted`, with an `async` handler, and waits for all its
    handlers before it ends: a grant that comes too late is given back there.
    """

    def __init__(self) -> None:
        self._request: LeaseRequest | None = None
        self._held = False

    @property
    def held(self) -> bool:
        """The host may go down now."""
        return self._held

    async def granted(self, message: LeaseGrant) -> None:
        """A grant came. One that is not waited for goes back: it may be for an earlier run of this workflow's ID."""
        if self._request is not None and message.token == self._request.token:
            self._held = True
        else:
            await _give_back(message.gate, message.token)

    async def acquire(
        self, host: HostRef, cluster: ClusterRef | None, *, timeout: timedelta = timedelta(hours=1)
    ) -> bool:
        """Wait for the lease of a host; whether it is held after `timeout` at most.

        Called again after False it keeps its place in the queue. A host without a cluster needs no lease. When it is
        cancelled, the request is taken back.
        """
        if cluster is None:
            await self.release()
            self._held = True
            return True
        if self._request is None or (self._request.host.key, self._request.cluster_moid) != (host.key, cluster.moid):
            await self.release()
            info = workflow.info()
            self._request = LeaseRequest(
                token=workflow.uuid4().hex,
                workflow_id=info.workflow_id,
                first_run_id=info.first_execution_run_id,
                host=host,
                cluster_moid=cluster.moid,
                cluster_name=cluster.name,
                requested_at=workflow.now(),
            )
        try:
            await self._ask(self._request, workflow.now() + timeout)
        except (asyncio.CancelledError, ActivityError):
            await self.release()
            raise
        return self._held

    async def release(self) -> None:
        """Give the lease back, or take the request back; nothing to do without one."""
        request, self._request, self._held = self._request, None, False
        if request is not None:
            await _give_back(ids.cluster_gate(request.host.vcenter, request.cluster_moid), request.token)

    async def _ask(self, request: LeaseRequest, deadline: datetime) -> None:
        """Ask until the grant is there: a request may be repeated, and a gate that was ended by hand starts anew."""
        while not self._held and workflow.now() < deadline:
            try:
                await workflow.execute_activity_method(
                    GateActivities.request_lease,
                    request,
                    **policies.glance(),
                    summary=f"ask for the lease of {request.host.name}",
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                workflow.logger.warning("the lease of %s could not be asked for: %s", request.host.name, error.cause)
            pause = min(_ASK_AGAIN, deadline - workflow.now())
            if pause <= timedelta():
                return
            try:
                await workflow.wait_condition(
                    lambda: self._held, timeout=pause, timeout_summary=f"for the lease of {request.host.name}"
                )
            except TimeoutError:
                continue


async def _give_back(gate: str, token: str) -> None:
    """Tell the gate that a lease is free. One that cannot be told finds out by its sweep."""
    try:
        await workflow.get_external_workflow_handle(gate).signal(names.LEASE_RELEASED, LeaseRelease(token=token))
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        workflow.logger.info("the lease was not given back, because %s is not there: %s", gate, error)
