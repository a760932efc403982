"""Messages of `WatchVCenter` and its activity `follow_events`."""

from datetime import datetime

from contracts.base import Message
from contracts.events import Cursor
from contracts.throttles import RuleTold

__all__ = [
    "UNREACHABLE_AFTER_S",
    "FollowOrder",
    "FollowPosition",
    "FollowResult",
    "Followed",
    "FollowedStatus",
    "Gap",
    "Outage",
    "QuarantinedEvent",
    "Redrive",
    "RedriveOrder",
    "RedriveResult",
    "Redriven",
    "WatchCounters",
    "WatchInput",
    "WatchProgress",
    "WatchStatus",
]


class Gap(Message):
    """Events that can no longer be read: what happened in between has to be found by looking at the inventory."""

    epoch: str
    after_key: int
    """The last event handed over before the gap."""
    before_key: int
    """The first event that can be read after it; 0 where there is none yet."""
    since: datetime
    """Creation time of the last event handed over (vCenter's clock)."""
    reason: str


UNREACHABLE_AFTER_S = 300.0
"""How long events may stay unread before people are told."""


class Outage(Message):
    """Events cannot be read, or could not until a moment ago."""

    since: datetime
    trouble: str
    """The last words about it."""
    cursor: Cursor | None = None
    """Where reading ended."""
    over_since: datetime | None = None
    """It works again since then; trouble that comes back soon is the same outage."""
    gaps: int = 0
    """Gaps that were found since."""
    notice_id: str = ""
    """Of the notice that told people; empty while it was not told."""


class QuarantinedEvent(Message):
    """An event that could not be handed over, kept for a person to see."""

    epoch: str
    key: int
    """-1 where it could not be read."""
    created: datetime | None = None
    type_name: str = ""
    reason: str
    raw: str = ""
    """What came over the wire, cut to a few thousand characters; of an event that was readable its message."""
    after: datetime | None = None
    """Creation time of the cursor before it (vCenter's clock): from there on it is found again."""

    @property
    def identity(self) -> tuple[str, int, str, str]:
        """What makes it another one: readers that overlap quarantine the same event from different cursors."""
        return self.epoch, self.key, self.reason, self.raw


class WatchCounters(Message):
    """What was done, as totals."""

    pages: int = 0
    events: int = 0
    """Events read."""
    matched: int = 0
    """Events that at least one rule matched."""
    started: int = 0
    """Runs started."""
    joined: int = 0
    """Groups of events handed to a live run."""
    repeated: int = 0
    """Groups that a closed run had already been given, found so after a takeover."""
    on_purpose: int = 0
    """Events that start and join no audit although a rule says so: their hosts are in maintenance mode, in standby or
    worked on."""
    quarantined: int = 0
    rebuilt: int = 0
    """Collectors built anew because they had stalled."""
    throttled: int = 0
    """Groups of events given to the throttle of their rule."""
    redriven: int = 0
    """Quarantined events that were handed over when somebody asked for it."""

    def plus(self, **more: int) -> "WatchCounters":
        """A copy with these added."""
        return self.model_copy(update={name: getattr(self, name) + value for name, value in more.items()})

    def __add__(self, other: "WatchCounters") -> "WatchCounters":
        return self.plus(**other.model_dump())


class FollowPosition(Message):
    """The heartbeat details of `follow_events`: where its next attempt goes on. It may lag, never lead."""

    cursor: Cursor
    counters: WatchCounters = WatchCounters()
    next_page_size: int = 1000
    """Events a page that the next attempt asks for."""


class FollowOrder(Message):
    """Input of `follow_events`."""

    vcenter: str
    cursor: Cursor | None = None
    """None: return at once with a cursor at the newest event."""
    round: int = 0
    """Rises with each call of one watch, so that messages of an older call are known as such."""


class FollowResult(Message):
    """Result of `follow_events`: everything up to `cursor` is handed over or quarantined."""

    cursor: Cursor
    counters: WatchCounters = WatchCounters()
    gaps: tuple[Gap, ...] = ()
    ended: str = ""
    """Why the call returned, in words."""


class WatchProgress(Message):
    """The signal `watch_progress`: for people to see, except for quarantined events, which the watch keeps.

    A reader that was overtaken may still send some: the watch ignores those of an older (round, attempt).
    """

    round: int
    attempt: int
    worker: str = ""
    cursor: Cursor | None = None
    counters: WatchCounters = WatchCounters()
    """Totals of this round."""
    lag_s: float | None = None
    """From the newest matched event's creation (vCenter's clock) to its hand-over (the worker's clock)."""
    longest_lag_s: float | None = None
    events_per_minute: float | None = None
    waiting_s: float = 0.0
    """How long the reader has been waiting for Temporal to take a page; 0 where that is not worth telling."""
    narrowed: str = ""
    """Which events vCenter is asked for, or why for all, in words."""
    trouble: str = ""
    """What keeps the reader from reading; empty when nothing does."""
    unreachable_after_s: float = UNREACHABLE_AFTER_S
    """Of the worker's configuration: how long that may last before people are told."""
    quarantined: tuple[QuarantinedEvent, ...] = ()


class Followed(Message):
    """What a run that has events followed carries over to the next one. Whoever starts one gives the names only."""

    vcenter: str
    cursor: Cursor | None = None
    """None: begin at the newest event. Hosts that are already there are the business of the fleet's periodic look."""
    round: int = 0
    counters: WatchCounters = WatchCounters()
    gaps: tuple[Gap, ...] = ()
    quarantined: tuple[QuarantinedEvent, ...] = ()
    outage: Outage | None = None
    unreachable_after_s: float = UNREACHABLE_AFTER_S
    """How long trouble may last before people are told; the reader tells what is configured."""


class FollowedStatus(Message):
    """How far such a run is."""

    vcenter: str
    cursor: Cursor | None
    """Everything up to here is taken care of, as far as the run was told; the reader may be further."""
    counters: WatchCounters
    gaps: tuple[Gap, ...] = ()
    quarantined: tuple[QuarantinedEvent, ...] = ()
    round: int
    worker: str = ""
    lag_s: float | None = None
    longest_lag_s: float | None = None
    events_per_minute: float | None = None
    trouble: str = ""
    """What keeps the reader from its work; empty when nothing does."""
    outage: Outage | None = None
    """Set while there is trouble, and for a while after."""


class WatchInput(Followed):
    """Watch one vCenter."""

    unseen: tuple[Gap, ...] = ()
    """Gaps after which the fleet was not looked at yet."""
    redriving: tuple[QuarantinedEvent, ...] = ()
    """Quarantined events that are to be handed over after all."""
    throttles: tuple[RuleTold, ...] = ()
    """What the throttles of rules told last."""


class WatchStatus(FollowedStatus):
    """The answer to the query `status`, and the result when the watch was stopped."""

    waiting_s: float = 0.0
    """How long the reader has been waiting for Temporal to take a page, as far as the watch was told."""
    narrowed: str = ""
    """Which events vCenter is asked for, or why for all, in words."""
    unseen: tuple[Gap, ...] = ()
    """Gaps after which the fleet was not looked at yet; tried again with each round."""
    looked: str = ""
    """What was done about the last gap, in words."""
    redriving: tuple[QuarantinedEvent, ...] = ()
    """Quarantined events that are to be handed over after all; they are still among the quarantined ones."""
    throttles: tuple[RuleTold, ...] = ()
    """What the throttles of rules told last."""


class Redrive(Message):
    """The update `redrive`: hand quarantined events over after all."""

    keys: tuple[int, ...] = ()
    """Of the events; -1 for all whose key could not be read. Empty: every quarantined event."""


class RedriveOrder(Message):
    """Input of `redrive_events`."""

    vcenter: str
    epoch: str
    """The watch's now: keys of an older epoch name other events, or none."""
    events: tuple[QuarantinedEvent, ...]


class Redriven(Message):
    """What became of one quarantined event."""

    key: int
    type_name: str = ""
    settled: bool
    """It needs to be kept no longer."""
    text: str
    """How it was handed over, or why it still cannot be."""


class RedriveResult(Message):
    """Result of `redrive_events`, and the answer to `redrive`: one for each event, in the order of those asked for."""

    events: tuple[Redriven, ...] = ()
