"""What `ForwardEvents` keeps, believes and survives, on a Temporal server with a reader that the tests direct."""

import asyncio

from temporalio.client import WorkflowExecutionStatus

from contracts import names, search_attributes
from contracts.errors import BadRequest, Unreachable
from contracts.forward import ForwardOrder
from contracts.watch import FollowPosition, WatchCounters
from tests.support.directed_forward import WEBHOOK, Forward
from tests.support.directed_watch import at, broken, gap
from workflows.forward_events import ForwardEvents


async def test_a_round_begins_where_the_one_before_ended(forward: Forward) -> None:
    second = await forward.forwarding()
    assert second.order == ForwardOrder(vcenter=forward.vcenter, webhook=WEBHOOK, cursor=at(10), round=2)
    second.returns(at(20), gap(10), events=8, matched=5)
    third = await forward.reader.call()
    assert (third.order.cursor, third.order.round) == (at(20), 3)
    third.returns(at(30), events=2)
    await forward.reader.call()
    status = await forward.status()
    assert (status.vcenter, status.webhook) == (forward.vcenter, WEBHOOK)
    assert (status.cursor, status.gaps, status.round) == (at(30), (gap(10),), 4)
    assert status.counters == WatchCounters(events=10, matched=5)


async def test_what_an_overtaken_reader_says_is_not_believed(forward: Forward) -> None:
    await forward.forwarding()
    await forward.tell(round=2, attempt=2, worker="new", cursor=at(20), counters={"events": 9})
    await forward.tell(round=2, attempt=1, worker="old", cursor=at(15), trouble="frozen", quarantined=[broken(14)])
    await forward.tell(round=1, attempt=7, worker="older", cursor=at(11))
    status = await forward.status()
    assert (status.worker, status.cursor, status.counters.events) == ("new", at(20), 9)
    assert (status.trouble, status.quarantined) == ("", ())
    # The same event may be told twice, and by two readers.
    await forward.tell(round=2, attempt=2, worker="new", cursor=at(21), quarantined=[broken(21), broken(21)])
    await forward.tell(round=2, attempt=3, worker="newer", cursor=at(21), quarantined=[broken(21)])
    status = await forward.status()
    assert (status.worker, status.quarantined) == ("newer", (broken(21),))


async def test_counts_told_before_a_round_ended_are_not_added_to_its_result(forward: Forward) -> None:
    sending = await forward.forwarding()
    await forward.tell(round=2, attempt=1, cursor=at(15), counters={"events": 5})
    assert (await forward.status()).counters.events == 5
    sending.returns(at(20), events=10)
    await forward.reader.call()
    await forward.tell(round=2, attempt=1, cursor=at(20), counters={"events": 10})
    status = await forward.status()
    assert (status.cursor, status.counters.events) == (at(20), 10)


async def test_what_trying_again_does_not_mend_waits_until_told(forward: Forward) -> None:
    (await forward.forwarding()).fails(BadRequest("webhook 'functions' gets no events"))
    assert await forward.reader.quiet(2.5)
    status = await forward.status()
    assert status.trouble.startswith("BadRequest: webhook 'functions' gets no events (tried again in 60 s")
    assert f"**{forward.vcenter}** to webhook **{WEBHOOK}**: in trouble" in await forward.shown()
    await forward.handle.signal(ForwardEvents.recheck)
    again = await forward.reader.call()
    assert (again.order.cursor, again.order.round, again.attempt) == (at(10), 3, 1)
    again.returns(at(12))
    await forward.reader.call()
    assert (await forward.status()).trouble == ""


async def test_a_service_that_starts_ends_the_pause(forward: Forward) -> None:
    (await forward.forwarding()).fails(BadRequest("webhook 'functions' gets no events"))
    await forward.until(lambda status: bool(status.trouble))
    await forward.handle.signal(ForwardEvents.resume)
    assert (await forward.reader.call()).order.cursor == at(10)


async def test_what_trying_again_can_mend_is_tried_by_temporal_from_the_last_heartbeat(forward: Forward) -> None:
    sending = await forward.forwarding()
    sending.position = FollowPosition(cursor=at(17), counters=WatchCounters(events=7))
    await asyncio.sleep(0.5)
    sending.fails(Unreachable("no answer"))
    again = await forward.reader.call()
    assert (again.order.round, again.attempt) == (2, 2)
    assert again.heartbeat == FollowPosition(cursor=at(17), counters=WatchCounters(events=7))


async def test_the_newest_hundred_gaps_and_quarantined_events_are_kept(forward: Forward) -> None:
    sending = await forward.forwarding()
    sending.returns(at(2000), *(gap(after) for after in range(1000, 1150)))
    await forward.reader.call()
    for start in (1, 101):
        events = [broken(key) for key in range(start, start + 100)]
        await forward.tell(round=3, attempt=1, cursor=at(2000), quarantined=events)
    status = await forward.status()
    assert [each.after_key for each in status.gaps] == list(range(1050, 1150))
    assert [event.key for event in status.quarantined] == list(range(101, 201))
    shown = await forward.shown()
    assert "Gaps (100, newest last):\n- after 1140: purged" in shown
    assert "Quarantined events (100 kept, newest last):\n- 191 HostAddedEvent: no time" in shown


async def test_a_long_history_is_continued_between_activities_with_all_that_is_known(forward: Forward) -> None:
    (await forward.forwarding()).returns(at(20), gap(10), events=8)
    sending = await forward.reader.call()
    first_run = (await forward.handle.describe()).run_id
    # Temporal suggests a new run at 4 MB of history.
    for start in range(1000, 4000, 100):
        events = [broken(key, raw="x" * 2000) for key in range(start, start + 100)]
        await forward.tell(round=3, attempt=1, cursor=at(21), counters={"events": 1}, quarantined=events)
    await asyncio.wait_for(sending.cancelled.wait(), 60)
    assert (await forward.handle.describe()).run_id == first_run
    sending.returns(at(25), events=5)
    next_call = await forward.reader.call()
    assert (await forward.handle.describe()).run_id != first_run
    assert next_call.order == ForwardOrder(vcenter=forward.vcenter, webhook=WEBHOOK, cursor=at(25), round=4)
    status = await forward.status()
    assert status.counters == WatchCounters(events=13)
    assert status.gaps == (gap(10),)
    assert [event.key for event in status.quarantined] == list(range(3900, 4000))


async def test_stop_waits_for_the_readers_last_word_and_tells_it(forward: Forward) -> None:
    sending = await forward.forwarding()
    await forward.stopped(sending)
    assert (await forward.handle.describe()).status is WorkflowExecutionStatus.RUNNING
    sending.returns(at(33), events=23)
    status = await forward.ended()
    assert (status.cursor, status.counters.events) == (at(33), 23)


async def test_stop_without_a_last_word_ends_where_the_round_began(forward: Forward) -> None:
    sending = await forward.forwarding()
    await forward.stopped(sending)
    sending.end.cancel()
    assert (await forward.ended()).cursor == at(10)


async def test_a_stop_that_is_taken_back_before_the_end_stops_nothing(forward: Forward) -> None:
    sending = await forward.forwarding()
    await forward.stopped(sending)
    await forward.handle.signal(ForwardEvents.resume)
    sending.returns(at(33))
    assert (await forward.reader.call()).order.cursor == at(33)


async def test_a_forward_that_pauses_stops_at_once(forward: Forward) -> None:
    (await forward.forwarding()).fails(BadRequest("webhook 'functions' gets no events"))
    await forward.until(lambda status: bool(status.trouble))
    await forward.handle.signal(ForwardEvents.stop)
    status = await forward.ended()
    assert status.cursor == at(10)
    assert "gets no events" in status.trouble


async def test_current_details_tell_cursor_lag_gaps_and_what_is_quarantined(forward: Forward) -> None:
    first = await forward.reader.call()
    assert "begins at the newest event" in await forward.shown()
    first.returns(at(10))
    await forward.reader.call()
    odd = broken(14).model_copy(update={"reason": "webhook said | <b>no</b>"})
    await forward.tell(
        round=2, attempt=1, worker="w1", cursor=at(15), counters={"events": 5, "matched": 3, "quarantined": 1},
        lag_s=0.25, longest_lag_s=1.5, events_per_minute=12.5, quarantined=[odd],
    )  # fmt: skip
    shown = await forward.shown()
    assert f"**{forward.vcenter}** to webhook **{WEBHOOK}**: sending events" in shown
    assert "| cursor | 15, created 2026-01-02 03:04:05 UTC, epoch uuid.0 |" in shown
    assert "| events | 3 taken by the webhook, 1 quarantined, of 5 |" in shown
    assert "| rate | 12.5 events a minute |" in shown
    assert "| lag | 0.25 s, longest 1.50 s |" in shown
    # Other people's words cannot end a cell or start markup.
    assert r"- 14 HostAddedEvent: webhook said \| \<b\>no\</b\>" in shown


async def test_a_forward_is_found_by_its_vcenter(forward: Forward) -> None:
    await forward.forwarding()
    described = await forward.handle.describe()
    assert described.workflow_type == names.FORWARD_EVENTS
    assert described.typed_search_attributes[search_attributes.GPU_VCENTER] == forward.vcenter
