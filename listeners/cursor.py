"""Cursor arithmetic: what is new, how far to go on, and when the past is no longer what it was. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from contracts.events import Cursor
from contracts.watch import Gap
from vsphere.events import RawEvent

__all__ = ["OVERLAP", "advance", "begin_at", "first_cursor", "fresh", "new_epoch", "purged"]

OVERLAP = timedelta(seconds=5)
"""How much earlier than the cursor a collector begins: keys decide what is new, and clocks may step back a little."""


def begin_at(cursor: Cursor) -> datetime:
    """Where a collector for this cursor begins; without a key to tell what is new it is the very time."""
    return cursor.created - OVERLAP if cursor.key else cursor.created


def fresh(page: Iterable[RawEvent], cursor: Cursor) -> list[RawEvent]:
    """The events newer than the cursor, each key once, in the order of their keys; unreadable keys are left out."""
    return sorted({event.key: event for event in page if event.key > cursor.key}.values(), key=lambda event: event.key)


def advance(cursor: Cursor, handed_over: Iterable[RawEvent]) -> Cursor:
    """The cursor after these events; it never moves back within its epoch.

    Its time is that of the newest key, not the latest time: after a step back of vCenter's clock the next events
    are older than the latest time, and a collector begun there would never show them.
    """
    newest = max(handed_over, key=lambda event: event.key, default=None)
    if newest is None or newest.key <= cursor.key:
        return cursor
    return Cursor(epoch=cursor.epoch, key=newest.key, created=cursor.created if newest.problem else newest.created)


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
    uuid, _, count = cursor.epoch.rpartition(".")
    if uuid != instance_uuid:
        epoch = f"{instance_uuid}.0"
        reason = f"another vCenter answers: its instanceUuid is {instance_uuid}, it was {uuid}"
    elif latest is not None and 0 <= latest.key < cursor.key:
        epoch = f"{uuid}.{int(count) + 1}"
        reason = f"event keys went back from {cursor.key} to {latest.key}: vCenter was restored from a backup"
    else:
        return None
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
    return Cursor(epoch=cursor.epoch, key=oldest.key - 1, created=oldest.created), gap
