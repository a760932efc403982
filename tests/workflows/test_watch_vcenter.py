"""What `WatchVCenter` keeps, believes, shows and survives, on a Temporal server with a reader that the tests direct."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from contracts import ids, names, search_attributes
from contracts.errors import BadRequest, GpuwrightError, Unreachable, to_application_error
from contracts.events import Cursor
from contracts.listen_activities import ListenActivities, QuarantineActivities
from contracts.names import TaskQueues
from contracts.reconcile import LookAfterGap
from contracts.watch import (
    FollowOrder,
    FollowPosition,
    FollowResult,
    Gap,
    QuarantinedEvent,
    Redrive,
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
from workflows.watch_vcenter import WatchVCenter


@dataclass
class Call:
    """One call of `follow_events`, which lasts until the test ends it."""

    order: FollowOrder
    attempt: int
    heartbeat: FollowPosition | None
    end: asyncio.Future[FollowResult]
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def returns(self, cursor: Cursor, *gaps: Gap, **counted: int) -> None:
        self.end.set_result(FollowResult(cursor=cursor, counters=WatchCounters(**counted), gaps=gaps))

    def fails(self, error: GpuwrightError) -> None:
        self.end.set_exception(to_application_error(error))


class DirectedReader(ListenActivities):
    """Follows nothing by itself: the test takes its calls and ends them."""

    def __init__(self) -> None:
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._ends: list[asyncio.Future[FollowResult]] = []

    @activity.defn(name="follow_events")
    async def follow_events(self, order: FollowOrder) -> FollowResult:
        """Heartbeat until the test says how the call ends; a cancelled one ends as the test says, too."""
        info = activity.info()
        details = FollowPosition.model_validate(info.heartbeat_details[0]) if info.heartbeat_details else None
        call = Call(order, info.attempt, details, asyncio.get_running_loop().create_future())
        self._ends.append(call.end)
        self._calls.put_nowait(call)
        try:
            while not call.end.done():
                if order.cursor:
                    activity.heartbeat(FollowPosition(cursor=order.cursor))
                await asyncio.wait([call.end], timeout=0.2)
        except asyncio.CancelledError:
            call.cancelled.set()
        return await call.end

    async def call(self) -> Call:
        """The next call."""
        return await asyncio.wait_for(self._calls.get(), 15)

    def close(self) -> None:
        """End every call that is still under way."""
        for end in self._ends:
            end.cancel()

    async def quiet(self, seconds: float) -> bool:
        """Whether nobody calls for so long."""
        await asyncio.sleep(seconds)
        return self._calls.empty()


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


@dataclass
class Watch:
    """A watch, its reader, and who looks at the fleet."""

    vcenter: str
    handle: WorkflowHandle[WatchVCenter, WatchStatus]
    reader: DirectedReader
    fleet: DirectedFleet
    quarantine: DirectedQuarantine

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

    async def shown(self) -> str:
        """The current details in Temporal's UI."""
        metadata = await self.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        return str(metadata.current_details)


@pytest_asyncio.fixture
async def watch(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[Watch]:
    await ensure_search_attributes(temporal_client)
    reader, fleet, quarantine = DirectedReader(), DirectedFleet(), DirectedQuarantine()
    vcenter = f"vc-{uuid.uuid4().hex[:8]}"
    parts = Parts(
        workflows=[WatchVCenter],
        wait=[fleet.look_after_gap, quarantine.redrive_events],
        listen=[reader.follow_events],
        vcenters=[vcenter],
    )
    [workflows, waiting, listening] = build_workers(temporal_client, queues, parts)
    async with workflows, waiting, listening:
        handle = await temporal_client.start_workflow(
            WatchVCenter.run, WatchInput(vcenter=vcenter), id=ids.watch(vcenter), task_queue=queues.main
        )
        yield Watch(vcenter, handle, reader, fleet, quarantine)
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


async def test_a_round_begins_where_the_one_before_ended(watch: Watch) -> None:
    second = await watch.following()
    assert (second.order.vcenter, second.order.cursor, second.order.round) == (watch.vcenter, at(10), 2)
    second.returns(at(20), gap(10), events=8, pages=1)
    third = await watch.reader.call()
    assert (third.order.cursor, third.order.round) == (at(20), 3)
    third.returns(at(30), events=2, pages=1)
    await watch.reader.call()
    status = await watch.status()
    assert (status.cursor, status.gaps, status.round) == (at(30), (gap(10),), 4)
    assert status.counters == WatchCounters(events=10, pages=2)


async def test_a_long_history_is_continued_between_activities_with_all_that_is_known(watch: Watch) -> None:
    (await watch.following()).returns(at(20), gap(10), events=8)
    reading = await watch.reader.call()
    first_run = (await watch.handle.describe()).run_id
    # Temporal suggests a new run at 4 MB of history.
    for start in range(1000, 4000, 100):
        events = [broken(key, raw="x" * 2000) for key in range(start, start + 100)]
        await watch.tell(round=3, attempt=1, cursor=at(21), counters={"events": 1}, quarantined=events)
    await asyncio.wait_for(reading.cancelled.wait(), 15)
    await asyncio.sleep(1)
    assert (await watch.handle.describe()).run_id == first_run
    reading.returns(at(25), events=5)
    next_call = await watch.reader.call()
    assert (await watch.handle.describe()).run_id != first_run
    assert (next_call.order.cursor, next_call.order.round) == (at(25), 4)
    status = await watch.status()
    assert status.counters == WatchCounters(events=13)
    assert status.gaps == (gap(10),)
    assert [event.key for event in status.quarantined] == list(range(3900, 4000))


async def test_the_fleet_is_looked_at_after_a_gap_while_the_reader_goes_on(watch: Watch) -> None:
    (await watch.following()).returns(at(20), gap(10))
    look = await watch.fleet.call()
    assert look.order == LookAfterGap(vcenter=watch.vcenter, reason="purged")
    reading = await watch.reader.call()
    assert reading.order.cursor == at(20)
    assert (await watch.status()).unseen == (gap(10),)
    # Another gap meanwhile is looked after as soon as this look is over.
    reading.returns(at(40), gap(20))
    await watch.reader.call()
    assert not watch.fleet.called
    look.end.set_result("ReconcileFleet runs now")
    await watch.until(lambda status: status.unseen == (gap(20),))
    (await watch.fleet.call()).end.set_result("ReconcileFleet runs again")
    status = await watch.until(lambda status: status.unseen == ())
    assert (status.looked, status.trouble, status.gaps) == ("ReconcileFleet runs again", "", (gap(10), gap(20)))
    assert "| after the last gap | ReconcileFleet runs again |" in await watch.shown()


async def test_a_look_after_a_gap_that_fails_is_told_and_tried_again_with_the_next_round(watch: Watch) -> None:
    (await watch.following()).returns(at(20), gap(10))
    (await watch.fleet.call()).end.set_exception(to_application_error(BadRequest("there is no schedule")))
    status = await watch.until(lambda status: bool(status.trouble))
    assert "not looked at after a gap: BadRequest: there is no schedule" in status.trouble
    assert status.unseen == (gap(10),)
    assert "| to be looked at after | 1 gaps |" in await watch.shown()
    # It goes on following, and what the reader tells hides nothing.
    reading = await watch.reader.call()
    await watch.tell(round=3, attempt=1, cursor=at(21))
    assert "there is no schedule" in (await watch.status()).trouble
    assert not watch.fleet.called
    reading.returns(at(30))
    (await watch.fleet.call()).end.set_result("done")
    status = await watch.until(lambda status: status.unseen == ())
    assert (status.trouble, status.looked) == ("", "done")


async def test_a_gap_that_was_not_looked_after_is_carried_into_the_next_run(watch: Watch) -> None:
    (await watch.following()).returns(at(20), gap(10))
    await watch.fleet.call()
    reading = await watch.reader.call()
    for start in range(1000, 4000, 100):
        events = [broken(key, raw="x" * 2000) for key in range(start, start + 100)]
        await watch.tell(round=3, attempt=1, cursor=at(21), quarantined=events)
    await asyncio.wait_for(reading.cancelled.wait(), 60)
    first_run = (await watch.handle.describe()).run_id
    reading.returns(at(25))
    again = await watch.fleet.call()
    assert again.order.reason == "purged"
    assert (await watch.handle.describe()).run_id != first_run
    again.end.set_result("done")
    await watch.until(lambda status: status.unseen == ())


async def test_a_watch_that_is_stopped_waits_for_no_look(watch: Watch) -> None:
    (await watch.following()).returns(at(20), gap(10))
    await watch.fleet.call()
    reading = await watch.reader.call()
    await watch.handle.signal(WatchVCenter.stop)
    await asyncio.wait_for(reading.cancelled.wait(), 60)
    reading.returns(at(33))
    status = await asyncio.wait_for(watch.handle.result(), 60)
    assert (status.cursor, status.unseen) == (at(33), (gap(10),))


async def test_what_an_overtaken_reader_says_is_not_believed(watch: Watch) -> None:
    await watch.following()
    await watch.tell(round=2, attempt=2, worker="new", cursor=at(20), counters={"events": 9})
    await watch.tell(round=2, attempt=1, worker="old", cursor=at(15), trouble="frozen", quarantined=[broken(14)])
    await watch.tell(round=1, attempt=7, worker="older", cursor=at(11))
    status = await watch.status()
    assert (status.worker, status.cursor, status.counters.events) == ("new", at(20), 9)
    assert (status.trouble, status.quarantined) == ("", ())
    await watch.tell(round=2, attempt=2, worker="new", cursor=at(21), quarantined=[broken(21), broken(21)])
    await watch.tell(round=2, attempt=3, worker="newer", cursor=at(21), quarantined=[broken(21)])
    status = await watch.status()
    assert (status.worker, status.quarantined) == ("newer", (broken(21),))


async def test_counts_told_before_a_round_ended_are_not_added_to_its_result(watch: Watch) -> None:
    reading = await watch.following()
    await watch.tell(round=2, attempt=1, cursor=at(15), counters={"events": 5})
    assert (await watch.status()).counters.events == 5
    reading.returns(at(20), events=10)
    await watch.reader.call()
    await watch.tell(round=2, attempt=1, cursor=at(20), counters={"events": 10})
    status = await watch.status()
    assert (status.cursor, status.counters.events) == (at(20), 10)


async def test_stop_waits_for_the_readers_last_word_and_tells_it(watch: Watch) -> None:
    reading = await watch.following()
    await watch.handle.signal(WatchVCenter.stop)
    await asyncio.wait_for(reading.cancelled.wait(), 15)
    assert (await watch.handle.describe()).status is WorkflowExecutionStatus.RUNNING
    reading.returns(at(33), events=23)
    status = await asyncio.wait_for(watch.handle.result(), 15)
    assert (status.cursor, status.counters.events) == (at(33), 23)


async def test_stop_without_a_last_word_ends_where_the_round_began(watch: Watch) -> None:
    reading = await watch.following()
    await watch.handle.signal(WatchVCenter.stop)
    await asyncio.wait_for(reading.cancelled.wait(), 15)
    reading.end.cancel()
    status = await asyncio.wait_for(watch.handle.result(), 15)
    assert status.cursor == at(10)


async def test_what_trying_again_does_not_mend_waits_until_told(watch: Watch) -> None:
    (await watch.following()).fails(BadRequest("the password is wrong"))
    assert await watch.reader.quiet(2.5)
    status = await watch.status()
    assert status.trouble.startswith("BadRequest: the password is wrong (tried again in 60 s")
    assert "in trouble" in await watch.shown()
    await watch.handle.signal(WatchVCenter.recheck)
    again = await watch.reader.call()
    assert (again.order.cursor, again.order.round, again.attempt) == (at(10), 3, 1)
    again.returns(at(12))
    await watch.reader.call()
    assert (await watch.status()).trouble == ""


async def test_a_watch_that_pauses_stops_at_once(watch: Watch) -> None:
    (await watch.following()).fails(BadRequest("the password is wrong"))
    assert await watch.reader.quiet(1)
    await watch.handle.signal(WatchVCenter.stop)
    status = await asyncio.wait_for(watch.handle.result(), 5)
    assert status.cursor == at(10)
    assert "password" in status.trouble


async def test_what_trying_again_can_mend_is_tried_by_temporal_from_the_last_heartbeat(watch: Watch) -> None:
    reading = await watch.following()
    await asyncio.sleep(0.5)
    reading.fails(Unreachable("no answer"))
    again = await watch.reader.call()
    assert (again.order.round, again.attempt) == (2, 2)
    assert again.heartbeat == FollowPosition(cursor=at(10))


async def test_current_details_tell_cursor_lag_gaps_and_quarantine(watch: Watch) -> None:
    first = await watch.reader.call()
    assert "begins at the newest event" in await watch.shown()
    first.returns(at(10), gap(3))
    await watch.reader.call()
    odd = QuarantinedEvent(epoch="uuid.0", key=14, type_name="HostAddedEvent", reason="esx | <b>1</b> is gone")
    await watch.tell(
        round=2, attempt=1, worker="w1", cursor=at(15),
        counters={"events": 5, "pages": 2, "matched": 3, "started": 1, "on_purpose": 2},
        lag_s=0.25, longest_lag_s=1.5, events_per_minute=12.5, quarantined=[odd],
    )  # fmt: skip
    shown = await watch.shown()
    assert f"**{watch.vcenter}**: following events" in shown
    assert "| cursor | 15, created 2026-01-02 03:04:05 UTC, epoch uuid.0 |" in shown
    assert "| events read | 5 in 2 pages, 3 matched a rule |" in shown
    assert "| handed over | 1 runs started, 0 joined, 0 known already |" in shown
    assert "| done on purpose | 2 events that audits need not know |" in shown
    assert "| rate | 12.5 events a minute |" in shown
    assert "| lag | 0.25 s, longest 1.50 s |" in shown
    assert "Gaps (1, newest last):\n- after 3: purged" in shown
    # Other people's words cannot end a cell or start markup.
    assert r"- 14 HostAddedEvent: esx \| \<b\>1\</b\> is gone" in shown


async def test_a_watch_is_found_by_its_vcenter(watch: Watch) -> None:
    await watch.following()
    described = await watch.handle.describe()
    assert described.workflow_type == names.WATCH_VCENTER
    assert described.typed_search_attributes[search_attributes.GPU_VCENTER] == watch.vcenter


async def quarantined(watch: Watch, *keys: int) -> Call:
    """The watch follows, and keeps these events."""
    reading = await watch.following()
    await watch.tell(round=2, attempt=1, cursor=at(30), quarantined=[broken(key) for key in keys])
    return reading


async def test_quarantined_events_that_are_handed_over_after_all_are_kept_no_longer(watch: Watch) -> None:
    await quarantined(watch, 21, 22, 23)
    asked = asyncio.create_task(watch.handle.execute_update(WatchVCenter.redrive, Redrive(keys=(21, 22))))
    call = await watch.quarantine.call()
    assert (call.order.vcenter, call.order.epoch) == (watch.vcenter, "uuid.0")
    assert call.order.events == (broken(21), broken(22))
    status = await watch.status()
    assert status.redriving == (broken(21), broken(22))
    assert len(status.quarantined) == 3
    assert "| to be handed over after all | 2 events |" in await watch.shown()
    call.becomes(k21="+started it", k22="-its host is gone")
    became = await asyncio.wait_for(asked, 60)
    assert [(e.key, e.settled, e.text) for e in became.events] == [
        (21, True, "started it"),
        (22, False, "its host is gone"),
    ]
    status = await watch.status()
    assert [(e.key, e.reason) for e in status.quarantined] == [(22, "its host is gone"), (23, "no time")]
    assert (status.redriving, status.counters.redriven) == ((), 1)
    # What failed again can be asked for again, with all that is kept.
    asked = asyncio.create_task(watch.handle.execute_update(WatchVCenter.redrive, Redrive()))
    call = await watch.quarantine.call()
    assert [event.key for event in call.order.events] == [22, 23]
    call.becomes(k22="+joined it", k23="+no rule is for it")
    assert len((await asyncio.wait_for(asked, 60)).events) == 2
    assert (await watch.status()).quarantined == ()


async def test_a_key_that_is_not_in_quarantine_is_refused_with_those_that_are(watch: Watch) -> None:
    await quarantined(watch, 21, 22)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await watch.handle.execute_update(WatchVCenter.redrive, Redrive(keys=(21, 77)))
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "BadRequest"
    assert "keeps no quarantined event 77; it has: 21, 22" in refused.value.cause.message
    assert (await watch.status()).redriving == ()


async def test_a_redrive_that_cannot_be_tried_is_told_and_loses_no_event(watch: Watch) -> None:
    await quarantined(watch, 21)
    asked = asyncio.create_task(watch.handle.execute_update(WatchVCenter.redrive, Redrive(keys=(21,))))
    (await watch.quarantine.call()).end.set_exception(to_application_error(BadRequest("no such vCenter here")))
    [became] = (await asyncio.wait_for(asked, 60)).events
    assert (became.settled, became.text) == (False, "not tried: BadRequest: no such vCenter here")
    status = await watch.status()
    assert (status.quarantined, status.redriving) == ((broken(21),), ())


async def test_a_redrive_goes_on_in_the_next_run(watch: Watch) -> None:
    reading = await quarantined(watch, 21)
    asked = asyncio.create_task(watch.handle.execute_update(WatchVCenter.redrive, Redrive()))
    await watch.quarantine.call()
    first_run = (await watch.handle.describe()).run_id
    # Temporal suggests a new run at 4 MB of history; those of an older round change nothing.
    for _ in range(6):
        await watch.tell(round=0, attempt=0, trouble="x" * 1_300_000)
    await asyncio.wait_for(reading.cancelled.wait(), 60)
    reading.returns(at(40))
    [became] = (await asyncio.wait_for(asked, 60)).events
    assert (became.settled, became.text[:7]) == (False, "not yet")
    call = await watch.quarantine.call()
    assert (await watch.handle.describe()).run_id != first_run
    assert call.order.events == (broken(21),)
    call.becomes(k21="+started it")
    status = await watch.until(lambda status: status.quarantined == ())
    assert (status.redriving, status.counters.redriven) == ((), 1)
