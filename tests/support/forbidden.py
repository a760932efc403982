"""Workflows that do what no workflow may."""

import random
import time
from collections.abc import Callable

from temporalio import workflow

__all__ = ["Forbidden"]

_FORBIDDEN: dict[str, Callable[[], object]] = {
    "clock": lambda: time.time(),
    "dice": lambda: random.random(),
    "file": lambda: open("/dev/null"),  # noqa: SIM115 - refused
}


@workflow.defn(name="Forbidden")
class Forbidden:
    """Tries one of them."""

    @workflow.run
    async def run(self, what: str) -> None:
        """Try it, after others that run beside it had their turn."""
        await workflow.sleep(0.01)
        _FORBIDDEN[what]()
