"""Messages of `ForwardEvents` and its activity `forward_events`: events of one vCenter on their way to one webhook."""

from abc import ABC, abstractmethod

from temporalio import activity

from contracts.base import Message
from contracts.events import Cursor
from contracts.watch import Followed, FollowedStatus, FollowResult

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


class ForwardInput(Followed):
    """Forward the events of one vCenter to one webhook."""

    webhook: str


class ForwardStatus(FollowedStatus):
    """The answer to the query `status`, and the result when the forward was stopped.

    Quarantined is what the webhook refused for good, or what could not be read.
    """

    webhook: str
