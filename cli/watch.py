"""`gpuwright watch status`: how far the events of each vCenter are handed over, and what is in the way."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import QueryRejectCondition
from temporalio.service import RPCError, RPCStatusCode

from cli.asking import PATIENCE, Silence, ask_all
from cli.output import Json, print_json, say
from cli.prepare import VCenterOption
from cli.serve import Config
from cli.session import sessions
from cli.show import print_table
from cli.temporal import with_temporal
from cli.watch_forwards import SeenForward, forward_document, look_at_forwards, show_forwards
from cli.watch_readers import Reader, document, furthest, reader_of
from contracts import ids, names
from contracts.errors import BadRequest, GpuwrightError
from contracts.events import Cursor
from contracts.throttles import RuleTold
from contracts.watch import Outage, WatchStatus
from listeners.cursor import begin_at
from vsphere.events import EventReader, RawEvent
from vsphere.sessions import SessionPool
from workers.settings import Settings, load_settings
from workers.watches import watched_vcenters

__all__ = ["app", "ask_watches", "statuses"]

app = typer.Typer(help="See how the events of each vCenter are followed.", no_args_is_help=True)

_SHOWN = 5
"""Gaps that are shown, the newest ones."""


@app.callback()
def _watch() -> None:
    """Keeps `status` a sub-command while it is the only one."""


@dataclass(frozen=True)
class _Seen:
    """One watch, as far as it can be seen."""

    vcenter: str
    status: WatchStatus | Silence
    reader: Reader | None
    configured: bool
    """In the configuration that the command read."""
    ended: datetime | None = None
    """When the watch of a vCenter that is not configured any more ended; `status` is its last word."""
    newest: RawEvent | str | None = None
    """vCenter's newest event, or why it could not be asked; None where it was not, or has none."""
    forwards: tuple[SeenForward, ...] = ()
    """How far webhooks have its events."""

    @property
    def state(self) -> str:
        if isinstance(self.status, Silence):
            return "missing" if self.status.gone else "silent"
        if self.ended is not None:
            return "removed"
        return "in trouble" if self.trouble else "following"

    @property
    def trouble(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        if isinstance(self.status, Silence):
            if self.status.gone:
                return "nobody watches it; start `gpuwright serve`, or restart it where it runs"
            return f"no worker answers for the watch ({self.status.why}); is `gpuwright serve` running?"
        if self.ended is not None:
            return ""
        found = [self.status.trouble]
        if not self.configured:
            found.append(
                "it is not in the configuration; services that run take it out when they read that, otherwise stop its "
                f"watch: temporal workflow signal --workflow-id {ids.watch(self.vcenter)} --name {names.STOP}"
            )
        if self.reader is not None and not self.reader.running:
            # Between two attempts it is so for a second.
            found.append(self.reader.trouble or "no worker reads its events; is `gpuwright serve` running?")
        if isinstance(self.newest, str):
            found.append(self.newest)
        return "; ".join(dict.fromkeys(filter(None, found)))

    @property
    def cursor(self) -> Cursor | None:
        """The newest that is known."""
        return furthest(None if isinstance(self.status, Silence) else self.status.cursor, self.reader)

    @property
    def behind(self) -> int | None:
        """Events that vCenter has beyond the cursor, hidden ones too; None where vCenter was not asked."""
        if self.cursor is None or self.newest_event is None or self.newest_event.key < 0:
            return None
        return max(self.newest_event.key - self.cursor.key, 0)

    @property
    def newest_event(self) -> RawEvent | None:
        """vCenter's newest event, where it told it."""
        return self.newest if isinstance(self.newest, RawEvent) else None


@app.command("status")
def status_command(
    config: Config,
    vcenter: VCenterOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask each vCenter for its newest event, to tell how far behind a watch is.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show cursor, lag, rate, reader, totals, throttled rules, gaps and quarantine of each watch, and its webhooks.

    Exit status: 0 all are well; 2 one, or what it sends to a webhook, is in trouble, silent, or missing though it is
    configured; 1 an error.
    """
    settings = load_settings(config)
    found = with_temporal(settings, lambda client: _look(client, settings, vcenter))
    if live:
        newest = _newest(settings, {seen.vcenter: seen.cursor for seen in found if seen.configured})
        found = [replace(seen, newest=newest.get(seen.vcenter)) for seen in found]
    if as_json:
        print_json([_document(seen) for seen in found])
    else:
        for seen in found:
            _show(seen)
    troubled = any(seen.trouble or any(each.trouble for each in seen.forwards) for seen in found)
    raise typer.Exit(2 if troubled else 0)


async def ask_watches(client: Client, vcenters: Sequence[str]) -> list[WatchStatus | Silence]:
    """The status of the live watch of each of these vCenters, in their order."""

    async def ask(vcenter: str) -> WatchStatus:
        status: WatchStatus = await client.get_workflow_handle(ids.watch(vcenter)).query(
            names.QUERY_STATUS,
            result_type=WatchStatus,
            reject_condition=QueryRejectCondition.NOT_OPEN,
            rpc_timeout=PATIENCE,
        )
        return status

    return await ask_all(vcenters, ask)


async def statuses(client: Client, settings: Settings, vcenter: str | None) -> dict[str, WatchStatus | Silence]:
    """The status of the watch of one vCenter, or of each that is configured or watched; raises `BadRequest`."""
    wanted = await _vcenters(client, settings, vcenter)
    return dict(zip(wanted, await ask_watches(client, wanted), strict=True))


async def _vcenters(client: Client, settings: Settings, vcenter: str | None) -> list[str]:
    """Those of the configuration, and those that are watched for its task queue all the same."""
    found = [each.name for each in settings.vcenters]
    watched = await watched_vcenters(client, settings.temporal.task_queue)
    found += [name for name in watched if name not in found]
    if vcenter is not None and vcenter not in found:
        raise BadRequest(f"there is no vCenter {vcenter!r} in the configuration; it has: {', '.join(found)}")
    return [vcenter] if vcenter else found


async def _look(client: Client, settings: Settings, vcenter: str | None) -> list[_Seen]:
    if vcenter is not None and (removed := await _removed(client, settings, vcenter)):
        return [replace(removed, forwards=tuple(await look_at_forwards(client, settings, vcenter)))]
    # Side by side: where no worker answers, each takes all its patience.
    watches, forwards = await asyncio.gather(
        _look_at_watches(client, settings, vcenter), look_at_forwards(client, settings, vcenter)
    )
    return [
        replace(seen, forwards=tuple(each for each in forwards if each.vcenter == seen.vcenter)) for seen in watches
    ]


async def _look_at_watches(client: Client, settings: Settings, vcenter: str | None) -> list[_Seen]:
    answers = await statuses(client, settings, vcenter)
    readers = await ask_all(list(answers), lambda name: reader_of(client, ids.watch(name), "follow_events"))
    configured = {each.name for each in settings.vcenters}
    return [
        _Seen(name, status, None if isinstance(reader, Silence) else reader, name in configured)
        for (name, status), reader in zip(answers.items(), readers, strict=True)
    ]


async def _removed(client: Client, settings: Settings, vcenter: str) -> _Seen | None:
    """The last word of the watch of a vCenter that was removed from the configuration; None where it was not."""
    if any(each.name == vcenter for each in settings.vcenters):
        return None
    watch = client.get_workflow_handle(ids.watch(vcenter), result_type=WatchStatus)
    try:
        described = await watch.describe(rpc_timeout=PATIENCE)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    if (
        described.status is not WorkflowExecutionStatus.COMPLETED
        or described.task_queue != settings.temporal.task_queue
    ):
        return None
    return _Seen(vcenter, await watch.result(rpc_timeout=PATIENCE), None, configured=False, ended=described.close_time)


def _newest(settings: Settings, cursors: Mapping[str, Cursor | None]) -> dict[str, RawEvent | str | None]:
    """The newest event of each of these vCenters, or why it cannot be told."""

    def ask(pool: SessionPool) -> RawEvent | str | None:
        cursor = cursors[pool.name]
        try:
            with pool.session() as si:
                reader = EventReader(si)
                try:
                    # A collector knows newer events than `latestEvent`, which some servers do not even have.
                    reader.open(begin_at(cursor) if cursor else reader.now(), page_size=1)
                    return reader.latest()
                finally:
                    reader.close()
        except GpuwrightError as error:
            return str(error)

    with sessions(settings) as pools, ThreadPoolExecutor(max_workers=max(len(cursors), 1)) as threads:
        return dict(zip(cursors, threads.map(ask, [pools[name] for name in cursors]), strict=True))


def _document(seen: _Seen) -> dict[str, Any]:
    status = None if isinstance(seen.status, Silence) else seen.status
    newest = seen.newest_event
    return {
        "vcenter": seen.vcenter,
        "configured": seen.configured,
        "ended": seen.ended.isoformat() if seen.ended else None,
        "state": seen.state,
        "trouble": seen.trouble,
        "cursor": seen.cursor,
        "behind_events": seen.behind,
        "newest": {"key": newest.key, "created": newest.created.isoformat()} if newest else None,
        "reader": document(seen.reader),
        "forwards": [forward_document(each, newest) for each in seen.forwards],
        "status": status,
    }


def _show(seen: _Seen) -> None:
    told = "" if seen.configured else " (not in the configuration)"
    if seen.ended is not None:
        told = f" from the configuration; its watch ended {seen.ended:%Y-%m-%d %H:%M:%S} UTC"
    say(f"{seen.vcenter}: {seen.state}{told}", style="red" if seen.trouble else "bold")
    if seen.trouble:
        say(f"  {seen.trouble}")
    rows = [row for row in _rows(seen) if row[1]]
    if rows:
        print_table(("what", "value"), rows)
    if isinstance(seen.status, WatchStatus):
        if seen.status.throttles:
            columns = ("throttled rule", "waiting", "started", "joined", "suppressed", "next start")
            print_table(columns, [_throttle(told) for told in seen.status.throttles])
        for gap in seen.status.gaps[-_SHOWN:]:
            say(f"- gap after {gap.after_key}, {gap.since:%Y-%m-%d %H:%M:%S} UTC: {gap.reason}")
    show_forwards(seen.forwards, seen.newest_event)


def _throttle(told: RuleTold) -> tuple[str, ...]:
    """One rule; `trouble` in place of its next start."""
    following = "; ".join(filter(None, (f"{told.next_at:%Y-%m-%d %H:%M:%S} UTC" if told.next_at else "", told.why)))
    counters = told.counters
    return (
        f"{told.rule} ({told.terms or 'no throttles'})",
        str(told.waiting),
        str(counters.started),
        str(counters.joined),
        f"{counters.suppressed} ({counters.suppressed_events} events)",
        told.trouble or following,
    )


def _rows(seen: _Seen) -> list[tuple[str, str]]:
    cursor, status, reader = seen.cursor, seen.status, seen.reader
    rows = [("cursor", f"{cursor.key}, created {cursor.created:%Y-%m-%d %H:%M:%S} UTC" if cursor else "none yet")]
    rows.append(("epoch", cursor.epoch if cursor else ""))
    if seen.behind is not None and seen.newest_event is not None:
        newest = f"newest is {seen.newest_event.key}, created {seen.newest_event.created:%Y-%m-%d %H:%M:%S} UTC"
        rows.append(("behind vCenter", f"{seen.behind} events; {newest}"))
    if isinstance(status, WatchStatus):
        counters = status.counters
        rate, lag, longest = status.events_per_minute, status.lag_s, status.longest_lag_s
        rows += [
            ("lag", "" if lag is None or longest is None else f"{lag:.2f} s, longest {longest:.2f} s"),
            ("rate", "" if rate is None else f"{rate:g} events a minute"),
            ("waits for Temporal", f"for {status.waiting_s:g} s" if status.waiting_s else ""),
            ("events", f"{counters.events} read in {counters.pages} pages, {counters.matched} matched a rule"),
            (
                "handed over",
                f"{counters.started} runs started, {counters.joined} joined, {counters.repeated} known already",
            ),
            ("asked for", status.narrowed),
            ("unread since", _outage(status.outage)),
            ("on purpose", str(counters.on_purpose)),
            ("collectors rebuilt", str(counters.rebuilt)),
            ("gaps", f"{len(status.gaps)}" + (f", {len(status.unseen)} not looked after" if status.unseen else "")),
            (
                "quarantine",
                f"{len(status.quarantined)} events kept, {counters.quarantined} in all, "
                f"{counters.redriven} handed over after all",
            ),
            ("reader", f"round {status.round}, {(reader.worker if reader else '') or status.worker or 'none yet'}"),
        ]
    if reader is not None and reader.heard_at is not None:
        rows.append(("last heartbeat", f"{reader.heard_at:%Y-%m-%d %H:%M:%S} UTC, attempt {reader.attempt}"))
    return rows


def _outage(outage: Outage | None) -> str:
    if outage is None:
        return ""
    over = f", until {outage.over_since:%H:%M:%S}" if outage.over_since else ""
    told = "people were told" if outage.notice_id else "people are told when it lasts"
    return f"{outage.since:%Y-%m-%d %H:%M:%S} UTC{over}; {told}"
