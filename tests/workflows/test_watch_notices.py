"""What a watch tells people: gaps in the events, and trouble that lasts."""

import asyncio

from contracts import ids
from contracts.notices import Delivered, Severity
from tests.support.directed_watch import Watch, at, gap
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
