"""Heartbeats beside a blocking call that gives no sign of its own progress."""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from temporalio import activity

__all__ = ["beating"]

_PERIOD_S = 5


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
