"""What the Temporal UI shows alike of a watch and a forward, as Markdown: pure functions from the status."""

from contracts.watch import FollowedStatus
from workflows.story import plain

__all__ = ["cursor_row", "head", "one_line", "pace_rows", "reader_row", "table", "tail"]

_SHOWN = 10


def head(status: FollowedStatus, title: str, unread: str) -> list[str]:
    """Title, trouble, and since when what is `unread`, in words."""
    lines = [title, ""]
    if status.trouble:
        lines += [f"> {one_line(status.trouble)}", ""]
    if outage := status.outage:
        if outage.over_since is not None:
            told = f"which ended at {outage.over_since:%H:%M:%S}"
        else:
            told = "and people were told" if outage.notice_id else "and people will be told when that lasts"
        lines += [f"> Events {unread} since {outage.since:%Y-%m-%d %H:%M:%S} UTC, {told}.", ""]
    return lines


def cursor_row(status: FollowedStatus) -> dict[str, str]:
    """How far it is."""
    cursor = status.cursor
    if cursor is None:
        return {"cursor": "none yet: begins at the newest event"}
    return {"cursor": f"{cursor.key}, created {cursor.created:%Y-%m-%d %H:%M:%S} UTC, epoch {cursor.epoch}"}


def pace_rows(status: FollowedStatus) -> dict[str, str]:
    """How fast it is, as far as that is known."""
    return {
        "rate": "" if status.events_per_minute is None else f"{status.events_per_minute:g} events a minute",
        "lag": "" if status.lag_s is None else f"{status.lag_s:.2f} s, longest {status.longest_lag_s:.2f} s",
    }


def reader_row(status: FollowedStatus) -> dict[str, str]:
    """Who reads."""
    return {"reader": f"round {status.round} {one_line(status.worker)}"}


def table(rows: dict[str, str]) -> list[str]:
    """The rows that say something."""
    return ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)]


def tail(status: FollowedStatus) -> list[str]:
    """The newest gaps and quarantined events."""
    lines = []
    if status.gaps:
        lines += ["", f"Gaps ({len(status.gaps)}, newest last):"]
        lines += [f"- after {gap.after_key}: {one_line(gap.reason)}" for gap in status.gaps[-_SHOWN:]]
    if status.quarantined:
        lines += ["", f"Quarantined events ({len(status.quarantined)} kept, newest last):"]
        lines += [f"- {e.key} {one_line(e.type_name)}: {one_line(e.reason)}" for e in status.quarantined[-_SHOWN:]]
    return lines


def one_line(text: str) -> str:
    """Other people's text, escaped and cut."""
    return plain(text, 600)
