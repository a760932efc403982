"""Heartbeats beside a blocking call that gives no sign of its own progress, and how long a wait may still take."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from temporalio import activity

from contracts.errors import Unreachable

__all__ = ["beating", "in_thread", "seconds_left"]

_PERIOD_S = 5
_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T]) -> _T:
    """What `work`, which blocks, gives: for asynchronous activities, which heartbeat meanwhile."""
    working = asyncio.create_task(asyncio.to_thread(work))
    while not working.done():
        activity.heartbeat()
        await asyncio.wait({working}, timeout=_PERIOD_S)
    return working.result()


@contextmanager
def beating(what: str) -> Iterator[None]:
    """Heartbeat while the block runs, so that a dead worker is noticed within seconds.

    A block that hangs in a live worker is bounded by the activity's start-to-close time-out instead.
    """
    done = threading.Event()
    context = contextvars.copy_context()

    def beat() -> None:
        while not done.wait(_PERIOD_S):
            context.run(activity.heartbeat, what)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def seconds_left(timeout_s: int, at_least: float = 0) -> float:
    """Seconds until a wait's deadline, counted from the first attempt, so that a retried wait does not start over.

    Raises `Unreachable` when it has passed, unless a last look is to take `at_least` so long.
    """
    waited = (datetime.now(UTC) - activity.info().scheduled_time).total_seconds()
    if waited >= timeout_s and not at_least:
        raise Unreachable(f"waited {waited:.0f} s in vain")
    return max(timeout_s - waited, at_least)
