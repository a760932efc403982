"""A cap on how long something slow may take altogether, name resolution and trickling answers included."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from contracts.errors import Unreachable

__all__ = ["within"]

_T = TypeVar("_T")


def within(seconds: float, what: str, read: Callable[[], _T]) -> _T:
    """What `read()` returns or raises; raises `Unreachable` when it has done neither after `seconds`.

    Socket timeouts bound each wait, not their sum, and nothing bounds `getaddrinfo`: so the read gets a thread of its
    own, which is left to end by itself. Not for changes, which would go on unseen.
    """
    end: Future[_T] = Future()

    def run() -> None:
        try:
            end.set_result(read())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            end.set_exception(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name=f"reading {what}", daemon=True).start()
    if not wait([end], timeout=seconds).done:
        raise Unreachable(f"{what} did not answer within {seconds:g} s")
    return end.result()
