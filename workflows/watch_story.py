"""What the Temporal UI shows of a watch, as Markdown: pure functions from its status."""

from contracts.throttles import RuleTold
from contracts.watch import Outage, WatchStatus
from workflows.story import plain

__all__ = ["one_line", "tell", "whether_told"]

_SHOWN = 10


def tell(status: WatchStatus) -> str:
    """The watch's current details."""
    lines = [f"**{status.vcenter}**: " + ("in trouble" if status.trouble else "following events"), ""]
    if status.trouble:
        lines += [f"> {one_line(status.trouble)}", ""]
    if outage := status.outage:
        lines += [f"> Events are not read since {outage.since:%Y-%m-%d %H:%M:%S} UTC, {whether_told(outage)}.", ""]
    counters, cursor = status.counters, status.cursor
    rows = {
        "cursor": f"{cursor.key}, created {cursor.created:%Y-%m-%d %H:%M:%S} UTC, epoch {cursor.epoch}"
        if cursor
        else "none yet: begins at the newest event",
        "events read": f"{counters.events} in {counters.pages} pages, {counters.matched} matched a rule",
        "handed over": f"{counters.started} runs started, {counters.joined} joined, {counters.repeated} known already",
        "done on purpose": f"{counters.on_purpose} events that audits need not know" if counters.on_purpose else "",
        "rate": "" if status.events_per_minute is None else f"{status.events_per_minute:g} events a minute",
        "lag": "" if status.lag_s is None else f"{status.lag_s:.2f} s, longest {status.longest_lag_s:.2f} s",
        "waits for Temporal": f"for {status.waiting_s:g} s, with a page to hand over" if status.waiting_s else "",
        "asked for": one_line(status.narrowed),
        "reader": f"round {status.round} {one_line(status.worker)}",
        "collectors rebuilt": str(counters.rebuilt),
        "handed over after all": f"{counters.redriven} quarantined events" if counters.redriven else "",
        "to be handed over after all": f"{len(status.redriving)} events" if status.redriving else "",
        "after the last gap": one_line(status.looked),
        "to be looked at after": f"{len(status.unseen)} gaps" if status.unseen else "",
    }
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)]
    if status.throttles:
        lines += ["", "| throttled rule | waiting | started | suppressed | next start |", "|---|---|---|---|---|"]
        lines += [_throttle(told) for told in status.throttles]
    if status.gaps:
        lines += ["", f"Gaps ({len(status.gaps)}, newest last):"]
        lines += [f"- after {gap.after_key}: {one_line(gap.reason)}" for gap in status.gaps[-_SHOWN:]]
    if status.quarantined:
        lines += ["", f"Quarantined events ({len(status.quarantined)} kept, newest last):"]
        lines += [f"- {e.key} {one_line(e.type_name)}: {one_line(e.reason)}" for e in status.quarantined[-_SHOWN:]]
    return "\n".join(lines)


def _throttle(told: RuleTold) -> str:
    following = (f"{told.next_at:%Y-%m-%d %H:%M:%S} UTC; " if told.next_at else "") + one_line(told.why)
    rule = f"{one_line(told.rule)} ({one_line(told.terms) or 'no throttles'})"
    started, suppressed = told.counters.started, told.counters.suppressed
    return f"| {rule} | {told.waiting} | {started} | {suppressed} | {one_line(told.trouble) or following} |"


def whether_told(outage: Outage) -> str:
    """Whether people were told of an outage."""
    if outage.over_since is not None:
        return f"which ended at {outage.over_since:%H:%M:%S}"
    return "and people were told" if outage.notice_id else "and people will be told when that lasts"


def one_line(text: str) -> str:
    """Other people's text, escaped and cut."""
    return plain(text, 600)
