"""`follow_events`: the long-lived activity that reads one vCenter's events and hands them over.

Hand over first, then move the cursor: what is read twice after a crash is recognised by the hand-over, what is never
read is lost. Heartbeats come from the loop's progress alone, so a reader that hangs anywhere is replaced within the
heartbeat time-out; the old and the new one may overlap for seconds, which the hand-over bears.
"""

import asyncio
import time
from collections.abc import Mapping

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from contracts import ids
from contracts.activities import ListenActivities
from contracts.errors import BadRequest, GpuwrightError, Unreachable, to_application_error
from contracts.events import Cursor
from contracts.incidents import meaning_of
from contracts.rules import RuledVm, RulesFile
from contracts.watch import FollowOrder, FollowPosition, FollowResult, Gap, QuarantinedEvent
from listeners import cursor as cursors
from listeners.hand_over import Delivery, HandOver
from listeners.metrics import EventMetrics
from listeners.progress import Reporter
from listeners.purposes import Purposes
from listeners.reading import Reading
from listeners.rules import Group, Match, RuleBook, group_by_target, why_unresolved, with_names
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost
from vsphere.sessions import SessionPool

__all__ = ["Listener"]

_log = structlog.get_logger(__name__)

_ROUND_S = 3600
_PAGES_A_ROUND = 2000
_PAGE_SIZE, _SMALLEST_PAGE = 1000, 25
_WAIT_S = 3
"""Longest wait for a push; with the reading of a page it has to stay below the heartbeat time-out (5 s)."""
_SILENCE_S = 15
"""After this long without news the collector is held against `latestEvent`."""
_HAND_OVERS_AT_ONCE = 16
_RAW_LIMIT = 2000


class Listener(ListenActivities):
    """Implements `follow_events` for the vCenters of one worker."""

    def __init__(self, pools: Mapping[str, SessionPool], rules: RulesFile, task_queue: str) -> None:
        """`task_queue` is where the started workflows run; for eager starts its worker shares the listener's client."""
        self._pools = pools
        self._rules = rules
        self._task_queue = task_queue
        self._reporters: dict[str, Reporter] = {}
        self._metrics: dict[str, EventMetrics] = {}

    @activity.defn(name="follow_events")
    async def follow_events(self, order: FollowOrder) -> FollowResult:
        """Read events from the cursor on and hand them over, for up to an hour."""
        info = activity.info()
        position = _position(order, info.heartbeat_details)
        reporter = self._reporters.setdefault(order.vcenter, Reporter(order.vcenter))
        reporter.begin(activity.client(), order.round, info.attempt, position)
        if order.vcenter not in self._metrics:
            self._metrics[order.vcenter] = EventMetrics(activity.metric_meter(), order.vcenter)
        metrics = self._metrics[order.vcenter]
        try:
            follower = _Follower(
                self._pool(order.vcenter),
                activity.client(),
                RuleBook(order.vcenter, self._rules.rules),
                self._rules.vms,
                HandOver(activity.client(), self._task_queue),
                reporter,
                metrics,
                position,
                # A page that takes longer than the heartbeat time-out would be asked for over and over.
                page_size=max(_SMALLEST_PAGE, _PAGE_SIZE >> min(info.attempt - 1, 10)),
            )
            return await follower.run()
        except GpuwrightError as error:
            metrics.unreachable()
            await reporter.progress(position, trouble=str(error))
            # Without its causes: their traces exceed what Temporal keeps of a failure, and with them go the words.
            raise to_application_error(error) from None

    def _pool(self, vcenter: str) -> SessionPool:
        if vcenter in self._pools:
            return self._pools[vcenter]
        known = ", ".join(sorted(self._pools)) or "none"
        raise BadRequest(
            f"vCenter {vcenter!r} is not in this worker's configuration (it has: {known}); add it there, or stop the "
            f"watch {ids.watch(vcenter)!r}"
        )


def _position(order: FollowOrder, heartbeat_details: object) -> FollowPosition | None:
    """Where to begin: the previous attempt's last heartbeat that arrived, else the order."""
    if isinstance(heartbeat_details, (list, tuple)) and heartbeat_details:
        return FollowPosition.model_validate(heartbeat_details[0])
    return FollowPosition(cursor=order.cursor) if order.cursor else None


class _Follower:
    """One call of the activity: reads with one session, hands over, moves the cursor."""

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
        self._reading = Reading(pool, self._still_here)
        self._vcenter = pool.name
        self._rules = rules
        self._vms = vms
        self._hand_over = hand_over
        self._purposes = Purposes(pool.name, client, hand_over, self._reading)
        self._reporter = reporter
        self._metrics = metrics
        self._position = position
        self._page_size = page_size
        self._hosts: Mapping[str, IndexedHost] = {}
        self._horizon = 0
        """Events up to this key were there when this reader took over: another one may have handed them over."""
        self._stalled_at = 0
        self._broken: set[str] = set()
        self._at_once = asyncio.Semaphore(_HAND_OVERS_AT_ONCE)

    async def run(self) -> FollowResult:
        """Follow until there is a reason to return; raises `GpuwrightError` when vCenter or Temporal is in the way."""
        try:
            return await self._follow()
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if self._position and details and (details.worker_shutdown or details.cancel_requested):
                # With a result the next reader begins right here, without waiting for a missed heartbeat.
                return self._result("the worker shuts down" if details.worker_shutdown else "cancelled")
            raise
        finally:
            await self._reading.close()

    @property
    def _here(self) -> FollowPosition:
        if self._position is None:
            raise RuntimeError("the reader has no cursor yet")
        return self._position

    def _still_here(self) -> None:
        if self._position is not None:
            activity.heartbeat(self._position)
        else:
            activity.heartbeat()

    def _move(self, cursor: Cursor, **counted: int) -> None:
        self._position = FollowPosition(cursor=cursor, counters=self._here.counters.plus(**counted))
        self._metrics.count(cursor, **counted)
        self._still_here()

    def _result(self, ended: str, *gaps: Gap) -> FollowResult:
        return FollowResult(cursor=self._here.cursor, counters=self._here.counters, gaps=gaps, ended=ended)

    def _end_at_gap(self, cursor: Cursor, gap: Gap) -> FollowResult:
        """Return, so that the gap and the cursor behind it are durable before anything else is read."""
        self._position = FollowPosition(cursor=cursor, counters=self._here.counters)
        self._metrics.count(cursor, gaps=1)
        return self._result(f"gap: {gap.reason}", gap)

    async def _follow(self) -> FollowResult:
        uuid = await self._reading.connect()
        if self._position is None:
            # Returned at once: a beginning that is not durable would move with each crash.
            latest, now = await self._reading.latest()
            return FollowResult(cursor=cursors.first_cursor(uuid, latest, now), ended="begins at the newest event")
        await self._open()
        self._metrics.reachable()
        self._metrics.count(self._here.cursor)
        _log.info("following", cursor=self._here.cursor.key)
        latest, _ = await self._reading.latest()
        if moved := cursors.new_epoch(self._here.cursor, uuid, latest):
            return self._end_at_gap(*moved)
        self._horizon = latest.key if latest else 0
        pages_then, ends_at = self._here.counters.pages, time.monotonic() + _ROUND_S
        if ended := await self._read_from_oldest():
            return ended
        heard_at = time.monotonic()
        while time.monotonic() < ends_at and self._here.counters.pages < pages_then + _PAGES_A_ROUND:
            if activity.is_worker_shutdown():
                return self._result("the worker shuts down")
            self._still_here()
            await self._reporter.progress(self._here)
            news = await self._reading.wait_for_news(_WAIT_S)
            if news and await self._read_all():
                heard_at = time.monotonic()
            elif news or time.monotonic() - heard_at > _SILENCE_S:
                heard_at = time.monotonic()
                if ended := await self._compare(uuid):
                    return ended
        return self._result("the round is over")

    async def _open(self) -> None:
        await self._reading.open(cursors.begin_at(self._here.cursor), self._page_size)
        self._still_here()

    async def _read_from_oldest(self) -> FollowResult | None:
        """Read all that a new collector has; a result when the past is gone."""
        page = await self._reading.read_page(self._wanted)
        if moved := cursors.purged(self._here.cursor, page):
            return self._end_at_gap(*moved)
        await self._take(page)
        await self._read_all()
        return None

    async def _read_all(self) -> bool:
        """Read and hand over until a page is empty; whether anything was new."""
        before = self._here.cursor
        while page := await self._reading.read_page(self._wanted):
            await self._take(page)
        return self._here.cursor != before

    async def _compare(self, uuid: str) -> FollowResult | None:
        """Hold the collector against the newest event; a result when vCenter's past changed."""
        latest, _ = await self._reading.latest()
        self._still_here()
        if moved := cursors.new_epoch(self._here.cursor, uuid, latest):
            return self._end_at_gap(*moved)
        if latest is None or latest.key <= max(self._here.cursor.key, self._stalled_at):
            return None
        if await self._read_all():
            return None
        # What a new collector does not show either is not for this user to see: not tried again for the same event.
        self._stalled_at = latest.key
        self._move(self._here.cursor, rebuilt=1)
        _log.info("collector_rebuilt", cursor=self._here.cursor.key, latest=latest.key)
        await self._open()
        return await self._read_from_oldest()

    def _wanted(self, event: RawEvent) -> bool:
        """Whether more than its key and time matters: rules care, or it tells how a host stands (see causes)."""
        return self._rules.cares(event) or meaning_of(event.type_name) is not None

    async def _take(self, page: list[RawEvent]) -> None:
        """Hand the new events of a page over, or put them into quarantine; then move the cursor."""
        cursor = self._here.cursor
        events = cursors.fresh(page, cursor)
        named = await self._named([event for event in events if self._rules.cares(event)])
        matches = [match for event in named for match in self._rules.matches(event)]
        matched = len({match.event.key for match in matches})
        matches, on_purpose = await self._unplanned(events, matches)
        groups, unresolved = group_by_target(self._vcenter, matches, self._hosts, self._vms)
        quarantined = [_unresolved(cursor, match) for match in unresolved]
        quarantined += [_broken(cursor, event) for event in page if self._newly_broken(event)]
        if quarantined:
            await self._reporter.quarantine(quarantined, self._here, self._still_here)
        delivered = await self._deliver_all(groups)
        self._move(
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
            return await self._purposes.unplanned(
                events, matches, self._hosts, self._here.cursor.epoch, self._still_here
            )
        except RPCError as refused:
            raise Unreachable(f"Temporal refused to tell a run, so the cursor waits: {refused}") from refused

    async def _named(self, events: list[RawEvent]) -> list[RawEvent]:
        """The events with names; new hosts make the inventory be read, once a page."""
        if any(event.host_moid and event.host_moid not in self._hosts for event in events):
            self._hosts = await self._reading.hosts()
        return [with_names(event, self._hosts) for event in events]

    async def _deliver_all(self, groups: tuple[Group, ...]) -> list[Delivery]:
        try:
            async with asyncio.TaskGroup() as tasks:
                deliveries = [tasks.create_task(self._deliver(group)) for group in groups]
        except* RPCError as errors:
            refused = errors.exceptions[0]
            raise Unreachable(f"Temporal refused a hand-over, so the cursor waits: {refused}") from refused
        return [delivery.result() for delivery in deliveries]

    async def _deliver(self, group: Group) -> Delivery:
        async with self._at_once:
            maybe_repeated, begun_at = group.events[0].key <= self._horizon, time.monotonic()
            delivery = await self._hand_over.deliver(
                group, self._here.cursor.epoch, maybe_repeated=maybe_repeated, still_here=self._still_here
            )
        self._still_here()
        self._metrics.delivered(delivery, group.rule.name, time.monotonic() - begun_at)
        if not group.events[-1].problem:
            self._metrics.lag(self._reporter.handed_over(group.events[-1].created))
        _log.info(
            "events_handed_over",
            workflow_id=group.workflow_id,
            delivery=delivery,
            rule=group.rule.name,
            keys=[event.key for event in group.events],
        )
        return delivery

    def _newly_broken(self, event: RawEvent) -> bool:
        """Whether an unreadable event is one that this reader has not put into quarantine yet."""
        known = event.xml in self._broken if event.key < 0 else event.key <= self._here.cursor.key
        if event.problem and not known:
            self._broken.add(event.xml)
            return True
        return False


def _broken(cursor: Cursor, event: RawEvent) -> QuarantinedEvent:
    return QuarantinedEvent(
        epoch=cursor.epoch,
        key=event.key,
        type_name=event.type_name,
        reason=f"the event is broken: {event.problem}",
        raw=event.xml[:_RAW_LIMIT],
        after=cursor.created,
    )


def _unresolved(cursor: Cursor, match: Match) -> QuarantinedEvent:
    event = match.event
    return QuarantinedEvent(
        epoch=cursor.epoch,
        key=event.key,
        created=event.created,
        type_name=event.type_name,
        reason=why_unresolved(match),
        raw=event.message[:_RAW_LIMIT],
        after=cursor.created,
    )
