"""`gpuwright fleet`: the matrix of hosts and GPUs, with the mode, the label and the users of each."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.output import Json, print_json, say
from cli.prepare import VCenterOption
from cli.session import read_fleets, sessions
from cli.show import print_table, stdout
from contracts.errors import BadRequest
from contracts.fleet import FleetGpu, FleetHost, GpuFleet
from planning.gpu_models import GPU_MODELS
from workers.settings import load_settings

__all__ = ["Cell", "GpuState", "cells", "fleet_matrix", "matrix_summary", "matrix_table"]

_COLUMNS = ("vcenter", "cluster", "host", "host_state", "gpu", "model", "mode", "label", "in_force", "users")

_NAME = 32
"""Names of hosts up to so long stay on one line of a terminal."""


class GpuState(StrEnum):
    """What GPUs can be chosen by; one GPU may be several of these."""

    FREE = "free"
    """In passthrough or shared, nobody on it, on a host that can start VMs, and no reboot to come for it."""
    IN_USE = "in-use"
    PENDING = "pending"
    """What is configured is not in force: a reboot is to come."""
    DEFAULT = "default"
    """Neither in passthrough nor shared: no VM can have it."""
    OUT = "out"
    """Its host is in maintenance, in standby or not connected."""


@dataclass(frozen=True)
class Cell:
    """A GPU of the matrix."""

    vcenter: str
    cluster: str
    host: FleetHost
    gpu: FleetGpu
    users: tuple[str, ...]
    """Names of the powered-on VMs that hold it or a share of it."""

    @property
    def host_state(self) -> str:
        """`maintenance`, `standby`, or `runtime.connectionState`."""
        if self.host.in_maintenance:
            return "maintenance"
        return "standby" if self.host.standby else self.host.connection_state

    @property
    def mode(self) -> str:
        """The mode in force: `passthrough`, `vGPU`, `MIG` or `default`."""
        if self.gpu.passthru_active:
            return "passthrough"
        if self.gpu.active_type != "sharedDirect":
            return "default"
        return "MIG" if self.gpu.vgpu_mode == "multiInstanceGpu" else "vGPU"

    @property
    def model(self) -> str:
        """What people call it."""
        known = GPU_MODELS.get(self.gpu.vendor_device)
        return known.name if known else self.gpu.name or self.gpu.vendor_device

    @property
    def states(self) -> frozenset[GpuState]:
        """Everything that it is."""
        out = self.host_state != "connected"
        found = {
            GpuState.OUT: out,
            GpuState.IN_USE: bool(self.gpu.vm_moids),
            GpuState.PENDING: self.gpu.pending,
            GpuState.DEFAULT: self.mode == "default",
            GpuState.FREE: not (out or self.gpu.vm_moids or self.gpu.pending or self.mode == "default"),
        }
        return frozenset(state for state, holds in found.items() if holds)


def fleet_matrix(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="GPUWRIGHT_CONFIG", help="The settings file (YAML).")
    ] = None,
    vcenter: VCenterOption = None,
    cluster: Annotated[str | None, typer.Option(help="Only this cluster, by name or moid.")] = None,
    label: Annotated[str | None, typer.Option(help="Only GPUs with this hardware label; '' for those without.")] = None,
    state: Annotated[GpuState | None, typer.Option(help="Only these; out: on hosts that are out of service.")] = None,
    as_json: Json = False,
) -> None:
    """Show hosts × GPUs: the mode in force, the label, what waits for a reboot, and who uses them.

    On a terminal alike GPUs of a host share a line; elsewhere each GPU has one, with tabs.
    """
    if context.invoked_subcommand is not None:
        if vcenter is not None or cluster is not None or label is not None or state is not None or as_json:
            raise BadRequest(f"put the options after `fleet {context.invoked_subcommand}`")
        return
    if config is None:
        raise typer.BadParameter("is missing; give --config, or set GPUWRIGHT_CONFIG", param_hint="'--config' / '-c'")
    with sessions(load_settings(config)) as pools:
        fleets = read_fleets(pools, vcenter, cluster)
    found = [
        cell
        for fleet in fleets
        for cell in cells(fleet)
        if label in (None, cell.gpu.label) and (state is None or state in cell.states)
    ]
    if as_json:
        print_json([_row(cell) for cell in found])
        return
    if not found:
        say("No host has a GPU." if label is None and state is None else "No GPU is like that.")
        return
    if not sys.stdout.isatty():
        print_table(_COLUMNS, [_plain(cell) for cell in found])
    else:
        for (owner, name), each in groupby(found, lambda cell: (cell.vcenter, cell.cluster)):
            stdout.print(f"[bold]{escape(name or 'Hosts in no cluster')}[/] ({escape(owner)})")
            stdout.print(matrix_table(list(each)))
    say(matrix_summary(found))


def cells(fleet: GpuFleet) -> Iterator[Cell]:
    """Every GPU of a vCenter, by cluster, host and address."""
    clusters = {cluster.moid: cluster.name for cluster in fleet.clusters}
    vms = {vm.moid: vm.name for vm in fleet.vms}
    for host in sorted(fleet.hosts, key=lambda host: (clusters.get(host.cluster_moid, ""), host.ref.name)):
        for gpu in sorted(host.gpus, key=lambda gpu: gpu.sbdf):
            # Somebody whose devices could not be read is told by the moid.
            users = tuple(sorted(vms.get(moid, moid) for moid in gpu.vm_moids))
            yield Cell(fleet.vcenter, clusters.get(host.cluster_moid, ""), host, gpu, users)


def matrix_table(found: Sequence[Cell]) -> Table:
    """Hosts of one cluster, with a line for the GPUs of a host that are alike."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    # Long names are folded, never cut.
    longest = max((len(cell.host.ref.name) for cell in found), default=0)
    table.add_column("host", no_wrap=longest <= _NAME, overflow="fold")
    for column in ("GPUs", "mode", "label"):
        table.add_column(column, no_wrap=True)
    table.add_column("free", justify="right")
    table.add_column("users", overflow="fold")
    for _, of_host in groupby(found, lambda cell: cell.host.ref.moid):
        groups: dict[tuple[str, str, str, bool], list[Cell]] = {}
        for cell in of_host:
            groups.setdefault((cell.model, cell.mode, cell.gpu.label, cell.gpu.pending), []).append(cell)
        for number, ((model, mode, label, pending), alike) in enumerate(groups.items()):
            table.add_row(
                "" if number else _host(alike[0]),
                f"{len(alike)}× {escape(model)}",
                mode + ("\n[yellow]pending[/]" if pending else ""),
                escape(label),
                str(_count(alike, GpuState.FREE)),
                escape(", ".join(dict.fromkeys(user for cell in alike for user in cell.users))),
            )
    return table


def matrix_summary(found: Sequence[Cell]) -> str:
    """The matrix in a line."""
    hosts = {(cell.vcenter, cell.host.ref.moid): cell.host_state for cell in found}
    out = sum(state != "connected" for state in hosts.values())
    counts = ", ".join(
        f"{_count(found, state)} {words}"
        for state, words in (
            (GpuState.IN_USE, "in use"),
            (GpuState.FREE, "free"),
            (GpuState.PENDING, "pending"),
            (GpuState.DEFAULT, "in default mode"),
        )
    )
    many = f"{len(hosts)} host{'' if len(hosts) == 1 else 's'}" + (f" ({out} out of service)" if out else "")
    return f"{many}, {len(found)} GPU{'' if len(found) == 1 else 's'}: {counts}"


def _count(found: Iterable[Cell], state: GpuState) -> int:
    return sum(state in cell.states for cell in found)


def _host(cell: Cell) -> str:
    name = escape(cell.host.ref.name)
    return name if cell.host_state == "connected" else f"{name}\n[yellow]{escape(cell.host_state)}[/]"


def _row(cell: Cell) -> dict[str, object]:
    return {
        "vcenter": cell.vcenter,
        "cluster": cell.cluster,
        "host": cell.host.ref.name,
        "host_moid": cell.host.ref.moid,
        "host_state": cell.host_state,
        "sbdf": cell.gpu.sbdf,
        "vendor_device": cell.gpu.vendor_device,
        "model": cell.model,
        "framebuffer_mib": cell.gpu.framebuffer_mib,
        "mode": cell.mode,
        "label": cell.gpu.label,
        "pending": cell.gpu.pending,
        "states": sorted(cell.states),
        "profiles": list(cell.gpu.profiles),
        "users": list(cell.users),
        "vm_moids": list(cell.gpu.vm_moids),
    }


def _plain(cell: Cell) -> tuple[str, ...]:
    return (
        cell.vcenter,
        cell.cluster,
        cell.host.ref.name,
        cell.host_state,
        cell.gpu.sbdf,
        cell.model,
        cell.mode,
        cell.gpu.label,
        "pending" if cell.gpu.pending else "active",
        ", ".join(cell.users),
    )
