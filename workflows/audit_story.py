"""What the Temporal UI shows of an audit, and its whole report, as Markdown: pure functions from the report."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from contracts.audit import HaRecoveryAuditReport
from contracts.forecast import HostForecast
from contracts.verdicts import (
    Findings,
    HeldGpu,
    Recovery,
    TimelineEntry,
    VmVerdict,
)
from workflows.story import approval_lines, cut, escape, step_table

__all__ = ["headline", "report_markdown", "tell_audit"]

_WELL = (Recovery.RECOVERED, Recovery.KEPT_RUNNING)
_SHOWN = 40
"""Verdicts and lines of the timeline in the current details, which are capped."""


def headline(report: HaRecoveryAuditReport) -> str:
    """How many GPU VMs are back and how many are not, with the reasons that are known of those shown."""
    if not report.hosts:
        return "No host was lost." if report.planned else "No host is known to be lost."
    hosts = _several(len(report.hosts), "host was", "hosts were")
    total = sum(report.counts.values())
    if not total:
        return f"{hosts} lost; no GPU VM is known to have run there."
    parts = [f"{report.counts[kind]} {_WORDS[kind]}" for kind in Recovery if report.counts.get(kind)]
    ran = _several(total, "GPU VM", "GPU VMs")
    return f"{hosts} lost with {ran}: {', '.join(parts)}."


_WORDS = {
    Recovery.NOT_RESTARTED: "not restarted",
    Recovery.UNKNOWN: "unknown",
    Recovery.RESTARTING: "restarting",
    Recovery.OTHER_GPU: "recovered on another GPU",
    Recovery.RECOVERED: "recovered",
    Recovery.KEPT_RUNNING: "never stopped",
    Recovery.RETIRED: "retired",
}


def tell_audit(report: HaRecoveryAuditReport) -> str:
    """The run's current details: what it is about, where every VM is, what it waits for. Cut to the UI's limit."""
    lines = [f"**{escape(report.name)}**: **{report.outcome or report.stage}**. {escape(headline(report))}", ""]
    if report.detail:
        lines += [escape(report.detail), ""]
    lines += [*_hosts(report), ""]
    lines += _verdicts(report.verdicts[:_SHOWN])
    if (more := sum(report.counts.values()) - len(report.verdicts[:_SHOWN])) > 0:
        lines += ["", f"… and {more} more"]
    if report.capacity_summary:
        lines += ["", f"Capacity after: {escape(report.capacity_summary)}"]
    lines += ["", *step_table(report.plan, report.steps)]
    lines += [line for approval in report.approvals[-3:] for line in approval_lines(approval)]
    lines += ["", *_timeline(report.timeline[-_SHOWN:])]
    lines += [f"- note: {escape(note)}" for note in report.notes]
    return cut("\n".join(lines))


def report_markdown(report: HaRecoveryAuditReport, findings: Findings) -> str:
    """The whole report as a document. `findings` is its packed part: every verdict, the timeline and the forecasts."""
    verdicts = findings.verdicts or report.verdicts
    lines = [f"# Recovery audit of {escape(report.name)}", "", escape(headline(report)), ""]
    facts = {
        "vCenter": report.vcenter,
        "outcome": str(report.outcome or f"open: {report.stage}"),
        "asked for by": report.requester,
        "reason": report.reason,
        "started": _time(report.started_at),
        "settled": _time(report.settled_at),
        "finished": _time(report.finished_at),
        "events": str(report.events),
        "snapshot": _time(report.snapshot_at) or "none from before the failure",
    }
    lines += ["| | |", "|---|---|", *(f"| {name} | {escape(text)} |" for name, text in facts.items() if text)]
    if report.detail:
        lines += ["", escape(report.detail)]
    lines += ["", "## Hosts", "", *(_hosts(report) or ["None."])]
    lines += ["", "## GPU VMs", "", *(_verdicts(verdicts) or ["None ran there."])]
    lines += _evidence(verdicts)
    lines += ["", "## Timeline (UTC)", "", *(_timeline(findings.timeline or report.timeline) or ["Nothing."])]
    lines += ["", "## Capacity after", "", escape(report.capacity_summary or "Not known.")]
    lines += _capacity(findings.capacity or report.capacity)
    lines += ["", "## Remedies", "", *(step_table(report.plan, report.steps) or ["None."])]
    lines += [f"- {escape(note)}" for note in (report.plan.notes if report.plan else ())]
    lines += [line for approval in report.approvals for line in approval_lines(approval)]
    if report.offered:
        lines += ["", "## Hosts offered to PrepareGpuHost", ""]
        lines += [
            f"- {escape(each.host.name)} for profile {escape(each.profile)}"
            + (f", run `{each.run_id}`" if each.run_id else ", a preparation ran already")
            for each in report.offered
        ]
    if report.notes:
        lines += ["", "## Notes", "", *(f"- {escape(note)}" for note in report.notes)]
    return "\n".join(lines) + "\n"


def _hosts(report: HaRecoveryAuditReport) -> list[str]:
    lines = []
    for each in report.hosts:
        back = f", back {_time(each.back_at)}" if each.back_at else ""
        why = f" ({escape(each.evidence)})" if each.evidence else ""
        lines.append(f"- {escape(each.host.name)}: **{each.standing}**, lost {_time(each.lost_at)}{back}{why}")
    return lines + [f"- taken down on purpose: {escape(text)}" for text in report.planned]


def _verdicts(verdicts: Sequence[VmVerdict]) -> list[str]:
    if not verdicts:
        return []
    head = [
        "| VM | verdict | was on | is on | GPU before | GPU now | after | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return head + [_row(each) for each in verdicts]


def _row(each: VmVerdict) -> str:
    verdict = f"{each.recovery}: {each.reason}" if each.reason else str(each.recovery)
    cells = (
        each.name, verdict, each.was_on, each.now_on, _gpus(each.held), _gpus(each.holds), _took(each.took), each.text,
    )  # fmt: skip
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _evidence(verdicts: Iterable[VmVerdict]) -> Iterator[str]:
    """What the verdicts about VMs that are not simply back were read from."""
    told = [each for each in verdicts if each.recovery not in _WELL and each.evidence]
    if told:
        yield from ("", "### Evidence")
    for each in told:
        yield from ("", f"{escape(each.name)}: {each.recovery}", "")
        yield from (f"- {escape(line)}" for line in each.evidence)


def _gpus(held: Iterable[HeldGpu]) -> str:
    return ", ".join(" ".join(filter(None, (gpu.profile or gpu.name or gpu.vendor_device, gpu.label))) for gpu in held)


def _timeline(entries: Iterable[TimelineEntry]) -> list[str]:
    return [
        f"- {each.at:%H:%M:%S} {escape(each.what)}" + (f" (event {each.key})" if each.key >= 0 else "")
        for each in entries
    ]


def _capacity(forecasts: Iterable[HostForecast]) -> Iterator[str]:
    for each in forecasts:
        if not each.lost:
            continue
        short = "; ".join(f"{gap.missing} of {gap.needed} {gap.kind} missing" for gap in each.shortages if gap.missing)
        names = ", ".join(vm.name for vm in each.vms if not vm.comes_back)
        yield f"- were {escape(each.host.name)} to fail: {escape(names)} would not come back" + (
            f" ({escape(short)})" if short else ""
        )


def _took(took: timedelta | None) -> str:
    if took is None:
        return ""
    minutes, seconds = divmod(max(0, round(took.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        " ".join(f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (seconds, "s")) if count)
        or "0 s"
    )


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def _several(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
