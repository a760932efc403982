"""Notices: what people are told without having asked."""

from datetime import datetime
from enum import StrEnum

from contracts.base import Message

__all__ = ["Channels", "Delivered", "Notice", "NoticeReport", "SendNotice", "Severity"]


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Notice(Message):
    """What happened, what it means, what somebody can do. The input of `DeliverNotice`."""

    id: str
    """Names the thing told: the same notice told twice is delivered once. Part of the workflow ID."""
    kind: str
    """`events_missing`, `vcenter_unreachable`; of a forward `webhook_events_missing`, `webhook_stuck`."""
    severity: Severity
    vcenter: str
    subject: str
    """Whom it is about, as people call it."""
    happened: str
    means: str
    advice: str
    at: datetime
    """When it happened, UTC."""
    lasts: bool = False
    """It is open until another notice clears it."""
    clears: str = ""
    """The ID of the notice whose trouble is over with this one."""
    workflow_id: str = ""
    """The run that tells it."""


class Channels(Message):
    """Result of `notice_channels`."""

    names: tuple[str, ...]
    """`log`, and `webhook/NAME` for each webhook that wants notices."""


class SendNotice(Message):
    """Input of `send_notice`: to one channel."""

    notice: Notice
    channel: str


class Delivered(Message):
    """What became of a notice in one channel."""

    channel: str
    trouble: str = ""
    """Why it was given up; empty when it was delivered."""


class NoticeReport(Message):
    """Result of `DeliverNotice`."""

    notice: Notice
    channels: tuple[Delivered, ...] = ()
    """Those that are done with."""
    pending: tuple[str, ...] = ()
    """Those that are still tried."""
