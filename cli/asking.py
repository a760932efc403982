"""Asking many open runs the same question, without one that is silent keeping back the others."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from rich.markup import escape
from temporalio.client import Client, WorkflowExecution, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError, RPCStatusCode

from cli.show import stderr

__all__ = ["PATIENCE", "Silence", "ask_all", "ask_each"]

S = TypeVar("S")
T = TypeVar("T")

PATIENCE = timedelta(seconds=10)
"""How long one run may take to answer a query; give it as `rpc_timeout`."""
_AT_ONCE = 20


@dataclass(frozen=True)
class Silence:
    """No answer, and why."""

    why: str
    gone: bool = False
    """There is no such run, or it has ended."""


async def ask_all(subjects: Sequence[S], ask: Callable[[S], Awaitable[T]]) -> list[T | Silence]:
    """The answers in the order of `subjects`, side by side, a limited number at once."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(subject: S) -> T | Silence:
        async with slots:
            try:
                return await ask(subject)
            except WorkflowQueryRejectedError as error:
                return Silence(str(error), gone=True)
            except WorkflowQueryFailedError as error:
                return Silence(str(error))
            except RPCError as error:
                return Silence(error.message, gone=error.status is RPCStatusCode.NOT_FOUND)

    return list(await asyncio.gather(*map(one, subjects)))


async def ask_each(client: Client, query: str, ask: Callable[[WorkflowExecution], Awaitable[T]]) -> list[T]:
    """What every run that the visibility `query` lists answers, in no order.

    Runs that do not answer, because no worker serves them, are named on standard error.
    """
    runs = [run async for run in client.list_workflows(query)]
    found: list[T] = []
    for run, answer in zip(runs, await ask_all(runs, ask), strict=True):
        if not isinstance(answer, Silence):
            found.append(answer)
        elif not answer.gone:
            # The list lags: a run may have ended, and be forgotten, since.
            hint = f"; is `gpuwright serve` running for queue {run.task_queue}?"
            stderr.print(f"{escape(run.id)} does not answer: {escape(answer.why)}{escape(hint)}")
    return found
