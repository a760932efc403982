"""Handing events over: start the target's run, or give the events to the run that is live."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from temporalio.api.enums.v1 import WorkflowIdConflictPolicy, WorkflowIdReusePolicy
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import (
    SignalWithStartWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from contracts import names
from contracts.base import Message
from contracts.events import EventKey
from contracts.prepare import HostEvents
from listeners.patience import CALL_TIMEOUT, until_answered
from listeners.rules import Group
from listeners.targets import Target, ThrottledRun, keys_of
from vsphere.event_xml import RawEvent

__all__ = ["Call", "Delivery", "HandOver", "order_of"]


_AT_ONCE = 400
"""Events in one call."""
_RUNS_ASKED = 20
"""At most, of one target, for what they were given."""


class Delivery(StrEnum):
    """What became of a group of events."""

    STARTED = "started"
    JOINED = "joined"
    REPEATED = "repeated"
    UNNEEDED = "unneeded"
    """They start nothing by themselves, and there is no live run that they could join."""
    THROTTLED = "throttled"
    """The throttle of their rule has them."""


@dataclass(frozen=True, slots=True)
class Call:
    """A start of a workflow."""

    workflow_type: str
    workflow_id: str
    order: Message
    request_id: str
    """By which Temporal recognises that it is repeated."""
    summary: str


class HandOver:
    """Hands groups of events of one vCenter over to workflows on `task_queue`.

    Requests are built by hand because the client's `start_workflow` makes up a request ID for each call: with the
    event's identity as request ID Temporal itself recognises a repeated start. The start is eager all the same: the
    SDK adds the worker's slot below this level (measured: 7 ms from call to result of an empty workflow, 43 ms when
    not eager), provided that a worker for `task_queue` shares the client.
    """

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self.task_queue = task_queue
        self._given: dict[tuple[str, str], set[int]] = {}
        """By target and epoch, the keys that its runs had been given before, and those that were given here."""

    async def deliver(
        self, group: Group, epoch: str, *, maybe_repeated: bool, still_here: Callable[[], None]
    ) -> Delivery:
        """Hand a group over and return when Temporal has it durably; tries until Temporal answers.

        `maybe_repeated`: an earlier reader may have handed these events over, so the target's runs are asked first;
        once, as what is given to them from then on is known here. After a call without an answer, which may have
        started a run that is closed by now, it is asked anew. `still_here` is called while Temporal does not answer.
        Raises `RPCError` for what trying again does not mend (a refused or malformed request).
        """
        tried = False

        async def attempt() -> Delivery:
            nonlocal tried
            again, tried = tried, True
            return await self._deliver(group, epoch, ask=maybe_repeated or again, anew=again)

        return await until_answered(attempt, still_here)

    async def tell(
        self, workflow_id: str, vcenter: str, epoch: str, events: Sequence[RawEvent], still_here: Callable[[], None]
    ) -> bool:
        """Give events to the live preparation `workflow_id`; False where it is not live. Otherwise like `deliver`."""
        message = HostEvents(events=keys_of(epoch, events))
        request_id = _request_id(vcenter, epoch, events)
        return await until_answered(
            lambda: self.signal(workflow_id, names.HOST_EVENTS, message, request_id), still_here
        )

    async def _deliver(self, group: Group, epoch: str, *, ask: bool, anew: bool) -> Delivery:
        events: Sequence[RawEvent] = group.events
        known = self._given.get((group.workflow_id, epoch))
        if ask and (anew or known is None):
            known = self._given[group.workflow_id, epoch] = await self._given_before(group, epoch)
        if ask and known is not None:
            events = [event for event in events if event.key not in known]
            if not events:
                return Delivery.REPEATED
        # Other people's words may be long, and a payload is 2 MiB at most; in order, because of the request's ID.
        begins = any(map(group.target.starts_for, events))
        first = await self._give(group, epoch, events[:_AT_ONCE], begins)
        for start in range(_AT_ONCE, len(events), _AT_ONCE):
            await self._give(group, epoch, events[start : start + _AT_ONCE], begins)
        if ask and known is not None and first is not Delivery.UNNEEDED:
            known.update(event.key for event in events)
        return first

    async def _give(self, group: Group, epoch: str, events: Sequence[RawEvent], begins: bool) -> Delivery:
        message = group.target.joining(epoch, events)
        if message is not None and not begins:
            request_id = _request_id(group.vcenter, epoch, events)
            there = await self.signal(group.workflow_id, str(group.target.join_signal), message, request_id)
            return Delivery.JOINED if there else Delivery.UNNEEDED
        return await self._start_or_join(group, epoch, events, message)

    async def _start_or_join(
        self, group: Group, epoch: str, events: Sequence[RawEvent], message: Message | None
    ) -> Delivery:
        call = _call(group, epoch, events)
        try:
            await self.start(call)
        except RPCError as error:
            if error.status is not RPCStatusCode.ALREADY_EXISTS:
                raise
            if message is not None:
                # A signal cannot be lost to a run that is about to finish, as joining by USE_EXISTING can: should the
                # run have closed by now, this starts the next one.
                await self.signal_with_start(call, str(group.target.join_signal), message)
            return Delivery.JOINED
        return Delivery.STARTED

    async def start(self, call: Call) -> str:
        """Start a run; its ID. Raises `RPCError`, `ALREADY_EXISTS` where another one is live."""
        request = StartWorkflowExecutionRequest(request_eager_execution=True)
        await self._fill(request, call)
        request.workflow_id_conflict_policy = WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL
        # `retry` because only the SDK's retrying client passes an eager task on to the worker: without it the task is
        # dropped and the run stands still until its time-out (10 s).
        started = await self._client.workflow_service.start_workflow_execution(
            request, retry=True, timeout=CALL_TIMEOUT
        )
        return started.run_id

    async def signal_with_start(self, call: Call, signal: str, message: Message) -> None:
        """Signal the live run, or start one with the signal. Raises `RPCError`."""
        request = SignalWithStartWorkflowExecutionRequest(signal_name=signal)
        await self._fill(request, call)
        request.signal_input.payloads.extend(await self._client.data_converter.encode([message]))
        await self._client.workflow_service.signal_with_start_workflow_execution(request, timeout=CALL_TIMEOUT)

    async def signal(self, workflow_id: str, signal: str, message: Message, request_id: str) -> bool:
        """Signal the live run; False where there is none."""
        request = SignalWorkflowExecutionRequest(
            namespace=self._client.namespace,
            identity=self._client.identity,
            signal_name=signal,
            request_id=request_id,
        )
        request.workflow_execution.workflow_id = workflow_id
        request.input.payloads.extend(await self._client.data_converter.encode([message]))
        try:
            await self._client.workflow_service.signal_workflow_execution(request, timeout=CALL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False
        return True

    async def _fill(
        self, request: StartWorkflowExecutionRequest | SignalWithStartWorkflowExecutionRequest, call: Call
    ) -> None:
        converter = self._client.data_converter
        request.namespace = self._client.namespace
        request.identity = self._client.identity
        request.workflow_id = call.workflow_id
        request.workflow_type.name = call.workflow_type
        request.task_queue.name = self.task_queue
        request.workflow_id_reuse_policy = WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
        request.request_id = call.request_id
        request.input.payloads.extend(await converter.encode([call.order]))
        request.user_metadata.summary.CopyFrom((await converter.encode([call.summary[:200]]))[0])

    async def _given_before(self, group: Group, epoch: str) -> set[int]:
        """The keys of this epoch that the target's runs were given, as far back as one may have been given the group's.

        Groups come in the order of their keys. So the latest run says nearly always all: who was given older events
        only has no run before it that was given newer ones. A target without a signal does not record the events that
        joined it: at worst a second run finds nothing to do.
        """
        latest = await self._given_to(group.target, None)
        if latest is None:
            return set()
        keys = {each.key for each in latest if each.epoch == epoch}
        left = {event.key for event in group.events} - keys
        if not left or (keys and max(keys) < min(left)):
            return keys
        listed = self._client.list_workflows(
            f"WorkflowId = '{group.workflow_id}'", limit=_RUNS_ASKED, rpc_timeout=CALL_TIMEOUT
        )
        async for run in listed:
            earlier = {each.key for each in await self._given_to(group.target, run.run_id) or () if each.epoch == epoch}
            keys |= earlier
            left -= earlier
            if not left or (earlier and max(earlier) < min(left)):
                break
        return keys

    async def given_to_latest_run(self, target: Target | ThrottledRun) -> frozenset[EventKey]:
        """The events that the target's latest run was started with or signalled, open or closed, by its history."""
        return await self._given_to(target, None) or frozenset()

    async def _given_to(self, target: Target | ThrottledRun, run_id: str | None) -> frozenset[EventKey] | None:
        """The same of a run, or of the latest one; None where there is none."""
        given: set[EventKey] = set()
        try:
            # One page at a time with a time-out of its own: histories grow to hundreds of events.
            async for event in self._client.get_workflow_handle(target.workflow_id, run_id=run_id).fetch_history_events(
                rpc_timeout=CALL_TIMEOUT
            ):
                given.update(await self._events_of(event, target))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return None
        return frozenset(given)

    async def _events_of(self, event: HistoryEvent, target: Target | ThrottledRun) -> Iterable[EventKey]:
        converter = self._client.data_converter
        if event.HasField("workflow_execution_started_event_attributes"):
            payloads = event.workflow_execution_started_event_attributes.input.payloads
            [order] = await converter.decode(payloads, [target.input_type])
            return target.input_type.model_validate(order).events
        if event.HasField("workflow_execution_signaled_event_attributes"):
            signal = event.workflow_execution_signaled_event_attributes
            if target.join_type is not None and signal.signal_name == target.join_signal:
                [message] = await converter.decode(signal.input.payloads, [target.join_type])
                return target.join_type.model_validate(message).events
        return ()


def order_of(group: Group, epoch: str, events: Sequence[RawEvent]) -> tuple[Message, str]:
    """The input of a run for these events of the group, and what it is for, in words."""
    first = events[0]
    reason = f"event {first.key} {first.type_name}: {first.message}"[:500]
    order = group.target.order(f"rule:{group.rule.name}", reason, epoch, events)
    return order, f"{group.target.summary} after {first.type_name}"


def _call(group: Group, epoch: str, events: Sequence[RawEvent]) -> Call:
    order, summary = order_of(group, epoch, events)
    request_id = _request_id(group.vcenter, epoch, events)
    return Call(group.target.workflow_type, group.workflow_id, order, request_id, summary)


def _request_id(vcenter: str, epoch: str, events: Sequence[RawEvent]) -> str:
    """The newest event names the group.

    Whatever two overlapping readers put into groups with the same newest event, all else in them was handed over
    before. With the oldest one a longer group would be lost to a shorter one.
    """
    return f"{vcenter}/{epoch}/{max(event.key for event in events)}"
