"""A watch on a Temporal server whose reader, look at the fleet, redrive and telling the tests direct."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest_asyncio
from temporalio import activity
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from contracts import ids
from contracts.errors import GpuwrightError, Unreachable, to_application_error
from contracts.events import Cursor
from contracts.forward import ForwardOrder
from contracts.listen_activities import ListenActivities, QuarantineActivities
from contracts.names import TaskQueues
from contracts.notice_activities import NoticeActivities
from contracts.notices import Channels, Notice, NoticeReport, SendNotice
from contracts.reconcile import LookAfterGap
from contracts.watch import (
    FollowOrder,
    FollowPosition,
    FollowResult,
    Gap,
    QuarantinedEvent,
    Redriven,
    RedriveOrder,
    RedriveResult,
    WatchCounters,
    WatchInput,
    WatchProgress,
    WatchStatus,
)
from workers.assembly import Parts, build_workers
from workers.search_attributes import ensure_search_attributes
from workflows.deliver_notice import DeliverNotice
from workflows.watch_vcenter import WatchVCenter

__all__ = ["Call", "DirectedCalls", "DirectedNotices", "Look", "RedriveCall", "Watch", "at", "broken", "gap", "watch"]


@dataclass
class Call:
    """One call of `follow_events` or `forward_events`, which lasts until the test ends it."""

    order: FollowOrder | ForwardOrder
    attempt: int
    heartbeat: FollowPosition | None
    end: asyncio.Future[FollowResult]
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    position: FollowPosition | None = None
    """What it heartbeats."""

    def returns(self, cursor: Cursor, *gaps: Gap, **counted: int) -> None:
        self.end.set_result(FollowResult(cursor=cursor, counters=WatchCounters(**counted), gaps=gaps))

    def fails(self, error: GpuwrightError) -> None:
        self.end.set_exception(to_application_error(error))


class DirectedCalls:
    """Calls that do nothing by themselves: the test takes them and ends them."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._ends: list[asyncio.Future[FollowResult]] = []

    async def until_ended(self, order: FollowOrder | ForwardOrder) -> FollowResult:
        """Heartbeat until the test says how the call ends; a cancelled one ends as the test says, too."""
        info = activity.info()
        details = FollowPosition.model_validate(info.heartbeat_details[0]) if info.heartbeat_details else None
        call = Call(order, info.attempt, details, asyncio.get_running_loop().create_future())
        call.position = FollowPosition(cursor=order.cursor) if order.cursor else None
        self._ends.append(call.end)
        self._calls.put_nowait(call)
        try:
            while not call.end.done():
                if call.position:
                    activity.heartbeat(call.position)
                await asyncio.wait([call.end], timeout=0.2)
        except asyncio.CancelledError:
            call.cancelled.set()
        return await call.end

    async def call(self) -> Call:
        """The next call."""
        return await asyncio.wait_for(self._calls.get(), 60)

    def close(self) -> None:
        """End every call that is still under way."""
        for end in self._ends:
            end.cancel()

    async def quiet(self, seconds: float) -> bool:
        """Whether nobody calls for so long."""
        await asyncio.sleep(seconds)
        return self._calls.empty()


class DirectedReader(DirectedCalls, ListenActivities):
    """Follows nothing."""

    @activity.defn(name="follow_events")
    async def follow_events(self, order: FollowOrder) -> FollowResult:
        """Until the test says how it ends."""
        return await self.until_ended(order)


class DirectedFleet:
    """Looks at nothing: the test ends its calls."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[Look] = asyncio.Queue()
        self._ends: list[asyncio.Future[str]] = []

    @activity.defn(name="look_after_gap")
    async def look_after_gap(self, order: LookAfterGap) -> str:
        """Until the test says how it ends."""
        look = Look(order, asyncio.get_running_loop().create_future())
        self._ends.append(look.end)
        self._calls.put_nowait(look)
        return await look.end

    async def call(self) -> Look:
        """The next call."""
        return await asyncio.wait_for(self._calls.get(), 60)

    @property
    def called(self) -> bool:
        """Whether there is a call that the test did not take."""
        return not self._calls.empty()

    def close(self) -> None:
        """End every call that is still under way."""
        for end in self._ends:
            end.cancel()


@dataclass
class Look:
    """One call of `look_after_gap`."""

    order: LookAfterGap
    end: asyncio.Future[str]


class DirectedQuarantine(QuarantineActivities):
    """Hands nothing over: the test says what became of the events."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[RedriveCall] = asyncio.Queue()
        self._ends: list[asyncio.Future[RedriveResult]] = []

    @activity.defn(name="redrive_events")
    async def redrive_events(self, order: RedriveOrder) -> RedriveResult:
        """Until the test says how it ends."""
        call = RedriveCall(order, asyncio.get_running_loop().create_future())
        self._ends.append(call.end)
        self._calls.put_nowait(call)
        return await call.end

    async def call(self) -> RedriveCall:
        """The next call."""
        return await asyncio.wait_for(self._calls.get(), 60)

    def close(self) -> None:
        """End every call that is still under way."""
        for end in self._ends:
            end.cancel()


@dataclass
class RedriveCall:
    """One call of `redrive_events`."""

    order: RedriveOrder
    end: asyncio.Future[RedriveResult]

    def becomes(self, **texts: str) -> None:
        """`k21="+started it"`: settled with a plus sign."""
        became = [
            Redriven(key=e.key, settled=texts[f"k{e.key}"][0] == "+", text=texts[f"k{e.key}"][1:])
            for e in self.order.events
        ]
        self.end.set_result(RedriveResult(events=tuple(became)))


class DirectedNotices(NoticeActivities):
    """One channel, which takes everything unless it is `down`; what it took is kept."""

    def __init__(self) -> None:
        self.told: list[Notice] = []
        self.refused = asyncio.Event()
        self.down = False

    @activity.defn(name="notice_channels")
    async def notice_channels(self) -> Channels:
        """The one."""
        return Channels(names=("log",))

    @activity.defn(name="send_notice")
    async def send_notice(self, order: SendNotice) -> None:
        """Keep it."""
        if self.down:
            self.refused.set()
            raise Unreachable("the channel is down")
        self.told.append(order.notice)


@dataclass
class Watch:
    """A watch, its reader, and who looks at the fleet."""

    vcenter: str
    handle: WorkflowHandle[WatchVCenter, WatchStatus]
    reader: DirectedReader
    fleet: DirectedFleet
    quarantine: DirectedQuarantine
    notices: DirectedNotices
    client: Client

    async def status(self) -> WatchStatus:
        return await self.handle.query(WatchVCenter.status)

    async def until(self, wanted: Callable[[WatchStatus], bool]) -> WatchStatus:
        """Ask until it is so."""
        ends_at = time.monotonic() + 60
        while not wanted(status := await self.status()):
            assert time.monotonic() < ends_at, f"after 60 s it still is {status}"
            await asyncio.sleep(0.05)
        return status

    async def tell(self, **fields: object) -> None:
        await self.handle.signal(WatchVCenter.watch_progress, WatchProgress.model_validate(fields))

    async def following(self) -> Call:
        """The call that follows events, from key 10 on."""
        first = await self.reader.call()
        assert (first.order.cursor, first.order.round) == (None, 1)
        first.returns(at(10))
        return await self.reader.call()

    async def told(self, count: int) -> list[Notice]:
        """The notices once so many were told, in the order of their telling."""
        ends_at = time.monotonic() + 60
        while len(self.notices.told) < count:
            assert time.monotonic() < ends_at, (
                f"after 60 s there still is {self.notices.told} and {await self.status()}"
            )
            await asyncio.sleep(0.05)
        return list(self.notices.told)

    async def delivery(self, notice_id: str) -> NoticeReport:
        """What became of a notice."""
        handle: WorkflowHandle[DeliverNotice, NoticeReport] = self.client.get_workflow_handle_for(
            DeliverNotice.run, ids.notice(self.vcenter, notice_id)
        )
        return await asyncio.wait_for(handle.result(), 60)

    async def shown(self) -> str:
        """The current details in Temporal's UI."""
        metadata = await self.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        return str(metadata.current_details)


@pytest_asyncio.fixture
async def watch(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[Watch]:
    await ensure_search_attributes(temporal_client)
    reader, fleet, quarantine, notices = DirectedReader(), DirectedFleet(), DirectedQuarantine(), DirectedNotices()
    vcenter = f"vc-{uuid.uuid4().hex[:8]}"
    parts = Parts(
        workflows=[WatchVCenter, DeliverNotice],
        wait=[fleet.look_after_gap, quarantine.redrive_events, notices.notice_channels, notices.send_notice],
        listen=[reader.follow_events],
        vcenters=[vcenter],
    )
    [workflows, waiting, listening] = build_workers(temporal_client, queues, parts)
    async with workflows, waiting, listening:
        handle = await temporal_client.start_workflow(
            WatchVCenter.run, WatchInput(vcenter=vcenter), id=ids.watch(vcenter), task_queue=queues.main
        )
        yield Watch(vcenter, handle, reader, fleet, quarantine, notices, temporal_client)
        if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
            await handle.terminate("the test is over")
        reader.close()
        fleet.close()
        quarantine.close()


def at(key: int) -> Cursor:
    return Cursor(epoch="uuid.0", key=key, created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def gap(after: int) -> Gap:
    return Gap(epoch="uuid.0", after_key=after, before_key=after + 9, since=at(after).created, reason="purged")


def broken(key: int, raw: str = "") -> QuarantinedEvent:
    return QuarantinedEvent(epoch="uuid.0", key=key, type_name="HostAddedEvent", reason="no time", raw=raw)
