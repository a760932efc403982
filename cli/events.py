"""`gpuwright events`: vCenter's events as they come, and those that could not be handed over."""

import json
import re
import sys
import uuid
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.markup import escape
from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from cli.asking import Silence
from cli.event_tail import EventFilter, Told, tail
from cli.output import Json, fail, print_json, say
from cli.prepare import VCenterOption
from cli.serve import Config
from cli.session import chosen_pools, sessions
from cli.show import print_table, stderr
from cli.temporal import with_temporal
from cli.watch import statuses
from contracts import ids, names
from contracts.errors import BadRequest, Conflict, Unreachable
from contracts.watch import QuarantinedEvent, Redrive, RedriveResult, WatchStatus
from vsphere.events import RawEvent
from workers.settings import load_settings

__all__ = ["app"]

app = typer.Typer(help="See vCenter's events, and those that could not be handed over.", no_args_is_help=True)

_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_UPDATE_TIMEOUT = timedelta(seconds=60)
_UPDATE_TRIES = 10


@app.command("tail")
def tail_command(
    config: Config,
    vcenter: VCenterOption = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only types, or IDs of an EventEx, like this: 'Host*', '*vmotion*'.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Only events of hosts whose name is like this.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Only events of clusters whose name is like this.")] = None,
    vm: Annotated[str | None, typer.Option(help="Only events of VMs whose name is like this.")] = None,
    since: Annotated[str, typer.Option(help="Begin so long ago: 90s, 10m, 2h, 1d; 0s for new events only.")] = "10m",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until Ctrl-C.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document a line.")] = False,
) -> None:
    """Show events as vCenter has them, a line each: of every vCenter, or of one. Ctrl-C ends it, with exit status 0.

    Broken events are shown whatever is asked for. Only vCenter is asked, not the watches.
    """
    span, wanted = _span(since), EventFilter(kind, host, cluster, vm)
    failed = False
    with sessions(load_settings(config)) as pools:
        chosen = chosen_pools(pools, vcenter)
        with closing(tail(chosen, span, wanted, follow=follow)) as stream:
            try:
                for told in stream:
                    failed |= told.failed
                    _tell(told, as_json=as_json, many=len(chosen) > 1)
            except KeyboardInterrupt:
                stderr.print("ended")
                return
    if failed:
        raise typer.Exit(1)


@app.command("quarantine")
def quarantine_command(
    config: Config,
    vcenter: VCenterOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Show what came over the wire, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the events that could not be handed over, oldest first. Exit status 1 where a watch does not answer."""
    settings = load_settings(config)
    found = with_temporal(settings, lambda client: statuses(client, settings, vcenter))
    silent = {name: status.why for name, status in found.items() if isinstance(status, Silence)}
    events = [
        (name, e) for name, status in found.items() if isinstance(status, WatchStatus) for e in status.quarantined
    ]
    if as_json:
        print_json([{"vcenter": name, **event.model_dump(mode="json")} for name, event in events])
    elif events:
        print_table(("vCenter", "key", "type", "created (UTC)", "reason"), [_row(name, e) for name, e in events])
        for _, event in events if raw else ():
            say(f"{event.key}: {_line(event.raw)}")
    elif not silent:
        say("No event is quarantined.")
    for name, why in silent.items():
        fail(f"the watch of {name} does not answer: {why}")
    if silent:
        raise typer.Exit(1)


@app.command("redrive", context_settings={"ignore_unknown_options": True})
def redrive_command(
    vcenter: Annotated[str, typer.Argument(help="The vCenter's name.", show_default=False)],
    config: Config,
    keys: Annotated[
        list[int] | None,
        typer.Argument(help="Keys of quarantined events; -1 for all whose key could not be read.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every quarantined event.")] = False,
    as_json: Json = False,
) -> None:
    """Hand quarantined events over after all, when what kept them back was mended.

    Exit status: 0 all are settled, 2 some failed again and are kept, 1 an error.
    """
    if everything == bool(keys):
        raise BadRequest("give the keys of quarantined events, or --all; see `gpuwright events quarantine`")
    order = Redrive(keys=tuple(keys or ()))
    result = with_temporal(load_settings(config), lambda client: _redrive(client, vcenter, order))
    if as_json:
        print_json(result)
    elif not result.events:
        say("No event is quarantined.")
    else:
        rows = [(each.key, each.type_name, "settled" if each.settled else "kept", each.text) for each in result.events]
        print_table(("key", "type", "now", "what became of it"), rows)
    raise typer.Exit(2 if any(not each.settled for each in result.events) else 0)


async def _redrive(client: Client, vcenter: str, order: Redrive) -> RedriveResult:
    """Ask the watch; asked again with the same ID, it counts once. Raises `BadRequest` or `Unreachable`."""
    handle = client.get_workflow_handle(ids.watch(vcenter))
    update_id = uuid.uuid4().hex
    for _ in range(_UPDATE_TRIES):
        try:
            result: RedriveResult = await handle.execute_update(
                names.REDRIVE, order, id=update_id, result_type=RedriveResult, rpc_timeout=_UPDATE_TIMEOUT
            )
            return result
        except WorkflowUpdateFailedError as error:
            raise BadRequest(str(getattr(error.cause, "message", error.cause))) from error
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            stderr.print("No answer yet; still waiting.")
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise Conflict(f"nobody watches vCenter {vcenter!r}; see `gpuwright watch status`") from error
            raise Unreachable(f"{handle.id}: {error.message}") from error
    raise Unreachable(f"{handle.id}: no worker answers; the events are handed over when one runs again")


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise BadRequest(f"--since {text!r} is not a time span; write it like 90s, 10m, 2h or 1d")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError as error:
        raise BadRequest(f"--since {text!r} is longer than anything") from error


def _tell(told: Told, *, as_json: bool, many: bool) -> None:
    if told.event is None:
        stderr.print(f"{escape(told.vcenter)}: {escape(_line(told.word))}", style="red" if told.failed else "yellow")
    elif as_json:
        print(json.dumps(_document(told.vcenter, told.event), ensure_ascii=False), flush=True)
    else:
        say(_text(told.vcenter if many else "", told.event), style="red" if told.event.problem else "")
        sys.stdout.flush()


def _text(vcenter: str, event: RawEvent) -> str:
    """One line: time, vCenter, key, type, host/VM, user, message."""
    where = "/".join(filter(None, (event.host_name, event.vm_name))) or event.cluster_name
    cells = [f"{event.created:%Y-%m-%dT%H:%M:%S}Z", vcenter, str(event.key), event.type_name]
    cells += [where or "-", event.user or "-", event.message]
    if event.problem:
        cells.append(f"[broken: {event.problem}]")
    return _line(" ".join(filter(None, cells)))


def _document(vcenter: str, event: RawEvent) -> dict[str, Any]:
    def named(moid: str, name: str) -> dict[str, str] | None:
        return {"moid": moid, "name": name} if moid or name else None

    return {
        "vcenter": vcenter,
        "key": event.key,
        "created": event.created.isoformat(),
        "type": event.type_name,
        "base_type": event.base_type,
        "host": named(event.host_moid, event.host_name),
        "cluster": named(event.cluster_moid, event.cluster_name),
        "vm": named(event.vm_moid, event.vm_name),
        "user": event.user,
        "message": event.message,
        "problem": event.problem,
        "raw": event.xml,
    }


def _row(vcenter: str, event: QuarantinedEvent) -> Sequence[object]:
    created = f"{event.created:%Y-%m-%d %H:%M:%S}" if event.created else "?"
    return vcenter, event.key, event.type_name, created, _line(event.reason)


def _line(text: str) -> str:
    """Other people's words on one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
