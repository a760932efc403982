"""A forward on a Temporal server whose reader and telling the tests direct."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest_asyncio
from temporalio import activity
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from contracts import ids
from contracts.forward import ForwardActivities, ForwardInput, ForwardOrder, ForwardStatus
from contracts.names import TaskQueues
from contracts.notices import Notice
from contracts.watch import FollowResult, WatchProgress
from tests.support.directed_watch import Call, DirectedCalls, DirectedNotices, at
from workers.assembly import Parts, build_workers
from workers.search_attributes import ensure_search_attributes
from workflows.deliver_notice import DeliverNotice
from workflows.forward_events import ForwardEvents

__all__ = ["WEBHOOK", "DirectedForwarder", "Forward", "forward"]

WEBHOOK = "functions"


class DirectedForwarder(DirectedCalls, ForwardActivities):
    """Sends nothing."""

    @activity.defn(name="forward_events")
    async def forward_events(self, order: ForwardOrder) -> FollowResult:
        """Until the test says how it ends."""
        return await self.until_ended(order)


@dataclass
class Forward:
    """A forward, its reader, and what people were told."""

    vcenter: str
    handle: WorkflowHandle[ForwardEvents, ForwardStatus]
    reader: DirectedForwarder
    notices: DirectedNotices

    async def status(self) -> ForwardStatus:
        return await self.handle.query(ForwardEvents.status)

    async def until(self, wanted: Callable[[ForwardStatus], bool]) -> ForwardStatus:
        """Ask until it is so."""
        ends_at = time.monotonic() + 60
        while not wanted(status := await self.status()):
            assert time.monotonic() < ends_at, f"after 60 s it still is {status}"
            await asyncio.sleep(0.05)
        return status

    async def tell(self, **fields: object) -> None:
        await self.handle.signal(ForwardEvents.watch_progress, WatchProgress.model_validate(fields))

    async def forwarding(self) -> Call:
        """The call that sends events, from key 10 on."""
        first = await self.reader.call()
        assert (first.order.cursor, first.order.round) == (None, 1)
        first.returns(at(10))
        return await self.reader.call()

    async def told(self, count: int) -> list[Notice]:
        """The notices once so many were told, in the order of their telling."""
        ends_at = time.monotonic() + 60
        while len(self.notices.told) < count:
            assert time.monotonic() < ends_at, (
                f"after 60 s there still is {self.notices.told} and {await self.status()}"
            )
            await asyncio.sleep(0.05)
        return list(self.notices.told)

    async def stopped(self, call: Call) -> None:
        """Tell it to stop, and wait until the call under way knows it."""
        await self.handle.signal(ForwardEvents.stop)
        await asyncio.wait_for(call.cancelled.wait(), 60)

    async def ended(self) -> ForwardStatus:
        """Its last word."""
        return await asyncio.wait_for(self.handle.result(), 60)

    async def shown(self) -> str:
        """The current details in Temporal's UI."""
        metadata = await self.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        return str(metadata.current_details)


@pytest_asyncio.fixture
async def forward(temporal_client: Client, queues: TaskQueues) -> AsyncIterator[Forward]:
    await ensure_search_attributes(temporal_client)
    reader, notices = DirectedForwarder(), DirectedNotices()
    vcenter = f"vc-{uuid.uuid4().hex[:8]}"
    parts = Parts(
        workflows=[ForwardEvents, DeliverNotice],
        wait=[notices.notice_channels, notices.send_notice],
        forward=[reader.forward_events],
        webhooks=[WEBHOOK],
        vcenters=[vcenter],
    )
    workflows, waiting, forwarding = build_workers(temporal_client, queues, parts)
    async with workflows, waiting, forwarding:
        handle = await temporal_client.start_workflow(
            ForwardEvents.run,
            ForwardInput(vcenter=vcenter, webhook=WEBHOOK),
            id=ids.forward(vcenter, WEBHOOK),
            task_queue=queues.main,
        )
        yield Forward(vcenter, handle, reader, notices)
        if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
            await handle.terminate("the test is over")
        reader.close()
