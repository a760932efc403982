"""What the Temporal UI shows of a forward, as Markdown: pure functions from its status."""

from contracts.forward import ForwardStatus
from workflows import rounds_story as story

__all__ = ["tell"]


def tell(status: ForwardStatus) -> str:
    """The forward's current details."""
    state, counters = "in trouble" if status.trouble else "sending events", status.counters
    title = f"**{status.vcenter}** to webhook **{status.webhook}**: {state}"
    taken = f"{counters.matched} taken by the webhook, {counters.quarantined} quarantined, of {counters.events}"
    rows = story.cursor_row(status) | {"events": taken} | story.pace_rows(status) | story.reader_row(status)
    return "\n".join([*story.head(status, title, "do not get there"), *story.table(rows), *story.tail(status)])
