"""`gpuwright prepare-cluster`: every GPU host of a cluster, a few at a time."""

from collections.abc import Iterator
from typing import Annotated

import typer
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities.looking import profile_named
from cli.following import Errand, approve_hint, run_errand
from cli.output import Json
from cli.prepare import ProfileOption, VCenterOption
from cli.serve import Config
from cli.session import locate_cluster, sessions
from cli.show import cluster_text
from cli.temporal import me
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
from workers.rules_file import load_rules
from workers.settings import load_settings

__all__ = ["prepare_cluster"]


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

    errand = Errand(
        workflow=names.PREPARE_GPU_CLUSTER,
        workflow_id=ids.prepare_gpu_cluster(order.vcenter, order.cluster_moid),
        order=order,
        report=PrepareGpuClusterReport,
        summary=f"prepare the hosts of {order.cluster_name} for {profile}",
        attributes=TypedSearchAttributes(
            [
                SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(order.vcenter)),
                SearchAttributePair(search_attributes.GPU_CLUSTER, search_attributes.cut(order.cluster_name)),
            ]
        ),
        differs=lambda running: (
            ""
            if running.profile == profile
            else f"{order.cluster_name} is being prepared for profile {running.profile}"
        ),
        lines=_lines,
        show=cluster_text,
        good=(ClusterOutcome.PREPARED, ClusterOutcome.ALREADY_RIGHT),
    )
    run_errand(settings, errand, wait=wait, as_json=as_json)


def _lines(report: PrepareGpuClusterReport) -> Iterator[tuple[str, str]]:
    """What there is to tell, by subject: each host that had its turn, and the run as a whole."""
    for each in report.hosts:
        if each.state not in (HostState.WAITING, HostState.SKIPPED):
            yield each.host.key, _line(each)
    text = f"{report.stage}: {report.detail}"
    if report.stage is ClusterStage.AWAITING_APPROVAL:
        text += approve_hint(ids.prepare_gpu_cluster(report.vcenter, report.cluster_moid))
    yield "", text


def _line(each: HostProgress) -> str:
    text = f"{each.host.name}: {each.outcome or each.state}"
    if each.text:
        text += f": {each.text}"
    if each.state is HostState.RUNNING:
        text += f" (gpuwright runs show {each.workflow_id})"
    return text
