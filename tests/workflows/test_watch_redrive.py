"""Quarantined events that a watch has handed over after all."""

import asyncio

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from contracts.errors import BadRequest, to_application_error
from contracts.watch import Redrive
from tests.support.directed_watch import Call, Watch, at, broken
from workflows.watch_vcenter import WatchVCenter


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
