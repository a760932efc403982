"""`gpuwright ha`: what HA can and cannot save, told before a host fails."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.markup import escape

from cli.output import Json, print_json, say
from cli.prepare import VCenterOption
from cli.serve import Config
from cli.session import locate_host, read_fleets, sessions
from cli.show import print_table, stdout
from contracts.errors import BadRequest
from contracts.fleet import GpuFleet
from contracts.forecast import HostForecast
from planning.capacity import forecast, forecasts, summary
from vsphere.inventory import host_index
from vsphere.sessions import SessionPool
from workers.settings import load_settings

__all__ = ["app"]

app = typer.Typer(help="See what vSphere HA can save of GPU VMs.", no_args_is_help=True)


@app.callback()
def _ha() -> None:
    """Keeps `forecast` a sub-command while it is the only one."""


@dataclass(frozen=True)
class _ClusterForecast:
    """The forecasts of one cluster, the worst first."""

    vcenter: str
    name: str
    moid: str
    hosts: tuple[HostForecast, ...]

    @property
    def line(self) -> str:
        return f"{self.name or 'hosts in no cluster'} ({self.vcenter}): {summary(self.hosts)}"


@app.command("forecast")
def forecast_command(
    config: Config,
    vcenter: VCenterOption = None,
    cluster: Annotated[str | None, typer.Option(help="Only this cluster, by name or moid.")] = None,
    host: Annotated[str | None, typer.Option(help="Only this host, with each of its VMs.")] = None,
    as_json: Json = False,
) -> None:
    """Show which GPU VMs would not come back if a host failed now, why, and how many GPUs are missing.

    HA's admission control knows nothing of GPUs. HA and DRS have the last word. Exit status: 0 all GPU VMs would come
    back, whichever host fails; 2 some would not; 1 an error.
    """
    with sessions(load_settings(config)) as pools:
        found = _of_host(pools, host, vcenter, cluster) if host else _of_clusters(pools, vcenter, cluster)
    if as_json:
        print_json([_document(each) for each in found])
    elif not found:
        say("No host has a GPU.")
    else:
        for each in found:
            _show(each, host is not None)
    raise typer.Exit(2 if any(one.lost for each in found for one in each.hosts) else 0)


def _of_clusters(pools: dict[str, SessionPool], vcenter: str | None, cluster: str | None) -> list[_ClusterForecast]:
    found = []
    for fleet in read_fleets(pools, vcenter, cluster):
        for name, moid in _subjects(fleet):
            found.append(_ClusterForecast(fleet.vcenter, name, moid, forecasts(fleet, moid)))
    return found


def _subjects(fleet: GpuFleet) -> Iterator[tuple[str, str]]:
    """Name and moid of each cluster; both empty for the hosts that are in none."""
    yield from sorted((cluster.name, cluster.moid) for cluster in fleet.clusters)
    if any(not host.cluster_moid for host in fleet.hosts):
        yield "", ""


def _of_host(
    pools: dict[str, SessionPool], host: str, vcenter: str | None, cluster: str | None
) -> list[_ClusterForecast]:
    ref = locate_host(pools, host, vcenter)
    with pools[ref.vcenter].session() as si:
        at = host_index(si, ref.vcenter).by_moid[ref.moid]
    if cluster is not None and cluster not in (at.cluster_name, at.cluster_moid):
        raise BadRequest(f"{ref.name} is in {at.cluster_name or 'no cluster'}, and not in {cluster!r}")
    (fleet,) = read_fleets(pools, ref.vcenter, at.cluster_moid or None)
    if all(known.ref.key != ref.key for known in fleet.hosts):
        raise BadRequest(f"{ref.name} has no GPU")
    one = forecast(fleet, at.cluster_moid, ref.key)
    return [_ClusterForecast(ref.vcenter, at.cluster_name, at.cluster_moid, (one,))]


def _show(found: _ClusterForecast, whole: bool) -> None:
    """The hosts in a table and the worst in full, or with `whole` the one host with all of its VMs."""
    if found.hosts and not whole:
        rows = [(each.host.name, len(each.vms), each.lost, _short(each) or "none") for each in found.hosts]
        print_table(("host", "GPU VMs", "would not come back", "missing GPUs"), rows)
    if found.hosts and (whole or found.hosts[0].lost):
        worst = found.hosts[0]
        if not whole:
            stdout.print(f"\n[bold]If {escape(worst.host.name)} fails:[/]")
        vms = [
            (vm.name, vm.restart_priority, "yes" if vm.comes_back else f"no: {vm.reason}", vm.text)
            for vm in worst.vms
            if whole or not vm.comes_back
        ]
        print_table(("VM", "priority", "comes back", "why"), vms)
    say(found.line)


def _short(each: HostForecast) -> str:
    return ", ".join(f"{short.missing} × {short.kind}" for short in each.shortages if short.missing)


def _document(found: _ClusterForecast) -> dict[str, object]:
    return {
        "vcenter": found.vcenter,
        "cluster": found.name,
        "cluster_moid": found.moid,
        "summary": summary(found.hosts),
        "hosts": [each.model_dump(mode="json") | {"lost": each.lost} for each in found.hosts],
    }
