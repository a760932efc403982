"""What the Temporal UI shows of a watch, as Markdown: pure functions from its status."""

from contracts.throttles import RuleTold
from contracts.watch import WatchStatus
from workflows import rounds_story as story
from workflows.rounds_story import one_line

__all__ = ["tell"]


def tell(status: WatchStatus) -> str:
    """The watch's current details."""
    title = f"**{status.vcenter}**: " + ("in trouble" if status.trouble else "following events")
    counters = status.counters
    rows = {
        **story.cursor_row(status),
        "events read": f"{counters.events} in {counters.pages} pages, {counters.matched} matched a rule",
        "handed over": f"{counters.started} runs started, {counters.joined} joined, {counters.repeated} known already",
        "done on purpose": f"{counters.on_purpose} events that audits need not know" if counters.on_purpose else "",
        **story.pace_rows(status),
        "waits for Temporal": f"for {status.waiting_s:g} s, with a page to hand over" if status.waiting_s else "",
        "asked for": one_line(status.narrowed),
        **story.reader_row(status),
        "collectors rebuilt": str(counters.rebuilt),
        "handed over after all": f"{counters.redriven} quarantined events" if counters.redriven else "",
        "to be handed over after all": f"{len(status.redriving)} events" if status.redriving else "",
        "after the last gap": one_line(status.looked),
        "to be looked at after": f"{len(status.unseen)} gaps" if status.unseen else "",
    }
    lines = [*story.head(status, title, "are not read"), *story.table(rows)]
    if status.throttles:
        lines += ["", "| throttled rule | waiting | started | suppressed | next start |", "|---|---|---|---|---|"]
        lines += [_throttle(told) for told in status.throttles]
    return "\n".join([*lines, *story.tail(status)])


def _throttle(told: RuleTold) -> str:
    following = (f"{told.next_at:%Y-%m-%d %H:%M:%S} UTC; " if told.next_at else "") + one_line(told.why)
    rule = f"{one_line(told.rule)} ({one_line(told.terms) or 'no throttles'})"
    started, suppressed = told.counters.started, told.counters.suppressed
    return f"| {rule} | {told.waiting} | {started} | {suppressed} | {one_line(told.trouble) or following} |"
