"""What the Temporal UI shows of a run about a VM, as Markdown: a pure function from the report."""

from contracts.provision import GpuVmReport
from workflows.story import approval_lines, cut, escape, step_table

__all__ = ["tell_vm"]

_HOSTS = 16
"""So many hosts are told with their reasons; the report has more."""


def tell_vm(report: GpuVmReport) -> str:
    """The run's current details: where it stands, the steps, where the VM could run, and what was proven."""
    lines = [f"{report.work} **{escape(report.name)}**: **{report.outcome or report.stage}**", ""]
    if report.detail:
        lines += [escape(report.detail), ""]
    lines += step_table(report.plan, report.steps)
    if report.plan and report.plan.notes:
        lines += ["", "Notes:", *(f"- {escape(note)}" for note in report.plan.notes)]
    lines += _placement(report)
    lines += _list("Proven", report.proof)
    lines += _list("What it cannot do", report.cannot)
    lines += _list("Given back", report.freed)
    lines += [line for approval in report.approvals for line in approval_lines(approval)]
    return cut("\n".join(lines))


def _placement(report: GpuVmReport) -> list[str]:
    hosts = report.placement.hosts
    if not hosts or report.host:
        return []
    rows = [
        f"| {escape(fit.host.name)} | {'yes' if fit.fits else 'no'} | {escape(fit.why or ', '.join(fit.sbdfs))} |"
        for fit in hosts[:_HOSTS]
    ]
    more = [f"| … {len(hosts) - _HOSTS} more | | |"] if len(hosts) > _HOSTS else []
    return ["", "| host | could take it | GPUs, or why not |", "|---|---|---|", *rows, *more]


def _list(title: str, said: tuple[str, ...]) -> list[str]:
    return ["", f"{title}:", *(f"- {escape(each)}" for each in said)] if said else []
