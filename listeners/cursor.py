"""Cursor arithmetic: what is new, how far to go on, and when the past is no longer what it was. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from contracts.events import Cursor
from contracts.watch import Gap
from vsphere.events import RawEvent

__all__ = [
    "OVERLAP",
    "advance",
    "begin_at",
    "clock_went_back",
    "first_cursor",
    "fresh",
    "new_epoch",
    "of_this_epoch",
    "purged",
    "reissued",
]

OVERLAP = timedelta(seconds=5)
"""How much earlier than the cursor a collector begins: keys decide what is new, and clocks may step back a little."""


_CLOCK_OVERLAP = timedelta(days=1)
"""How much earlier than the newest event a collector begins once vCenter's clock was set back: since then, at most."""


def begin_at(cursor: Cursor, latest: RawEvent | None = None) -> datetime:
    """Where a collector for this cursor begins; without a key to tell what is new it is the very time.

    `latest` is the newest event; it tells where vCenter's clock was set back.
    """
    if not cursor.key:
        return cursor.created
    if latest is not None and clock_went_back(cursor, latest):
        return latest.created - _CLOCK_OVERLAP
    return cursor.created - OVERLAP


def clock_went_back(cursor: Cursor, latest: RawEvent) -> bool:
    """Whether the newest event came after the cursor's and was created before it."""
    return latest.key > cursor.key and not latest.problem and latest.created < cursor.created


def fresh(page: Iterable[RawEvent], cursor: Cursor) -> list[RawEvent]:
    """The events newer than the cursor, each key once, in the order of their keys; unreadable keys are left out."""
    return sorted({event.key: event for event in page if event.key > cursor.key}.values(), key=lambda event: event.key)


def advance(cursor: Cursor, handed_over: Iterable[RawEvent]) -> Cursor:
    """The cursor after these events; it never moves back within its epoch.

    Its time is that of the newest key, not the latest time: after a step back of vCenter's clock the next events
    are older than the latest time, and a collector begun there would never show them.
    """
    events = list(handed_over)
    newest = max(events, key=lambda event: event.key, default=None)
    if newest is None or newest.key <= cursor.key:
        return cursor
    since = cursor.epoch_since
    if _awaits_first(cursor):
        since = min((event.created for event in events if not event.problem), default=None)
    return Cursor(
        epoch=cursor.epoch,
        key=newest.key,
        created=cursor.created if newest.problem else newest.created,
        epoch_since=since,
    )


def first_cursor(instance_uuid: str, latest: RawEvent | None, now: datetime) -> Cursor:
    """Where to begin without a cursor: at the newest event, or now where there is none."""
    if latest is None or latest.key < 0:
        return Cursor(epoch=f"{instance_uuid}.0", key=0, created=now)
    return Cursor(epoch=f"{instance_uuid}.0", key=latest.key, created=now if latest.problem else latest.created)


def new_epoch(cursor: Cursor, instance_uuid: str, latest: RawEvent | None) -> tuple[Cursor, Gap] | None:
    """Where to go on, and the gap, when this is another life of vCenter than the cursor's; None when it is the same.

    Another `about.instanceUuid` is another vCenter. A newest event with a key below the cursor's means that vCenter
    was restored from a backup and gives keys out again.
    """
    uuid, _, _ = cursor.epoch.rpartition(".")
    if uuid != instance_uuid:
        reason = f"another vCenter answers: its instanceUuid is {instance_uuid}, it was {uuid}"
        return _begin_epoch(cursor, f"{instance_uuid}.0", reason)
    if latest is not None and 0 <= latest.key < cursor.key:
        reason = f"event keys went back from {cursor.key} to {latest.key}: vCenter was restored from a backup"
        return _begin_epoch(cursor, _next_epoch(cursor), reason)
    return None


def reissued(cursor: Cursor, page: Iterable[RawEvent]) -> tuple[Cursor, Gap] | None:
    """Where to go on, and the gap, when the cursor's key is now another event's: keys went back and are past it again.

    The newest key does not tell that, when nobody looked in between.
    """
    for event in page:
        if event.key == cursor.key and not event.problem and event.created > cursor.created:
            reason = (
                f"event {cursor.key} was created at {cursor.created:%Y-%m-%d %H:%M:%S} UTC, and one with its key at "
                f"{event.created:%Y-%m-%d %H:%M:%S} UTC: vCenter was restored from a backup"
            )
            return _begin_epoch(cursor, _next_epoch(cursor), reason)
    return None


def of_this_epoch(page: Iterable[RawEvent], cursor: Cursor, latest: RawEvent | None) -> list[RawEvent]:
    """The events of a page without those of an earlier epoch, which vCenter may still have where keys went back.

    `latest` was the newest event when the collector was made.
    """
    if _awaits_first(cursor):
        # The newest event tells how far keys are: what has a higher one and was created before it is of old.
        return [
            event
            for event in page
            if event.problem
            or (
                event.created > cursor.created
                and (latest is None or event.key <= latest.key or event.created >= latest.created)
            )
        ]
    since = cursor.epoch_since
    return [event for event in page if since is None or event.problem or event.created >= since]


def _awaits_first(cursor: Cursor) -> bool:
    """Whether keys went back and nothing of the new epoch was read yet."""
    return cursor.key == 0 and not cursor.epoch.endswith(".0")


def _next_epoch(cursor: Cursor) -> str:
    uuid, _, count = cursor.epoch.rpartition(".")
    return f"{uuid}.{int(count) + 1}"


def _begin_epoch(cursor: Cursor, epoch: str, reason: str) -> tuple[Cursor, Gap]:
    gap = Gap(epoch=cursor.epoch, after_key=cursor.key, before_key=0, since=cursor.created, reason=reason)
    return Cursor(epoch=epoch, key=0, created=cursor.created), gap


def purged(cursor: Cursor, first_page: Iterable[RawEvent]) -> tuple[Cursor, Gap] | None:
    """Where to go on, and the gap, when the oldest event of a new collector is not next to the cursor's.

    Collectors begin a little before the cursor, so its own event is there as long as vCenter keeps it.
    """
    readable = (event for event in first_page if not event.problem)
    oldest = min(readable, key=lambda event: event.key, default=None)
    if cursor.key == 0 or oldest is None or oldest.key <= cursor.key + 1:
        return None
    gap = Gap(
        epoch=cursor.epoch,
        after_key=cursor.key,
        before_key=oldest.key,
        since=cursor.created,
        reason=f"events {cursor.key + 1} to {oldest.key - 1} are no longer kept by vCenter",
    )
    return cursor.model_copy(update={"key": oldest.key - 1, "created": oldest.created}), gap
