"""`gpuwright prepare-cluster`: every GPU host of a cluster, a few at a time."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

import typer
from rich.markup import escape
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from activities.looking import profile_named
from cli.output import Json, print_json
from cli.prepare import ProfileOption, VCenterOption, words
from cli.serve import Config
from cli.session import locate_cluster, sessions
from cli.show import cluster_text, stderr, stdout
from cli.temporal import me, with_temporal
from contracts import ids, names, search_attributes
from contracts.cluster import (
    MOST_AT_ONCE,
    ApprovalMode,
    ClusterOutcome,
    ClusterStage,
    HostProgress,
    HostState,
    PrepareGpuClusterInput,
    PrepareGpuClusterReport,
)
from contracts.errors import Conflict
from workers.rules_file import load_rules
from workers.settings import Settings, load_settings
from workflows.prepare_gpu_cluster import PrepareGpuCluster

__all__ = ["prepare_cluster"]

Run = WorkflowHandle[PrepareGpuCluster, PrepareGpuClusterReport]


def prepare_cluster(
    cluster: Annotated[str, typer.Argument(help="The cluster's name in vCenter, or its moid.")],
    profile: ProfileOption,
    config: Config,
    vcenter: VCenterOption = None,
    canary: Annotated[int, typer.Option(min=0, help="So many hosts go first; the others only if they succeed.")] = 1,
    max_failures: Annotated[int, typer.Option(min=1, help="Start no other host after so many failed ones.")] = 1,
    at_once: Annotated[
        int, typer.Option(min=1, max=MOST_AT_ONCE, help="Hosts at a time; the cluster's gate limits those down.")
    ] = 1,
    approval: Annotated[
        ApprovalMode, typer.Option(help="Ask once about the whole plan, or let each host ask for itself.")
    ] = ApprovalMode.WHOLE,
    reason: Annotated[str, typer.Option(help="Why, for those who approve it.")] = "",
    wait: Annotated[bool, typer.Option(help="Follow the run until it ends.")] = True,
    as_json: Json = False,
) -> None:
    """Bring the GPUs of all hosts of CLUSTER to what PROFILE says, a few hosts at a time.

    A cluster has one live preparation: when one runs already, this command follows it. Ctrl-C stops following, not the
    run. Exit status: 0 every host is as wanted (or started, with --no-wait), 1 not every host is, denied or failed.
    """
    settings = load_settings(config)
    profile_named(load_rules(settings.rules_file), profile)
    with sessions(settings) as pools:
        found = locate_cluster(pools, cluster, vcenter)
    order = PrepareGpuClusterInput(
        vcenter=found.ref.vcenter,
        cluster_moid=found.cluster_moid,
        cluster_name=found.cluster_name,
        profile=profile,
        requester=me(),
        reason=reason,
        approval=approval,
        canary=canary,
        max_failures=max_failures,
        at_once=at_once,
    )

    async def work(client: Client) -> PrepareGpuClusterReport | None:
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
        stdout.print(cluster_text(report))
    if report.outcome not in (ClusterOutcome.PREPARED, ClusterOutcome.ALREADY_RIGHT):
        raise typer.Exit(1)


async def _start(client: Client, settings: Settings, order: PrepareGpuClusterInput) -> Run:
    """Start the preparation, or find the one that runs; raises `Conflict` when that one is for another profile."""
    workflow_id = ids.prepare_gpu_cluster(order.vcenter, order.cluster_moid)
    try:
        return await client.start_workflow(
            PrepareGpuCluster.run,
            order,
            id=workflow_id,
            task_queue=names.TaskQueues(settings.temporal.task_queue).main,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"prepare the hosts of {order.cluster_name} for {order.profile}",
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(order.vcenter)),
                    SearchAttributePair(search_attributes.GPU_CLUSTER, search_attributes.cut(order.cluster_name)),
                ]
            ),
        )
    except WorkflowAlreadyStartedError:
        handle = client.get_workflow_handle_for(PrepareGpuCluster.run, workflow_id)
        running = await handle.query(PrepareGpuCluster.report)
        if running.profile != order.profile:
            raise Conflict(
                f"{order.cluster_name} is being prepared for profile {running.profile} (asked by {running.requester}); "
                f"wait for it, or cancel it: gpuwright runs cancel {workflow_id}"
            ) from None
        stderr.print(f"Joined the run that {escape(running.requester)} started.")
        return handle


async def _follow(handle: Run, *, quiet: bool) -> PrepareGpuClusterReport:
    """Tell what changes, of the run and of each host, until the run ends; its failure is raised as `Conflict`."""
    told: dict[str, str] = {}
    while not quiet:
        if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            break
        try:
            report = await handle.query(PrepareGpuCluster.report, rpc_timeout=timedelta(seconds=10))
        except RPCError as error:
            # No worker answers right now; the run itself goes on when one comes back.
            lines = [("", f"waiting for a worker ({error.message})")]
        else:
            lines = list(_lines(handle.id, report))
        for subject, line in lines:
            if told.get(subject) != line:
                stderr.print(f"[dim]·[/] {escape(line)}")
                told[subject] = line
        await asyncio.sleep(1)
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        raise Conflict(f"{handle.id}: {words(error.cause)}") from error


def _lines(workflow_id: str, report: PrepareGpuClusterReport) -> Iterator[tuple[str, str]]:
    """What there is to tell, by subject: each host that had its turn, and the run as a whole."""
    for each in report.hosts:
        if each.state not in (HostState.WAITING, HostState.SKIPPED):
            yield each.host.key, _line(each)
    text = f"{report.stage}: {report.detail}"
    if report.stage is ClusterStage.AWAITING_APPROVAL:
        text += f" Approve with: gpuwright approvals approve {workflow_id}"
    yield "", text


def _line(each: HostProgress) -> str:
    text = f"{each.host.name}: {each.outcome or each.state}"
    if each.text:
        text += f": {each.text}"
    if each.state is HostState.RUNNING:
        text += f" (gpuwright runs show {each.workflow_id})"
    return text
