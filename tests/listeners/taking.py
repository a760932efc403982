"""The loop that reads events with nobody behind it: what it reads is what a test sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from temporalio.testing import ActivityEnvironment

from contracts.events import Cursor
from contracts.watch import FollowPosition, FollowResult
from listeners import cursor as cursors
from listeners.following import Follower
from listeners.narrowing import Narrowing
from tests.listeners.posting import PostingSimulator
from vsphere.events import RawEvent
from vsphere.sessions import SessionPool

__all__ = ["Taker", "following", "here_and_nothing_else", "unread"]


class Taker(Follower):
    """Takes pages, or only as many as it `may_take`, and remembers the keys of what it needs."""

    def __init__(
        self,
        pool: SessionPool,
        cursor: Cursor,
        types: Collection[str] | None = None,
        may_take: asyncio.Semaphore | None = None,
    ) -> None:
        super().__init__(pool, FollowPosition(cursor=cursor), 1000)
        self._types = types
        self._may_take = may_take
        self.taken: list[int] = []
        self.refused: Exception | None = None
        self.asked_for = ""

    def needed(self) -> Collection[str] | None:
        return self._types

    def narrowed(self, narrowing: Narrowing) -> None:
        self.asked_for = narrowing.text

    def wanted(self, event: RawEvent) -> bool:
        return self._types is None or event.type_name.casefold() in {name.casefold() for name in self._types}

    async def take(self, page: list[RawEvent]) -> None:
        if self._may_take is not None:
            await self._may_take.acquire()
        if self.refused:
            raise self.refused
        events = cursors.fresh(page, self.here.cursor)
        self.taken += [event.key for event in events if self.wanted(event)]
        self.move(cursors.advance(self.here.cursor, events), pages=1, events=len(events))

    async def seen(self) -> list[int]:
        """The keys so far."""
        return list(self.taken)

    async def progress(self) -> None:
        """Nobody listens."""

    def counted(self, cursor: Cursor, **counted: int) -> None:
        """Nobody listens."""

    def reachable(self) -> None:
        """Nobody listens."""


async def here_and_nothing_else(server: PostingSimulator) -> Cursor:
    """A cursor at the newest event, which is the only one that is kept."""
    posted = await asyncio.to_thread(server.act, "post_backlog", count=1, matching=0)
    await asyncio.to_thread(server.act, "purge_events", keep=1)
    uuid = await asyncio.to_thread(lambda: server.si.content.about.instanceUuid)
    return Cursor(epoch=f"{uuid}.0", key=posted["last"], created=datetime.now(UTC))


@asynccontextmanager
async def following(
    server: PostingSimulator,
    cursor: Cursor,
    types: Collection[str] | None = None,
    may_take: asyncio.Semaphore | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Taker, asyncio.Task[FollowResult]]]:
    """A reader from the cursor on, ended when the test is."""
    pool = SessionPool(server.settings("vc", **settings))
    taker = Taker(pool, cursor, types, may_take)
    environment = ActivityEnvironment()
    running = asyncio.create_task(environment.run(taker.run))
    try:
        yield taker, running
    finally:
        if not running.done():
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.to_thread(pool.close)


def unread(server: PostingSimulator) -> Callable[[], Any]:
    """How many events each collector has not read, as the simulator knows it."""

    async def look() -> list[int]:
        state = await asyncio.to_thread(server.act, "event_log")
        return [each["behind"] for each in state["collectors"]]

    return look
