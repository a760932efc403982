"""Calls to Temporal that wait for its return."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from temporalio.service import RPCError, RPCStatusCode

__all__ = ["CALL_TIMEOUT", "until_answered"]

_T = TypeVar("_T")

CALL_TIMEOUT = timedelta(seconds=4)
"""For one call; below the heartbeat time-out, so that trying again shows."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 3.0
_TRANSIENT = {
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.ABORTED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.INTERNAL,
    RPCStatusCode.UNKNOWN,
}


async def until_answered(call: Callable[[], Awaitable[_T]], still_here: Callable[[], None]) -> _T:
    """The answer of `call`, tried again with growing pauses while Temporal cannot be reached or is overloaded.

    Whether a lost call arrived is unknown, so `call` has to be one that may be repeated. `still_here` is called
    before each pause. Raises `RPCError` for what trying again does not mend (a refused or malformed request).
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except RPCError as error:
            if error.status not in _TRANSIENT:
                raise
        still_here()
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
