"""`gpuwright runs`: see runs, help those that wait for a person, and pause rollouts."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import RenderableType
from rich.markup import escape
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from cli.audit_show import audit_report_text
from cli.output import Json, print_json, say
from cli.serve import Config
from cli.show import cluster_text, print_table, report_text, stdout
from cli.temporal import me, with_temporal
from cli.vm_fleet import vms_text
from cli.vm_show import vm_report_text
from contracts import names, search_attributes
from contracts.approvals import Resolution, Resolve
from contracts.audit import HaRecoveryAuditReport
from contracts.cluster import Pause, PrepareGpuClusterReport
from contracts.errors import BadRequest, Conflict, Unreachable
from contracts.prepare import PrepareGpuHostReport
from contracts.provision import GpuVmReport
from contracts.vm_fleet import GpuVmsReport
from workers.settings import load_settings

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(help="See runs, and help those that wait for a person.", no_args_is_help=True)

_TYPES = (
    names.PREPARE_GPU_HOST,
    names.PREPARE_GPU_CLUSTER,
    names.PROVISION_GPU_VM,
    names.PROVISION_GPU_VMS,
    names.RETIRE_GPU_VM,
    names.HA_RECOVERY_AUDIT,
)
_REPORTS: dict[str, tuple[type[Any], Callable[[Any], RenderableType]]] = {
    "prepare-gpu-host": (PrepareGpuHostReport, report_text),
    "prepare-gpu-cluster": (PrepareGpuClusterReport, cluster_text),
    "provision-gpu-vm": (GpuVmReport, vm_report_text),
    "provision-gpu-vms": (GpuVmsReport, vms_text),
    "retire-gpu-vm": (GpuVmReport, vm_report_text),
    "ha-recovery-audit": (HaRecoveryAuditReport, audit_report_text),
}
"""How a run is asked and shown, by the first part of its workflow ID."""

RunArgument = Annotated[str, typer.Argument(help="The run's workflow ID (`gpuwright runs list`).")]


@app.command("list")
def list_command(
    config: Config,
    all_: Annotated[bool, typer.Option("--all", help="Include the ended ones.")] = False,
    as_json: Json = False,
) -> None:
    """List runs about hosts, clusters and VMs, newest first."""

    async def work(client: Client) -> list[dict[str, Any]]:
        types = ", ".join(f'"{each}"' for each in _TYPES)
        query = f"WorkflowType IN ({types})" + ("" if all_ else ' AND ExecutionStatus = "Running"')
        rows = []
        async for run in client.list_workflows(query):
            found = run.typed_search_attributes
            rows.append(
                {
                    "workflow_id": run.id,
                    "run_id": run.run_id,
                    "status": run.status.name.lower() if run.status else "",
                    "host": found.get(search_attributes.GPU_HOST),
                    "cluster": found.get(search_attributes.GPU_CLUSTER),
                    "vm": found.get(search_attributes.GPU_VM),
                    "stage": found.get(search_attributes.GPU_STAGE),
                    "approval": found.get(search_attributes.GPU_APPROVAL),
                    "started": run.start_time.isoformat(),
                }
            )
        return rows

    rows = with_temporal(load_settings(config), work)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No runs.")
        return
    columns = ("host", "cluster", "vm", "status", "stage", "approval", "started", "workflow_id")
    print_table(columns, [[row[column] or "" for column in columns] for row in rows])


@app.command("show")
def show_command(run: RunArgument, config: Config, as_json: Json = False) -> None:
    """Show where a run stands, or how it ended."""

    kind, text = _REPORTS.get(run.partition("/")[0], _REPORTS["prepare-gpu-host"])

    async def work(client: Client) -> Any:
        return await client.get_workflow_handle(run).query(names.QUERY_REPORT, result_type=kind)

    report = with_temporal(load_settings(config), _told(run, work))
    if as_json:
        print_json(report)
    else:
        stdout.print(text(report))


@app.command("resolve")
def resolve_command(
    run: RunArgument,
    resolution: Annotated[Resolution, typer.Argument(help="retry the failed step, or give up and end the run.")],
    config: Config,
    comment: Annotated[str, typer.Option(help="Kept with the resolution.")] = "",
) -> None:
    """Say what to do about a failed step."""
    message = Resolve(resolution=resolution, by=me(), comment=comment)

    async def work(client: Client) -> None:
        await client.get_workflow_handle(run).execute_update(names.RESOLVE, message)

    with_temporal(load_settings(config), _told(run, work))
    stdout.print(f"{escape(run)}: {resolution}")


@app.command("recheck")
def recheck_command(run: RunArgument, config: Config) -> None:
    """Let a blocked run look again now."""

    async def work(client: Client) -> None:
        await client.get_workflow_handle(run).signal(names.RECHECK)

    with_temporal(load_settings(config), _told(run, work))
    stdout.print(f"{escape(run)} looks again.")


@app.command("pause")
def pause_command(run: RunArgument, config: Config) -> None:
    """Let the preparation of a cluster start no other host; those that run go on."""
    _pause(run, config, names.PAUSE)
    stdout.print(f"{escape(run)} starts no other host until: gpuwright runs resume {escape(run)}")


@app.command("resume")
def resume_command(run: RunArgument, config: Config) -> None:
    """Let a paused preparation of a cluster go on."""
    _pause(run, config, names.RESUME)
    stdout.print(f"{escape(run)} goes on.")


def _pause(run: str, config: Path, signal: str) -> None:
    if not _is_cluster(run):
        raise BadRequest(f"only preparations of clusters can be paused, and {run!r} is none; see `gpuwright runs list`")

    async def work(client: Client) -> None:
        await client.get_workflow_handle(run).signal(signal, Pause(by=me()))

    with_temporal(load_settings(config), _told(run, work))


def _is_cluster(run: str) -> bool:
    return run.startswith("prepare-gpu-cluster/")


@app.command("cancel")
def cancel_command(run: RunArgument, config: Config) -> None:
    """End a run at its next safe point; the run says how it left its host or VM."""

    async def work(client: Client) -> None:
        await client.get_workflow_handle(run).cancel()

    with_temporal(load_settings(config), _told(run, work))
    stdout.print(f"{escape(run)} is being cancelled.")


def _told(run: str, work: Callable[[Client], Awaitable[T]]) -> Callable[[Client], Awaitable[T]]:
    """`work` with Temporal's refusals in words."""

    async def told(client: Client) -> T:
        try:
            return await work(client)
        except WorkflowUpdateFailedError as error:
            raise Conflict(f"{run}: {error.cause}") from error
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise BadRequest(f"there is no such run {run!r}, or it has ended; see `gpuwright runs list`") from error
            raise Unreachable(f"{run}: {error.message}") from error

    return told
