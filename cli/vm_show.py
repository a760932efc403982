"""GPU VMs, where they could run and what becomes of them, as people read it on a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from cli.show import plan_text, record_text
from contracts.fleet import FleetVm, GpuFleet, VmGpu
from contracts.machine import HostFit, Placement
from contracts.plan import Plan
from contracts.provision import GpuVmReport, VmPlan, VmWork
from planning.gpu_models import pair_words

__all__ = ["VM_COLUMNS", "gpu_text", "placement_text", "vm_plan_text", "vm_report_text", "vm_rows"]

_NAMED = 6
"""So many hosts of a group are named."""
_RIGHT = {
    VmWork.PROVISION: "the VM is there and is as asked for",
    VmWork.CHANGE: "the VM has these GPUs already",
    VmWork.RETIRE: "there is no such VM any more",
    VmWork.UNDO: "this run has left nothing behind",
}
_CANNOT = "what it cannot do: "
"""How the planner begins such notes; they have a list of their own here."""
VM_COLUMNS = ("name", "vcenter", "cluster", "host", "power", "gpus", "assigned", "instance_uuid")


def vm_plan_text(look: VmPlan, title: str, work: VmWork) -> RenderableType:
    """What one look saw and decided: placement, steps, limits and what is in the way."""
    parts: list[RenderableType] = [f"[bold]{escape(title)}[/]"]
    if look.placement.hosts:
        parts += ["", placement_text(look.placement)]
    parts += ["", plan_text(_without_limits(look.plan), _RIGHT[work])]
    parts += _listed("What such a VM cannot do:", look.cannot)
    return Group(*parts)


def placement_text(placement: Placement) -> RenderableType:
    """Which hosts could take the VM, the best first, and why the others could not: a line a reason."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("hosts", "could take it", "GPUs it would get, or why not"):
        table.add_column(column)
    for fit in placement.fitting:
        table.add_row(escape(fit.host.name), "[green]yes[/]", escape(", ".join(fit.sbdfs)))
    for why, hosts in _by_reason(placement).items():
        table.add_row(escape(_names(hosts)), "[yellow]no[/]", escape(why))
    room = f"Room for {placement.room} such VM{'' if placement.room == 1 else 's'} now."
    return Group(table, room)


def vm_report_text(report: GpuVmReport) -> RenderableType:
    """Where a run stands or how it ended."""
    parts: list[RenderableType] = [
        f"[bold]{escape(report.name)}[/] on {escape(report.vcenter)}: {report.work}: {report.outcome or report.stage}"
    ]
    if report.detail:
        parts.append(escape(report.detail))
    where = [f"host {report.host}"] if report.host else []
    where += [f"address {report.ip_address}"] if report.ip_address else []
    where += [f"instance UUID {report.vm.instance_uuid}"] if report.vm else []
    if where:
        parts.append(escape(", ".join(where)))
    parts += [record_text(record) for record in report.steps]
    if report.placement.hosts and not report.placement.fitting:
        parts.append(placement_text(report.placement))
    if report.plan and not report.plan.done:
        parts.append(plan_text(_without_limits(report.plan)))
    parts += _listed("Proven:", report.proof, "[green]✔[/]")
    parts += _listed("Given back:", report.freed)
    parts += _listed("What it cannot do:", report.cannot)
    return Group(*parts)


def vm_rows(fleet: GpuFleet) -> list[dict[str, object]]:
    """The GPU VMs of a vCenter, by cluster and name, as rows for `--json` and, by `VM_COLUMNS`, for a table."""
    hosts = {host.ref.moid: host for host in fleet.hosts}
    clusters = {cluster.moid: cluster.name for cluster in fleet.clusters}
    rows: list[dict[str, object]] = []
    for vm in fleet.vms:
        host = hosts.get(vm.host_moid)
        rows.append(
            {
                "name": vm.name,
                "vcenter": fleet.vcenter,
                "cluster": clusters.get(host.cluster_moid, "") if host else "",
                # A VM that is off may be on a host without GPUs, which is not part of what was read.
                "host": host.ref.name if host else vm.host_moid,
                "power": _power(vm),
                "gpus": [gpu_text(gpu) for gpu in vm.gpus],
                "assigned": [gpu.assigned for gpu in vm.gpus if gpu.assigned],
                "instance_uuid": vm.instance_uuid,
            }
        )
    return sorted(rows, key=lambda row: (str(row["cluster"]), str(row["name"])))


def gpu_text(gpu: VmGpu) -> str:
    """One GPU device as options write it: `vgpu nvidia_a40-24c`, `dynamic 10de:20f1,label=Training`."""
    if gpu.kind == "dynamic":
        return f"dynamic {pair_words(gpu.allowed)}" + (f",label={gpu.label}" if gpu.label else "")
    return f"{gpu.kind} {gpu.profile or gpu.sbdf}".strip()


def _power(vm: FleetVm) -> str:
    if vm.template:
        return "template"
    if vm.connection_state != "connected":
        return vm.connection_state
    return "on" if vm.powered_on else "off"


def _by_reason(placement: Placement) -> dict[str, list[HostFit]]:
    """The hosts that cannot take it by their reason, those of the commonest one first."""
    found: dict[str, list[HostFit]] = {}
    for fit in placement.hosts:
        if not fit.fits:
            found.setdefault(fit.why, []).append(fit)
    return dict(sorted(found.items(), key=lambda each: -len(each[1])))


def _names(hosts: Sequence[HostFit]) -> str:
    more = f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else ""
    return ", ".join(fit.host.name for fit in hosts[:_NAMED]) + more


def _without_limits(plan: Plan) -> Plan:
    return plan.model_copy(update={"notes": tuple(note for note in plan.notes if not note.startswith(_CANNOT))})


def _listed(title: str, lines: Sequence[str], mark: str = "-") -> list[RenderableType]:
    return ["", title, *(f"{mark} {escape(line)}" for line in lines)] if lines else []
