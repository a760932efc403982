"""The loop that reads events, apart from what becomes of them: how far it reads ahead, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from contracts.errors import Unreachable
from contracts.watch import FollowResult
from tests.listeners.conftest import until
from tests.listeners.posting import PostingSimulator
from tests.listeners.taking import following, here_and_nothing_else, unread


@pytest.fixture(scope="module")
def busy() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=2, gpus=1, vms=2, time_scale=300, seed=7) as running:
        yield running


async def test_one_page_is_read_ahead_of_the_one_that_is_being_taken_and_no_more(busy: PostingSimulator) -> None:
    may_take = asyncio.Semaphore(0)
    async with following(busy, await here_and_nothing_else(busy), may_take=may_take) as (taker, _):
        may_take.release()
        await until(unread(busy), lambda behind: behind == [0])
        posted = await asyncio.to_thread(busy.act, "post_backlog", count=5000)
        await until(unread(busy), lambda behind: behind == [3000])
        await asyncio.sleep(1)
        assert await unread(busy)() == [3000]
        before = taker.here.cursor.key
        assert before < posted["first"]
        may_take.release()
        await until(unread(busy), lambda behind: behind == [2000])
        # The cursor is at the end of the page that was taken, not of the one that was read.
        assert taker.here.cursor.key == posted["first"] + 999
        for _ in range(4):
            may_take.release()
        await until(taker.seen, lambda keys: keys[-1] == posted["last"])
        assert [key for key in taker.taken if key >= posted["first"]] == list(
            range(posted["first"], posted["last"] + 1)
        )


async def test_a_page_that_cannot_be_taken_ends_the_reading_with_the_reason(busy: PostingSimulator) -> None:
    may_take = asyncio.Semaphore(0)
    async with following(busy, await here_and_nothing_else(busy), may_take=may_take) as (taker, running):
        await asyncio.to_thread(busy.act, "post_backlog", count=3000)
        cursor = taker.here.cursor
        taker.refused = Unreachable("nobody takes it")
        may_take.release()
        with pytest.raises(Unreachable, match="nobody takes it"):
            await running
        assert taker.here.cursor == cursor
        assert await unread(busy)() == []


async def test_a_session_that_dies_while_a_page_is_taken_costs_that_page_nothing(busy: PostingSimulator) -> None:
    may_take = asyncio.Semaphore(0)
    async with following(busy, await here_and_nothing_else(busy), may_take=may_take) as (taker, running):
        await until(unread(busy), lambda behind: behind == [0])
        may_take.release()
        posted = await asyncio.to_thread(busy.act, "post_backlog", count=3000)
        await until(unread(busy), lambda behind: behind == [1000])
        busy.hang_up()
        await asyncio.to_thread(busy.kill_sessions)
        may_take.release()
        may_take.release()
        with pytest.raises(Unreachable, match="session ended"):
            await running
        # Both pages that were read were taken, too; the third was not.
        assert [key for key in taker.taken if key >= posted["first"]] == list(
            range(posted["first"], posted["first"] + 2000)
        )
        assert taker.here.cursor.key == posted["first"] + 1999


async def test_a_stop_while_a_page_is_taken_tells_where_to_go_on(busy: PostingSimulator) -> None:
    may_take = asyncio.Semaphore(0)
    async with following(busy, await here_and_nothing_else(busy), may_take=may_take) as (_taker, running):
        await until(unread(busy), lambda behind: behind == [0])
        may_take.release()
        await asyncio.to_thread(busy.act, "post_backlog", count=3000)
        await until(unread(busy), lambda behind: behind == [1000])
        running.cancel()
        ended = await asyncio.gather(running, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError | FollowResult)
        assert await until(unread(busy), lambda behind: behind == []) == []
