"""`RuleThrottle`: one a rule with throttles and a vCenter. It keeps what waits, and has it started when it may be.

What may start is decided, and carried out, by an activity that knows the rule as the worker's configuration has it now;
all decisions about one rule are made one after the other, by this workflow's one activity at a time. It ends when
nothing waits and nothing has to be remembered; the rule's next event starts it again.
"""

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import ids, names, search_attributes
    from contracts.listen_activities import ThrottleActivities
    from contracts.packing import packed, unpacked
    from contracts.throttles import (
        Release,
        Released,
        RuleTold,
        ThrottledEvents,
        ThrottleInput,
        ThrottleMemory,
        ThrottleStatus,
    )

from workflows import policies
from workflows.story import cut, plain
from workflows.throttle_book import Book

__all__ = ["RuleThrottle"]

_TELL = timedelta(seconds=5)
"""Pause between two messages to the watch: each one grows two histories."""
_SHOWN = 30


@workflow.defn(name=names.RULE_THROTTLE)
class RuleThrottle:
    """Starts the runs of one rule for the events of one vCenter, as far as its throttles let it."""

    @workflow.init
    def __init__(self, order: ThrottleInput) -> None:
        self._order = order
        memory = unpacked(ThrottleMemory, order.memory) if order.memory else ThrottleMemory()
        self._book = Book(memory, workflow.now(), room_s=order.room_s, linger_s=order.linger_s)
        self._trouble = ""
        self._try_again_at: datetime | None = None
        self._told: RuleTold | None = None
        self._told_at: datetime | None = None
        self._news = True

    @workflow.signal(name=names.THROTTLED_EVENTS)
    def throttled_events(self, message: ThrottledEvents) -> None:
        """Events that the rule matched."""
        self._book.add(message.targets, workflow.now())
        self._news = True

    @workflow.signal(name=names.RECHECK)
    def recheck(self) -> None:
        """Look now, for example because the rule has changed."""
        self._book.look_again(workflow.now())
        self._try_again_at = None
        self._news = True

    @workflow.query(name=names.QUERY_STATUS)
    def status(self) -> ThrottleStatus:
        """What waits, and why."""
        return ThrottleStatus(
            vcenter=self._order.vcenter,
            told=self._book.told(self._order.rule, self._trouble),
            waiting=self._book.waiting,
            groups=self._book.groups,
            runs=self._book.runs,
        )

    @workflow.run
    async def run(self, order: ThrottleInput) -> ThrottleStatus:
        """Release what may start until nothing is left to remember."""
        workflow.upsert_search_attributes(
            [search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter))]
        )
        while True:
            await self._until_due()
            now = workflow.now()
            if self._book.done(now):
                break
            if self._next_look() <= now:
                await self._look()
            await self._show()
            info = workflow.info()
            if info.is_continue_as_new_suggested() or info.get_current_history_length() > order.longest_history:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(order.model_copy(update={"memory": self._book.memory()}))
        await self._tell_watch(ended=True)
        return self.status()

    def _next_look(self) -> datetime:
        return max(self._book.wake_at(workflow.now()), self._try_again_at or workflow.now())

    async def _until_due(self) -> None:
        """Wait until something is to be looked at or told."""
        now = workflow.now()
        wake_at = self._next_look()
        if self._untold() and self._told_at is not None:
            wake_at = min(wake_at, self._told_at + _TELL)
        if wake_at <= now:
            self._news = False
            return
        waiting = len(self._book.waiting)
        summary = f"{waiting} wait until {wake_at:%Y-%m-%d %H:%M:%S} UTC at the longest" if waiting else "nothing waits"
        self._news = False
        try:
            await workflow.wait_condition(lambda: self._news, timeout=wake_at - now, timeout_summary=summary)
        except TimeoutError:
            return

    async def _look(self) -> None:
        memory = self._book.order(workflow.now())
        waiting = len(self._book.waiting)
        try:
            released: Released = await workflow.execute_activity_method(
                ThrottleActivities.release_throttled,
                Release(vcenter=self._order.vcenter, rule=self._order.rule, memory=packed(memory), waiting=waiting),
                **policies.glance(),
                summary=f"{len(memory.waiting)} of {waiting} that wait" if waiting else "look through starts and runs",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            cause = error.cause
            self._trouble = f"{cause.type}: {cause.message}" if isinstance(cause, ApplicationError) else str(cause)
            self._try_again_at = workflow.now() + timedelta(seconds=self._order.room_s)
            self._book.over(workflow.now())
            workflow.logger.warning("the throttle of %s cannot look: %s", self._order.rule, self._trouble)
            return
        self._trouble, self._try_again_at = "", None
        self._book.apply(released, workflow.now())

    async def _show(self) -> None:
        workflow.set_current_details(_tell(self.status()))
        if self._untold() and (self._told_at is None or workflow.now() >= self._told_at + _TELL):
            await self._tell_watch()

    def _untold(self) -> bool:
        return self._book.told(self._order.rule, self._trouble) != self._told

    async def _tell_watch(self, *, ended: bool = False) -> None:
        """So that it is seen where people look first. A watch that is not live need not know."""
        self._told, self._told_at = self._book.told(self._order.rule, self._trouble), workflow.now()
        watch = workflow.get_external_workflow_handle(ids.watch(self._order.vcenter))
        try:
            await watch.signal(names.RULE_THROTTLED, self._told.model_copy(update={"ended": ended}))
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.info("the watch of %s was not told: %s", self._order.vcenter, error)


def _tell(status: ThrottleStatus) -> str:
    """The throttle's current details, as Markdown."""
    told, counters = status.told, status.told.counters
    lines = [f"**{_plain(told.rule)}** ({_plain(told.terms) or 'no throttles'}): {told.waiting} wait", ""]
    if told.trouble:
        lines += [f"> {_plain(told.trouble)}", ""]
    rows = {
        "started": f"{counters.started} runs" + (f", {told.running} counted as open" if told.running else ""),
        "joined": f"{counters.joined} groups of events went to live runs",
        "known already": str(counters.repeated or ""),
        "suppressed": f"{counters.suppressed} targets, {counters.suppressed_events} events",
        "next start": (f"{told.next_at:%Y-%m-%d %H:%M:%S} UTC; " if told.next_at else "") + _plain(told.why),
    }
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)]
    if status.waiting:
        lines += ["", "| # | target | events | since (UTC) | waits for |", "|---|---|---|---|---|"]
        lines += [
            f"| {n} | {_plain(each.target.summary)} | {len(each.target.keys)} | {each.since:%Y-%m-%d %H:%M:%S} "
            f"| {_plain(wait.why) if (wait := status.groups.get(each.target.group)) else 'a look'} |"
            for n, each in enumerate(status.waiting[:_SHOWN], 1)
        ]
    if len(status.waiting) > _SHOWN:
        lines += ["", f"and {len(status.waiting) - _SHOWN} more"]
    return cut("\n".join(lines))


def _plain(text: str) -> str:
    return plain(text, 300)
