"""`follow_events`: the long-lived activity that reads one vCenter's events and hands them over.

The reading is `listeners/following.py`; here is what becomes of a page.
"""

import asyncio
import time
from collections.abc import Collection, Mapping

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from contracts.errors import GpuwrightError, Unreachable, to_application_error
from contracts.events import Cursor
from contracts.listen_activities import ListenActivities
from contracts.rules import RuledVm, RulesFile
from contracts.watch import UNREACHABLE_AFTER_S, FollowOrder, FollowPosition, FollowResult
from listeners import cursor as cursors
from listeners.causes import TELLING_TYPES
from listeners.following import Follower, broken, page_size_of, position_of, unfit
from listeners.hand_over import Delivery, HandOver
from listeners.metrics import EventMetrics
from listeners.narrowing import Narrowing
from listeners.progress import Reporter
from listeners.purposes import Purposes
from listeners.rules import Group, Match, RuleBook, group_by_target, why_unresolved
from listeners.throttling import Throttles
from listeners.waiting import Waiting
from vsphere.events import RawEvent
from vsphere.sessions import SessionPool, pool_named

__all__ = ["Listener"]

_log = structlog.get_logger(__name__)

_HAND_OVERS_AT_ONCE = 16


class Listener(ListenActivities):
    """Implements `follow_events` for the vCenters of one worker."""

    def __init__(
        self,
        pools: Mapping[str, SessionPool],
        rules: RulesFile,
        task_queue: str,
        unreachable_after_s: float = UNREACHABLE_AFTER_S,
    ) -> None:
        """`task_queue` is where the started workflows run; for eager starts its worker shares the listener's client.

        `unreachable_after_s`: how long events may stay unread before people are told.
        """
        self._unreachable_after_s = unreachable_after_s
        self._pools = pools
        self._rules = rules
        self._task_queue = task_queue
        self._reporters: dict[str, Reporter] = {}
        self._metrics: dict[str, EventMetrics] = {}

    @activity.defn(name="follow_events")
    async def follow_events(self, order: FollowOrder) -> FollowResult:
        """Read events from the cursor on and hand them over, for up to an hour."""
        info = activity.info()
        position = position_of(order.cursor, info.heartbeat_details)
        reporter = self._reporters.setdefault(order.vcenter, Reporter(order.vcenter, self._unreachable_after_s))
        reporter.begin(activity.client(), order.round, info.attempt, position)
        if order.vcenter not in self._metrics:
            self._metrics[order.vcenter] = EventMetrics(activity.metric_meter(), order.vcenter)
        metrics = self._metrics[order.vcenter]
        follower = None
        try:
            follower = _RuleFollower(
                pool_named(self._pools, order.vcenter),
                activity.client(),
                RuleBook(order.vcenter, self._rules.rules),
                self._rules.vms,
                HandOver(activity.client(), self._task_queue),
                reporter,
                metrics,
                position,
                page_size_of(position),
            )
            return await follower.run()
        except GpuwrightError as error:
            metrics.unreachable(tried_again_soon=error.retryable)
            await reporter.progress(follower.position if follower else position, trouble=str(error))
            # Without its causes: their traces exceed what Temporal keeps of a failure, and with them go the words.
            raise to_application_error(error) from None


class _RuleFollower(Follower):
    """Hands over what rules match."""

    def __init__(
        self,
        pool: SessionPool,
        client: Client,
        rules: RuleBook,
        vms: Mapping[str, RuledVm],
        hand_over: HandOver,
        reporter: Reporter,
        metrics: EventMetrics,
        position: FollowPosition | None,
        page_size: int,
    ) -> None:
        super().__init__(pool, position, page_size)
        self._rules = rules
        self._vms = vms
        self._hand_over = hand_over
        self._purposes = Purposes(pool.name, client, hand_over, self.reading)
        self._throttles = Throttles(client, hand_over.task_queue)
        self._reporter = reporter
        self._metrics = metrics
        self._at_once = asyncio.Semaphore(_HAND_OVERS_AT_ONCE)
        self._needed = rules.names | frozenset(TELLING_TYPES if rules.audits else ())
        self._wanted = frozenset(name.casefold() for name in self._needed)

    async def progress(self) -> None:
        await self._reporter.progress(self.here)

    def counted(self, cursor: Cursor, **counted: int) -> None:
        self._metrics.count(cursor, **counted)

    def reachable(self) -> None:
        self._metrics.reachable()

    def wanted(self, event: RawEvent) -> bool:
        """Whether more than its key and time matters: rules care, or it tells how a host stands (see causes)."""
        return event.type_name.casefold() in self._wanted or event.base_type.casefold() in self._wanted

    def needed(self) -> Collection[str]:
        """What `wanted` lets through."""
        return self._needed

    def narrowed(self, narrowing: Narrowing) -> None:
        self._reporter.narrowed(narrowing.text)

    async def take(self, page: list[RawEvent]) -> None:
        """Hand the new events of a page over, or put them into quarantine; then move the cursor."""
        async with Waiting(self._tell_waiting):
            await self._take(page)

    async def _tell_waiting(self, seconds: float) -> None:
        self._metrics.waiting(seconds)
        self._reporter.waits(seconds)
        if seconds:
            await self._reporter.progress(self.here)

    async def _take(self, page: list[RawEvent]) -> None:
        cursor = self.here.cursor
        events = cursors.fresh(page, cursor)
        wanted = list(filter(self.wanted, events))
        named = await self.named(list(filter(self._rules.cares, wanted)))
        matches = [match for event in named for match in self._rules.matches(event)]
        matched = len({match.event.key for match in matches})
        matches, on_purpose = await self._unplanned(wanted, matches)
        groups, unresolved = group_by_target(self.vcenter, matches, self.hosts, self._vms)
        quarantined = [unfit(cursor, match.event, why_unresolved(match)) for match in unresolved]
        quarantined += [broken(cursor, event) for event in page if self.newly_broken(event)]
        if quarantined:
            await self._reporter.quarantine(quarantined, self.here, self.still_here)
        delivered = await self._deliver_all(groups)
        self.move(
            cursors.advance(cursor, events),
            pages=1,
            events=len(events),
            matched=matched,
            on_purpose=on_purpose,
            quarantined=len(quarantined),
            **{kind.value: delivered.count(kind) for kind in Delivery if kind is not Delivery.UNNEEDED},
        )

    async def _unplanned(self, events: list[RawEvent], matches: list[Match]) -> tuple[list[Match], int]:
        try:
            return await self._purposes.unplanned(events, matches, self.hosts, self.here.cursor.epoch, self.still_here)
        except RPCError as refused:
            raise Unreachable(f"Temporal refused to tell a run, so the cursor waits: {refused}") from refused

    async def _deliver_all(self, groups: tuple[Group, ...]) -> list[Delivery]:
        try:
            async with asyncio.TaskGroup() as tasks:
                throttled = [group for group in groups if group.rule.throttled]
                if throttled:
                    tasks.create_task(self._throttle(throttled))
                deliveries = [tasks.create_task(self._deliver(group)) for group in groups if not group.rule.throttled]
        except* RPCError as errors:
            refused = errors.exceptions[0]
            raise Unreachable(f"Temporal refused a hand-over, so the cursor waits: {refused}") from refused
        return [*(delivery.result() for delivery in deliveries), *(Delivery.THROTTLED for _ in throttled)]

    async def _throttle(self, groups: list[Group]) -> None:
        """Give groups to the throttles of their rules, which start what may start."""
        begun_at = time.monotonic()
        await self._throttles.give(groups, self.hosts, self.here.cursor.epoch, self.still_here)
        for group in groups:
            self._told(group, Delivery.THROTTLED, time.monotonic() - begun_at)

    async def _deliver(self, group: Group) -> Delivery:
        async with self._at_once:
            maybe_repeated, begun_at = group.events[0].key <= self.horizon, time.monotonic()
            delivery = await self._hand_over.deliver(
                group, self.here.cursor.epoch, maybe_repeated=maybe_repeated, still_here=self.still_here
            )
        self.still_here()
        self._told(group, delivery, time.monotonic() - begun_at)
        return delivery

    def _told(self, group: Group, delivery: Delivery, seconds: float) -> None:
        self._metrics.delivered(delivery, group.rule.name, seconds)
        if not group.events[-1].problem:
            self._metrics.lag(self._reporter.handed_over(group.events[-1].created))
        _log.info(
            "events_handed_over",
            workflow_id=group.workflow_id,
            delivery=delivery,
            rule=group.rule.name,
            keys=[event.key for event in group.events],
        )
