"""`ForwardEvents`: one a vCenter and webhook. It keeps how far the webhook has the events, and `forward_events` sends.

It has a cursor of its own: a webhook that is down for a day gets its events a day later, and holds nobody else up.
"""

from datetime import datetime

from temporalio import workflow
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.forward import ForwardActivities, ForwardInput, ForwardOrder, ForwardStatus
    from contracts.notices import Notice
    from contracts.watch import FollowResult, Gap

from workflows import forward_notices, policies
from workflows.forward_story import tell
from workflows.rounds import Rounds

__all__ = ["ForwardEvents"]


@workflow.defn(name=names.FORWARD_EVENTS)
class ForwardEvents(Rounds):
    """Forwards one vCenter's events to one webhook until it is stopped."""

    @workflow.init
    def __init__(self, order: ForwardInput) -> None:
        self._webhook = order.webhook
        super().__init__(order, forward_notices.of_outages(order.vcenter, order.webhook))

    @workflow.query(name=names.QUERY_STATUS)
    def status(self) -> ForwardStatus:
        """How far it is."""
        return ForwardStatus(webhook=self._webhook, **self._told())

    @workflow.run
    async def run(self, order: ForwardInput) -> ForwardStatus:
        """Forward until stopped; the result says how far the webhook has the events."""
        workflow.upsert_search_attributes(
            [search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter))]
        )
        self._show()
        while True:
            await self._forward_until_stopped()
            await self._leave()
            if self._stopping:
                self._guard.stop()
                await self._teller.started()
            if self._stopping:
                return self.status()

    async def _forward_until_stopped(self) -> None:
        self._guard.begin()
        while not self._stopping:
            await self._one_round()
            self._show()
            if self._long() and not self._stopping:
                await self._leave()
                workflow.continue_as_new(ForwardInput(webhook=self._webhook, **self._carried()))

    async def _leave(self) -> None:
        """Before a run ends: what it told is on its way, and it tells no more."""
        self._guard.pause()
        await self._teller.started()

    def _start_round(self, unheard_s: float, what: str) -> workflow.ActivityHandle[FollowResult]:
        return workflow.start_activity_method(
            ForwardActivities.forward_events,
            ForwardOrder(vcenter=self._vcenter, webhook=self._webhook, cursor=self._cursor, round=self._round),
            task_queue=names.TaskQueues(workflow.info().task_queue).forward(self._vcenter, self._webhook),
            # Its last position comes with the result even when it is cancelled.
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=what,
            **policies.listen(unheard_s),
        )

    def _gap_notice(self, gap: Gap, now: datetime, by: str) -> Notice:
        return forward_notices.of_gap(self._vcenter, self._webhook, gap, now, by)

    @property
    def _unfit(self) -> str:
        return f"do not get to {self._webhook}"

    @property
    def _needs(self) -> str:
        return "this webhook"

    def _show(self) -> None:
        workflow.set_current_details(tell(self.status()))
