"""The activities that tell people, as workflows see them; see `contracts/activities.py`."""

from abc import ABC, abstractmethod

from temporalio import activity

from contracts.notices import Channels, SendNotice

__all__ = ["NoticeActivities"]


class NoticeActivities(ABC):
    """How a notice reaches people."""

    @activity.defn(name="notice_channels")
    @abstractmethod
    async def notice_channels(self) -> Channels:
        """The channels of the worker's configuration."""

    @activity.defn(name="send_notice")
    @abstractmethod
    async def send_notice(self, order: SendNotice) -> None:
        """Tell it in one channel; returns when the channel has taken it. Tried again, it may tell it twice."""
