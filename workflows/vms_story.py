"""What the Temporal UI shows of a request of several VMs, as Markdown: a pure function from the report."""

from contracts.vm_fleet import GpuVmsReport, VmProgress, VmTurn
from workflows.story import cut, escape

__all__ = ["tell_vms"]

_LONGEST_TEXT = 100
_ROWS = 64
"""So many VMs are told one by one, those that failed first: the limit of the whole cuts none of them then."""
_MARK = {
    VmTurn.FAILED: "✘",
    VmTurn.RUNNING: "▶",
    VmTurn.NOT_STARTED: "⤼",
    VmTurn.DONE: "✔",
    VmTurn.WAITING: "·",
}
_ORDER = list(_MARK)


def tell_vms(report: GpuVmsReport) -> str:
    """The run's current details: where it stands, and each VM with its state and its reason."""
    title = (
        f"{report.count} VMs **{escape(report.request.name)}-…** in {escape(report.request.cluster)}, "
        f"{report.arrangement}: **{report.outcome or report.stage}**"
    )
    lines = [title, "", escape(report.detail), ""]
    rows = sorted(report.vms, key=lambda each: _ORDER.index(each.state))
    if rows:
        lines += ["| VM | state | host | outcome | why |", "|---|---|---|---|---|", *map(_row, rows[:_ROWS])]
    if len(rows) > _ROWS:
        lines.append(f"| … {len(rows) - _ROWS} more | | | | |")
    return cut("\n".join(lines))


def _row(each: VmProgress) -> str:
    text = each.text if len(each.text) <= _LONGEST_TEXT else each.text[: _LONGEST_TEXT - 1] + "…"
    return (
        f"| {escape(each.name)} | {_MARK[each.state]} {each.state} | {escape(each.host)} | {each.outcome or ''} "
        f"| {escape(text) if each.state is not VmTurn.DONE else ''} |"
    )
