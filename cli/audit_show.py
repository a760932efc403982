"""Audits of failures as people read them on a terminal."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from cli.show import plan_text, record_text
from contracts.audit import HaRecoveryAuditReport
from contracts.forecast import HostForecast
from contracts.packing import unpacked
from contracts.verdicts import Findings, Recovery, VmVerdict

__all__ = ["audit_report_text", "audit_text", "counts_text", "duration", "lines_of"]

_COLOURS = {
    Recovery.NOT_RESTARTED: "red",
    Recovery.UNKNOWN: "magenta",
    Recovery.RESTARTING: "cyan",
    Recovery.OTHER_GPU: "yellow",
    Recovery.RECOVERED: "green",
    Recovery.KEPT_RUNNING: "green",
    Recovery.RETIRED: "dim",
}


def duration(took: timedelta | None) -> str:
    """`1 h 05 min`, `3 min 20 s`, `42 s`; empty for None."""
    if took is None:
        return ""
    seconds = max(0, round(took.total_seconds()))
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds % 60:02d} s" if minutes else f"{seconds} s"


def counts_text(report: HaRecoveryAuditReport) -> str:
    """`3 recovered, 1 not-restarted`, the worst first."""
    told = [f"{report.counts[kind]} {kind}" for kind in Recovery if report.counts.get(kind)]
    return ", ".join(told) or "no GPU VM"


def lines_of(report: HaRecoveryAuditReport) -> Iterator[tuple[str, str]]:
    """What there is to tell while it goes on, by subject."""
    for host in report.hosts:
        yield host.host.key, f"{host.host.name}: {host.standing}"
    for verdict in report.verdicts:
        yield verdict.instance_uuid, f"{verdict.name}: {verdict.text}"
    yield "", f"{report.stage}: {report.detail or counts_text(report)}"


def audit_report_text(report: HaRecoveryAuditReport) -> RenderableType:
    """The whole report, with all that is packed in it."""
    return audit_text(report, unpacked(Findings, report.findings) if report.findings else Findings())


def audit_text(report: HaRecoveryAuditReport, findings: Findings) -> RenderableType:
    """The whole report; `findings` is its packed part."""
    title = f"[bold]{escape(report.vcenter)}/{escape(report.name)}[/]: {report.outcome or report.stage}"
    parts: list[RenderableType] = [f"{title}, {escape(counts_text(report))}"]
    if report.detail:
        parts.append(escape(report.detail))
    parts += [
        f"- {escape(each.host.name)} {each.standing}, lost {each.lost_at:%Y-%m-%d %H:%M:%S} UTC"
        + (f", back {each.back_at:%H:%M:%S}" if each.back_at else "")
        + (f" ({escape(each.evidence)})" if each.evidence else "")
        for each in report.hosts
    ]
    parts += [f"- taken down on purpose: {escape(each)}" for each in report.planned]
    known = f"{report.snapshot_at:%Y-%m-%d %H:%M:%S} UTC" if report.snapshot_at else "none: see the notes"
    parts.append(f"[dim]Who was there is known from the snapshot of {known}.[/]")
    parts += [f"[dim]Note:[/] {escape(note)}" for note in report.notes]
    verdicts = findings.verdicts or report.verdicts
    if verdicts:
        parts += ["", _verdicts(verdicts), *_evidence(verdicts)]
    timeline = findings.timeline or report.timeline
    if timeline:
        parts += ["", "[bold]Timeline[/] (UTC)"]
        parts += [f"  {each.at:%H:%M:%S}  {escape(each.what)}" for each in timeline]
    if report.capacity_summary:
        parts += ["", f"[bold]Capacity after[/]: {escape(report.capacity_summary)}"]
        parts += [_forecast(each) for each in report.capacity if each.lost]
    if report.steps:
        parts += ["", "[bold]Remedies[/]", *(record_text(record) for record in report.steps)]
    if report.plan and not report.plan.done:
        parts += ["", "[bold]Remedies that are left[/]", plan_text(report.plan)]
    elif report.plan:
        parts += [f"[dim]Note:[/] {escape(note)}" for note in report.plan.notes]
    for approval in report.approvals:
        who = f" by {escape(approval.approver)}" if approval.approver else ""
        parts.append(f"plan {approval.plan_hash}: {approval.state}{who}")
    for offer in report.offered:
        parts.append(f"{escape(offer.host.name)} is back and was offered to PrepareGpuHost ({escape(offer.profile)})")
    return Group(*parts)


def _verdicts(verdicts: Sequence[VmVerdict]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("VM", "verdict", "reason", "was on", "now on", "GPU", "after"):
        table.add_column(column)
    for each in verdicts:
        colour = _COLOURS[each.recovery]
        gpus = ", ".join(gpu.profile or f"{gpu.name or gpu.vendor_device} {gpu.label}".strip() for gpu in each.held)
        table.add_row(
            escape(each.name),
            f"[{colour}]{each.recovery}[/]",
            each.reason,
            escape(each.was_on),
            escape(each.now_on),
            escape(gpus),
            duration(each.took),
        )
    return table


def _evidence(verdicts: Sequence[VmVerdict]) -> Iterator[str]:
    """Why, for those that are not simply back."""
    for each in verdicts:
        if each.recovery not in (Recovery.RECOVERED, Recovery.KEPT_RUNNING):
            yield f"[bold]{escape(each.name)}[/]: {escape(each.text)}"
            for line in each.evidence:
                yield f"    {escape(line)}"


def _forecast(forecast: HostForecast) -> str:
    lost = ", ".join(vm.name for vm in forecast.vms if not vm.comes_back)
    short = "; ".join(f"{each.missing} of {each.needed} {each.kind} missing" for each in forecast.shortages)
    return escape(
        f"- were {forecast.host.name} to fail too: {lost} would not come back" + (f" ({short})" if short else "")
    )
