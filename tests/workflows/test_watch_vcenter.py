"""What `WatchVCenter` keeps, believes, shows and survives, on a Temporal server with a reader that the tests direct."""

import asyncio

from temporalio.client import WorkflowExecutionStatus

from contracts import names, search_attributes
from contracts.errors import BadRequest, Unreachable, to_application_error
from contracts.reconcile import LookAfterGap
from contracts.watch import FollowPosition, QuarantinedEvent, WatchCounters
from tests.support.directed_watch import Watch, at, broken, gap
from workflows.watch_vcenter import WatchVCenter


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
