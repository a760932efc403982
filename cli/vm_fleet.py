"""Several GPU VMs in one request, as commands give it: the order, its errand, and how it is told of."""

from collections.abc import Iterator

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from cli.following import Errand
from cli.temporal import me
from contracts import ids, names, search_attributes
from contracts.errors import BadRequest
from contracts.vm_fleet import Arrangement, GpuVmsReport, ProvisionGpuVmsInput, VmProgress, VmsOutcome, VmTurn
from contracts.vms import VmRequest

__all__ = ["vms_errand", "vms_order", "vms_text"]


def vms_order(
    request: VmRequest, count: int, *, packed: bool | None, at_once: int | None, reason: str
) -> ProvisionGpuVmsInput:
    """The order for `count` VMs like `request`; None is the default. Raises `BadRequest` for what many cannot be."""
    fields: dict[str, object] = {"request": request, "count": count, "requester": me(), "reason": reason}
    if packed is not None:
        fields["arrangement"] = Arrangement.PACKED if packed else Arrangement.SPREAD
    if at_once is not None:
        fields["at_once"] = at_once
    try:
        return ProvisionGpuVmsInput.model_validate(fields)
    except ValidationError as error:
        told = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise BadRequest(f"--count {count}: {told}") from error


def vms_errand(order: ProvisionGpuVmsInput) -> Errand[GpuVmsReport]:
    """The run of such an order; one that is live is joined if it is for the same."""
    request = order.request

    def differs(running: GpuVmsReport) -> str:
        same = (running.request, running.count, running.arrangement) == (request, order.count, order.arrangement)
        return "" if same else f"there is a run for {running.count} VMs {request.name}-… by another request"

    return Errand(
        workflow=names.PROVISION_GPU_VMS,
        workflow_id=ids.provision_gpu_vms(request.vcenter, request.name),
        order=order,
        report=GpuVmsReport,
        summary=f"provision {order.count} VMs {request.name}-…",
        attributes=search_attributes.of_vm(request.vcenter, request.name, request.cluster),
        differs=differs,
        lines=_lines,
        show=vms_text,
        good=(VmsOutcome.PROVISIONED,),
    )


def vms_text(report: GpuVmsReport) -> RenderableType:
    """Where a request of several VMs stands or how it ended, with a line a VM."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("VM", "state", "outcome", "host", "address", "why"):
        table.add_column(column)
    for each in report.vms:
        why = "" if each.state is VmTurn.DONE else each.text
        cells = (each.name, each.state, each.outcome or each.error, each.host, each.ip_address, why)
        table.add_row(*map(escape, cells))
    title = (
        f"[bold]{report.count} VMs {escape(report.request.name)}-…[/] on {escape(report.request.vcenter)}, "
        f"{report.arrangement}: {report.outcome or report.stage}"
    )
    return Group(title, escape(report.detail), table)


def _lines(report: GpuVmsReport) -> Iterator[tuple[str, str]]:
    """What there is to tell, by subject: each VM that has its turn, and the run as a whole."""
    for each in report.vms:
        if each.state in (VmTurn.RUNNING, VmTurn.DONE, VmTurn.FAILED):
            yield each.name, _line(each)
    yield "", f"{report.stage}: {report.detail}"


def _line(each: VmProgress) -> str:
    if each.state is VmTurn.RUNNING:
        return f"{each.name}: {each.state} (gpuwright runs show {each.workflow_id})"
    return f"{each.name}: {each.outcome or each.state}{f': {each.text}' if each.text else ''}"
