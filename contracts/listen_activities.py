"""The activities around events as workflows see them; see `contracts/activities.py`."""

from abc import ABC, abstractmethod

from temporalio import activity

from contracts.throttles import Release, Released
from contracts.watch import FollowOrder, FollowResult, RedriveOrder, RedriveResult

__all__ = ["ListenActivities", "QuarantineActivities", "ThrottleActivities"]


class ListenActivities(ABC):
    """How the events of one vCenter are followed."""

    @activity.defn(name="follow_events")
    @abstractmethod
    async def follow_events(self, order: FollowOrder) -> FollowResult:
        """Read events from the cursor on and hand them over, for up to an hour."""


class QuarantineActivities(ABC):
    """What can be done about events that could not be handed over."""

    @activity.defn(name="redrive_events")
    @abstractmethod
    async def redrive_events(self, order: RedriveOrder) -> RedriveResult:
        """Read quarantined events again and hand over those that can be by now."""


class ThrottleActivities(ABC):
    """How the throttles of rules are kept."""

    @activity.defn(name="release_throttled")
    @abstractmethod
    async def release_throttled(self, order: Release) -> Released:
        """Decide by the rule's throttles what becomes of targets, and start or join what may be."""
