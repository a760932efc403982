"""`RuleThrottle` with its activity against a Temporal server: what starts when, and what is never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowExecutionStatus

from contracts import names
from contracts.names import TaskQueues
from listeners.hand_over import HandOver
from tests.support.throttled import Throttled, most_at_once, quiet_for, throttled_rules


@pytest_asyncio.fixture
async def throttled(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[Throttled]:
    throttled = Throttled(temporal_client, queues)
    try:
        yield throttled
    finally:
        await throttled.close()


async def test_within_once_within_a_group_gets_one_run_and_live_runs_get_their_events(throttled: Throttled) -> None:
    async with throttled.workers(throttled_rules(once_within="1h", group_by="cluster")):
        await throttled.give(throttled.target(1, 1, group="c1"), throttled.target(3, 2, group="c2"))
        await throttled.until(lambda status: status.told.counters.started == 2)
        await throttled.give(throttled.target(1, 3, group="c1"), throttled.target(2, 4, 5, group="c1"))
        status = await throttled.until(lambda status: status.told.counters.suppressed == 1)
        counters = status.told.counters
        assert (counters.started, counters.joined, counters.suppressed_events) == (2, 1, 2)
        assert await throttled.keys(1) == [1, 3]
        assert len(await throttled.runs()) == 2
        assert status.waiting == ()
        assert status.told.terms == "once within 1 h a cluster"
        # Its run is over: what comes now is suppressed, too.
        await throttled.finish(1)
        await throttled.give(throttled.target(1, 6, group="c1"))
        await throttled.until(lambda status: status.told.counters.suppressed == 2)
        assert len(await throttled.runs()) == 2


async def test_after_once_within_the_next_run_starts(throttled: Throttled) -> None:
    async with throttled.workers(throttled_rules(once_within="2s")):
        await throttled.give(throttled.target(1, 1))
        await throttled.until(lambda status: status.told.counters.started == 1)
        await throttled.finish(1)
        await asyncio.sleep(2)
        await throttled.give(throttled.target(1, 2))
        await throttled.until(lambda status: status.told.counters.started == 2)
        assert await throttled.keys(1) == [2]


async def test_targets_beyond_max_concurrent_wait_in_order_and_start_when_there_is_room(throttled: Throttled) -> None:
    async with throttled.workers(throttled_rules(max_concurrent=1, group_by="cluster")):
        await throttled.give(*(throttled.target(host, host, group="c1") for host in (1, 2, 3)))
        await throttled.give(throttled.target(4, 4, group="c2"))
        status = await throttled.until(lambda status: status.told.counters.started == 2)
        assert [each.target.summary for each in status.waiting] == ["Prepare esx-2", "Prepare esx-3"]
        assert status.told.why == "c1: 1 of 1 runs are open (max_concurrent)"
        # One that waits keeps its place and gets all of its events.
        await throttled.give(throttled.target(3, 5, group="c1"), throttled.target(2, 6, group="c1"))
        for host, keys in ((1, [2, 6]), (2, [3, 5])):
            await throttled.finish(host)
            status = await throttled.until(lambda status, host=host: status.told.counters.started == host + 2)  # type: ignore[misc]
            assert await throttled.keys(host + 1) == keys
        assert status.waiting == ()


async def test_what_comes_in_quiet_hours_starts_after_them_and_live_runs_get_their_events(
    throttled: Throttled,
) -> None:
    async with throttled.workers(throttled_rules(quiet=quiet_for(4))):
        handle = await throttled.client.start_workflow(
            names.PREPARE_GPU_HOST,
            throttled.target(1, 1).prepare,
            id=throttled.target(1, 1).workflow_id,
            task_queue=throttled.queues.main,
        )
        await throttled.give(throttled.target(1, 2), throttled.target(2, 3))
        status = await throttled.until(lambda status: status.told.counters.joined == 1)
        assert await handle.query("keys", result_type=list[int]) == [1, 2]
        status = await throttled.until(lambda status: all(each.waited for each in status.waiting))
        assert [each.target.summary for each in status.waiting] == ["Prepare esx-2"]
        assert status.told.next_at is not None
        assert status.told.why == "esx-2: quiet hours"
        await throttled.give(throttled.target(2, 4))
        await throttled.until(lambda status: status.told.counters.started == 1)
        assert await throttled.keys(2) == [3, 4]
        starts = {run: start for start, _, run in await throttled.runs()}
        assert starts[throttled.run_of(2).id] >= status.told.next_at.replace(microsecond=0)
        assert datetime.now(UTC) > status.told.next_at


async def test_repeated_events_change_nothing(throttled: Throttled) -> None:
    async with throttled.workers(throttled_rules(once_within="1h", group_by="cluster")):
        some = [throttled.target(1, 1, 2, group="c1"), throttled.target(2, 3, group="c1")]
        await throttled.give(*some)
        before = await throttled.until(lambda status: status.told.counters.suppressed == 1)
        for _ in range(3):
            await throttled.give(*some)
            await throttled.give(throttled.target(1, 2, group="c1"))
        await throttled.finish(1)
        await throttled.give(*some)
        await throttled.give(throttled.target(3, 4, group="c1"))
        after = await throttled.until(lambda status: status.told.counters.suppressed == 2)
        assert after.told.counters == before.told.counters.plus(suppressed=1, suppressed_events=1)
        assert await throttled.run_of(1).result() == [1, 2]
        assert len(await throttled.runs()) == 1


@pytest.mark.timeout(300)
async def test_of_200_hosts_never_more_than_three_are_worked_on_and_all_get_done(throttled: Throttled) -> None:
    async with throttled.workers(throttled_rules(max_concurrent=3, group_by="vcenter")):
        for first in range(0, 200, 40):
            hosts = range(first, first + 40)
            await throttled.give(
                *(throttled.target(host, host + 1, group="vcenter", profile="brief") for host in hosts),
                longest_history=200,
            )
        status = await throttled.until(lambda status: status.told.counters.started == 200, 240)
        assert status.waiting == ()
        await throttled.all_ended(200)
        runs = await throttled.runs()
        assert len({name for _, _, name in runs}) == len(runs) == 200
        assert most_at_once(runs) == 3
        # It began anew several times meanwhile.
        first_run = (await throttled.throttle.describe()).raw_info.first_run_id
        assert first_run != (await throttled.throttle.describe()).run_id


async def test_an_attempt_that_died_after_its_start_is_found_again(
    throttled: Throttled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the start and its record: the run counts, and its events are not given twice."""
    start, lost = HandOver.start, []

    async def start_and_lose_the_answer(self: HandOver, call: object) -> str:
        run_id = await start(self, call)  # type: ignore[arg-type]
        if not lost:
            lost.append(run_id)
            raise RuntimeError("the worker died here")
        return run_id

    monkeypatch.setattr(HandOver, "start", start_and_lose_the_answer)
    async with throttled.workers(throttled_rules(max_concurrent=1, group_by="vcenter", once_within="1h")):
        await throttled.give(throttled.target(1, 1, group="g"), throttled.target(2, 2, group="g"))
        status = await throttled.until(lambda status: status.told.counters.started == 1)
        assert [run.run_id for run in status.runs] == lost
        await throttled.until(lambda status: status.told.counters.suppressed == 1)
        assert await throttled.keys(1) == [1]
        assert len(await throttled.runs()) == 1


async def test_a_rule_that_is_gone_releases_what_waits_and_says_so(throttled: Throttled) -> None:
    rules = throttled_rules(quiet=quiet_for(3600))
    async with throttled.workers(rules):
        await throttled.give(*(throttled.target(host, host) for host in range(1, 61)))
        await throttled.until(lambda status: len(status.groups) == 60)
    async with throttled.workers(rules.model_copy(update={"rules": ()})):
        await throttled.throttle.signal(names.RECHECK)
        status = await throttled.until(lambda status: status.told.counters.started == 60)
        assert status.waiting == ()
        assert status.told.terms == ""


async def test_it_ends_when_nothing_is_left_to_remember_and_begins_with_the_next_event(throttled: Throttled) -> None:
    async with throttled.workers(throttled_rules(max_concurrent=1, group_by="cluster", once_within="3s")):
        await throttled.give(throttled.target(1, 1, group="c1"), linger_s=1)
        await throttled.until(lambda status: status.told.counters.started == 1)
        await asyncio.sleep(3)
        # Its run is open, so it is remembered.
        assert (await throttled.status()).told.running == 1
        await throttled.finish(1)
        ended = await throttled.throttle.result()
        assert (ended.told.counters.started, ended.told.running, ended.waiting) == (1, 0, ())
        # What it forgot, the run that had the event knows.
        await throttled.give(throttled.target(1, 1, group="c1"), linger_s=60)
        status = await throttled.until(lambda status: status.told.counters.repeated == 1)
        assert status.told.counters.started == 0
        assert len(await throttled.runs()) == 1
        await throttled.give(throttled.target(2, 2, group="c2"), linger_s=60)
        await throttled.until(lambda status: status.told.counters.started == 1)
        assert await throttled.keys(2) == [2]


async def test_temporal_ui_shows_who_waits_and_why(throttled: Throttled) -> None:
    async with throttled.workers(throttled_rules(max_concurrent=1, group_by="cluster")):
        await throttled.give(throttled.target(1, 1, group="c|1"), throttled.target(2, 2, group="c|1"))
        await throttled.until(lambda status: any(each.waited for each in status.waiting))
        details = str(await throttled.throttle.query("__temporal_workflow_metadata", result_type=None))
        assert "at most 1 open a cluster" in details
        assert "1 of 1 runs are open" in details
        described = await throttled.throttle.describe()
        assert described.status is WorkflowExecutionStatus.RUNNING
