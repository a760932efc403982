"""Back-pressure that shows: while Temporal takes long to take a page, people are told for how long already."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType

__all__ = ["Waiting"]

_EVERY_S = 1.0


class Waiting:
    """`async with Waiting(tell):` around what may have to wait.

    `tell` gets the seconds since the beginning, each second, and 0 at the end if it was told anything before. It tells
    no heartbeat: a wait is no progress.
    """

    def __init__(self, tell: Callable[[float], Awaitable[None]]) -> None:
        self._tell = tell
        self._told = False
        self._telling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._telling = asyncio.create_task(self._go_on_telling(time.monotonic()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._telling is not None:
            self._telling.cancel()
            # Waits for its end only; what is told is not worth an error here.
            await asyncio.wait([self._telling])
        if self._told:
            await self._tell(0.0)

    async def _go_on_telling(self, since: float) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self._told = True
            await self._tell(time.monotonic() - since)
