"""`ClusterGate`: one a cluster. It hands out leases, so that no more hosts than allowed are down for work at once.

What to grant and to free is decided by an activity that looks at the cluster; the gate carries it out. It ends when
nothing is leased or asked for any more: a request starts it again, a gate of a cluster that is gone leaves nothing
behind, and new code begins with a new history. A gate that somebody ends by hand forgets nothing: the next request
starts one that takes its leases over.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.activities import GateActivities
    from contracts.gate import (
        DescribeHolders,
        GateDecision,
        GateInput,
        GateLook,
        GateStatus,
        HoldersGone,
        Lease,
        LeaseGrant,
        LeaseRelease,
        LeaseRequest,
        Legacy,
        TakeOver,
    )

from workflows import policies
from workflows.story import plain

__all__ = ["ClusterGate"]

_IDLE_SWEEPS = 10
"""After so many sweeps' time with nothing to do the gate ends."""
_SHOWN = 30


@workflow.defn(name=names.CLUSTER_GATE)
class ClusterGate:
    """Guards one cluster for as long as somebody works on its hosts."""

    @workflow.init
    def __init__(self, order: GateInput) -> None:
        self._order = order
        self._limits = order.limits
        self._leases = {lease.request.token: lease for lease in order.leases}
        self._queue = {request.token: request for request in order.queue}
        self._again = dict.fromkeys(order.again)
        """Leases whose holders asked once more, as if they had not been told; a dict keeps the order."""
        self._after = order.after
        self._news = True
        self._next_sweep = workflow.now()
        self._decision: GateDecision | None = None
        self._looked_at: datetime | None = None
        self._trouble = ""

    @workflow.signal(name=names.LEASE_REQUESTED)
    def lease_requested(self, request: LeaseRequest) -> None:
        """Somebody wants to take a host down. Asked again with the same token it keeps its place, or its lease."""
        if request.token in self._leases:
            self._again[request.token] = None
        else:
            self._queue.setdefault(request.token, request)
        self._news = True

    @workflow.signal(name=names.LEASE_RELEASED)
    def lease_released(self, message: LeaseRelease) -> None:
        """A lease or a request is over."""
        lease, request = self._leases.pop(message.token, None), self._queue.pop(message.token, None)
        self._news = self._news or lease is not None or request is not None

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """Look after the holders and at the cluster now instead of at the next sweep."""
        self._next_sweep = workflow.now()
        self._news = True

    @workflow.query(name=names.QUERY_STATUS)
    def status(self) -> GateStatus:
        """Who holds what, who waits, and why."""
        decision = self._decision
        return GateStatus(
            vcenter=self._order.vcenter,
            cluster_moid=self._order.cluster_moid,
            cluster_name=decision.cluster_name if decision else self._order.cluster_name,
            hosts_down=self._limits.hosts_down,
            leases=tuple(self._leases.values()),
            queue=tuple(self._queue.values()),
            waiting=decision.waiting if decision and self._queue else "",
            down=decision.down if decision else (),
            notes=decision.notes if decision else (),
            trouble=self._trouble,
            looked_at=self._looked_at,
            after=self._after,
        )

    @workflow.run
    async def run(self, order: GateInput) -> GateStatus:
        """Hand out leases until nobody wants one any more."""
        workflow.upsert_search_attributes(
            [
                search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter)),
                search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(order.cluster_name)),
            ]
        )
        while await self._more():
            self._news = False
            if not self._after or await self._take_over():
                await self._round()
            workflow.set_current_details(_tell(self.status()))
            info = workflow.info()
            if info.is_continue_as_new_suggested() or info.get_current_history_length() > order.longest_history:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(self._carried_over())
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.status()

    async def _round(self) -> None:
        if workflow.now() >= self._next_sweep:
            await self._sweep()
        again, self._again = self._again, {}
        await self._tell_holders(again)
        if self._leases or self._queue:
            await self._decide()

    async def _more(self) -> bool:
        """Wait for news or the next sweep; False when there is nothing left to guard."""
        busy = bool(self._leases or self._queue or self._after)
        idle = timedelta(seconds=self._limits.sweep_s * _IDLE_SWEEPS)
        pause = max(self._next_sweep - workflow.now(), timedelta(0)) if busy else idle
        try:
            await workflow.wait_condition(
                lambda: self._news, timeout=pause, timeout_summary="until the next sweep" if busy else "idle"
            )
        except TimeoutError:
            return busy or self._news
        return True

    async def _take_over(self) -> bool:
        """Go on with the leases of the run before this one, which somebody ended: holders know nothing of that, and a
        host that is leased may go down any moment. Until they are known nothing is granted.

        Each holder is told anew. One that gave its lease back when no gate was there to hear it does so again.
        """
        try:
            legacy: Legacy = await workflow.execute_activity_method(
                GateActivities.read_legacy,
                TakeOver(workflow_id=workflow.info().workflow_id, run_id=self._after),
                **policies.glance(),
                summary="read what the gate that was ended by hand had leased",
            )
        except ActivityError as error:
            self._in_trouble(error)
            self._next_sweep = workflow.now() + timedelta(seconds=self._limits.sweep_s)
            return False
        self._leases = {lease.request.token: lease for lease in legacy.leases} | self._leases
        queue = {request.token: request for request in legacy.queue} | self._queue
        self._queue = {token: request for token, request in queue.items() if token not in self._leases}
        self._again |= dict.fromkeys(self._leases)
        self._after, self._trouble = "", ""
        return True

    async def _sweep(self) -> None:
        """Find holders that are gone: their requests are dropped, their leases freed once their hosts are back."""
        self._next_sweep = workflow.now() + timedelta(seconds=self._limits.sweep_s)
        holders = tuple(lease.request for lease in self._leases.values()) + tuple(self._queue.values())
        if not holders:
            return
        try:
            found: HoldersGone = await workflow.execute_activity_method(
                GateActivities.describe_holders,
                DescribeHolders(holders=holders),
                **policies.glance(),
                summary=f"look after {len(holders)} holders",
            )
        except ActivityError as error:
            self._in_trouble(error)
            return
        self._trouble = found.trouble
        gone = {holder.token: holder for holder in found.gone}
        for token in gone:
            self._queue.pop(token, None)
        asked = {holder.token for holder in holders}
        for token, lease in self._leases.items():
            if token in asked:
                self._leases[token] = lease.model_copy(update={"gone": gone.get(token), "kept": ""})

    async def _decide(self) -> None:
        """Look, and carry out what the look decided, as far as what was released meanwhile leaves it to be done."""
        try:
            decision: GateDecision = await workflow.execute_activity_method(
                GateActivities.look_and_decide_leases,
                GateLook(
                    vcenter=self._order.vcenter,
                    cluster_moid=self._order.cluster_moid,
                    leases=tuple(self._leases.values()),
                    queue=tuple(self._queue.values()),
                ),
                **policies.glance(),
                summary=f"{len(self._leases)} leases, {len(self._queue)} wait",
            )
        except ActivityError as error:
            self._in_trouble(error)
            return
        if self._decision is None or decision.cluster_name != self._decision.cluster_name:
            workflow.upsert_search_attributes(
                [search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(decision.cluster_name))]
            )
        self._decision, self._limits, self._looked_at = decision, decision.limits, workflow.now()
        for token in decision.freed:
            self._leases.pop(token, None)
        for token, why in decision.kept.items():
            if token in self._leases:
                self._leases[token] = self._leases[token].model_copy(update={"kept": why})
        granted = []
        for grant in decision.grants:
            if (request := self._queue.pop(grant.token, None)) is not None:
                self._leases.pop(grant.in_place_of, None)
                self._leases[grant.token] = Lease(request=request, granted_at=workflow.now())
                granted.append(grant.token)
        await self._tell_holders(granted)

    async def _tell_holders(self, tokens: Iterable[str]) -> None:
        leases = [self._leases[token] for token in tokens if token in self._leases]
        await asyncio.gather(*(self._tell_holder(lease.request) for lease in leases))

    async def _tell_holder(self, request: LeaseRequest) -> None:
        """Signal a grant. By ID alone, because a holder that continued as new has another run by now; whoever has
        the ID without knowing the token gives the lease back."""
        message = LeaseGrant(token=request.token, gate=workflow.info().workflow_id)
        try:
            await workflow.get_external_workflow_handle(request.workflow_id).signal(names.LEASE_GRANTED, message)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("%s was not told of its lease: %s", request.workflow_id, error)
            self._next_sweep, self._news = workflow.now(), True

    def _in_trouble(self, error: ActivityError) -> None:
        """The next sweep tries again; a cancelled gate ends."""
        if is_cancelled_exception(error):
            raise error
        self._trouble = f"{error.activity_type}: {error.cause or error}"
        workflow.logger.warning("the gate of %s cannot look: %s", self._order.cluster_name, self._trouble)

    def _carried_over(self) -> GateInput:
        return self._order.model_copy(
            update={
                "cluster_name": self.status().cluster_name,
                "limits": self._limits,
                "leases": tuple(self._leases.values()),
                "queue": tuple(self._queue.values()),
                "again": tuple(self._again),
                "after": self._after,
            }
        )


def _tell(status: GateStatus) -> str:
    """The gate's current details, as Markdown."""
    lines = [f"**{_plain(status.cluster_name)}**: {len(status.leases)} of {status.hosts_down} leased", ""]
    if status.trouble:
        lines += [f"> {_plain(status.trouble)}", ""]
    if status.leases:
        lines += ["| leased host | holder | since (UTC) | |", "|---|---|---|---|"]
        lines += [
            f"| {_plain(lease.request.host.name)} | {_plain(lease.request.workflow_id)} "
            f"| {lease.granted_at:%Y-%m-%d %H:%M:%S} | {_plain(lease.kept)} |"
            for lease in status.leases[:_SHOWN]
        ]
    lines += [f"- not leased, but {_plain(why)}" for why in status.down[:_SHOWN]]
    if status.queue:
        lines += ["", f"The first of {len(status.queue)} waits: {_plain(status.waiting or 'for the next look')}", ""]
        lines += ["| # | host | who asks | since (UTC) |", "|---|---|---|---|"]
        lines += [
            f"| {n} | {_plain(request.host.name)} | {_plain(request.workflow_id)} "
            f"| {request.requested_at:%Y-%m-%d %H:%M:%S} |"
            for n, request in enumerate(status.queue[:_SHOWN], 1)
        ]
    lines += ["", *(f"Note: {_plain(note)}" for note in status.notes)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return plain(text, 300)
