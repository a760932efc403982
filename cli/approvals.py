"""`gpuwright approvals`: see what waits for a decision, and decide."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.markup import escape
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from cli.asking import PATIENCE, ask_each
from cli.output import Json, print_json, say
from cli.serve import Config
from cli.show import approval_text, print_table, stderr, stdout
from cli.temporal import me, with_temporal
from contracts import ids
from contracts.approvals import Approval, ApprovalState, Decision, DecisionClaims, Verdict
from contracts.errors import BadRequest, Conflict, Unreachable
from contracts.plan import Risk
from contracts.signing import sign
from workers.keys import load_private_key
from workers.settings import load_settings
from workflows.prepare_gpu_host import PrepareGpuHost

__all__ = ["app"]

app = typer.Typer(help="See and decide what waits for approval.", no_args_is_help=True)

_GRANT_LIFETIME = timedelta(hours=24)
_UPDATE_TRIES = 3
_UPDATE_TIMEOUT = timedelta(seconds=10)

RunArgument = Annotated[str, typer.Argument(help="The run's workflow ID, or the name of its host, cluster or VM.")]
KeyOption = Annotated[
    Path, typer.Option("--key", envvar="GPUWRIGHT_KEY", help="Your private key (see `gpuwright keys new`).")
]
CommentOption = Annotated[str, typer.Option(help="Kept with the decision.")]
HashOption = Annotated[
    str | None, typer.Option("--hash", help="Decide only if the plan still has this hash; needed without a terminal.")
]


@app.command("list")
def list_command(config: Config, as_json: Json = False) -> None:
    """List the plans that wait for a decision."""
    approvals = with_temporal(load_settings(config), pending)
    if as_json:
        print_json(approvals)
    elif approvals:
        columns = ("subject", "asked by", "disruptive steps", "until (UTC)", "plan", "run")
        print_table(columns, [_row(approval) for approval in approvals])
    else:
        say("Nothing waits for a decision.")


def _row(approval: Approval) -> list[object]:
    risky = sum(step.risk is not Risk.SAFE for step in approval.plan.steps)
    until = f"{approval.deadline:%Y-%m-%d %H:%M}"
    return [approval.subject, approval.requester, risky, until, approval.plan_hash, approval.workflow_id]


@app.command("show")
def show_command(run: RunArgument, config: Config, as_json: Json = False) -> None:
    """Show one plan that waits for a decision."""
    approval = with_temporal(load_settings(config), lambda client: _find(client, run))
    if as_json:
        print_json(approval)
    else:
        stdout.print(approval_text(approval))


@app.command("approve")
def approve_command(
    run: RunArgument,
    config: Config,
    key: KeyOption,
    plan_hash: HashOption = None,
    comment: CommentOption = "",
    as_json: Json = False,
) -> None:
    """Approve exactly the plan that is shown. On a terminal you are asked once more."""
    _decide(run, Verdict.APPROVE, config, key, plan_hash, comment, as_json)


@app.command("deny")
def deny_command(
    run: RunArgument,
    config: Config,
    key: KeyOption,
    plan_hash: HashOption = None,
    comment: CommentOption = "",
    as_json: Json = False,
) -> None:
    """Deny a plan; its run ends and leaves everything as it is."""
    _decide(run, Verdict.DENY, config, key, plan_hash, comment, as_json)


async def pending(client: Client) -> list[Approval]:
    """Every approval that waits, oldest first. Runs whose worker is away are named on standard error."""

    async def ask(run: WorkflowExecution) -> Approval | None:
        handle = client.get_workflow_handle(run.id, run_id=run.run_id)
        return await handle.query(PrepareGpuHost.approval, rpc_timeout=PATIENCE)

    asked = await ask_each(client, 'GpuApproval = "pending" AND ExecutionStatus = "Running"', ask)
    waiting = [approval for approval in asked if approval and approval.state is ApprovalState.PENDING]
    return sorted(waiting, key=lambda approval: approval.asked_at)


async def _find(client: Client, run: str) -> Approval:
    """The approval of a run, by workflow ID or by what it is about; raises `BadRequest` or `Conflict`."""
    if "/" in run:
        try:
            approval = await client.get_workflow_handle(run).query(PrepareGpuHost.approval)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise BadRequest(f"there is no run {run!r}; see `gpuwright approvals list`") from error
            raise Unreachable(f"{run}: {error.message}") from error
        if approval is None:
            raise Conflict(f"{run} has not asked for anything")
        return approval
    matching = [approval for approval in await pending(client) if run in _names(approval)]
    if len(matching) != 1:
        many = "several runs wait" if matching else "nothing waits"
        raise BadRequest(f"{many} for a decision on {run!r}; see `gpuwright approvals list` for workflow IDs")
    return matching[0]


def _names(approval: Approval) -> set[str]:
    """What the run is about: `host esx-01 …` is about esx-01; names of VMs may have spaces, and are in the ID whole."""
    try:
        subject = ids.parse(approval.workflow_id).subject
    except ValueError:
        # A run that somebody started by hand under a name of their own.
        subject = approval.workflow_id
    return {*approval.subject.split()[1:2], subject}


def _decide(
    run: str, verdict: Verdict, config: Path, key: Path, plan_hash: str | None, comment: str, as_json: bool
) -> None:
    settings, signing_key = load_settings(config), load_private_key(key)

    async def work(client: Client) -> Approval:
        approval = await _find(client, run)
        if plan_hash is None:
            stderr.print(approval_text(approval))
            _confirm(verdict)
        return await decide(client, approval, verdict, signing_key, plan_hash=plan_hash, comment=comment)

    approval = with_temporal(settings, work)
    if as_json:
        print_json(approval)
    else:
        stdout.print(f"{escape(approval.subject)}: {approval.state} by {escape(approval.approver)}")


def _confirm(verdict: Verdict) -> None:
    if not stderr.is_terminal:
        raise BadRequest("without a terminal, say which plan you mean: --hash from `gpuwright approvals list`")
    if not typer.confirm(f"{verdict.capitalize()} this plan?", err=True):
        raise typer.Abort


async def decide(
    client: Client,
    approval: Approval,
    verdict: Verdict,
    key: Ed25519PrivateKey,
    *,
    plan_hash: str | None = None,
    comment: str = "",
) -> Approval:
    """Sign a decision and give it to the run; raises `Conflict` with the run's own words when it does not count.

    A call that times out may still have counted, so it is asked again with the same update ID, which counts once.
    """
    now = datetime.now(UTC)
    claims = DecisionClaims(
        workflow_id=approval.workflow_id,
        run_id=approval.run_id,
        plan_hash=plan_hash or approval.plan_hash,
        verdict=verdict,
        approver=me(),
        comment=comment,
        nonce=uuid.uuid4().hex,
        decided_at=now,
        expires_at=now + _GRANT_LIFETIME,
    )
    handle = client.get_workflow_handle(approval.workflow_id, run_id=approval.run_id)
    for _ in range(_UPDATE_TRIES):
        try:
            return await handle.execute_update(
                PrepareGpuHost.decide,
                Decision(token=sign(claims, key)),
                id=claims.nonce,
                rpc_timeout=_UPDATE_TIMEOUT,
            )
        except WorkflowUpdateFailedError as error:
            raise Conflict(f"{approval.workflow_id}: {error.cause}") from error
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            stderr.print("No answer yet, so it is unknown whether the decision counted; asking again.")
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise Conflict(f"{approval.workflow_id} has ended; nothing waits for a decision") from error
            raise Unreachable(f"{approval.workflow_id}: {error.message}") from error
    raise Unreachable(
        f"{approval.workflow_id}: no worker answered, so it is unknown whether the decision counts; "
        "see `gpuwright approvals list` when a worker runs again"
    )
