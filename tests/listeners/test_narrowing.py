"""vCenter is asked only for events that are needed, and what it does not show costs nothing: no event, no gap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from contracts.incidents import INCIDENT_TYPES
from contracts.watch import FollowResult
from listeners import following as loop
from listeners.narrowing import EVERYTHING, narrowing
from simulator.event_catalogue import TYPE_IDS
from tests.listeners.conftest import Watched, rules, until
from tests.listeners.posting import PostingSimulator
from tests.listeners.taking import Taker, following, here_and_nothing_else

ADDED = ("HostAddedEvent",)
CATALOGUE = ("HostAddedEvent", "HostRemovedEvent", "com.vmware.vc.HA.DasHostFailedEvent", "esx.a.b", "Esx.A.B")


@pytest.fixture(scope="module")
def busy() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=2, gpus=1, vms=2, time_scale=300, seed=7) as running:
        yield running


@pytest.fixture(autouse=True)
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SILENCE_S", 1)


async def post(busy: PostingSimulator, count: int, matching: float = 0.0, **more: Any) -> dict[str, Any]:
    posted: dict[str, Any] = await asyncio.to_thread(busy.act, "post_backlog", count=count, matching=matching, **more)
    return posted


async def cursor_at(taker: Taker, key: int) -> None:
    async def look() -> int:
        return taker.here.cursor.key

    await until(look, lambda seen: seen >= key, 60)


def test_names_are_asked_for_as_vcenter_spells_them() -> None:
    found = narrowing({"hostaddedevent", "ESX.a.b"}, CATALOGUE, "ids")
    assert found.type_ids == ("Esx.A.B", "HostAddedEvent", "esx.a.b")
    assert found.text == "narrowed to 3 of 5 event types"


def test_events_of_ha_are_asked_for_in_both_spellings_that_releases_use() -> None:
    asked = narrowing({"com.vmware.vc.ha.DasHostFailedEvent"}, CATALOGUE, "ids").type_ids
    assert asked == ("com.vmware.vc.HA.DasHostFailedEvent", "com.vmware.vc.ha.DasHostFailedEvent")


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        ({"HostAddedEvent", "HostSangEvent"}, "no HostSangEvent"),
        ({f"esx.none.{n}" for n in range(7)}, "and 2 more"),
        ({"EventEx"}, "no EventEx"),
        ((), "no rule"),
    ],
)
def test_what_cannot_be_asked_for_safely_leaves_everything_asked_for(needed: Any, words: str) -> None:
    found = narrowing(needed, (*CATALOGUE, "EventEx"), "ids")
    assert found.type_ids == ()
    assert found.text.startswith("not narrowed: ")
    assert words in found.text


def test_who_needs_everything_or_forbids_it_gets_everything() -> None:
    assert narrowing(None, CATALOGUE) == EVERYTHING
    assert narrowing(ADDED, CATALOGUE, "never").type_ids == ()


def test_events_are_asked_for_by_an_id_only_where_people_say_so() -> None:
    needed = {"HostAddedEvent", "esx.a.b"}
    why = "not narrowed: rules need events by their eventTypeId (esx.a.b, 1 in all)"
    assert narrowing(needed, CATALOGUE).text == why
    assert narrowing(needed, CATALOGUE, "ids").type_ids == ("Esx.A.B", "HostAddedEvent", "esx.a.b")


async def test_of_a_long_log_only_what_is_needed_is_read(busy: PostingSimulator) -> None:
    cursor = await here_and_nothing_else(busy)
    posted = await post(busy, 30_000, 0.01)
    async with following(busy, cursor, ADDED) as (taker, _):
        await until(taker.seen, lambda keys: len(keys) >= 300)
        assert taker.taken == posted["matching"]
        assert (taker.here.counters.pages, taker.here.counters.events) == (1, 300)
        assert taker.asked_for.startswith("narrowed to 1 of ")
        later = await post(busy, 100, 0.01)
        await until(taker.seen, lambda keys: len(keys) > 300)
        assert taker.taken[300:] == later["matching"]


async def test_a_gap_is_noticed_although_the_events_around_it_are_not_shown(busy: PostingSimulator) -> None:
    cursor = await here_and_nothing_else(busy)
    posted = await post(busy, 5000)
    await asyncio.to_thread(busy.act, "purge_events", keep=100)
    async with following(busy, cursor, ADDED) as (taker, running):
        ended: FollowResult = await running
    first_kept = posted["last"] - 99
    [gap] = ended.gaps
    assert (gap.after_key, gap.before_key) == (cursor.key, first_kept)
    assert ended.cursor.key == first_kept - 1
    assert taker.asked_for.startswith("narrowed")


async def test_events_that_nobody_needs_are_passed_over_and_their_purge_is_no_gap(busy: PostingSimulator) -> None:
    cursor = await here_and_nothing_else(busy)
    async with following(busy, cursor, ADDED) as (taker, _):
        posted = await post(busy, 10_000)
        await cursor_at(taker, posted["last"])
        assert taker.taken == []
        assert taker.here.counters.rebuilt == 0
        cursor = taker.here.cursor
    await asyncio.to_thread(busy.act, "purge_events", keep=1)
    matching = (await post(busy, 1, 1.0))["matching"]
    async with following(busy, cursor, ADDED) as (taker, running):
        await until(taker.seen, bool)
        assert taker.taken == matching
        assert not running.done()


async def test_what_is_behind_a_run_of_events_that_nobody_may_see_is_not_passed_over(busy: PostingSimulator) -> None:
    cursor = await here_and_nothing_else(busy)
    async with following(busy, cursor, ADDED) as (taker, _):
        await asyncio.to_thread(busy.act, "post_hidden_events", count=2500, matching=1.0)
        posted = await post(busy, 3, 1.0)
        await until(taker.seen, lambda keys: len(keys) >= 3, 60)
        assert taker.taken == posted["matching"]
    await asyncio.to_thread(busy.act, "post_hidden_events", count=2500, matching=1.0)
    more = await post(busy, 3, 1.0)
    async with following(busy, taker.here.cursor, ADDED) as (taker, _):
        await until(taker.seen, lambda keys: len(keys) >= 3, 60)
        assert taker.taken == more["matching"]


async def test_a_stalled_collector_is_not_taken_for_one_that_has_nothing_to_show(busy: PostingSimulator) -> None:
    async with following(busy, await here_and_nothing_else(busy), ADDED) as (taker, _):
        before = await post(busy, 1, 1.0)
        await until(taker.seen, bool)
        await asyncio.to_thread(busy.act, "stall_collectors", silent=True)
        posted = await post(busy, 2000, 0.001)
        await until(taker.seen, lambda keys: len(keys) >= 3)
        assert taker.taken == before["matching"] + posted["matching"]
        assert taker.here.counters.rebuilt == 1
        last = await post(busy, 1, 1.0)
        await until(taker.seen, lambda keys: len(keys) >= 4)
        assert taker.taken[3:] == last["matching"]


async def test_the_next_reader_goes_on_where_the_last_one_ended(busy: PostingSimulator) -> None:
    cursor = await here_and_nothing_else(busy)
    taken: list[int] = []
    matching: list[int] = []
    for _ in range(3):
        matching += (await post(busy, 3000, 0.01))["matching"]
        async with following(busy, cursor, ADDED) as (taker, _running):
            await until(taker.seen, lambda keys: len(keys) >= 30)
            taken += taker.taken
            cursor = taker.here.cursor
    assert taken == matching


async def test_an_event_id_in_another_letter_case_is_shown(busy: PostingSimulator) -> None:
    assert "com.vmware.vc.HA.DasHostFailedEvent" in TYPE_IDS
    types, cursor = ("COM.vmware.vc.ha.dashostfailedEVENT",), await here_and_nothing_else(busy)
    async with following(busy, cursor, types, narrow_events="ids") as (taker, _):
        for spelled in ("com.vmware.vc.HA.DasHostFailedEvent", "com.vmware.vc.ha.DasHostFailedEvent"):
            before = len(taker.taken)
            posted = await post(busy, 3, 0.4, matching_type=spelled)
            await until(taker.seen, lambda keys, before=before: len(keys) > before)  # type: ignore[misc]
            assert taker.taken[before:] == posted["matching"]
        assert taker.asked_for.startswith("narrowed")


async def test_keys_that_went_back_and_are_past_the_cursor_again_are_noticed(busy: PostingSimulator) -> None:
    cursor = await here_and_nothing_else(busy)
    async with following(busy, cursor, ADDED) as (taker, _):
        matching = (await post(busy, 50, 1.0))["matching"]
        await until(taker.seen, lambda keys: len(keys) >= 50)
        cursor = taker.here.cursor
    busy.hang_up()
    await asyncio.to_thread(busy.act, "restore_vcenter", lose=20)
    await asyncio.sleep(0.01)
    await post(busy, 3000)
    async with following(busy, cursor, ADDED) as (taker, running):
        ended: FollowResult = await running
    assert "restored from a backup" in ended.gaps[0].reason
    assert ended.gaps[0].after_key == cursor.key == matching[-1]
    assert ended.cursor.epoch != cursor.epoch


async def test_a_filter_that_vcenter_refuses_is_done_without(busy: PostingSimulator) -> None:
    cursor = await here_and_nothing_else(busy)
    await asyncio.to_thread(busy.add_fault, method="CreateCollectorForEvents", error="InvalidArgument", times=1)
    async with following(busy, cursor, ADDED) as (taker, _):
        posted = await post(busy, 10, 0.1)
        await cursor_at(taker, posted["last"])
        assert taker.taken == posted["matching"]
        assert "vCenter refuses the filter" in taker.asked_for
        assert taker.here.counters.events >= 10
    await asyncio.to_thread(busy.clear_faults)


@pytest.mark.parametrize(
    ("types", "settings", "words"),
    [
        (("HostAddedEvent", "esx.test.nobody.knows"), {"narrow_events": "ids"}, "no esx.test.nobody.knows"),
        (("HostAddedEvent", "HostSangEvent"), {}, "no HostSangEvent"),
        (ADDED, {"narrow_events": "never"}, "narrow_events: never"),
        (None, {}, "every event is needed"),
    ],
)
async def test_without_narrowing_everything_is_read_and_the_reason_told(
    busy: PostingSimulator, types: Any, settings: dict[str, Any], words: str
) -> None:
    async with following(busy, await here_and_nothing_else(busy), types, **settings) as (taker, _):
        posted = await post(busy, 20, 0.1)
        await cursor_at(taker, posted["last"])
        assert set(posted["matching"]) <= set(taker.taken)
        assert words in taker.asked_for


async def test_a_watch_tells_what_vcenter_is_asked_for(simulated: Watched) -> None:
    narrow = rules()
    narrow["rules"][0]["on"] = ["hostaddedevent"]
    narrow["rules"].append({"name": "audit", "on": list(INCIDENT_TYPES), "start": "HaRecoveryAudit"})
    host = simulated.hosts[0]
    async with simulated.workers(narrow, narrow_events="ids"):
        await simulated.start()
        await simulated.begun()
        await simulated.post(vim.event.HostAddedEvent, host)
        assert len(await until(lambda: simulated.keys(host), bool)) == 1
        status = await until(simulated.status, lambda status: bool(status.narrowed))
        assert status.narrowed.startswith(f"narrowed to {len(INCIDENT_TYPES) + 1} of ")
