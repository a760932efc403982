"""Channels of notices, with a webhook that is a real HTTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from structlog.testing import capture_logs
from temporalio.testing import ActivityEnvironment

from activities.notify import NOTICE_TYPE, Notifier, channels_of
from activities.webhooks import Webhooks
from contracts.errors import BadRequest, Unreachable
from contracts.notices import Notice, SendNotice, Severity
from contracts.rules import Where
from contracts.webhooks import ForwardedEvents, WebhookSettings
from tests.support.webhook_receiver import Receiver

NOTICE = Notice(
    id="unreachable-1",
    kind="vcenter_unreachable",
    severity=Severity.CRITICAL,
    vcenter="lab-1",
    subject="lab-1",
    happened="It does not answer — since noon.",
    means="No rule acts.",
    advice="Look at it.",
    at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    lasts=True,
)


@pytest_asyncio.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with Receiver(tmp_path) as receiver:
        yield receiver


def settings(receiver: Receiver) -> list[WebhookSettings]:
    """One webhook that wants notices, and one that wants events alone."""
    events = ForwardedEvents(on=("*",), where=Where())
    return [receiver.settings("alerts", notices=True), receiver.settings("events", events=events, notices=False)]


async def send(notifier: Notifier, channel: str) -> None:
    await ActivityEnvironment().run(notifier.send_notice, SendNotice(notice=NOTICE, channel=channel))


async def test_the_log_and_the_webhooks_that_want_notices_are_channels(receiver: Receiver) -> None:
    async with Webhooks(settings(receiver)) as webhooks:
        notifier = Notifier(channels_of(settings(receiver), webhooks))
        assert (await ActivityEnvironment().run(notifier.notice_channels)).names == ("log", "webhook/alerts")


async def test_a_webhook_gets_a_notice_as_a_cloud_event(receiver: Receiver) -> None:
    async with Webhooks(settings(receiver)) as webhooks:
        await send(Notifier(channels_of(settings(receiver), webhooks)), "webhook/alerts")
    [request] = receiver.requests
    assert request.headers["Content-Type"].startswith("application/cloudevents+json")
    [event] = request.events
    assert {name: event[name] for name in ("specversion", "id", "source", "type", "subject", "time")} == {
        "specversion": "1.0",
        "id": "unreachable-1",
        "source": "/gpuwright/lab-1",
        "type": NOTICE_TYPE,
        "subject": "lab-1",
        "time": "2026-01-02T03:04:05Z",
    }
    assert Notice.model_validate(event["data"]) == NOTICE


@pytest.mark.parametrize(
    ("status", "raised"), [(503, Unreachable), (404, Unreachable), (401, Unreachable), (400, BadRequest)]
)
async def test_only_a_refusal_for_good_is_not_tried_again(
    receiver: Receiver, status: int, raised: type[Exception]
) -> None:
    receiver.behaviour = lambda _: web.Response(status=status)
    async with Webhooks(settings(receiver)) as webhooks:
        with pytest.raises(raised, match=str(status)):
            await send(Notifier(channels_of(settings(receiver), webhooks)), "webhook/alerts")


async def test_a_channel_that_this_worker_does_not_know_is_tried_again(receiver: Receiver) -> None:
    async with Webhooks(settings(receiver)) as webhooks:
        with pytest.raises(Unreachable, match="no channel 'webhook/events'; it has: log, webhook/alerts"):
            await send(Notifier(channels_of(settings(receiver), webhooks)), "webhook/events")


@pytest.mark.parametrize(("severity", "level"), [("critical", "error"), ("warning", "warning"), ("info", "info")])
async def test_the_log_tells_a_notice_as_loudly_as_it_is_bad(severity: str, level: str) -> None:
    notice = NOTICE.model_copy(update={"severity": Severity(severity)})
    with capture_logs() as logged:
        await ActivityEnvironment().run(
            Notifier(channels_of((), Webhooks(()))).send_notice, SendNotice(notice=notice, channel="log")
        )
    [line] = logged
    assert (line["event"], line["log_level"], line["happened"]) == ("notice", level, NOTICE.happened)
