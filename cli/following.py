"""Runs as commands give them: started, or joined where one is live already, then followed, and told how they ended."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

import typer
from rich.console import RenderableType
from rich.markup import escape
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from cli.output import print_json
from cli.show import stderr, stdout
from cli.temporal import with_temporal
from contracts import names
from contracts.base import Message
from contracts.errors import Conflict
from workers.settings import Settings

__all__ = ["Errand", "Report", "approve_hint", "run_errand"]

_LOOK_EVERY_S = 1
_PATIENCE = timedelta(seconds=10)


class Report(Protocol):
    """What every run answers to the query `report`, and ends with."""

    @property
    def requester(self) -> str:
        """Who started it."""

    @property
    def outcome(self) -> str | None:
        """How it ended; None while it goes on."""


R = TypeVar("R", bound=Report)


@dataclass(frozen=True)
class Errand(Generic[R]):
    """A run that a command wants, and how it is told of."""

    workflow: str
    """Its type (`contracts.names`)."""
    workflow_id: str
    order: Message
    report: type[R]
    summary: str
    """`static_summary` in Temporal's UI."""
    attributes: TypedSearchAttributes
    differs: Callable[[R], str]
    """What else the live run of this ID is about, in words; empty where it is the same and may be joined."""
    lines: Callable[[R], Iterable[tuple[str, str]]]
    """What there is to tell while it goes on, by subject: a subject's line is told again when it changes."""
    show: Callable[[R], RenderableType]
    """How it ended, for people."""
    good: Collection[str]
    """Outcomes that are a success of the command."""


def run_errand(settings: Settings, errand: Errand[R], *, wait: bool, as_json: bool) -> None:
    """Start or join the run, follow it with `wait`, and print how it ended.

    Raises `Conflict` when the live run is about something else or the run failed, and `typer.Exit(1)` for an outcome
    that is not a good one.
    """

    async def work(client: Client) -> R | None:
        handle = await _start(client, settings, errand)
        if wait:
            return await _follow(handle, errand, quiet=as_json)
        if as_json:
            print_json({"workflow_id": handle.id, "run_id": handle.result_run_id})
        else:
            stdout.print(f"Started {escape(handle.id)}")
        return None

    report = with_temporal(settings, work)
    if report is None:
        return
    if as_json:
        print_json(report)
    else:
        stdout.print(errand.show(report))
    if report.outcome not in errand.good:
        raise typer.Exit(1)


def approve_hint(workflow_id: str) -> str:
    """How the plan that a run asks about is approved, for the end of a line."""
    return f" Approve with: gpuwright approvals approve {workflow_id}"


async def _start(client: Client, settings: Settings, errand: Errand[R]) -> WorkflowHandle[Any, R]:
    """The run that was started, or the one that is live."""
    try:
        return await client.start_workflow(
            errand.workflow,
            errand.order,
            id=errand.workflow_id,
            task_queue=names.TaskQueues(settings.temporal.task_queue).main,
            result_type=errand.report,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=errand.summary,
            search_attributes=errand.attributes,
        )
    except WorkflowAlreadyStartedError:
        handle = client.get_workflow_handle(errand.workflow_id, result_type=errand.report)
        running: R = await handle.query(names.QUERY_REPORT, result_type=errand.report)
        if differs := errand.differs(running):
            raise Conflict(
                f"{differs} (asked by {running.requester}); "
                f"wait for it, or cancel it: gpuwright runs cancel {errand.workflow_id}"
            ) from None
        stderr.print(f"Joined the run that {escape(running.requester)} started.")
        return handle


async def _follow(handle: WorkflowHandle[Any, R], errand: Errand[R], *, quiet: bool) -> R:
    """Tell what changes until the run ends; its failure is raised as `Conflict` with its own words."""
    told: dict[str, str] = {}
    while not quiet:
        if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            break
        try:
            report: R = await handle.query(names.QUERY_REPORT, result_type=errand.report, rpc_timeout=_PATIENCE)
        except RPCError as error:
            # No worker answers right now; the run itself goes on when one comes back.
            lines: Iterable[tuple[str, str]] = [("", f"waiting for a worker ({error.message})")]
        else:
            lines = errand.lines(report)
        for subject, line in lines:
            if told.get(subject) != line:
                stderr.print(f"[dim]·[/] {escape(line)}")
                told[subject] = line
        await asyncio.sleep(_LOOK_EVERY_S)
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        raise Conflict(f"{handle.id}: {_words(error.cause)}") from error


def _words(cause: BaseException | None) -> str:
    """Why a run failed."""
    if isinstance(cause, CancelledError):
        return "the run was cancelled"
    if isinstance(cause, ApplicationError):
        return f"{cause.type}: {cause.message}"
    return str(cause)
