"""`release_throttled`: looks at what waits in a throttle, decides, and starts or joins what may be."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import structlog
from temporalio import activity
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from contracts.errors import Unreachable
from contracts.events import EventKey
from contracts.listen_activities import ThrottleActivities
from contracts.packing import unpacked
from contracts.rules import RulesFile
from contracts.throttles import Became, Outcome, Release, Released, StartedRun, ThrottleMemory, WaitingTarget
from listeners.hand_over import Call, Delivery, HandOver
from listeners.metrics import ThrottleMetrics
from listeners.patience import CALL_TIMEOUT
from listeners.targets import ThrottledRun, throttled_run
from planning.throttles import Candidate, Choice, Terms, Verdict, choose, terms_of

__all__ = ["Releaser"]

_T = TypeVar("_T")
_R = TypeVar("_R")
_log = structlog.get_logger(__name__)

_AT_ONCE = 16
"""Calls to Temporal."""
_CLOCKS = timedelta(seconds=1)
"""Of the servers that Temporal consists of."""
_DELIVERIES = {
    Outcome.STARTED: Delivery.STARTED,
    Outcome.JOINED: Delivery.JOINED,
    Outcome.REPEATED: Delivery.REPEATED,
}
_WHAT = {
    Verdict.SUPPRESS: Outcome.SUPPRESSED,
    Verdict.UNNEEDED: Outcome.UNNEEDED,
    Verdict.WAIT: Outcome.WAITS,
}


class Releaser(ThrottleActivities):
    """Implements `release_throttled` by the rules of one worker's configuration."""

    def __init__(self, rules: RulesFile, task_queue: str) -> None:
        """`task_queue` is where the started workflows run."""
        self._rules = rules
        self._task_queue = task_queue
        self._metrics: dict[tuple[str, str], ThrottleMetrics] = {}

    @activity.defn(name="release_throttled")
    async def release_throttled(self, order: Release) -> Released:
        """See `ThrottleActivities`. Repeating it does no harm: what an earlier attempt started is found.

        Raises `Unreachable` where Temporal does not tell how runs stand.
        """
        rule = next((rule for rule in self._rules.rules if rule.name == order.rule), None)
        look = _Look(activity.client(), self._task_queue, order, terms_of(rule))
        try:
            released = await look.release(rule.throttles if rule else "")
        except* RPCError as errors:
            raise Unreachable(f"Temporal did not tell how runs stand: {errors.exceptions[0]}") from None
        self._count(order, look.waiting, released)
        return released

    def _count(self, order: Release, looked_at: Sequence[WaitingTarget], released: Released) -> None:
        key = (order.vcenter, order.rule)
        if key not in self._metrics:
            self._metrics[key] = ThrottleMetrics(activity.metric_meter(), *key)
        metrics, settled = self._metrics[key], 0
        for each, became in zip(looked_at, released.became, strict=True):
            if became.outcome in _DELIVERIES:
                metrics.delivered(_DELIVERIES[became.outcome])
            if became.outcome is Outcome.SUPPRESSED:
                metrics.suppressed(len(each.target.keys))
            settled += became.outcome is not Outcome.WAITS
            if each.waited and became.outcome is Outcome.WAITS:
                # That was told when it came, and a look is every few seconds.
                continue
            _log.info(
                "throttled",
                rule=order.rule,
                workflow_id=each.target.workflow_id,
                outcome=became.outcome,
                why=became.why,
                keys=[key.key for key in each.target.keys[:100]],
            )
        metrics.waiting(order.waiting - settled)


@dataclass(frozen=True, slots=True)
class _Standing:
    """How the latest run of a target stands."""

    live: bool = False
    first_run_id: str = ""
    began: datetime | None = None
    begun_with: frozenset[EventKey] = frozenset()
    """The events that it was started with."""


class _Look:
    """One call of the activity."""

    def __init__(self, client: Client, task_queue: str, order: Release, terms: Terms) -> None:
        self._client = client
        self._vcenter = order.vcenter
        self._hand_over = HandOver(client, task_queue)
        self._terms = terms
        self._memory = unpacked(ThrottleMemory, order.memory)
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self.waiting = self._memory.waiting

    async def release(self, words: str) -> Released:
        """Decide and carry out; `words` tell the rule's throttles."""
        runs = self._memory.runs
        counts = self._terms.max_concurrent is not None
        open_runs = await self._each(self._is_open, runs) if counts else [False] * len(runs)
        targets = [throttled_run(each.target) for each in self.waiting]
        standings = await self._each(self._standing, targets)
        choices = self._choose(
            [_ours(*each) for each in zip(targets, standings, (each.since for each in self.waiting), strict=True)],
            standings,
            [run for run, is_open in zip(runs, open_runs, strict=True) if is_open],
        )
        became = await self._each(self._carry_out, list(zip(targets, standings, choices, strict=True)))
        return Released(
            became=tuple(became),
            closed=tuple(run for run, is_open in zip(runs, open_runs, strict=True) if not is_open),
            forgotten=tuple(self._forgotten(became)),
            terms=words,
        )

    def _choose(
        self, ours: Sequence[bool], standings: Sequence[_Standing], open_runs: Sequence[StartedRun]
    ) -> list[Choice | None]:
        """What to do about each target; None where an attempt that nobody heard of started its run already."""
        now = datetime.now(UTC)
        started: dict[str, datetime] = dict(self._memory.started_at)
        known = {run.run_id for run in open_runs}
        running = Counter(run.group for run in open_runs)
        candidates = []
        for each, mine, standing in zip(self.waiting, ours, standings, strict=True):
            group = each.target.group
            if mine:
                started[group] = now
                running[group] += standing.live and standing.first_run_id not in known
            else:
                begins = each.target.begins
                candidates.append(Candidate(group, standing.live, begins, each.waited, each.behind))
        choices = iter(choose(candidates, self._terms, started, running, now))
        return [None if mine else next(choices) for mine in ours]

    async def _carry_out(self, what: tuple[ThrottledRun, _Standing, Choice | None]) -> Became:
        run, standing, choice = what
        try:
            if choice is None:
                return await self._found_again(run, standing)
            if choice.verdict is Verdict.START:
                return await self._start(run)
            if choice.verdict is Verdict.JOIN:
                return await self._join(run)
        except RPCError as refused:
            return _became(Outcome.WAITS, why=f"Temporal refused: {refused.message}")
        return _became(_WHAT[choice.verdict], until=choice.until, why=choice.why)

    async def _start(self, run: ThrottledRun) -> Became:
        given = await self._hand_over.given_to_latest_run(run)
        target = run.target.without(given)
        if target is None:
            return _became(Outcome.REPEATED)
        newest = target.keys[-1]
        call = Call(
            workflow_type=run.kind.workflow_type,
            workflow_id=target.workflow_id,
            order=target.order,
            request_id=f"{self._vcenter}/{newest.epoch}/{newest.key}",
            summary=target.summary,
        )
        try:
            run_id = await self._hand_over.start(call)
        except RPCError as error:
            if error.status is not RPCStatusCode.ALREADY_EXISTS:
                raise
            return await self._join(throttled_run(target))
        return _became(Outcome.STARTED, run_id=self._counted(run_id))

    async def _join(self, run: ThrottledRun) -> Became:
        """Give the events to the live run. Not by signal-with-start: that one may start what may not start now."""
        if run.joining is None or run.join_signal is None:
            return _became(Outcome.JOINED)
        newest = run.target.keys[-1]
        request_id = f"{self._vcenter}/{newest.epoch}/{newest.key}"
        if await self._hand_over.signal(run.workflow_id, run.join_signal, run.joining, request_id):
            return _became(Outcome.JOINED)
        now = datetime.now(UTC)
        return Became(outcome=Outcome.WAITS, at=now, until=now, why="its run ended just now")

    async def _found_again(self, run: ThrottledRun, standing: _Standing) -> Became:
        if standing.live and (late := run.target.without(standing.begun_with)) is not None:
            await self._join(throttled_run(late))
        return _became(Outcome.STARTED, run_id=self._counted(standing.first_run_id) if standing.live else "")

    def _counted(self, run_id: str) -> str:
        return run_id if self._terms.max_concurrent is not None else ""

    def _forgotten(self, became: Sequence[Became]) -> set[str]:
        groups = {each.target.group for each in self.waiting} | self._memory.started_at.keys()
        if (window := self._terms.once_within) is None:
            return groups
        now = datetime.now(UTC)
        anew = {
            each.target.group
            for each, what in zip(self.waiting, became, strict=True)
            if what.outcome is Outcome.STARTED
        }
        return {group for group, at in self._memory.started_at.items() if at + window <= now} - anew

    async def _standing(self, run: ThrottledRun) -> _Standing:
        handle = self._client.get_workflow_handle(run.workflow_id)
        try:
            latest = await handle.describe(rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return _Standing()
        first_run_id = latest.raw_info.first_run_id
        live = latest.status is WorkflowExecutionStatus.RUNNING
        return _Standing(live, first_run_id, latest.start_time, await self._begun_with(run, first_run_id))

    async def _begun_with(self, run: ThrottledRun, first_run_id: str) -> frozenset[EventKey]:
        request = GetWorkflowExecutionHistoryRequest(namespace=self._client.namespace, maximum_page_size=1)
        request.execution.workflow_id = run.workflow_id
        request.execution.run_id = first_run_id
        try:
            page = await self._client.workflow_service.get_workflow_execution_history(request, timeout=CALL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            # The first run of a long chain, deleted after its retention.
            return frozenset()
        payloads = page.history.events[0].workflow_execution_started_event_attributes.input.payloads
        [order] = await self._client.data_converter.decode(payloads, [run.input_type])
        return frozenset(run.input_type.model_validate(order).events)

    async def _is_open(self, run: StartedRun) -> bool:
        """By the latest run of its ID: continue-as-new keeps the first run's ID, any other one came after its end."""
        try:
            latest = await self._client.get_workflow_handle(run.workflow_id).describe(rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False
        return latest.status is WorkflowExecutionStatus.RUNNING and latest.raw_info.first_run_id == run.run_id

    async def _each(self, function: Callable[[_T], Awaitable[_R]], items: Sequence[_T]) -> list[_R]:
        """The results, in order, with few calls at a time."""

        async def limited(item: _T) -> _R:
            async with self._at_once:
                return await function(item)

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(limited(item)) for item in items]
        return [task.result() for task in running]


def _ours(run: ThrottledRun, standing: _Standing, since: datetime) -> bool:
    """Whether an attempt that nobody heard of started the target's run for these events, which wait since then.

    A run that began before is one of long ago, and the events are repeated.
    """
    if standing.began is None or standing.began < since - _CLOCKS or not standing.begun_with & set(run.target.keys):
        return False
    return standing.live or run.target.without(standing.begun_with) is None


def _became(outcome: Outcome, *, run_id: str = "", until: datetime | None = None, why: str = "") -> Became:
    return Became(outcome=outcome, run_id=run_id, at=datetime.now(UTC), until=until, why=why[:500])
