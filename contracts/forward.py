"""Messages of `ForwardEvents` and its activity `forward_events`: events of one vCenter on their way to one webhook."""

from abc import ABC, abstractmethod

from temporalio import activity

from contracts.base import Message
from contracts.events import Cursor
from contracts.watch import UNREACHABLE_AFTER_S, FollowResult, Gap, Outage, QuarantinedEvent, WatchCounters

__all__ = ["ForwardActivities", "ForwardInput", "ForwardOrder", "ForwardStatus"]


class ForwardOrder(Message):
    """Input of `forward_events`."""

    vcenter: str
    webhook: str
    cursor: Cursor | None = None
    """None: return at once with a cursor at the newest event."""
    round: int = 0
    """Rises with each call of one forward, so that messages of an older call are known as such."""


class ForwardActivities(ABC):
    """How the events of one vCenter get to one webhook."""

    @activity.defn(name="forward_events")
    @abstractmethod
    async def forward_events(self, order: ForwardOrder) -> FollowResult:
        """Read events from the cursor on and send those that are wanted, for up to an hour.

        Of the counters `matched` are the events that the webhook has taken, and `quarantined` those that it refused or
        that could not be read.
        """


class ForwardInput(Message):
    """Forward the events of one vCenter to one webhook. Whoever starts it gives the names; the rest is carried over."""

    vcenter: str
    webhook: str
    cursor: Cursor | None = None
    """None: begin at the newest event."""
    round: int = 0
    counters: WatchCounters = WatchCounters()
    gaps: tuple[Gap, ...] = ()
    quarantined: tuple[QuarantinedEvent, ...] = ()
    outage: Outage | None = None
    unreachable_after_s: float = UNREACHABLE_AFTER_S
    """How long trouble may last before people are told; the reader tells what is configured."""


class ForwardStatus(Message):
    """The answer to the query `status`, and the result when the forward was stopped."""

    vcenter: str
    webhook: str
    cursor: Cursor | None
    """The webhook has all that it wants up to here, as far as was told; the reader may be further."""
    counters: WatchCounters
    gaps: tuple[Gap, ...] = ()
    quarantined: tuple[QuarantinedEvent, ...] = ()
    """What the webhook refused for good, or could not be read: the newest ones."""
    round: int
    worker: str = ""
    lag_s: float | None = None
    longest_lag_s: float | None = None
    events_per_minute: float | None = None
    trouble: str = ""
    """What keeps events from being read or sent; empty when nothing does."""
    outage: Outage | None = None
    """Set while it is in trouble, and for a while after."""
