"""How a notice reaches people, whatever becomes of a channel."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from contracts import ids
from contracts.errors import BadRequest, GpuwrightError, Unreachable
from contracts.names import TaskQueues
from contracts.notice_activities import NoticeActivities
from contracts.notices import Channels, Delivered, Notice, NoticeReport, SendNotice, Severity
from workers.assembly import Parts, build_workers
from workers.search_attributes import ensure_search_attributes
from workflows.deliver_notice import DeliverNotice


@dataclass
class Channel:
    """One way to reach people: down while it has an error."""

    error: GpuwrightError | None = None
    tries: int = 0
    told: list[Notice] = field(default_factory=list)
    tried: asyncio.Event = field(default_factory=asyncio.Event)


class DirectedChannels(NoticeActivities):
    """The test says which channels there are, and which are down."""

    def __init__(self, **channels: Channel) -> None:
        self.channels = channels

    @activity.defn(name="notice_channels")
    async def notice_channels(self) -> Channels:
        """Those of the test."""
        return Channels(names=tuple(self.channels))

    @activity.defn(name="send_notice")
    async def send_notice(self, order: SendNotice) -> None:
        """Keep it, where the channel is up."""
        channel = self.channels[order.channel]
        channel.tries += 1
        channel.tried.set()
        if channel.error:
            raise channel.error
        channel.told.append(order.notice)


@dataclass
class Telling:
    """Workers that deliver notices of one vCenter."""

    client: Client
    queues: TaskQueues
    channels: DirectedChannels
    vcenter: str

    async def start(self, **fields: object) -> WorkflowHandle[DeliverNotice, NoticeReport]:
        notice = Notice.model_validate(
            {
                "id": "n1",
                "kind": "vcenter_unreachable",
                "severity": Severity.CRITICAL,
                "vcenter": self.vcenter,
                "subject": self.vcenter,
                "happened": "It | does not <b>answer</b>.",
                "means": "No rule acts.",
                "advice": "Look at it.",
                "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            }
            | fields
        )
        return await self.client.start_workflow(
            DeliverNotice.run,
            notice,
            id=ids.notice(notice.vcenter, notice.id),
            task_queue=self.queues.main,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        )


@pytest_asyncio.fixture
async def telling(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[Telling]:
    await ensure_search_attributes(temporal_client)
    channels = DirectedChannels(log=Channel(), hook=Channel())
    parts = Parts(workflows=[DeliverNotice], wait=[channels.notice_channels, channels.send_notice])
    [workflows, waiting] = build_workers(temporal_client, queues, parts)
    async with workflows, waiting:
        yield Telling(temporal_client, queues, channels, f"vc-{uuid.uuid4().hex[:8]}")


async def shown(handle: WorkflowHandle[DeliverNotice, NoticeReport]) -> str:
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return str(metadata.current_details)


async def test_a_notice_goes_to_every_channel_once(telling: Telling) -> None:
    handle = await telling.start()
    report = await asyncio.wait_for(handle.result(), 60)
    assert {done.channel: done.trouble for done in report.channels} == {"log": "", "hook": ""}
    assert report.pending == ()
    assert telling.channels.channels["hook"].told == [report.notice]
    with pytest.raises(WorkflowAlreadyStartedError):
        await telling.start(happened="told again")
    assert len(telling.channels.channels["log"].told) == 1


async def test_a_channel_that_is_down_is_tried_until_it_is_up_and_delays_no_other(telling: Telling) -> None:
    hook = telling.channels.channels["hook"]
    hook.error = Unreachable("it is down")
    handle = await telling.start()
    await asyncio.wait_for(hook.tried.wait(), 60)
    while not telling.channels.channels["log"].told or hook.tries < 2:
        hook.tried.clear()
        await asyncio.wait_for(hook.tried.wait(), 60)
    report = await handle.query(DeliverNotice.report)
    assert (report.channels, report.pending) == ((Delivered(channel="log"),), ("hook",))
    text = await shown(handle)
    assert "| log | told |" in text
    assert "| hook | being told |" in text
    hook.error = None
    report = await asyncio.wait_for(handle.result(), 60)
    assert report.channels == (Delivered(channel="log"), Delivered(channel="hook"))
    assert hook.told == [report.notice]


async def test_what_was_given_up_is_told_with_its_reason(telling: Telling) -> None:
    telling.channels.channels["hook"].error = BadRequest("it answered 400 to | the event")
    handle = await telling.start()
    report = await asyncio.wait_for(handle.result(), 60)
    assert {done.channel: done.trouble for done in report.channels} == {
        "log": "",
        "hook": "BadRequest: it answered 400 to | the event",
    }
    assert telling.channels.channels["hook"].tries == 1
    assert r"| hook | given up: BadRequest: it answered 400 to \| the event |" in await shown(handle)


async def test_the_temporal_ui_tells_the_notice_without_other_peoples_markup(telling: Telling) -> None:
    handle = await telling.start(clears="n0")
    await asyncio.wait_for(handle.result(), 60)
    text = await shown(handle)
    assert text.startswith(f"**{telling.vcenter}** (critical): It \\| does not \\<b\\>answer\\</b\\>.")
    assert "No rule acts." in text
    assert "Look at it." in text
    assert "Clears `n0`." in text
