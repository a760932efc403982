"""`gpuwright vm` and `gpuwright plan vm`: GPU VMs asked for, given other GPUs, retired and listed."""

import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated

import typer

from activities.vm_looking import look_at_vm
from cli.following import Errand, approve_hint, run_errand
from cli.output import Json, print_json, say
from cli.prepare import VCenterOption
from cli.serve import Config
from cli.session import locate_vm, read_fleets, sessions
from cli.show import print_table, stderr, stdout
from cli.temporal import me
from cli.vm_fleet import vms_errand, vms_order
from cli.vm_request import GpuOptions, VmOptions, change_request, takes, vm_request
from cli.vm_show import VM_COLUMNS, gpu_text, vm_plan_text, vm_report_text, vm_rows
from contracts import ids, names, search_attributes
from contracts.approvals import ApprovalTerms
from contracts.base import Message
from contracts.errors import BadRequest
from contracts.machine import VmRef, VmState
from contracts.provision import (
    GpuVmReport,
    LookAtVm,
    ProvisionGpuVmInput,
    RetireGpuVmInput,
    VmLimits,
    VmOutcome,
    VmStage,
    VmWork,
)
from contracts.vm_fleet import MOST_VMS, MOST_VMS_AT_ONCE
from contracts.vms import VmRequest
from vsphere.sessions import SessionPool
from vsphere.vm_state import read_vm
from workers.settings import Settings, load_settings
from workers.vm_requests import known_to

__all__ = ["app", "plan_vm"]

app = typer.Typer(help="GPU VMs: ask for them, give them other GPUs, retire and list them.", no_args_is_help=True)

FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE.yaml|-]", help="The request; - reads it from standard input. Options win over it."),
]
VmArgument = Annotated[str, typer.Argument(help="The VM's name, folder/name, instance UUID or moid.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for those who approve it.")]
WaitOption = Annotated[bool, typer.Option(help="Follow the run until it ends.")]

_PLANNED = "plan"
"""The mark of a look that is no run: no VM has it, so one that has the name already is another's."""


@takes(VmOptions)
def plan_vm(config: Config, options: VmOptions, file: FileArgument = None, as_json: Json = False) -> None:
    """Show where a GPU VM could run, why not elsewhere, and the steps that would make it.

    Exit status: 0 nothing to do, 2 there are steps, 1 an error or something stands in the way.
    """
    settings = load_settings(config)
    request = _request(settings, file, options)
    with sessions(settings) as pools:
        order = LookAtVm(work=VmWork.PROVISION, request=request, run=_PLANNED)
        look = look_at_vm(pools[request.vcenter], order, ApprovalTerms(), VmLimits())
    if as_json:
        print_json(look)
    else:
        title = f"{request.name} on {request.vcenter}, cluster {request.cluster}"
        stdout.print(vm_plan_text(look, title, VmWork.PROVISION))
    if look.plan.blockers:
        raise typer.Exit(1)
    raise typer.Exit(2 if look.plan.steps else 0)


@app.command("provision")
@takes(VmOptions)
def provision_command(
    config: Config,
    options: VmOptions,
    file: FileArgument = None,
    count: Annotated[
        int, typer.Option(min=1, max=MOST_VMS, help="So many VMs like this, named NAME-01 and so on.")
    ] = 1,
    packed: Annotated[
        bool | None, typer.Option("--packed/--spread", help="With --count: fill one host after the other, or spread.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, max=MOST_VMS_AT_ONCE, help="With --count: VMs at a time.", show_default="8")
    ] = None,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    as_json: Json = False,
) -> None:
    """Make a GPU VM, or several of one shape, power them on, and prove that they have their GPUs.

    A VM's name has one live run: when one runs already for the same request, this command follows it. Ctrl-C stops
    following, not the run. Exit status: 0 every VM is as asked for (or started, with --no-wait), 1 refused or failed.
    """
    settings = load_settings(config)
    request = _request(settings, file, options)
    if count > 1:
        order = vms_order(request, count, packed=packed, at_once=at_once, reason=reason)
        run_errand(settings, vms_errand(order), wait=wait, as_json=as_json)
        return
    if packed is not None or at_once is not None:
        raise BadRequest("--packed, --spread and --at-once are for several VMs; give --count too, or leave them out")
    _provision(settings, request, VmWork.PROVISION, reason, wait=wait, as_json=as_json)


@app.command("change")
@takes(GpuOptions)
def change_command(
    vm: VmArgument,
    config: Config,
    options: GpuOptions,
    vcenter: VCenterOption = None,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    as_json: Json = False,
) -> None:
    """Give VM other GPUs than it has: all that it is to have. Its disks, CPUs and memory stay.

    A VM that is on is shut down by its guest for that, and powered on again; this asks for approval. Exit status: 0 it
    has these GPUs (or started, with --no-wait), 1 refused, denied or failed.
    """
    settings = load_settings(config)
    with sessions(settings) as pools:
        state = _look(pools, locate_vm(pools, vm, vcenter))
    folder = vm.rpartition("/")[0] or None
    request = change_request(state, options, folder)
    _provision(settings, request, VmWork.CHANGE, reason, wait=wait, as_json=as_json)


@app.command("retire")
def retire_command(
    vm: VmArgument,
    config: Config,
    vcenter: VCenterOption = None,
    reason: ReasonOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")] = False,
    wait: WaitOption = True,
    as_json: Json = False,
) -> None:
    """Shut VM down, give its GPUs back, and delete it with its disks; this asks for approval.

    Exit status: 0 it is gone (or started, with --no-wait), 1 refused, denied or failed.
    """
    settings = load_settings(config)
    with sessions(settings) as pools:
        state = _look(pools, locate_vm(pools, vm, vcenter))
    ref = state.ref
    if not state.gpus and not state.made_by:
        raise BadRequest(f"{ref.name} has no GPU, and gpuwright did not make it; delete it in vCenter")
    if stderr.is_terminal and not yes:
        has = ", ".join(gpu_text(gpu) for gpu in state.gpus) or "no GPU"
        question = f"Ask for {ref.name} ({state.host_name or 'no host'}; {has}) to be deleted with its disks?"
        typer.confirm(question, err=True, abort=True)
    errand = _errand(
        workflow=names.RETIRE_GPU_VM,
        workflow_id=ids.retire_gpu_vm(ref.vcenter, ref.instance_uuid),
        order=RetireGpuVmInput(vm=ref, requester=me(), reason=reason),
        vm=(ref.vcenter, ref.name, ""),
        summary=f"retire {ref.name}",
        differs=lambda running: "",
        good=(VmOutcome.RETIRED, VmOutcome.ALREADY_RIGHT),
    )
    run_errand(settings, errand, wait=wait, as_json=as_json)


@app.command("list")
def list_command(
    config: Config,
    cluster: Annotated[str | None, typer.Option(help="Only this cluster, by name or moid.")] = None,
    vcenter: VCenterOption = None,
    as_json: Json = False,
) -> None:
    """List the VMs with GPU devices: where they are, what they asked for, and what they hold."""
    with sessions(load_settings(config)) as pools:
        rows = [row for fleet in read_fleets(pools, vcenter, cluster) for row in vm_rows(fleet)]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(VM_COLUMNS, [[_cell(row[column]) for column in VM_COLUMNS] for row in rows])
    else:
        say("No VM has a GPU device.")


def _cell(value: object) -> object:
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def _request(settings: Settings, file: Path | None, options: VmOptions) -> VmRequest:
    known = known_to(settings)
    if file == Path("-"):
        return vm_request(Path("standard input"), sys.stdin.read(), options, known)
    return vm_request(file, None, options, known)


def _look(pools: dict[str, SessionPool], ref: VmRef) -> VmState:
    with pools[ref.vcenter].session() as si:
        state = read_vm(si, ref)
    if state is None:
        raise BadRequest(f"VM {ref.name} has just gone from {ref.vcenter}")
    return state


def _provision(settings: Settings, request: VmRequest, work: VmWork, reason: str, *, wait: bool, as_json: bool) -> None:
    def differs(running: GpuVmReport) -> str:
        if running.work is not work:
            return f"there is a run to {running.work} {request.name}"
        return "" if running.request == request else f"there is a run to {work} {request.name} by another request"

    errand = _errand(
        workflow=names.PROVISION_GPU_VM,
        workflow_id=ids.provision_gpu_vm(request.vcenter, request.name),
        order=ProvisionGpuVmInput(request=request, requester=me(), reason=reason, work=work),
        vm=(request.vcenter, request.name, request.cluster if work is VmWork.PROVISION else ""),
        summary=f"{work} {request.name}",
        differs=differs,
        good=(VmOutcome.CHANGED if work is VmWork.CHANGE else VmOutcome.PROVISIONED, VmOutcome.ALREADY_RIGHT),
    )
    run_errand(settings, errand, wait=wait, as_json=as_json)


def _errand(
    *,
    workflow: str,
    workflow_id: str,
    order: Message,
    vm: tuple[str, str, str],
    summary: str,
    differs: Callable[[GpuVmReport], str],
    good: Collection[str],
) -> Errand[GpuVmReport]:
    """What the runs about VMs have in common; `vm` is its vCenter, its name and its cluster."""
    return Errand(
        workflow=workflow,
        workflow_id=workflow_id,
        order=order,
        report=GpuVmReport,
        summary=summary,
        attributes=search_attributes.of_vm(*vm),
        differs=differs,
        lines=lambda report: _lines(report, workflow_id),
        show=vm_report_text,
        good=good,
    )


def _lines(report: GpuVmReport, workflow_id: str) -> Iterator[tuple[str, str]]:
    """What there is to tell: each step as it begins and ends, and the run as a whole."""
    for record in report.steps:
        text = f": {record.text}" if record.text else ""
        yield f"{record.step.id} {record.started_at}", f"{record.step.kind} {record.status}{text}"
    text = f"{report.stage}: {report.detail}"
    if report.stage is VmStage.AWAITING_APPROVAL:
        text += approve_hint(workflow_id)
    yield "", text
