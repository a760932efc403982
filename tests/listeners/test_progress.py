"""What a watch hears of its readers: every turn, and no flood. The watch is a run without worker: its history tells."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from temporalio.client import Client

from contracts import ids, names
from contracts.events import Cursor
from contracts.names import TaskQueues
from contracts.watch import FollowPosition, WatchInput, WatchProgress
from listeners import progress
from listeners.progress import Reporter

POSITION = FollowPosition(cursor=Cursor(epoch="uuid.0", key=7, created=datetime(2026, 1, 2, tzinfo=UTC)))


class Told:
    """A watch that only listens."""

    def __init__(self, client: Client, queues: TaskQueues) -> None:
        self.client, self._queues = client, queues
        self.vcenter = f"vc-{uuid.uuid4().hex[:8]}"

    async def start(self) -> None:
        order = WatchInput(vcenter=self.vcenter)
        await self.client.start_workflow(
            names.WATCH_VCENTER, order, id=ids.watch(self.vcenter), task_queue=self._queues.main
        )

    async def messages(self) -> list[WatchProgress]:
        found = []
        async for event in self.client.get_workflow_handle(ids.watch(self.vcenter)).fetch_history_events():
            if event.HasField("workflow_execution_signaled_event_attributes"):
                payloads = event.workflow_execution_signaled_event_attributes.input.payloads
                found += await self.client.data_converter.decode(payloads, [WatchProgress])
        return found

    async def troubles(self) -> list[tuple[int, str]]:
        return [(message.attempt, message.trouble) for message in await self.messages()]

    async def fails(self, reporter: Reporter, attempt: int, trouble: str = "no answer") -> None:
        """A call of the activity that ends so."""
        reporter.begin(self.client, 2, attempt, POSITION)
        await reporter.progress(POSITION, trouble=trouble)


@pytest.fixture
def told(temporal_client: Client, queues: TaskQueues, monkeypatch: pytest.MonkeyPatch) -> Told:
    for name in ("_EVERY_S", "_TURN_S", "_REPEAT_S"):
        monkeypatch.setattr(progress, name, 0)
    return Told(temporal_client, queues)


async def test_retries_that_meet_the_same_trouble_tell_it_once(told: Told) -> None:
    await told.start()
    reporter = Reporter(told.vcenter, unreachable_after_s=77)
    for attempt in (1, 2, 3):
        await told.fails(reporter, attempt)
    await told.fails(reporter, 4, "login refused")
    await told.fails(reporter, 5, "")
    assert await told.troubles() == [(1, "no answer"), (4, "login refused"), (5, "")]
    assert {message.unreachable_after_s for message in await told.messages()} == {77}


async def test_what_another_reader_may_have_contradicted_is_told_again(told: Told) -> None:
    await told.start()
    one, other = Reporter(told.vcenter), Reporter(told.vcenter)
    await told.fails(one, 1)
    await told.fails(other, 2, "")
    await told.fails(one, 3)
    await told.fails(other, 4, "")
    assert await told.troubles() == [(1, "no answer"), (2, ""), (3, "no answer"), (4, "")]


async def test_services_that_take_turns_at_failing_do_not_flood_the_watch(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_REPEAT_S", 120)
    await told.start()
    one, other = Reporter(told.vcenter), Reporter(told.vcenter)
    for attempt in range(1, 20, 2):
        await told.fails(one, attempt)
        await told.fails(other, attempt + 1)
    assert await told.troubles() == [(1, "no answer"), (2, "no answer")]


async def test_a_message_that_was_lost_is_told_again(told: Told) -> None:
    reporter = Reporter(told.vcenter)
    await told.fails(reporter, 1)
    await told.start()
    await told.fails(reporter, 2)
    await told.fails(reporter, 3)
    assert await told.troubles() == [(2, "no answer")]
