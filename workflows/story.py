"""What the Temporal UI shows of a run, as Markdown: pure functions from the report."""

from collections.abc import Sequence

from contracts.approvals import Approval, ApprovalState
from contracts.plan import Plan, Step
from contracts.prepare import PrepareGpuHostReport, StepRecord, StepStatus

__all__ = ["approval_lines", "cut", "escape", "plain", "step_table", "tell"]

_LIMIT_BYTES = 16_000
_MARK = {
    StepStatus.RUNNING: "▶ running",
    StepStatus.DONE: "✔ done",
    StepStatus.FAILED: "✘ failed",
    StepStatus.SKIPPED: "⤼ skipped",
}


def tell(report: PrepareGpuHostReport) -> str:
    """The run's current details: where it stands, what it waits for, and the plan's steps with their state."""
    lines = [f"**{report.host.name}** → profile `{report.profile}`: **{report.outcome or report.stage}**", ""]
    if report.detail:
        lines += [escape(report.detail), ""]
    lines += step_table(report.plan, report.steps)
    if report.plan and report.plan.notes:
        lines += ["", "Notes:", *(f"- {escape(note)}" for note in report.plan.notes)]
    if report.gpus:
        lines += ["", "| GPU | device | mode in force | label | as wanted |", "|---|---|---|---|---|"]
        lines += [
            f"| {g.sbdf} | {escape(g.name)} | {g.mode} | {escape(g.label or '')} | {'yes' if g.right else 'no'} |"
            for g in report.gpus
        ]
    lines += [line for approval in report.approvals for line in approval_lines(approval)]
    return cut("\n".join(lines))


def step_table(plan: Plan | None, records: Sequence[StepRecord]) -> list[str]:
    """The steps that ran and those to come, as lines of a table; none without steps."""
    planned = plan.steps if plan else ()
    recorded = {record.step.id: record for record in records}
    if not planned and not recorded:
        return []
    rows = [_row(record.step, record) for record in records]
    rows += [_row(step, None) for step in planned if step.id not in recorded]
    return ["| step | on | risk | what changes | why | state |", "|---|---|---|---|---|---|", *rows]


def _row(step: Step, record: StepRecord | None) -> str:
    state = f"{_MARK[record.status]} {record.text}" if record else "· to do"
    if not record and step.only_if_needed:
        state += f", only if {step.only_if_needed}"
    cells = (step.kind, step.target, step.risk, step.change, step.reason, state)
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def approval_lines(approval: Approval) -> list[str]:
    """What is asked until when, or who decided."""
    if approval.state is ApprovalState.PENDING:
        text = f"Approval of plan `{approval.plan_hash}` is asked until {approval.deadline:%Y-%m-%d %H:%M} UTC."
        return ["", f"{text} `gpuwright approvals approve {approval.workflow_id}`"]
    who = f" by {escape(approval.approver)}" if approval.approver else ""
    comment = f": {escape(approval.comment)}" if approval.comment else ""
    return ["", f"Plan `{approval.plan_hash}` {approval.state}{who}{comment}"]


def escape(text: str) -> str:
    """Inventory names and comments are other people's text: nothing in them may end a cell or start markup."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return text.replace("\r", " ").replace("\n", " ")


def plain(text: str, most: int) -> str:
    """Other people's text, escaped on one line, and cut to `most` characters so that the whole stays small."""
    return " ".join(escape(text).split())[:most]


def cut(text: str) -> str:
    """Temporal keeps details in history and memory; a fixed cap keeps both small."""
    data = text.encode()
    if len(data) <= _LIMIT_BYTES:
        return text
    return data[:_LIMIT_BYTES].decode(errors="ignore") + "\n\n… (cut)"
