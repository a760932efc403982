"""How many events a page has for a reader that comes after others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from temporalio.testing import ActivityEnvironment

from contracts.events import Cursor
from contracts.watch import FollowPosition
from listeners import cursor as cursors
from listeners.following import Follower, page_size_of
from tests.listeners.conftest import until
from tests.listeners.posting import PostingSimulator
from vsphere.events import RawEvent
from vsphere.sessions import SessionPool


class Taker(Follower):
    """Takes every page at once."""

    def wanted(self, event: RawEvent) -> bool:
        return True

    async def take(self, page: list[RawEvent]) -> None:
        events = cursors.fresh(page, self.here.cursor)
        self.move(cursors.advance(self.here.cursor, events), events=len(events))

    async def progress(self) -> None:
        """Nobody listens."""

    def counted(self, cursor: Cursor, **counted: int) -> None:
        """Nobody listens."""

    def reachable(self) -> None:
        """Nobody listens."""


async def attempt(pool: SessionPool, begin: FollowPosition, wanted: int) -> tuple[FollowPosition, int]:
    """Where the attempt after one that begins there begins, and how many events that one read.

    It is killed once it has read `wanted` of them; when none is wanted, while it waits for its first page.
    """
    environment, heartbeats = ActivityEnvironment(), []
    environment.on_heartbeat = heartbeats.append
    taker = Taker(pool, begin, page_size_of(begin))

    async def read() -> int:
        return taker.here.counters.events - begin.counters.events

    async def heard() -> int:
        return len(heartbeats)

    running = asyncio.create_task(environment.run(taker.run))
    try:
        await (until(read, lambda count: count >= wanted) if wanted else until(heard, lambda count: count > 0))
        return heartbeats[-1], await read()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def newest(simulator: PostingSimulator) -> FollowPosition:
    key = simulator.act("post_backlog", count=1)["last"]
    epoch = f"{simulator.si.content.about.instanceUuid}.0"
    return FollowPosition(cursor=Cursor(epoch=epoch, key=key, created=datetime.now(UTC)))


async def test_readers_that_die_at_their_work_ask_for_whole_pages_all_the_same(simulator: PostingSimulator) -> None:
    """Workers that are restarted, or killed, say nothing about the pages."""
    with SessionPool(simulator.settings("vc")) as pool:
        position = await asyncio.to_thread(newest, simulator)
        for _ in range(6):
            await asyncio.to_thread(simulator.act, "post_backlog", count=30)
            position, read = await attempt(pool, position, wanted=30)
            assert read >= 30
            assert page_size_of(position) == 1000


async def test_a_page_that_is_too_long_is_asked_for_in_ever_smaller_parts(simulator: PostingSimulator) -> None:
    with SessionPool(simulator.settings("vc")) as pool:
        position = await asyncio.to_thread(newest, simulator)
        await asyncio.to_thread(simulator.act, "post_backlog", count=400)
        slow = await asyncio.to_thread(simulator.add_fault, method="ReadNextEvents", delay_s=0.5)
        sizes = []
        for _ in range(7):
            position, _ = await attempt(pool, position, wanted=0)
            sizes.append(page_size_of(position))
        assert sizes == [500, 250, 125, 62, 31, 25, 25]
        await asyncio.to_thread(simulator.control, "DELETE", f"/simulator/faults/{slow['id']}")
        position, read = await attempt(pool, position, wanted=1)
        assert read > 0
        assert page_size_of(position) == 50
