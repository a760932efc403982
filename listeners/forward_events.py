"""`forward_events`: the long-lived activity that sends one vCenter's events to one webhook, each at least once.

The reading is `listeners/following.py`; here is what becomes of a page: its events are sent, for as long as it takes,
and then the cursor moves. What the webhook refuses for good is quarantined, and costs no neighbour.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import structlog
from temporalio import activity

from contracts import ids
from contracts.cloud_events import CloudEvent, CloudEventSender
from contracts.errors import BadRequest, GpuwrightError, to_application_error
from contracts.events import Cursor
from contracts.forward import ForwardActivities, ForwardOrder
from contracts.watch import UNREACHABLE_AFTER_S, FollowPosition, FollowResult
from contracts.webhooks import ForwardedEvents, WebhookSettings
from listeners import cursor as cursors
from listeners.following import Follower, broken, page_size_of, position_of, unfit
from listeners.forward_metrics import ForwardMetrics
from listeners.progress import Reporter
from listeners.vcenter_cloud_events import cloud_event_of
from vsphere.events import RawEvent
from vsphere.sessions import SessionPool, pool_named

__all__ = ["Forwarder"]

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)

_REQUESTS_A_MOVE = 50
"""After so many requests the cursor moves: what a crash has sent again is no more than that."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_HEARTBEAT_S = 1.0
_LOG_S = 30.0
"""Trouble is logged again after this."""


class Forwarder(ForwardActivities):
    """Implements `forward_events` for the vCenters and webhooks of one worker."""

    def __init__(
        self,
        pools: Mapping[str, SessionPool],
        webhooks: Sequence[WebhookSettings],
        sender: CloudEventSender,
        unreachable_after_s: float = UNREACHABLE_AFTER_S,
    ) -> None:
        """`unreachable_after_s`: how long a webhook may be without its events before people are told."""
        self._pools = pools
        self._webhooks = {webhook.name: webhook for webhook in webhooks}
        self._sender = sender
        self._unreachable_after_s = unreachable_after_s
        self._reporters: dict[tuple[str, str], Reporter] = {}
        self._metrics: dict[tuple[str, str], ForwardMetrics] = {}

    @activity.defn(name="forward_events")
    async def forward_events(self, order: ForwardOrder) -> FollowResult:
        """Read events from the cursor on and send those that are wanted, for up to an hour."""
        info, who = activity.info(), (order.vcenter, order.webhook)
        position = position_of(order.cursor, info.heartbeat_details)
        reporter = self._reporters.setdefault(
            who, Reporter(order.vcenter, self._unreachable_after_s, ids.forward(*who))
        )
        reporter.begin(activity.client(), order.round, info.attempt, position)
        if who not in self._metrics:
            self._metrics[who] = ForwardMetrics(activity.metric_meter(), *who)
        metrics = self._metrics[who]
        follower = None
        try:
            follower = _WebhookFollower(
                pool_named(self._pools, order.vcenter),
                self._webhook(order.webhook),
                self._sender,
                reporter,
                metrics,
                position,
                page_size_of(position),
            )
            return await follower.run()
        except GpuwrightError as error:
            metrics.stuck(True)
            await reporter.progress(follower.position if follower else position, trouble=str(error))
            # Without its causes: their traces exceed what Temporal keeps of a failure, and with them go the words.
            raise to_application_error(error) from None

    def _webhook(self, name: str) -> WebhookSettings:
        webhook = self._webhooks.get(name)
        if webhook is None or webhook.events is None:
            raise BadRequest(f"webhook {name!r} gets no events by this worker's configuration; give it 'events'")
        return webhook


class _Refused(NamedTuple):
    event: RawEvent
    reason: str


class _Ready(NamedTuple):
    event: RawEvent
    message: CloudEvent


class _WebhookFollower(Follower):
    """Sends the events that a webhook wants."""

    def __init__(
        self,
        pool: SessionPool,
        webhook: WebhookSettings,
        sender: CloudEventSender,
        reporter: Reporter,
        metrics: ForwardMetrics,
        position: FollowPosition | None,
        page_size: int,
    ) -> None:
        super().__init__(pool, position, page_size)
        self._pool = pool
        self._webhook = webhook
        self._events = webhook.events or ForwardedEvents(on=("*",))
        self._sender = sender
        self._reporter = reporter
        self._metrics = metrics
        self._at_once = asyncio.Semaphore(webhook.in_flight)
        self._api_version = ""
        self._failures = 0
        """In a row."""
        self._works_again = asyncio.Event()
        self._logged_at = float("-inf")

    async def progress(self) -> None:
        await self._reporter.progress(self.here)

    def counted(self, cursor: Cursor, **counted: int) -> None:
        self._metrics.count(cursor, **counted)

    def reachable(self) -> None:
        self._metrics.stuck(False)

    def wanted(self, event: RawEvent) -> bool:
        """Whether the webhook wants events of this type; they are read whole."""
        return self._events.fits_type(event.type_name, event.base_type)

    async def take(self, page: list[RawEvent]) -> None:
        """Send the new events of a page that are wanted; then move the cursor, a few dozen requests at a time."""
        cursor = self.here.cursor
        events = cursors.fresh(page, cursor)
        unreadable = [broken(cursor, event) for event in page if self.newly_broken(event)]
        if unreadable:
            await self._reporter.quarantine(unreadable, self.here, self.still_here)
        wanted = await self._wanted(events)
        parts = _parts(events, wanted, _REQUESTS_A_MOVE * self._a_request)
        for number, part in enumerate(parts):
            sent, refused = await self._send([event for event in part if event.key in wanted])
            if refused:
                kept = [unfit(self.here.cursor, each.event, each.reason) for each in refused]
                await self._reporter.quarantine(kept, self.here, self.still_here)
            self.move(
                cursors.advance(self.here.cursor, part),
                pages=number == 0,
                events=len(part),
                matched=sent,
                quarantined=len(refused) + (len(unreadable) if number == 0 else 0),
            )
            await self.progress()

    @property
    def _a_request(self) -> int:
        return self._webhook.batch_size if self._webhook.mode == "batch" else 1

    async def _wanted(self, events: list[RawEvent]) -> set[int]:
        """The keys of the events that the webhook gets."""
        found = [event for event in events if not event.problem and self.wanted(event)]
        where = self._events.where
        if where.cluster is not None or where.host is not None:
            found = await self.named(found)
        return {
            event.key
            for event in found
            if where.fits(vcenter=self.vcenter, cluster=event.cluster_name, host=event.host_name)
        }

    async def _send(self, events: list[RawEvent]) -> tuple[int, list[_Refused]]:
        """How many the webhook has taken, and those that it never will; returns when that is known of each."""
        if not events:
            return 0, []
        ready, refused = await self._ready(events)
        size = self._a_request
        async with asyncio.TaskGroup() as tasks:
            # They get their turns in this order.
            sending = [
                tasks.create_task(self._in_turn(ready[start : start + size])) for start in range(0, len(ready), size)
            ]
        refused += [each for task in sending for each in task.result()]
        return len(events) - len(refused), sorted(refused, key=lambda each: each.event.key)

    async def _ready(self, events: list[RawEvent]) -> tuple[list[_Ready], list[_Refused]]:
        if not self._api_version:
            self._api_version = await self._heard(asyncio.to_thread(lambda: self._pool.api_version))
        ready, refused = [], []
        for event in events:
            try:
                message = cloud_event_of(
                    event,
                    epoch=self.here.cursor.epoch,
                    source=f"{self._pool.settings.url}/sdk",
                    api_version=self._api_version,
                    type_format=self._events.type,
                )
            except BadRequest as error:
                refused.append(_Refused(event, str(error)))
            else:
                ready.append(_Ready(event, message))
        return ready, refused

    async def _in_turn(self, some: list[_Ready]) -> list[_Refused]:
        async with self._at_once:
            return await self._until_settled(some)

    async def _until_settled(self, some: list[_Ready]) -> list[_Refused]:
        """Send until the webhook has taken or refused each; returns the refused ones."""
        while True:
            try:
                await self._heard(self._sender.send(self._webhook.name, [each.message for each in some]))
            except BadRequest as error:
                if len(some) == 1:
                    return [_Refused(some[0].event, str(error))]
                # One of them spoils the request: half of it at a time, it is found.
                half = len(some) // 2
                return [*await self._until_settled(some[:half]), *await self._until_settled(some[half:])]
            except GpuwrightError as error:
                await self._waits(str(error), error.retry_after_s or 0.0)
            else:
                self._works(some)
                return []

    async def _waits(self, trouble: str, asked_s: float) -> None:
        """The webhook does not take events: people see it, and the cursor waits.

        Pauses grow with the failures in a row, whichever request meets them, and end when another one succeeds.
        """
        pause_s = max(asked_s, min(_FIRST_PAUSE_S * 2 ** min(self._failures, 10), _LONGEST_PAUSE_S))
        self._failures += 1
        self._works_again.clear()
        if time.monotonic() - self._logged_at > _LOG_S:
            self._logged_at = time.monotonic()
            _log.warning("webhook_waited_for", vcenter=self.vcenter, webhook=self._webhook.name, trouble=trouble)
        self._metrics.stuck(True)
        self.still_here()
        await self._reporter.progress(self.here, trouble=trouble)
        await self._heard(self._pause(pause_s, asked_s))

    async def _pause(self, pause_s: float, at_least_s: float) -> None:
        await asyncio.sleep(at_least_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._works_again.wait(), pause_s - at_least_s)

    def _works(self, some: list[_Ready]) -> None:
        self._failures = 0
        self._works_again.set()
        self._metrics.stuck(False)
        self._metrics.lag(self._reporter.handed_over(some[-1].event.created))

    async def _heard(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Heartbeats while this goes on, which ends by itself in time: requests have a time-out, pauses an end."""
        task = asyncio.create_task(work)
        try:
            done = False
            while not done:
                self.still_here()
                done = bool((await asyncio.wait([task], timeout=_HEARTBEAT_S))[0])
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _parts(events: list[RawEvent], wanted: set[int], most: int) -> list[list[RawEvent]]:
    """The events in parts with so many wanted ones at most; one part where there are none."""
    parts: list[list[RawEvent]] = [[]]
    found = 0
    for event in events:
        if event.key in wanted:
            if found == most:
                parts.append([])
                found = 0
            found += 1
        parts[-1].append(event)
    return parts
