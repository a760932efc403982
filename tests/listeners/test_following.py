"""The loop that reads events, apart from what becomes of them: how far it reads ahead, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from contracts.errors import Unreachable
from contracts.events import Cursor
from contracts.watch import FollowPosition, FollowResult
from listeners import cursor as cursors
from listeners.following import Follower
from tests.listeners.conftest import until
from tests.listeners.posting import PostingSimulator
from vsphere.events import RawEvent
from vsphere.sessions import SessionPool


class Taker(Follower):
    """Takes pages when it may, and remembers the keys."""

    def __init__(self, pool: SessionPool, cursor: Cursor, page_size: int = 1000) -> None:
        super().__init__(pool, FollowPosition(cursor=cursor), page_size)
        self.may_take = asyncio.Semaphore(0)
        self.taken: list[int] = []
        self.refused: Exception | None = None

    def wanted(self, event: RawEvent) -> bool:
        return True

    async def take(self, page: list[RawEvent]) -> None:
        await self.may_take.acquire()
        if self.refused:
            raise self.refused
        events = cursors.fresh(page, self.here.cursor)
        self.taken += [event.key for event in events]
        self.move(cursors.advance(self.here.cursor, events), pages=1, events=len(events))

    async def progress(self) -> None:
        """Nobody listens."""

    def counted(self, cursor: Cursor, **counted: int) -> None:
        """Nobody listens."""

    def reachable(self) -> None:
        """Nobody listens."""


@pytest.fixture(scope="module")
def busy() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=2, gpus=1, vms=2, time_scale=300, seed=7) as running:
        yield running


@asynccontextmanager
async def reading(busy: PostingSimulator, page_size: int = 1000) -> AsyncIterator[tuple[Taker, asyncio.Task[Any]]]:
    """A reader at the newest event, with its loop begun as soon as the test posts."""
    with SessionPool(busy.settings("vc")) as pool:
        # The cursor is at the one event that is there.
        key = await asyncio.to_thread(busy.act, "post_backlog", count=1)
        await asyncio.to_thread(busy.act, "purge_events", keep=1)
        uuid = busy.si.content.about.instanceUuid
        cursor = Cursor(epoch=f"{uuid}.0", key=key["last"], created=datetime.now(UTC))
        taker = Taker(pool, cursor, page_size)
        environment = ActivityEnvironment()
        running = asyncio.create_task(environment.run(taker.run))
        try:
            yield taker, running
        finally:
            if not running.done():
                environment.cancel()
                running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def unread(busy: PostingSimulator) -> Callable[[], Any]:
    """How many events the reader's collector has not read, as the simulator knows it."""

    async def look() -> list[int]:
        state = await asyncio.to_thread(busy.act, "event_log")
        return [each["behind"] for each in state["collectors"]]

    return look


async def test_one_page_is_read_ahead_of_the_one_that_is_being_taken_and_no_more(busy: PostingSimulator) -> None:
    async with reading(busy) as (taker, _):
        taker.may_take.release()
        await until(unread(busy), lambda behind: behind == [0])
        posted = await asyncio.to_thread(busy.act, "post_backlog", count=5000)
        await until(unread(busy), lambda behind: behind == [3000])
        await asyncio.sleep(1)
        assert await unread(busy)() == [3000]
        before = taker.here.cursor.key
        assert before < posted["first"]
        taker.may_take.release()
        await until(unread(busy), lambda behind: behind == [2000])
        # The cursor is at the end of the page that was taken, not of the one that was read.
        assert taker.here.cursor.key == posted["first"] + 999
        for _ in range(4):
            taker.may_take.release()
        await until(_taken(taker), lambda keys: keys[-1] == posted["last"])
        assert [key for key in taker.taken if key >= posted["first"]] == list(
            range(posted["first"], posted["last"] + 1)
        )


def _taken(taker: Taker) -> Callable[[], Any]:
    async def look() -> list[int]:
        return list(taker.taken)

    return look


async def test_a_page_that_cannot_be_taken_ends_the_reading_with_the_reason(busy: PostingSimulator) -> None:
    async with reading(busy) as (taker, running):
        await asyncio.to_thread(busy.act, "post_backlog", count=3000)
        cursor = taker.here.cursor
        taker.refused = Unreachable("nobody takes it")
        taker.may_take.release()
        with pytest.raises(Unreachable, match="nobody takes it"):
            await running
        assert taker.here.cursor == cursor
        assert await unread(busy)() == []


async def test_a_session_that_dies_while_a_page_is_taken_costs_that_page_nothing(busy: PostingSimulator) -> None:
    async with reading(busy) as (taker, running):
        await until(unread(busy), lambda behind: behind == [0])
        taker.may_take.release()
        posted = await asyncio.to_thread(busy.act, "post_backlog", count=3000)
        await until(unread(busy), lambda behind: behind == [1000])
        busy.hang_up()
        await asyncio.to_thread(busy.kill_sessions)
        taker.may_take.release()
        taker.may_take.release()
        with pytest.raises(Unreachable, match="session ended"):
            await running
        # Both pages that were read were taken, too; the third was not.
        assert [key for key in taker.taken if key >= posted["first"]] == list(
            range(posted["first"], posted["first"] + 2000)
        )
        assert taker.here.cursor.key == posted["first"] + 1999


async def test_a_stop_while_a_page_is_taken_tells_where_to_go_on(busy: PostingSimulator) -> None:
    async with reading(busy) as (taker, running):
        await until(unread(busy), lambda behind: behind == [0])
        taker.may_take.release()
        await asyncio.to_thread(busy.act, "post_backlog", count=3000)
        await until(unread(busy), lambda behind: behind == [1000])
        running.cancel()
        ended = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError | FollowResult)
        assert await until(unread(busy), lambda behind: behind == []) == []
