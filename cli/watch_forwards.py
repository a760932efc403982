"""The part of `gpuwright watch status` that tells how far webhooks have the events of each vCenter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client
from temporalio.common import QueryRejectCondition

from cli.asking import PATIENCE, Silence, ask_all
from cli.output import say
from cli.show import print_table
from cli.watch_readers import Reader, document, furthest, reader_of
from contracts import ids, names
from contracts.events import Cursor
from contracts.forward import ForwardStatus
from vsphere.events import RawEvent
from workers.settings import Settings
from workers.watches import forwards

__all__ = ["SeenForward", "forward_document", "look_at_forwards", "show_forwards"]

_SHOWN = 5
"""Gaps and quarantined events that are shown of each webhook, the newest ones."""


@dataclass(frozen=True)
class SeenForward:
    """One forward, as far as it can be seen."""

    vcenter: str
    webhook: str
    status: ForwardStatus | Silence
    reader: Reader | None
    configured: bool
    """The configuration that the command read has the vCenter, and gives its events to the webhook."""

    @property
    def state(self) -> str:
        if isinstance(self.status, Silence):
            return "missing" if self.status.gone else "silent"
        return "in trouble" if self.trouble else "forwarding"

    @property
    def trouble(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        if isinstance(self.status, Silence):
            if self.status.gone:
                return "nobody sends it events; start `gpuwright serve`, or restart it where it runs"
            return f"no worker answers for it ({self.status.why}); is `gpuwright serve` running?"
        found = [self.status.trouble]
        if not self.configured:
            found.append(
                "the configuration gives it no events; services that are restarted stop it, otherwise: temporal "
                f"workflow signal --workflow-id {ids.forward(self.vcenter, self.webhook)} --name {names.STOP}"
            )
        if self.reader is not None and not self.reader.running:
            # Between two attempts it is so for a second.
            found.append(self.reader.trouble or "no worker sends it events; is `gpuwright serve` running?")
        return "; ".join(dict.fromkeys(filter(None, found)))

    @property
    def cursor(self) -> Cursor | None:
        """The webhook has what it wants up to here."""
        return furthest(None if isinstance(self.status, Silence) else self.status.cursor, self.reader)

    def behind(self, newest: RawEvent | None) -> int | None:
        """Events that vCenter has beyond the cursor, whoever wants them; None where vCenter was not asked."""
        if self.cursor is None or newest is None or newest.key < 0:
            return None
        return max(newest.key - self.cursor.key, 0)


async def look_at_forwards(client: Client, settings: Settings, vcenter: str | None) -> list[SeenForward]:
    """The forwards of one vCenter or of all: those of the configuration, and those that run all the same."""
    wanted = [
        (each.name, webhook.name) for each in settings.vcenters for webhook in settings.webhooks if webhook.events
    ]
    running = await forwards(client, settings.temporal.task_queue)
    found = [pair for pair in dict.fromkeys([*wanted, *running]) if vcenter in (None, pair[0])]

    async def ask(pair: tuple[str, str]) -> ForwardStatus:
        status: ForwardStatus = await client.get_workflow_handle(ids.forward(*pair)).query(
            names.QUERY_STATUS,
            result_type=ForwardStatus,
            reject_condition=QueryRejectCondition.NOT_OPEN,
            rpc_timeout=PATIENCE,
        )
        return status

    answers = await ask_all(found, ask)
    readers = await ask_all(found, lambda pair: reader_of(client, ids.forward(*pair), "forward_events"))
    return [
        SeenForward(*pair, status, None if isinstance(reader, Silence) else reader, pair in wanted)
        for pair, status, reader in zip(found, answers, readers, strict=True)
        # One that has ended since it was listed is no news.
        if pair in wanted or not (isinstance(status, Silence) and status.gone)
    ]


def forward_document(seen: SeenForward, newest: RawEvent | None) -> dict[str, Any]:
    """The forward as JSON; `newest` is vCenter's newest event, where it was asked."""
    return {
        "webhook": seen.webhook,
        "configured": seen.configured,
        "state": seen.state,
        "trouble": seen.trouble,
        "cursor": seen.cursor,
        "behind_events": seen.behind(newest),
        "reader": document(seen.reader),
        "status": None if isinstance(seen.status, Silence) else seen.status,
    }


def show_forwards(forwards: Sequence[SeenForward], newest: RawEvent | None) -> None:
    """A row each, then what is wrong and what a webhook never gets."""
    if not forwards:
        return
    columns = ("webhook", "state", "cursor", "behind vCenter", "sent", "lag", "quarantined", "gaps")
    print_table(columns, [_row(seen, newest) for seen in forwards])
    for seen in forwards:
        if seen.trouble:
            say(f"- {seen.webhook}: {seen.trouble}")
        if isinstance(seen.status, ForwardStatus):
            for gap in seen.status.gaps[-_SHOWN:]:
                at = f"{gap.since:%Y-%m-%d %H:%M:%S} UTC"
                say(f"- {seen.webhook}: gap after {gap.after_key}, {at}: {gap.reason}")
            for event in seen.status.quarantined[-_SHOWN:]:
                say(f"- {seen.webhook}: quarantined {event.key} {event.type_name}: {event.reason}")


def _row(seen: SeenForward, newest: RawEvent | None) -> tuple[str, ...]:
    behind, status = seen.behind(newest), seen.status
    if isinstance(status, Silence):
        return (seen.webhook, seen.state, *[""] * 6)
    return (
        seen.webhook,
        seen.state,
        str(seen.cursor.key) if seen.cursor else "none yet",
        "" if behind is None else f"{behind} events",
        f"{status.counters.matched} of {status.counters.events}",
        "" if status.lag_s is None else f"{status.lag_s:.2f} s",
        str(status.counters.quarantined),
        str(len(status.gaps)),
    )
