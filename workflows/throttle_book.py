"""What a throttle remembers, and which of its targets are to be looked at: without Temporal, so that it is pure."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts.events import EventKey
    from contracts.packing import packed
    from contracts.throttles import (
        GroupWait,
        Outcome,
        Released,
        RuleTold,
        StartedRun,
        ThrottledTarget,
        ThrottleMemory,
        WaitingTarget,
    )

__all__ = ["Book"]

_AT_ONCE, _EVENTS_AT_ONCE = 50, 2000
"""Targets of one look, and the events of all of them: what an activity manages in its time, and one payload holds."""
_HEADS = 10
"""Of one group in one look: the first ones go first anyway."""
TERMS = timedelta(minutes=5)
"""After so long the first that waits is looked at even so: the rule's throttles may be others by then."""
_SEEN = 10_000
_PACKED_LIMIT = 1_500_000


class Book:
    """The targets of one rule that wait, and what its throttles have to know."""

    def __init__(self, memory: ThrottleMemory, now: datetime, *, room_s: float, linger_s: float) -> None:
        """`room_s` and `linger_s` as in `ThrottleInput`."""
        self._room, self._linger = timedelta(seconds=room_s), timedelta(seconds=linger_s)
        self._waiting = {each.target.workflow_id: each for each in memory.waiting}
        self._groups = dict(memory.groups)
        self._started_at = dict(memory.started_at)
        self._runs = {run.run_id: run for run in memory.runs}
        self._seen = {EventKey(epoch=epoch, key=key): None for epoch, keys in memory.seen.items() for key in keys}
        """A dict keeps the order."""
        self._later: dict[str, ThrottledTarget] = {}
        """Events for targets that are being looked at: they came too late for that."""
        self._looked_at: dict[str, WaitingTarget] = {}
        self._heard_at = memory.heard_at or now
        self._swept_at = now
        self.counters = memory.counters
        self._terms = memory.terms

    def add(self, targets: Iterable[ThrottledTarget], now: datetime) -> None:
        """Events came; those that were seen before change nothing."""
        self._heard_at = now
        for came in targets:
            target = came.without(self._seen)
            if target is None:
                continue
            self._seen |= dict.fromkeys(target.keys)
            name = target.workflow_id
            if name in self._looked_at:
                self._later[name] = self._later[name].plus(target) if name in self._later else target
            else:
                self._put(target, now)
        for old in list(self._seen)[: max(len(self._seen) - _SEEN, 0)]:
            del self._seen[old]

    def order(self, now: datetime) -> ThrottleMemory:
        """What is to be looked at now, in the order of arrival, with what has to be known for that.

        Without any target that is due it is the first one that waits; where none waits, all starts and runs.
        """
        taken = self._due(now) or list(self._waiting.values())[:1]
        self._looked_at = {each.target.workflow_id: each for each in taken}
        if not taken:
            self._swept_at = now
            return ThrottleMemory(started_at=self._started_at, runs=tuple(self._runs.values()))
        groups = {each.target.group for each in taken}
        return ThrottleMemory(
            waiting=tuple(taken),
            started_at={group: at for group, at in self._started_at.items() if group in groups},
            runs=tuple(run for run in self._runs.values() if run.group in groups),
        )

    def apply(self, released: Released, now: datetime) -> None:
        """What became of the last `order`."""
        held: set[str] = set()
        moved: set[str] = set()
        for (name, each), became in zip(self._looked_at.items(), released.became, strict=True):
            group = each.target.group
            if became.outcome is Outcome.WAITS:
                at_once = became.until is not None and became.until <= became.at
                self._waiting[name] = self._waiting[name].model_copy(update={"waited": each.waited or not at_once})
                if group not in held and not (each.behind and group in self._groups):
                    again_at = now if at_once else became.until or now + self._room
                    self._groups[group] = GroupWait(
                        name=each.target.group_name, why=became.why, until=became.until, again_at=again_at
                    )
                held.add(group)
                continue
            moved.add(group)
            del self._waiting[name]
            self._count(became.outcome, len(each.target.keys))
            if became.outcome is Outcome.STARTED:
                self._started_at[group] = became.at
                if became.run_id:
                    self._runs[became.run_id] = StartedRun(group=group, workflow_id=name, run_id=became.run_id)
        for run in released.closed:
            self._runs.pop(run.run_id, None)
        for group in released.forgotten:
            self._started_at.pop(group, None)
        changed = self._terms not in (None, released.terms)
        self._due_now(set(self._groups) if changed else moved - held, now)
        self._terms = released.terms
        self.over(now)

    def over(self, now: datetime) -> None:
        """The last `order` is over, or came to nothing: what came meanwhile is put to the others."""
        self._looked_at = {}
        later, self._later = self._later, {}
        for target in later.values():
            self._put(target, now)
        there = {each.target.group for each in self._waiting.values()}
        self._groups = {group: wait for group, wait in self._groups.items() if group in there}

    def look_again(self, now: datetime) -> None:
        """Everything that waits is due."""
        self._due_now(set(self._groups), now)

    def wake_at(self, now: datetime) -> datetime:
        """When there is something to do again."""
        if not self._waiting:
            return max(self._heard_at, self._swept_at if self._busy else self._heard_at) + self._linger
        if any(not each.waited or each.target.group not in self._groups for each in self._waiting.values()):
            return now
        return min([now + TERMS, *(wait.again_at for wait in self._groups.values())])

    def done(self, now: datetime) -> bool:
        """Nothing waits and nothing has to be remembered."""
        return not self._waiting and not self._busy and now >= self._heard_at + self._linger

    @property
    def waiting(self) -> tuple[WaitingTarget, ...]:
        """In the order of arrival."""
        return tuple(self._waiting.values())

    @property
    def groups(self) -> dict[str, GroupWait]:
        """Why groups wait."""
        return dict(self._groups)

    @property
    def runs(self) -> tuple[StartedRun, ...]:
        """Runs that the rule started and that were not seen closed, as far as they are counted."""
        return tuple(self._runs.values())

    def told(self, rule: str, trouble: str = "") -> RuleTold:
        """How the throttle fares, in short."""
        first = min(
            self._groups.values(), key=lambda wait: (wait.until is None, wait.until or wait.again_at), default=None
        )
        return RuleTold(
            rule=rule,
            terms=self._terms or "",
            waiting=len(self._waiting),
            running=len(self._runs),
            counters=self.counters,
            next_at=first.until if first else None,
            why=f"{first.name}: {first.why}" if first else "",
            trouble=trouble,
        )

    def memory(self) -> str:
        """Everything, packed. Where that is too much for one message, targets keep fewer of their events."""
        for limit in (None, 50, 5, 1):
            waiting = tuple(
                each.model_copy(update={"target": each.target.shortened(limit)}) if limit else each
                for each in self._waiting.values()
            )
            text = packed(self._memory(waiting))
            if len(text) <= _PACKED_LIMIT:
                break
        return text

    def _memory(self, waiting: tuple[WaitingTarget, ...]) -> ThrottleMemory:
        seen: dict[str, list[int]] = {}
        for event in self._seen:
            seen.setdefault(event.epoch, []).append(event.key)
        return ThrottleMemory(
            waiting=waiting,
            groups=self._groups,
            started_at=self._started_at,
            runs=self.runs,
            seen={epoch: tuple(keys) for epoch, keys in seen.items()},
            counters=self.counters,
            terms=self._terms,
            heard_at=self._heard_at,
        )

    @property
    def _busy(self) -> bool:
        return bool(self._started_at or self._runs)

    def _put(self, target: ThrottledTarget, now: datetime) -> None:
        there = self._waiting.get(target.workflow_id)
        self._waiting[target.workflow_id] = (
            there.model_copy(update={"target": there.target.plus(target)})
            if there
            else WaitingTarget(target=target, since=now)
        )

    def _due(self, now: datetime) -> list[WaitingTarget]:
        taken: list[WaitingTarget] = []
        heads: Counter[str] = Counter()
        passed: set[str] = set()
        events = 0
        for each in self._waiting.values():
            group = each.target.group
            wait = self._groups.get(group)
            due = not each.waited or ((wait is None or wait.again_at <= now) and heads[group] < _HEADS)
            fits = len(taken) < _AT_ONCE and (not taken or events + len(each.target.keys) <= _EVENTS_AT_ONCE)
            if due and fits:
                heads[group] += 1
                events += len(each.target.keys)
                taken.append(each.model_copy(update={"behind": group in passed}))
            else:
                passed.add(group)
        return taken

    def _count(self, outcome: Outcome, events: int) -> None:
        self.counters = self.counters.plus(**{outcome.value: 1})
        if outcome is Outcome.SUPPRESSED:
            self.counters = self.counters.plus(suppressed_events=events)

    def _due_now(self, groups: set[str], now: datetime) -> None:
        for group in groups & self._groups.keys():
            self._groups[group] = self._groups[group].model_copy(update={"again_at": now})
