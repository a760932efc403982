"""A workflow that does nothing but take a host down under a lease, for the tests of `ClusterGate`."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.base import Message
    from contracts.gate import LeaseGrant
    from contracts.host import ClusterRef, HostRef

from workflows.lease import LeaseHolder

__all__ = ["Holder", "HolderOrder", "Maintenance"]


class Maintenance(Message):
    """Input of the test activity `put_into_maintenance`."""

    host: HostRef
    on: bool


class HolderOrder(Message):
    """What a holder does. It is down for `work_s`, or until it is told to finish."""

    host: HostRef
    cluster: ClusterRef
    work_s: float = 60
    patience_s: float = 60
    end: str = "release"
    """`release`; `forget`: end without a word; `fail`: end with the host down."""
    hesitates: bool = False
    """With the lease it waits for the signal `go` before it takes its host down."""
    asks: bool = True
    """False: only wait, as a run that knows of no lease."""


@workflow.defn
class Holder:
    @workflow.init
    def __init__(self, order: HolderOrder) -> None:
        self._lease = LeaseHolder()
        self._finish = False
        self._go = not order.hesitates
        self._stage = "waiting"

    @workflow.signal(name=names.LEASE_GRANTED, unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def lease_granted(self, message: LeaseGrant) -> None:
        await self._lease.granted(message)

    @workflow.signal
    def finish(self) -> None:
        self._finish = True

    @workflow.signal
    def go(self) -> None:
        self._go = True

    @workflow.query
    def stage(self) -> str:
        return self._stage

    @workflow.run
    async def run(self, order: HolderOrder) -> str:
        if order.asks:
            patience = timedelta(seconds=order.patience_s)
            if not await self._lease.acquire(order.host, order.cluster, timeout=patience):
                await self._lease.release()
                return "gave up"
            self._stage = "leased"
            await workflow.wait_condition(lambda: self._go)
            await self._maintenance(order.host, on=True)
        self._stage = "down"
        try:
            await workflow.wait_condition(lambda: self._finish, timeout=timedelta(seconds=order.work_s))
        except TimeoutError:
            self._stage = "worked"
        if order.end == "fail":
            raise ApplicationError("as ordered")
        if order.asks:
            await self._maintenance(order.host, on=False)
        if order.end == "release":
            await self._lease.release()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return "done"

    async def _maintenance(self, host: HostRef, *, on: bool) -> None:
        await workflow.execute_activity(
            "put_into_maintenance",
            Maintenance(host=host, on=on),
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), backoff_coefficient=1),
        )
