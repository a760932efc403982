"""What the Temporal UI shows of a forward, as Markdown: pure functions from its status."""

from contracts.forward import ForwardStatus
from workflows.story import plain
from workflows.watch_story import whether_told

__all__ = ["tell"]

_SHOWN = 10


def tell(status: ForwardStatus) -> str:
    """The forward's current details."""
    state = "in trouble" if status.trouble else "sending events"
    lines = [f"**{status.vcenter}** to webhook **{status.webhook}**: {state}", ""]
    if status.trouble:
        lines += [f"> {_line(status.trouble)}", ""]
    if outage := status.outage:
        lines += [f"> Events do not get there since {outage.since:%Y-%m-%d %H:%M:%S} UTC, {whether_told(outage)}.", ""]
    counters, cursor = status.counters, status.cursor
    rows = {
        "cursor": f"{cursor.key}, created {cursor.created:%Y-%m-%d %H:%M:%S} UTC, epoch {cursor.epoch}"
        if cursor
        else "none yet: begins at the newest event",
        "events": f"{counters.matched} taken by the webhook, {counters.quarantined} quarantined, of {counters.events}",
        "rate": "" if status.events_per_minute is None else f"{status.events_per_minute:g} events a minute",
        "lag": "" if status.lag_s is None else f"{status.lag_s:.2f} s, longest {status.longest_lag_s:.2f} s",
        "reader": f"round {status.round} {_line(status.worker)}",
    }
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)]
    if status.gaps:
        lines += ["", f"Gaps ({len(status.gaps)}, newest last):"]
        lines += [f"- after {gap.after_key}: {_line(gap.reason)}" for gap in status.gaps[-_SHOWN:]]
    if status.quarantined:
        lines += ["", f"Quarantined events ({len(status.quarantined)} kept, newest last):"]
        lines += [f"- {e.key} {_line(e.type_name)}: {_line(e.reason)}" for e in status.quarantined[-_SHOWN:]]
    return "\n".join(lines)


def _line(text: str) -> str:
    return plain(text, 600)
