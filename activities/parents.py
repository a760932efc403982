"""Which run started the run that an activity works for, told by Temporal's server and not by the activity's input."""

from contextvars import ContextVar
from typing import Any, NamedTuple

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from contracts.errors import Conflict, Unreachable
from contracts.prepare import StepOrder

__all__ = ["Run", "TellParent", "parent"]


class Run(NamedTuple):
    """One run of a workflow."""

    workflow_id: str
    run_id: str


_parent: ContextVar[Run | None] = ContextVar("parent", default=None)


def parent() -> Run | None:
    """The run whose child the present activity's run is; None where it is nobody's, or where nobody asked."""
    return _parent.get()


class TellParent(Interceptor):
    """Asks the server for the parent before an activity that acts on a cluster's approval.

    It is asked for on the worker's loop, because blocking activities have no client; those that act on a host's own
    approval pay nothing. A run that was reset is refused with `Conflict`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See `temporalio.worker.Interceptor`."""
        return _Inbound(next, self._client)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, client: Client) -> None:
        super().__init__(next)
        self._client = client

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if any(isinstance(order, StepOrder) and order.cluster_grant for order in input.args):
            found, act = await self._parent(), input.fn

            def with_parent(*args: Any) -> Any:
                # In the activity's thread, which does not share the loop's context.
                token = _parent.set(found)
                try:
                    return act(*args)
                finally:
                    _parent.reset(token)

            input.fn = with_parent
        return await super().execute_activity(input)

    async def _parent(self) -> Run | None:
        info = activity.info()
        handle = self._client.get_workflow_handle(info.workflow_id or "", run_id=info.workflow_run_id)
        try:
            described = await handle.describe()
        except RPCError as error:
            raise Unreachable(f"{info.workflow_id} could not be described: {error.message}") from error
        if described.raw_description.workflow_extended_info.HasField("last_reset_time"):
            # It keeps its parent, and would do again what the approval let it do once. Only a retry or a
            # continue-as-new after it would hide that, and a host's preparation does neither.
            raise Conflict(
                f"run {described.run_id} of {described.id} was reset by hand, which no cluster's approval covers; "
                "prepare the cluster, or this host with an approval of its own"
            )
        if not described.parent_id or not described.parent_run_id:
            return None
        return Run(described.parent_id, described.parent_run_id)
