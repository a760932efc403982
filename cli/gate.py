"""`gpuwright gate`: which hosts may be down for work now, and who waits."""

from typing import Annotated

import typer
from temporalio.client import Client, WorkflowExecution

from cli.asking import PATIENCE, ask_each
from cli.output import Json, print_json, say
from cli.serve import Config
from cli.show import print_table
from cli.temporal import with_temporal
from contracts import names
from contracts.errors import BadRequest
from contracts.gate import GateStatus
from workers.settings import load_settings
from workflows.cluster_gate import ClusterGate

__all__ = ["app"]

app = typer.Typer(help="See which hosts may be down for work, and who waits for that.", no_args_is_help=True)


@app.callback()
def _gate() -> None:
    """Keeps `status` a sub-command while it is the only one."""


@app.command("status")
def status_command(
    config: Config,
    cluster: Annotated[str | None, typer.Option(help="Only this cluster, by name or moid.")] = None,
    as_json: Json = False,
) -> None:
    """Show leases, the queue and why its first waits, for each cluster where hosts are worked on."""
    gates = with_temporal(load_settings(config), _gates)
    if cluster is not None:
        found = [gate for gate in gates if cluster in (gate.cluster_name, gate.cluster_moid)]
        if gates and not found:
            known = ", ".join(sorted(gate.cluster_name for gate in gates))
            raise BadRequest(f"nobody works on hosts of a cluster {cluster!r} now; gates are open for: {known}")
        gates = found
    if as_json:
        print_json(gates)
        return
    if not gates:
        say("No host is leased for work, and nobody waits.")
    for gate in gates:
        _show(gate)


async def _gates(client: Client) -> list[GateStatus]:
    """The status of every gate that is open and answers."""

    async def ask(run: WorkflowExecution) -> GateStatus:
        handle = client.get_workflow_handle(run.id, run_id=run.run_id)
        return await handle.query(ClusterGate.status, rpc_timeout=PATIENCE)

    query = f'WorkflowType = "{names.CLUSTER_GATE}" AND ExecutionStatus = "Running"'
    return sorted(await ask_each(client, query, ask), key=lambda gate: (gate.vcenter, gate.cluster_name))


def _show(gate: GateStatus) -> None:
    say(f"{gate.vcenter}/{gate.cluster_name}: {len(gate.leases)} of {gate.hosts_down} leased", style="bold")
    if gate.trouble:
        say(f"in trouble: {gate.trouble}", style="red")
    rows: list[tuple[object, ...]] = [
        (
            lease.request.host.name,
            "leased",
            f"{lease.granted_at:%Y-%m-%d %H:%M:%S}",
            lease.request.workflow_id,
            lease.kept,
        )
        for lease in gate.leases
    ]
    for place, request in enumerate(gate.queue):
        why = "" if place else gate.waiting
        asked = f"{request.requested_at:%Y-%m-%d %H:%M:%S}"
        rows.append((request.host.name, "waits", asked, request.workflow_id, why))
    if rows:
        print_table(("host", "state", "since (UTC)", "holder", "why"), rows)
    for line in (*gate.down, *gate.notes):
        say(f"- {line}")
