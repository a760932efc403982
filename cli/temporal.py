"""Temporal for one command, and who gives it. Apart from `cli.session`, because pyVmomi takes long to import."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio.client import Client

from workers.client import connect
from workers.settings import Settings

__all__ = ["me", "with_temporal"]

T = TypeVar("T")


def me() -> str:
    """Who gives the command, as runs and approvals record it."""
    return f"cli:{getpass.getuser()}"


def with_temporal(settings: Settings, work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect to Temporal, do `work`, and return what it returns."""

    async def run() -> T:
        return await work(await connect(settings.temporal))

    return asyncio.run(run())
