"""`gpuwright audit`: what became of the GPU VMs of hosts that failed."""

from datetime import datetime
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from cli.asking import PATIENCE, ask_each
from cli.audit_show import audit_report_text, audit_text, counts_text, lines_of
from cli.following import Errand, run_errand
from cli.output import Json, print_json, say
from cli.prepare import VCenterOption
from cli.serve import Config
from cli.show import print_table, stdout
from cli.temporal import me, with_temporal
from contracts import ids, names, search_attributes
from contracts.audit import AuditOutcome, HaRecoveryAuditInput, HaRecoveryAuditReport
from contracts.errors import BadRequest
from contracts.packing import unpacked
from contracts.verdicts import Findings, VmVerdict
from workers.settings import load_settings
from workflows.audit_story import report_markdown

__all__ = ["app"]

app = typer.Typer(help="See what became of the GPU VMs of hosts that failed.", no_args_is_help=True)

_GOOD = (AuditOutcome.ALL_RECOVERED, AuditOutcome.NOBODY_THERE, AuditOutcome.NOT_A_FAILURE)


@app.command("list")
def list_command(
    config: Config,
    vcenter: VCenterOption = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that go on.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many, the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """List audits, the newest first."""
    found = with_temporal(load_settings(config), lambda client: _audits(client, vcenter, open_only, limit))
    if as_json:
        print_json([{"workflow_id": run_id[0], "run_id": run_id[1], **_brief(report)} for run_id, report in found])
        return
    if not found:
        say("No host's failure was audited" + (" that goes on." if open_only else "."))
        return
    columns = ("cluster", "started (UTC)", "hosts", "GPU VMs", "stands", "run")
    print_table(columns, [_row(run_id[1], report) for run_id, report in found])


@app.command("show")
def show_command(
    target: Annotated[str, typer.Argument(help="A cluster's name, a run ID, or a workflow ID; its newest audit.")],
    config: Config,
    vcenter: VCenterOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as a Markdown document.")] = False,
    as_json: Json = False,
) -> None:
    """Show one audit in full: every VM with its verdict and evidence, the timeline, capacity after, remedies.

    Exit status: 0 every GPU VM is back (or goes on being audited), 2 not every one, 1 an error.
    """
    if markdown and as_json:
        raise BadRequest("give one of --markdown and --json")
    settings = load_settings(config)
    found = with_temporal(settings, lambda client: _audits(client, vcenter, False, 500, target))
    if not found:
        known = with_temporal(settings, lambda client: _audits(client, vcenter, False, 20))
        names_ = ", ".join(sorted({report.name for _, report in known})) or "none"
        raise BadRequest(f"there is no audit of {target!r}; audited were: {names_}; see `gpuwright audit list`")
    _, report = found[0]
    findings = unpacked(Findings, report.findings) if report.findings else Findings()
    if as_json:
        told = report.model_dump(mode="json", exclude={"findings", "verdicts", "timeline", "capacity"})
        verdicts = [each.model_dump(mode="json") | {"took_s": _seconds(each)} for each in findings.verdicts]
        print_json(told | findings.model_dump(mode="json") | {"verdicts": verdicts})
    elif markdown:
        print(report_markdown(report, findings))
    else:
        stdout.print(audit_text(report, findings))
    raise typer.Exit(2 if report.outcome is AuditOutcome.NOT_ALL_RECOVERED else 0)


@app.command("start")
def start_command(
    cluster: Annotated[str, typer.Argument(help="The cluster's name in vCenter, or its moid.")],
    config: Config,
    vcenter: VCenterOption = None,
    reason: Annotated[str, typer.Option(help="Why, for those who decide about remedies.")] = "",
    wait: Annotated[bool, typer.Option(help="Follow the run until it ends.")] = True,
    as_json: Json = False,
) -> None:
    """Account for the GPU VMs of the hosts of CLUSTER that are down now, without waiting for an event.

    A cluster has one live audit: when one runs already, this command follows it. Ctrl-C stops following, not the run.
    """
    # vCenter is asked here only, and pyVmomi takes long to import.
    from cli.session import locate_cluster, sessions

    settings = load_settings(config)
    with sessions(settings) as pools:
        found = locate_cluster(pools, cluster, vcenter)
    order = HaRecoveryAuditInput(
        vcenter=found.ref.vcenter,
        cluster_moid=found.cluster_moid,
        cluster_name=found.cluster_name,
        requester=me(),
        reason=reason,
    )
    errand = Errand(
        workflow=names.HA_RECOVERY_AUDIT,
        workflow_id=ids.ha_recovery_audit(order.vcenter, order.subject),
        order=order,
        report=HaRecoveryAuditReport,
        summary=f"Account for the GPU VMs of failed hosts of {order.name}",
        attributes=TypedSearchAttributes(
            [
                SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(order.vcenter)),
                SearchAttributePair(search_attributes.GPU_CLUSTER, search_attributes.cut(order.name)),
            ]
        ),
        differs=lambda running: "",
        lines=lines_of,
        show=audit_report_text,
        good=_GOOD,
    )
    run_errand(settings, errand, wait=wait, as_json=as_json)


async def _audits(
    client: Client, vcenter: str | None, open_only: bool, limit: int, target: str = ""
) -> list[tuple[tuple[str, str], HaRecoveryAuditReport]]:
    """(workflow ID, run ID) and report of each audit that answers, the newest first."""
    query = f'WorkflowType = "{names.HA_RECOVERY_AUDIT}"'
    if vcenter is not None:
        query += f' AND {search_attributes.GPU_VCENTER.name} = "{vcenter}"'
    if open_only:
        query += ' AND ExecutionStatus = "Running"'
    runs = [run async for run in client.list_workflows(query) if not target or target in _names_of(run)]
    newest_first = sorted(runs, key=lambda run: run.start_time, reverse=True)
    newest = {(run.id, run.run_id) for run in newest_first[: 1 if target else limit]}

    async def ask(run: WorkflowExecution) -> tuple[datetime, tuple[str, str], HaRecoveryAuditReport] | None:
        if (run.id, run.run_id) not in newest:
            return None
        handle = client.get_workflow_handle(run.id, run_id=run.run_id, result_type=HaRecoveryAuditReport)
        if run.status is WorkflowExecutionStatus.COMPLETED:
            report: HaRecoveryAuditReport = await handle.result(follow_runs=False)
        else:
            report = await handle.query(names.QUERY_REPORT, result_type=HaRecoveryAuditReport, rpc_timeout=PATIENCE)
        return run.start_time, (run.id, run.run_id), report

    answers = [each for each in await ask_each(client, query, ask) if each is not None]
    return [(run_id, report) for _, run_id, report in sorted(answers, key=lambda each: each[0], reverse=True)]


def _seconds(verdict: VmVerdict) -> float | None:
    """From the loss of its host to its recovery; None while it is not back."""
    return verdict.took.total_seconds() if verdict.took is not None else None


def _names_of(run: WorkflowExecution) -> set[str]:
    cluster = run.typed_search_attributes.get(search_attributes.GPU_CLUSTER)
    host = run.typed_search_attributes.get(search_attributes.GPU_HOST)
    return {run.id, run.run_id, ids.parse(run.id).subject, *(each for each in (cluster, host) if each)}


def _brief(report: HaRecoveryAuditReport) -> dict[str, Any]:
    return report.model_dump(
        mode="json", exclude={"findings", "verdicts", "timeline", "capacity", "plan", "steps", "approvals"}
    )


def _row(run_id: str, report: HaRecoveryAuditReport) -> tuple[str, ...]:
    started = f"{report.started_at:%Y-%m-%d %H:%M:%S}" if report.started_at else ""
    hosts = ", ".join(f"{each.host.name} {each.standing}" for each in report.hosts) or ", ".join(report.planned)
    return (report.name, started, hosts, counts_text(report), report.outcome or report.stage, run_id)
