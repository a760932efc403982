"""`gpuwright fleet`: is every host that was prepared still so?"""

import asyncio
from datetime import timedelta
from typing import Annotated

import typer
from rich.markup import escape
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleOverlapPolicy,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from cli.fleet_matrix import fleet_matrix
from cli.output import Json, fail, print_json, say
from cli.serve import Config
from cli.show import print_table, stderr
from cli.temporal import with_temporal
from contracts import ids
from contracts.errors import BadRequest, Conflict, GpuwrightError, Unreachable
from contracts.reconcile import Finding, FindingKind, HostDrift, Proposal, ReconcileFleetReport
from workers.settings import Settings, load_settings

__all__ = ["app", "last_look", "look_now"]

app = typer.Typer()
app.callback(invoke_without_command=True)(fleet_matrix)

_START_S = 60
"""How long a schedule may take to start what it was told to; a look that runs already is waited for besides."""
_PROPOSED = {
    Proposal.NONE: "",
    Proposal.WANTED: "waits: too many preparations run",
    Proposal.STARTED: "asked for approval",
    Proposal.OPEN: "asked for approval",
    Proposal.DECLINED: "was proposed; not again while it stays so",
    Proposal.BLOCKED: "cannot be proposed",
}
_ACTED = {
    Proposal.WANTED: "waits: too many preparations run",
    Proposal.STARTED: "started",
    Proposal.OPEN: "runs already",
    Proposal.DECLINED: "acted before; not again while it is there",
}
_WRONG = (FindingKind.HOST_DOWN, FindingKind.VM_ON_UNEXPECTED_GPU)
"""Findings that the exit status tells: the others are how somebody wants it, until a rule says otherwise."""


@app.command("drift")
def drift_command(
    config: Config,
    vcenter: Annotated[str | None, typer.Option("--vcenter", help="Only this vCenter, by its configured name.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Look now, and wait for the result.")] = False,
    as_json: Json = False,
) -> None:
    """Show which prepared hosts changed since, and what else is not as expected, by the last scheduled look.

    Exit status: 0 nothing drifted, 2 something did, a host is down or a VM is on an unexpected GPU, 1 an error.
    """
    settings = load_settings(config)
    vcenters = _chosen(settings, vcenter)

    async def work(client: Client) -> list[ReconcileFleetReport | GpuwrightError]:
        return [await _report(client, each, now) for each in vcenters]

    answers = with_temporal(settings, work)
    reports = [each for each in answers if isinstance(each, ReconcileFleetReport)]
    if as_json:
        print_json([each.model_dump(mode="json", exclude={"memory"}) for each in reports])
    else:
        for report in reports:
            _show(report)
    for error in answers:
        if isinstance(error, GpuwrightError):
            fail(str(error))
    if len(reports) < len(answers):
        raise typer.Exit(1)
    raise typer.Exit(2 if any(map(_wrong, reports)) else 0)


async def look_now(client: Client, vcenter: str) -> ReconcileFleetReport:
    """Let the schedule look, after a look that runs already; the result. Raises `GpuwrightError`."""
    schedule = client.get_schedule_handle(ids.reconcile_fleet(vcenter))
    known = {each.first_execution_run_id for each in _actions(await _described(schedule, vcenter))}
    await schedule.trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE)
    waited_s = 0.0
    while True:
        described = await _described(schedule, vcenter)
        if fresh := [each for each in _actions(described) if each.first_execution_run_id not in known]:
            return await _result(_run(client, fresh[-1]))
        if not described.info.running_actions and waited_s > _START_S:
            raise Unreachable(
                f"the schedule {schedule.id} started nothing within {_START_S} s; see it in Temporal's UI"
            )
        await asyncio.sleep(0.2)
        waited_s += 0.2


async def last_look(client: Client, vcenter: str) -> ReconcileFleetReport:
    """The newest result that Temporal keeps. Raises `GpuwrightError`; says on stderr what came to nothing since."""
    schedule = client.get_schedule_handle(ids.reconcile_fleet(vcenter))
    described = await _described(schedule, vcenter)
    if described.schedule.state.paused:
        _note(f"the schedule of {vcenter} is paused ({described.schedule.state.note or 'no reason given'})")
    for action in reversed(_actions(described)):
        run = _run(client, action)
        try:
            status = (await run.describe()).status
            if status is WorkflowExecutionStatus.RUNNING:
                continue
            return await _result(run)
        except Conflict as error:
            _note(f"{error}; this is an older result")
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise Unreachable(f"{run.id}: {error.message}") from error
    raise BadRequest(f"nobody has looked at {vcenter} lately; look now: gpuwright fleet drift --now")


def _note(text: str) -> None:
    stderr.print(escape(text), style="yellow")


def _chosen(settings: Settings, vcenter: str | None) -> list[str]:
    known = [each.name for each in settings.vcenters]
    if vcenter is not None and vcenter not in known:
        raise BadRequest(f"there is no vCenter {vcenter!r} in the configuration; it has: {', '.join(known)}")
    return [vcenter] if vcenter else known


async def _report(client: Client, vcenter: str, now: bool) -> ReconcileFleetReport | GpuwrightError:
    try:
        return await (look_now if now else last_look)(client, vcenter)
    except GpuwrightError as error:
        return error


async def _described(schedule: ScheduleHandle, vcenter: str) -> ScheduleDescription:
    try:
        return await schedule.describe(rpc_timeout=timedelta(seconds=10))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise BadRequest(
                f"there is no schedule {schedule.id}: `gpuwright serve` makes it for {vcenter} when it starts, "
                "unless drift.enabled is false"
            ) from error
        raise Unreachable(f"schedule {schedule.id}: {error.message}") from error


def _actions(described: ScheduleDescription) -> list[ScheduleActionExecutionStartWorkflow]:
    """What the schedule started lately, oldest first."""
    actions = [each.action for each in described.info.recent_actions]
    return [each for each in actions if isinstance(each, ScheduleActionExecutionStartWorkflow)]


def _run(client: Client, action: ScheduleActionExecutionStartWorkflow) -> WorkflowHandle[object, ReconcileFleetReport]:
    return client.get_workflow_handle(
        action.workflow_id, run_id=action.first_execution_run_id, result_type=ReconcileFleetReport
    )


async def _result(run: WorkflowHandle[object, ReconcileFleetReport]) -> ReconcileFleetReport:
    try:
        return await run.result()
    except WorkflowFailureError as error:
        cause = error.cause
        words = f"{cause.type}: {cause.message}" if isinstance(cause, ApplicationError) else str(cause)
        raise Conflict(f"{run.id} came to nothing: {words}") from error


def _show(report: ReconcileFleetReport) -> None:
    when = f"{report.finished_at:%Y-%m-%d %H:%M} UTC" if report.finished_at else "not finished"
    say(f"{report.vcenter}: {report.summary} ({when})", style="bold")
    if report.hosts:
        print_table(("host", "standing", "profile", "what", "proposal"), [_row(each) for each in report.hosts])
    if untold := report.drifted + report.unknown + report.busy - len(report.hosts):
        say(f"… and {untold} more")
    for left in report.left:
        say(f"{left.host.name} is no longer looked at: {left.why}")
    _show_fleet(report)


def _show_fleet(report: ReconcileFleetReport) -> None:
    if report.fleet_trouble:
        _note(f"{report.vcenter}: the whole fleet could not be looked at: {report.fleet_trouble}")
    if (look := report.fleet) is None:
        return
    say(f"{look.summary}; {look.snapshots} snapshots kept")
    if look.findings:
        print_table(
            ("finding", "cluster", "host", "vm", "what", "fix", "rule"), [_found(each) for each in look.findings]
        )
    if untold := sum(look.counts.values()) - len(look.findings):
        say(f"… and {untold} more")
    for unread in look.unread:
        _note(f"not read: {unread}")


def _found(finding: Finding) -> tuple[str, ...]:
    kind, host = finding.kind.removeprefix("gpuwright."), finding.host.name if finding.host else ""
    rule = f"{finding.rule}: {_ACTED.get(finding.action, '')}" if finding.rule else ""
    return (kind, finding.cluster_name, host, finding.vm_name, finding.text, finding.fix, rule)


def _wrong(report: ReconcileFleetReport) -> bool:
    return bool(report.drifted) or bool(report.fleet and any(report.fleet.counts.get(kind) for kind in _WRONG))


def _row(drift: HostDrift) -> tuple[str, ...]:
    return (drift.host.name, drift.standing, drift.profile, drift.words, _PROPOSED[drift.proposal])
