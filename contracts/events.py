"""How a vCenter event is named, whoever talks about it."""

from datetime import datetime

from contracts.base import Message

__all__ = ["Cursor", "EventKey"]


class EventKey(Message):
    """The identity of an event: keys are int32 and unique within one epoch (one life of one vCenter)."""

    epoch: str
    key: int


class Cursor(Message):
    """How far events have been handed over: every event up to this one, durably."""

    epoch: str
    """`about.instanceUuid` and a counter that rises when keys regress (a restored vCenter): `uuid.0`."""
    key: int
    created: datetime
    epoch_since: datetime | None = None
    """Where the epoch began because keys went back: events created earlier may have the same keys, and are of another
    one."""
