"""Asking many open runs the same question, without one that is silent keeping back the others."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from rich.markup import escape
from temporalio.client import Client, WorkflowExecution, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from cli.show import stderr

__all__ = ["PATIENCE", "ask_each"]

T = TypeVar("T")

PATIENCE = timedelta(seconds=10)
"""How long one run may take to answer a query; give it as `rpc_timeout`."""
_AT_ONCE = 20


async def ask_each(client: Client, query: str, ask: Callable[[WorkflowExecution], Awaitable[T]]) -> list[T]:
    """What every run that the visibility `query` lists answers, in no order.

    Runs that do not answer, because no worker serves them, are named on standard error.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(run: WorkflowExecution) -> list[T]:
        async with slots:
            try:
                return [await ask(run)]
            except WorkflowQueryFailedError as error:
                _silent(run, str(error))
            except RPCError as error:
                # The list lags: a run may have ended, and be forgotten, since.
                if error.status is not RPCStatusCode.NOT_FOUND:
                    _silent(run, f"{error.message}; is `gpuwright serve` running for queue {run.task_queue}?")
        return []

    runs = [run async for run in client.list_workflows(query)]
    return [answer for answers in await asyncio.gather(*(one(run) for run in runs)) for answer in answers]


def _silent(run: WorkflowExecution, why: str) -> None:
    stderr.print(f"{escape(run.id)} does not answer: {escape(why)}")
