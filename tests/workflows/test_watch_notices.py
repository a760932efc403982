"""What a watch tells people: gaps in the events, and trouble that lasts."""

import asyncio

from temporalio.client import Client, WorkflowHandle

from contracts import ids, search_attributes
from contracts.errors import BadRequest, Unreachable
from contracts.names import TaskQueues
from contracts.notices import Delivered, Notice, Severity
from contracts.watch import FollowPosition, Outage, WatchCounters, WatchInput, WatchStatus
from tests.support.directed_watch import Call, DirectedReader, Watch, at, gap
from workers.assembly import Parts, build_workers
from workflows.watch_vcenter import WatchVCenter


async def test_events_that_were_purged_are_told_while_the_reader_goes_on(watch: Watch) -> None:
    (await watch.following()).returns(at(20), gap(10))
    [notice] = await watch.told(1)
    assert (await watch.reader.call()).order.cursor == at(20)
    assert notice.id == "events-missing-uuid.0-10-19"
    assert (notice.kind, notice.severity, notice.vcenter) == ("events_missing", Severity.WARNING, watch.vcenter)
    assert "missing after event 10 of 2026-01-02 03:04:05 UTC: purged." in notice.happened
    assert "ReconcileFleet" in notice.means
    assert "event.maxAge" in notice.advice
    assert notice.workflow_id == ids.watch(watch.vcenter)
    assert (await watch.delivery(notice.id)).channels == (Delivered(channel="log"),)
    delivery = await watch.client.get_workflow_handle(ids.notice(watch.vcenter, notice.id)).describe()
    assert delivery.typed_search_attributes[search_attributes.GPU_VCENTER] == watch.vcenter
    assert (await delivery.static_summary() or "").startswith(f"Events of {watch.vcenter} are missing after event 10")


async def test_each_gap_is_told_once_however_often_it_is_found(watch: Watch) -> None:
    (await watch.following()).returns(at(20), gap(10), gap(12))
    assert len(await watch.told(2)) == 2
    (await watch.reader.call()).returns(at(20), gap(10))
    (await watch.reader.call()).returns(at(40), gap(30))
    told = await watch.told(3)
    assert sorted(notice.id for notice in told) == [f"events-missing-uuid.0-{key}-{key + 9}" for key in (10, 12, 30)]
    assert (await watch.status()).trouble == ""


async def test_another_life_of_vcenter_is_critical(watch: Watch) -> None:
    (await watch.following()).returns(at(0), gap(10).model_copy(update={"before_key": 0, "reason": "keys went back"}))
    [notice] = await watch.told(1)
    assert notice.severity is Severity.CRITICAL
    assert "restored" in notice.advice


async def test_a_notice_that_cannot_be_told_delays_nothing_and_outlives_its_watch(watch: Watch) -> None:
    watch.notices.down = True
    (await watch.following()).returns(at(20), gap(10))
    (await watch.fleet.call()).end.set_result("looks")
    reading = await watch.reader.call()
    await asyncio.wait_for(watch.notices.refused.wait(), 60)
    await watch.handle.signal(WatchVCenter.stop)
    await asyncio.wait_for(reading.cancelled.wait(), 60)
    reading.returns(at(33))
    assert (await asyncio.wait_for(watch.handle.result(), 60)).trouble == ""
    watch.notices.down = False
    [notice] = await watch.told(1)
    assert (await watch.delivery(notice.id)).channels == (Delivered(channel="log"),)


async def told_of_outage(watch: Watch, limit_s: float = 1) -> tuple[Call, Notice]:
    """The reader is in trouble for longer than its limit."""
    reading = await watch.following()
    await watch.tell(round=2, attempt=1, cursor=at(12), trouble="no answer", unreachable_after_s=limit_s)
    [notice] = await watch.told(1)
    return reading, notice


async def test_trouble_that_lasts_is_told_once_and_so_is_its_end(watch: Watch) -> None:
    _, notice = await told_of_outage(watch)
    assert (notice.kind, notice.severity, notice.lasts) == ("vcenter_unreachable", Severity.CRITICAL, True)
    assert notice.happened.startswith(f"Events of {watch.vcenter} cannot be read since ")
    assert notice.happened.endswith("(1 s): no answer")
    assert "read from event 12 on" in notice.means
    assert f"gpuwright runs recheck {ids.watch(watch.vcenter)}" in notice.advice
    status = await watch.status()
    assert isinstance(status.outage, Outage)
    assert (status.outage.notice_id, status.outage.cursor) == (notice.id, at(12))
    assert "people were told" in await watch.shown()
    await watch.tell(round=2, attempt=9, cursor=at(12), trouble="login refused", unreachable_after_s=1)
    assert await watch.reader.quiet(2)
    await watch.tell(round=2, attempt=10, cursor=at(15), unreachable_after_s=1)
    [_, over] = await watch.told(2)
    assert (over.severity, over.clears, over.lasts) == (Severity.INFO, notice.id, False)
    assert "are read again since" in over.happened
    assert over.means == "Reading went on behind event 12 of 2026-01-02 03:04:05 UTC; no event was missed."
    assert (await watch.status()).outage is None


async def test_trouble_that_is_over_before_its_limit_is_not_told(watch: Watch) -> None:
    await watch.following()
    await watch.tell(round=2, attempt=1, cursor=at(12), trouble="no answer", unreachable_after_s=3)
    assert (await watch.status()).outage is not None
    await watch.tell(round=2, attempt=2, cursor=at(12), unreachable_after_s=3)
    await watch.until(lambda status: status.outage is None)
    assert watch.notices.told == []


async def test_a_vcenter_that_comes_and_goes_is_told_once(watch: Watch) -> None:
    _, notice = await told_of_outage(watch, limit_s=3)
    for attempt in range(2, 12, 2):
        await watch.tell(round=2, attempt=attempt, cursor=at(12), unreachable_after_s=3)
        await asyncio.sleep(0.2)
        await watch.tell(round=2, attempt=attempt + 1, cursor=at(12), trouble="no answer", unreachable_after_s=3)
        await asyncio.sleep(0.2)
    await watch.tell(round=2, attempt=20, cursor=at(12), unreachable_after_s=3)
    await watch.until(lambda status: status.outage is None)
    [_, over] = await watch.told(2)
    assert over.clears == notice.id
    await watch.tell(round=2, attempt=21, cursor=at(12), trouble="no answer", unreachable_after_s=1)
    assert (await watch.told(3))[2].id != notice.id


async def test_the_end_of_an_outage_says_when_events_are_missing(watch: Watch) -> None:
    reading, notice = await told_of_outage(watch)
    reading.returns(at(40), gap(12))
    told = await watch.told(3)
    [over] = [each for each in told if each.clears]
    assert over.clears == notice.id
    assert "Events are missing: each gap (1 in all)" in over.means
    assert {each.kind for each in told} == {"events_missing", "vcenter_unreachable"}


async def test_what_a_person_has_to_mend_is_told_too(watch: Watch) -> None:
    reading = await watch.following()
    await watch.tell(round=2, attempt=1, cursor=at(12), unreachable_after_s=1)
    reading.fails(BadRequest("the password is wrong"))
    [notice] = await watch.told(1)
    assert "BadRequest: the password is wrong" in notice.happened
    await watch.handle.signal("recheck")
    (await watch.reader.call()).returns(at(13))
    [_, over] = await watch.told(2)
    assert over.clears == notice.id


async def test_an_outage_outlasts_the_run_of_its_watch(watch: Watch) -> None:
    reading, notice = await told_of_outage(watch)
    first_run = (await watch.handle.describe()).run_id
    # Temporal suggests a new run at 4 MB of history; those of an older round change nothing.
    for _ in range(6):
        await watch.tell(round=0, attempt=0, trouble="x" * 1_300_000)
    await asyncio.wait_for(reading.cancelled.wait(), 60)
    reading.end.cancel()
    await watch.reader.call()
    assert (await watch.handle.describe()).run_id != first_run
    outage = (await watch.status()).outage
    assert outage is not None
    assert outage.notice_id == notice.id
    await watch.tell(round=3, attempt=1, cursor=at(12), unreachable_after_s=1)
    [_, over] = await watch.told(2)
    assert over.clears == notice.id


async def test_a_watch_that_is_stopped_takes_back_what_it_told(watch: Watch) -> None:
    reading, notice = await told_of_outage(watch)
    await watch.handle.signal(WatchVCenter.stop)
    await asyncio.wait_for(reading.cancelled.wait(), 60)
    reading.end.cancel()
    await asyncio.wait_for(watch.handle.result(), 60)
    [_, over] = await watch.told(2)
    assert over.clears == notice.id
    assert "its watch was stopped" in over.happened


async def test_a_reader_that_nobody_runs_is_told_and_goes_on_from_its_last_heartbeat(
    watch: Watch, temporal_client: Client, queues: TaskQueues
) -> None:
    vcenter, reader = f"{watch.vcenter}-unheard", DirectedReader()
    handle: WorkflowHandle[WatchVCenter, WatchStatus] = await temporal_client.start_workflow(
        WatchVCenter.run,
        WatchInput(vcenter=vcenter, unreachable_after_s=4),
        id=ids.watch(vcenter),
        task_queue=queues.main,
    )
    parts = Parts(listen=[reader.follow_events], vcenters=[vcenter])
    [first] = build_workers(temporal_client, queues, parts)
    async with first:
        (await reader.call()).returns(at(10))
        reading = await reader.call()
        reading.position = FollowPosition(cursor=at(17), counters=WatchCounters(events=7))
        await asyncio.sleep(1.5)
        reading.fails(Unreachable("the worker is about to end"))
    [notice] = await watch.told(1)
    assert (notice.vcenter, notice.kind) == (vcenter, "vcenter_unreachable")
    assert "no worker has taken it up for 4 s" in notice.happened
    [second] = build_workers(temporal_client, queues, parts)
    async with second:
        again = await reader.call()
        assert again.order.cursor == at(17)
        again.returns(at(20), events=3)
        [_, over] = await watch.told(2)
        assert over.clears == notice.id
        assert "behind event 17" in over.means
        status = await handle.query(WatchVCenter.status)
        assert (status.cursor, status.counters.events) == (at(20), 10)
        await handle.terminate("the test is over")
        reader.close()
