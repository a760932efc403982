"""What the Temporal UI shows of a look for drift, as Markdown: a pure function from the report."""

from contracts.reconcile import HostDrift, Proposal, ReconcileFleetReport
from workflows.story import cut, escape

__all__ = ["tell_fleet"]

_LONGEST_TEXT = 200
_PROPOSED = {
    Proposal.NONE: "",
    Proposal.WANTED: "not proposed yet: so many preparations run already",
    Proposal.STARTED: "proposed now",
    Proposal.OPEN: "asked already",
    Proposal.DECLINED: "proposed before, not again while it stays so",
    Proposal.BLOCKED: "cannot be proposed",
}


def tell_fleet(report: ReconcileFleetReport) -> str:
    """The run's current details: how many hosts are right, and each that is not."""
    lines = [f"**{report.vcenter}**: {report.summary} ({report.stage})", ""]
    if report.hosts:
        lines += ["| host | profile | standing | what | proposal |", "|---|---|---|---|---|", *map(_row, report.hosts)]
    if untold := report.drifted + report.unknown + report.busy - len(report.hosts):
        lines += ["", f"… and {untold} more."]
    lines += ["", *(f"- {escape(each.host.name)} is no longer looked at: {escape(each.why)}" for each in report.left)]
    return cut("\n".join(lines))


def _row(drift: HostDrift) -> str:
    text = drift.words
    text = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    cells = (drift.host.name, drift.profile, drift.standing, text, _PROPOSED[drift.proposal])
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"
