"""Plans, reports and approvals as people read them on a terminal."""

import sys
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from contracts.approvals import Approval
from contracts.cluster import PrepareGpuClusterReport
from contracts.plan import Plan, Risk, Step
from contracts.prepare import GpuStatus, PrepareGpuHostReport, StepRecord

__all__ = [
    "approval_text",
    "cluster_text",
    "gpus_table",
    "plan_text",
    "print_table",
    "record_text",
    "report_text",
    "stderr",
    "stdout",
]

_WIDE = 200
_COLOURS = {Risk.SAFE: "green", Risk.DISRUPTIVE: "yellow", Risk.DESTRUCTIVE: "red"}

# Where nobody watches, lines are not folded to a terminal's width.
stdout = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
stderr = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDE)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal; elsewhere a line a row with tabs between the cells, the header first."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(str(cell) for cell in row))
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    stdout.print(table)


def plan_text(plan: Plan, right: str = "the host is as the profile wants it") -> RenderableType:
    """The steps with risk and reason, what stands in the way, and the notes; `right` says what an empty plan means."""
    parts: list[RenderableType] = []
    if plan.done:
        parts.append(f"[green]Nothing to do:[/] {escape(right)}.")
    if plan.steps:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("#", "step", "risk", "what changes", "why"):
            table.add_column(column)
        for number, step in enumerate(plan.steps, 1):
            table.add_row(str(number), *_step_cells(step))
        parts.append(table)
    parts += [f"[red]In the way:[/] {escape(b.text)}\n  fix: {escape(b.fix)}" for b in plan.blockers]
    parts += [f"[dim]Note:[/] {escape(note)}" for note in plan.notes]
    return Group(*parts)


def _step_cells(step: Step) -> tuple[str, str, str, str]:
    change = escape(step.change)
    if step.only_if_needed:
        change += f" [dim](only if {escape(step.only_if_needed)})[/]"
    return step.kind, f"[{_COLOURS[step.risk]}]{step.risk}[/]", change, escape(step.reason)


def gpus_table(gpus: tuple[GpuStatus, ...]) -> RenderableType:
    """Each GPU of the profile by its active values."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("GPU", "device", "mode in force", "label", "as wanted"):
        table.add_column(column)
    for gpu in gpus:
        right = "[green]yes[/]" if gpu.right else "[yellow]no[/]"
        table.add_row(gpu.sbdf, escape(gpu.name), gpu.mode, escape(gpu.label or ""), right)
    return table


def report_text(report: PrepareGpuHostReport) -> RenderableType:
    """Where a run stands or how it ended."""
    title = f"[bold]{escape(report.host.name)}[/] → profile {escape(report.profile)}: {report.outcome or report.stage}"
    parts: list[RenderableType] = [title, escape(report.detail)]
    parts += [record_text(record) for record in report.steps]
    if report.plan and not report.plan.done:
        parts.append(plan_text(report.plan))
    if report.gpus:
        parts.append(gpus_table(report.gpus))
    return Group(*parts)


def record_text(record: StepRecord) -> str:
    """What happened to one step, in a line."""
    mark = {"running": "[cyan]▶[/]", "done": "[green]✔[/]", "failed": "[red]✘[/]", "skipped": "[yellow]⤼[/]"}[
        record.status
    ]
    return f"{mark} {record.step.kind} {escape(record.step.target)}: {escape(record.text or record.step.change)}"


def cluster_text(report: PrepareGpuClusterReport) -> RenderableType:
    """Where the preparation of a cluster stands or how it ended, with a line a host."""
    name, profile = escape(report.cluster_name), escape(report.profile)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("host", "state", "outcome", "what"):
        table.add_column(column)
    for each in report.hosts:
        state = f"{each.state} (canary)" if each.canary else str(each.state)
        table.add_row(escape(each.host.name), state, each.outcome or each.fit, escape(each.text))
    title = f"[bold]{name}[/] → profile {profile}: {report.outcome or report.stage}"
    return Group(title, escape(report.detail), table)


def approval_text(approval: Approval) -> RenderableType:
    """One approval with its plan."""
    head = f"[bold]{escape(approval.subject)}[/] asked by {escape(approval.requester)}"
    if approval.reason:
        head += f" ({escape(approval.reason)})"
    when = f"plan {approval.plan_hash}, {approval.state}, until {approval.deadline:%Y-%m-%d %H:%M} UTC"
    return Group(head, when, escape(approval.workflow_id), plan_text(approval.plan))
