"""`gpuwright prepare` and `gpuwright plan host`."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.markup import escape
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities.looking import look_at_host, profile_named
from cli.following import Errand, approve_hint, run_errand
from cli.output import Json, print_json
from cli.serve import Config
from cli.session import locate_host, sessions
from cli.show import gpus_table, plan_text, report_text, stdout
from cli.temporal import me
from contracts import ids, names, search_attributes
from contracts.approvals import ApprovalTerms
from contracts.prepare import HostLimits, LookAtHost, Outcome, PrepareGpuHostInput, PrepareGpuHostReport, Stage
from workers.rules_file import load_rules
from workers.settings import load_settings

__all__ = ["ProfileOption", "VCenterOption", "plan_host", "prepare"]

HostArgument = Annotated[str, typer.Argument(help="The host's name in vCenter, its moid or its hardware UUID.")]
ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="A profile of the rules file.")]
VCenterOption = Annotated[str | None, typer.Option("--vcenter", help="The vCenter's name, where several are known.")]


def plan_host(
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
    errand = Errand(
        workflow=names.PREPARE_GPU_HOST,
        workflow_id=ids.prepare_gpu_host(ref.vcenter, ref.key),
        order=PrepareGpuHostInput(host=ref, profile=profile, requester=me(), reason=reason),
        report=PrepareGpuHostReport,
        summary=f"prepare {ref.name} for {profile}",
        attributes=TypedSearchAttributes(
            [
                SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(ref.vcenter)),
                SearchAttributePair(search_attributes.GPU_HOST, search_attributes.cut(ref.name)),
            ]
        ),
        differs=lambda running: (
            "" if running.profile == profile else f"{ref.name} is being prepared for profile {running.profile}"
        ),
        lines=_lines,
        show=report_text,
        good=(Outcome.PREPARED, Outcome.ALREADY_RIGHT),
    )
    run_errand(settings, errand, wait=wait, as_json=as_json)


def _lines(report: PrepareGpuHostReport) -> Iterator[tuple[str, str]]:
    text = f"{report.stage}: {report.detail}"
    if report.stage is Stage.AWAITING_APPROVAL and report.plan:
        text += approve_hint(ids.prepare_gpu_host(report.host.vcenter, report.host.key))
    yield "", text
