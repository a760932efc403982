"""`gpuwright notices`: what people were told without having asked."""

from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from cli.asking import PATIENCE, Silence, ask_all
from cli.output import Json, print_json, say
from cli.prepare import VCenterOption
from cli.serve import Config
from cli.show import print_table
from cli.temporal import with_temporal
from contracts import names, search_attributes
from contracts.notices import Notice, NoticeReport
from workers.settings import load_settings

__all__ = ["notices"]

_MOST = 200
"""The newest ones that are looked at."""


def notices(
    config: Config,
    vcenter: VCenterOption = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those whose trouble is not over.")] = False,
    as_json: Json = False,
) -> None:
    """List what people were told, newest first: gaps in the events, vCenters that cannot be read, and that they can be.

    Temporal keeps them for its retention. Exit status: 2 when trouble that was told is not over; 0 otherwise.
    """
    settings = load_settings(config)
    found = with_temporal(settings, lambda client: _reports(client, settings.temporal.task_queue, vcenter))
    over = {(report.notice.vcenter, report.notice.clears): report.notice for report in found if report.notice.clears}
    rows = [(report, over.get((report.notice.vcenter, report.notice.id))) for report in found]
    open_ = [(report, by) for report, by in rows if report.notice.lasts and by is None]
    shown = open_ if only_open else rows
    if as_json:
        print_json([_document(report, by) for report, by in shown])
    elif not shown:
        say("No notices." if not only_open else "No notice is open.")
    else:
        columns = ("at", "vcenter", "severity", "what", "state", "channels")
        print_table(columns, [_row(report, by) for report, by in shown])
    raise typer.Exit(2 if open_ else 0)


async def _reports(client: Client, task_queue: str, vcenter: str | None) -> list[NoticeReport]:
    query = f'WorkflowType = "{names.DELIVER_NOTICE}" AND TaskQueue = "{task_queue}"'
    if vcenter is not None:
        query += f' AND {search_attributes.GPU_VCENTER.name} = "{search_attributes.cut(vcenter)}"'
    runs = [run async for run in client.list_workflows(query, limit=_MOST, rpc_timeout=PATIENCE)]
    answers = await ask_all(runs, lambda run: _report(client, run))
    silent = [run for run, answer in zip(runs, answers, strict=True) if isinstance(answer, Silence)]
    # Nobody answers for them now, but what they were started with is known.
    started = await ask_all(silent, lambda run: _as_started(client, run))
    known = [answer for answer in (*answers, *started) if not isinstance(answer, Silence)]
    return sorted(known, key=lambda report: report.notice.at, reverse=True)


async def _report(client: Client, run: WorkflowExecution) -> NoticeReport:
    handle = client.get_workflow_handle(run.id, run_id=run.run_id, result_type=NoticeReport)
    if run.status is WorkflowExecutionStatus.COMPLETED:
        result: NoticeReport = await handle.result(rpc_timeout=PATIENCE)
        return result
    report: NoticeReport = await handle.query(names.QUERY_REPORT, result_type=NoticeReport, rpc_timeout=PATIENCE)
    return report


async def _as_started(client: Client, run: WorkflowExecution) -> NoticeReport:
    handle = client.get_workflow_handle(run.id, run_id=run.run_id)
    first = await anext(handle.fetch_history_events(page_size=1, rpc_timeout=PATIENCE))
    payloads = first.workflow_execution_started_event_attributes.input.payloads
    [notice] = await client.data_converter.decode(payloads, [Notice])
    return NoticeReport(notice=notice)


def _document(report: NoticeReport, by: Notice | None) -> dict[str, Any]:
    return {
        **report.notice.model_dump(mode="json"),
        "state": _state(report.notice, by),
        "cleared_at": by.at.isoformat() if by else None,
        "channels": report.channels,
        "pending": report.pending,
    }


def _row(report: NoticeReport, by: Notice | None) -> tuple[str, ...]:
    notice = report.notice
    told = [f"{done.channel}: given up ({done.trouble})" if done.trouble else done.channel for done in report.channels]
    told += [f"{name}: being told" for name in report.pending]
    state = f"cleared {by.at:%Y-%m-%d %H:%M:%S}" if by else _state(notice, by)
    return (
        f"{notice.at:%Y-%m-%d %H:%M:%S}",
        notice.vcenter,
        notice.severity,
        notice.happened,
        state,
        ", ".join(told) or "nobody yet",
    )


def _state(notice: Notice, by: Notice | None) -> str:
    if by is not None:
        return "cleared"
    if notice.lasts:
        return "open"
    return "clears" if notice.clears else "told"
