"""Telling people: the channels of a service, and the activities that use them."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import quote

import structlog
from temporalio import activity

from contracts.cloud_events import CloudEvent, CloudEventSender
from contracts.errors import NeedsHuman, Unreachable
from contracts.notice_activities import NoticeActivities
from contracts.notices import Channels, Notice, SendNotice, Severity
from contracts.webhooks import WebhookSettings

__all__ = ["NOTICE_TYPE", "Channel", "LogChannel", "Notifier", "WebhookChannel", "channels_of"]

_log = structlog.get_logger(__name__)

NOTICE_TYPE = "io.gpuwright.notice.v1"
"""The type of the CloudEvent whose data is a notice."""


class Channel(Protocol):
    """One way to reach people."""

    async def send(self, notice: Notice) -> None:
        """Return when the channel has taken it; raises `GpuwrightError`. It may be given the same notice twice."""


class LogChannel:
    """The service's log: a notice is a warning there, or an error where it is critical."""

    async def send(self, notice: Notice) -> None:
        """See `Channel`."""
        tell = {Severity.CRITICAL: _log.error, Severity.WARNING: _log.warning}.get(notice.severity, _log.info)
        tell("notice", **notice.model_dump(mode="json", exclude={"lasts"}))


class WebhookChannel:
    """A webhook, which gets each notice as a CloudEvent."""

    def __init__(self, sender: CloudEventSender, name: str) -> None:
        self._sender = sender
        self._name = name

    async def send(self, notice: Notice) -> None:
        """See `Channel`."""
        try:
            await self._sender.send(self._name, [_cloud_event(notice)])
        except NeedsHuman as error:
            # Somebody may mend it while the notice waits.
            raise Unreachable(str(error)) from error


class Notifier(NoticeActivities):
    """`NoticeActivities` with the channels of one worker, by name."""

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._channels = channels

    @activity.defn(name="notice_channels")
    async def notice_channels(self) -> Channels:
        """See `NoticeActivities`."""
        return Channels(names=tuple(self._channels))

    @activity.defn(name="send_notice")
    async def send_notice(self, order: SendNotice) -> None:
        """See `NoticeActivities`."""
        channel = self._channels.get(order.channel)
        if channel is None:
            # Tried again: another worker, or this one with its next configuration, may know it.
            raise Unreachable(f"this worker has no channel {order.channel!r}; it has: {', '.join(self._channels)}")
        await channel.send(order.notice)


def channels_of(webhooks: Sequence[WebhookSettings], sender: CloudEventSender) -> dict[str, Channel]:
    """The log, and each webhook that wants notices."""
    wanted = [webhook.name for webhook in webhooks if webhook.notices]
    return {"log": LogChannel(), **{f"webhook/{name}": WebhookChannel(sender, name) for name in wanted}}


def _cloud_event(notice: Notice) -> CloudEvent:
    return CloudEvent(
        id=notice.id,
        source=f"/gpuwright/{quote(notice.vcenter, safe='')}",
        type=NOTICE_TYPE,
        subject=" ".join(notice.subject.split()) or None,
        time=notice.at,
        data=notice.model_dump(mode="json"),
    )
