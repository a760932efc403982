"""`gpuwright prepare` and `gpuwright plan host`."""

import asyncio
from datetime import timedelta
from typing import Annotated

import typer
from rich.markup import escape
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.looking import look_at_host, profile_named
from cli.output import Json, print_json
from cli.serve import Config
from cli.session import locate_host, sessions
from cli.show import gpus_table, plan_text, report_text, stderr, stdout
from cli.temporal import me, with_temporal
from contracts import ids, names, search_attributes
from contracts.approvals import ApprovalTerms
from contracts.errors import Conflict
from contracts.prepare import HostLimits, LookAtHost, Outcome, PrepareGpuHostInput, PrepareGpuHostReport, Stage
from workers.rules_file import load_rules
from workers.settings import Settings, load_settings
from workflows.prepare_gpu_host import PrepareGpuHost

__all__ = ["ProfileOption", "VCenterOption", "plan_app", "prepare", "words"]

plan_app = typer.Typer(help="Show what gpuwright would do, and change nothing.", no_args_is_help=True)

HostArgument = Annotated[str, typer.Argument(help="The host's name in vCenter, its moid or its hardware UUID.")]
ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="A profile of the rules file.")]
VCenterOption = Annotated[str | None, typer.Option("--vcenter", help="The vCenter's name, where several are known.")]


@plan_app.command("host")
def plan_host_command(
    host: HostArgument,
    profile: ProfileOption,
    config: Config,
    vcenter: VCenterOption = None,
    as_json: Json = False,
) -> None:
    """Show the steps that would bring HOST to PROFILE.

    Exit status: 0 nothing to do, 2 there are steps, 1 an error or something stands in the way.
    """
    settings = load_settings(config)
    wanted = profile_named(load_rules(settings.rules_file), profile)
    with sessions(settings) as pools:
        ref = locate_host(pools, host, vcenter)
        order = LookAtHost(host=ref, profile=profile)
        look = look_at_host(
            pools[ref.vcenter],
            order,
            wanted,
            ApprovalTerms(),
            HostLimits(),
            ssh=settings.ssh is not None,
            bmcs=settings.bmcs,
        )
    if as_json:
        print_json(look)
    else:
        stdout.print(f"[bold]{escape(ref.name)}[/] on {ref.vcenter} → profile {escape(profile)}  (IOMMU {look.iommu})")
        stdout.print(plan_text(look.plan))
        if look.gpus:
            stdout.print(gpus_table(look.gpus))
    if look.plan.blockers:
        raise typer.Exit(1)
    raise typer.Exit(2 if look.plan.steps else 0)


def prepare(
    host: HostArgument,
    profile: ProfileOption,
    config: Config,
    vcenter: VCenterOption = None,
    reason: Annotated[str, typer.Option(help="Why, for those who approve it.")] = "",
    wait: Annotated[bool, typer.Option(help="Follow the run until it ends.")] = True,
    as_json: Json = False,
) -> None:
    """Bring HOST's GPUs to what PROFILE says; asks for approval before anything disruptive.

    A host has one live preparation: when one runs already, this command follows it. Ctrl-C stops following, not the
    run. Exit status: 0 the host is as wanted (or started, with --no-wait), 1 denied, expired or failed.
    """
    settings = load_settings(config)
    profile_named(load_rules(settings.rules_file), profile)
    with sessions(settings) as pools:
        ref = locate_host(pools, host, vcenter)
    order = PrepareGpuHostInput(host=ref, profile=profile, requester=me(), reason=reason)

    async def work(client: Client) -> PrepareGpuHostReport | None:
        handle = await _start(client, settings, order)
        if not wait:
            if as_json:
                print_json({"workflow_id": handle.id, "run_id": handle.result_run_id})
            else:
                stdout.print(f"Started {escape(handle.id)}")
            return None
        return await _follow(handle, quiet=as_json)

    report = with_temporal(settings, work)
    if report is None:
        return
    if as_json:
        print_json(report)
    else:
        stdout.print(report_text(report))
    if report.outcome not in (Outcome.PREPARED, Outcome.ALREADY_RIGHT):
        raise typer.Exit(1)


async def _start(
    client: Client, settings: Settings, order: PrepareGpuHostInput
) -> WorkflowHandle[PrepareGpuHost, PrepareGpuHostReport]:
    """Start the preparation, or find the one that runs; raises `Conflict` when that one is for another profile."""
    workflow_id = ids.prepare_gpu_host(order.host.vcenter, order.host.key)
    try:
        handle = await client.start_workflow(
            PrepareGpuHost.run,
            order,
            id=workflow_id,
            task_queue=names.TaskQueues(settings.temporal.task_queue).main,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"prepare {order.host.name} for {order.profile}",
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(order.host.vcenter)),
                    SearchAttributePair(search_attributes.GPU_HOST, search_attributes.cut(order.host.name)),
                ]
            ),
        )
    except WorkflowAlreadyStartedError:
        handle = client.get_workflow_handle_for(PrepareGpuHost.run, workflow_id)
        running = await handle.query(PrepareGpuHost.report)
        if running.profile != order.profile:
            raise Conflict(
                f"{order.host.name} is being prepared for profile {running.profile} (asked by {running.requester}); "
                f"wait for it, or cancel it: gpuwright runs cancel {workflow_id}"
            ) from None
        stderr.print(f"Joined the run that {escape(running.requester)} started.")
    return handle


async def _follow(handle: WorkflowHandle[PrepareGpuHost, PrepareGpuHostReport], *, quiet: bool) -> PrepareGpuHostReport:
    """Tell what happens until the run ends; its failure is raised as `Conflict` with its own words."""
    last = ""
    while not quiet:
        if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            break
        try:
            report = await handle.query(PrepareGpuHost.report, rpc_timeout=timedelta(seconds=10))
        except RPCError as error:
            # No worker answers right now; the run itself goes on when one comes back.
            now = f"waiting for a worker ({error.message})"
        else:
            now = f"{report.stage}: {report.detail}"
            if report.stage is Stage.AWAITING_APPROVAL and report.plan:
                now += f" Approve with: gpuwright approvals approve {handle.id}"
        if now != last:
            stderr.print(f"[dim]·[/] {escape(now)}")
            last = now
        await asyncio.sleep(1)
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        raise Conflict(f"{handle.id}: {words(error.cause)}") from error


def words(cause: BaseException | None) -> str:
    """Why a run failed."""
    if isinstance(cause, CancelledError):
        return "the run was cancelled"
    if isinstance(cause, ApplicationError):
        return f"{cause.type}: {cause.message}"
    return str(cause)
