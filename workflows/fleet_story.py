"""What the Temporal UI shows of a look for drift and at the fleet, as Markdown: a pure function from the report."""

from contracts.reconcile import Finding, HostDrift, Proposal, ReconcileFleetReport
from workflows.story import cut, escape

__all__ = ["tell_fleet"]

_LONGEST_TEXT = 200
_SHOWN = 30
"""Findings; all that are told are in the report."""
_PROPOSED = {
    Proposal.NONE: "",
    Proposal.WANTED: "not proposed yet: so many preparations run already",
    Proposal.STARTED: "proposed now",
    Proposal.OPEN: "asked already",
    Proposal.DECLINED: "proposed before, not again while it stays so",
    Proposal.BLOCKED: "cannot be proposed",
}
_ACTED = {
    Proposal.WANTED: "not yet: so many preparations run already",
    Proposal.STARTED: "started now",
    Proposal.OPEN: "runs already",
    Proposal.DECLINED: "acted before, not again while it is there",
}


def tell_fleet(report: ReconcileFleetReport) -> str:
    """The run's current details: how many hosts are right, and each that is not."""
    lines = [f"**{report.vcenter}**: {report.summary} ({report.stage})", ""]
    if report.hosts:
        lines += ["| host | profile | standing | what | proposal |", "|---|---|---|---|---|", *map(_row, report.hosts)]
    if untold := report.drifted + report.unknown + report.busy - len(report.hosts):
        lines += ["", f"… and {untold} more."]
    lines += ["", *(f"- {escape(each.host.name)} is no longer looked at: {escape(each.why)}" for each in report.left)]
    lines += _fleet_lines(report)
    return cut("\n".join(lines))


def _fleet_lines(report: ReconcileFleetReport) -> list[str]:
    if report.fleet_trouble:
        return ["", f"> The whole fleet could not be looked at: {escape(report.fleet_trouble)}"]
    if report.fleet is None:
        return []
    look = report.fleet
    lines = ["", f"{look.summary}. {look.snapshots} snapshots kept.", ""]
    if shown := look.findings[:_SHOWN]:
        lines += ["| finding | cluster | host | VM | what | rule |", "|---|---|---|---|---|---|", *map(_finding, shown)]
    if untold := sum(look.counts.values()) - len(shown):
        lines += ["", f"… and {untold} more."]
    return [*lines, "", *(f"- not read: {escape(each)}" for each in look.unread[:_SHOWN])]


def _finding(finding: Finding) -> str:
    host = finding.host.name if finding.host else ""
    rule = f"{finding.rule}: {_ACTED.get(finding.action, '')}" if finding.rule else "none: told only"
    cells = (finding.kind, finding.cluster_name, host, finding.vm_name, _short(finding.text), rule)
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _row(drift: HostDrift) -> str:
    cells = (drift.host.name, drift.profile, drift.standing, _short(drift.words), _PROPOSED[drift.proposal])
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"
