"""Messages of `RuleThrottle`, through which a rule with throttles starts its runs, and of its activity."""

from collections.abc import Container
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from pydantic import Field

from contracts.audit import HaRecoveryAuditInput
from contracts.base import Message
from contracts.events import EventKey
from contracts.prepare import PrepareGpuHostInput
from contracts.provision import ProvisionGpuVmInput

__all__ = [
    "Became",
    "GroupWait",
    "Outcome",
    "Release",
    "Released",
    "RuleTold",
    "StartedRun",
    "ThrottleCounters",
    "ThrottleInput",
    "ThrottleMemory",
    "ThrottleStatus",
    "ThrottledEvents",
    "ThrottledTarget",
    "WaitingTarget",
]

_T = TypeVar("_T")

_EVENTS_A_TARGET = 400
"""That are kept of a target while it waits: what fits one call that starts a run."""


class ThrottledTarget(Message):
    """A target of a rule and the events for it: one of the three orders is set."""

    workflow_id: str
    group: str
    """What the rule's throttles count it under."""
    group_name: str
    """The same in words."""
    summary: str
    """What the run is for, in words."""
    begins: bool = True
    """Some of its events start a run; the others only join one."""
    prepare: PrepareGpuHostInput | None = None
    audit: HaRecoveryAuditInput | None = None
    provision: ProvisionGpuVmInput | None = None

    @property
    def order(self) -> PrepareGpuHostInput | HaRecoveryAuditInput | ProvisionGpuVmInput:
        """The run's input."""
        order = self.prepare or self.audit or self.provision
        if order is None:
            raise ValueError(f"{self.workflow_id}: there is no order")
        return order

    @property
    def keys(self) -> tuple[EventKey, ...]:
        """Of its events."""
        return self.order.events

    def without(self, seen: Container[EventKey]) -> "ThrottledTarget | None":
        """The same with events that are new; None where none is."""
        if self.audit is not None:
            incident = tuple(event for event in self.audit.incident if event.key not in seen)
            audit = self.audit.model_copy(update={"incident": incident})
            return self.model_copy(update={"audit": audit}) if incident else None
        return self._with_keys(tuple(key for key in self.keys if key not in seen))

    def plus(self, later: "ThrottledTarget") -> "ThrottledTarget":
        """Both as one, with the events of both, in order. Of very many the first and the newest ones are kept.

        The first one says what is wanted; the later one knows where the host is now.
        """
        begins = self.begins or later.begins
        if self.audit is not None and later.audit is not None:
            incident = _some((*self.audit.incident, *later.audit.incident))
            audit = self.audit.model_copy(update={"incident": incident})
            return self.model_copy(update={"begins": begins, "audit": audit})
        merged = self._with_keys(_some((*self.keys, *later.keys))) or self
        if merged.prepare is not None and later.prepare is not None:
            prepare = merged.prepare.model_copy(update={"host": later.prepare.host})
            return merged.model_copy(update={"begins": begins, "prepare": prepare})
        return merged.model_copy(update={"begins": begins})

    def shortened(self, limit: int) -> "ThrottledTarget":
        """With so many events at most, the first and the newest ones; `limit` is 1 or more."""
        if self.audit is not None:
            audit = self.audit.model_copy(update={"incident": _some(self.audit.incident, limit)})
            return self.model_copy(update={"audit": audit})
        return self._with_keys(_some(self.keys, limit)) or self

    def _with_keys(self, keys: tuple[EventKey, ...]) -> "ThrottledTarget | None":
        if not keys:
            return None
        name = "prepare" if self.prepare is not None else "provision"
        return self.model_copy(update={name: self.order.model_copy(update={"events": keys})})


class ThrottledEvents(Message):
    """The signal `throttled_events`: matches of the rule, by target. Repeated events change nothing."""

    targets: tuple[ThrottledTarget, ...]


class WaitingTarget(Message):
    """A target that waits."""

    target: ThrottledTarget
    since: datetime
    waited: bool = False
    """It was looked at and let wait; otherwise it has just come."""
    behind: bool = False
    """Set in an order only: targets of its group that came earlier wait, and are not part of the order."""


class GroupWait(Message):
    """Why the first target of a group waits, and with it all others."""

    name: str
    """The group in words."""
    why: str
    until: datetime | None = None
    """None where it waits for a run to end."""
    again_at: datetime
    """When the group is looked at again."""


class StartedRun(Message):
    """A run that the rule started and that was not seen closed yet."""

    group: str
    workflow_id: str
    run_id: str
    """The first one; continue-as-new keeps it."""


class ThrottleCounters(Message):
    """What became of the rule's targets, as totals."""

    started: int = 0
    """Runs started."""
    joined: int = 0
    """Targets whose events went to a live run."""
    repeated: int = 0
    """Targets whose run had been given the events before."""
    suppressed: int = 0
    """Targets for which nothing was started: `once_within`."""
    suppressed_events: int = 0
    unneeded: int = 0
    """Targets without a live run whose events start none."""

    def plus(self, **more: int) -> "ThrottleCounters":
        """A copy with these added."""
        return self.model_copy(update={name: getattr(self, name) + value for name, value in more.items()})


class ThrottleMemory(Message):
    """What a throttle knows, carried over to its next run."""

    waiting: tuple[WaitingTarget, ...] = ()
    """In the order of arrival."""
    groups: dict[str, GroupWait] = Field(default_factory=dict)
    started_at: dict[str, datetime] = Field(default_factory=dict)
    """When a run was last started, by group."""
    runs: tuple[StartedRun, ...] = ()
    seen: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Keys of events that came, oldest first, by epoch."""
    counters: ThrottleCounters = ThrottleCounters()
    terms: str | None = None
    """The rule's throttles in words, as of the last look; None before the first."""
    heard_at: datetime | None = None
    """When events came last."""


class ThrottleInput(Message):
    """Throttle one rule for the events of one vCenter. Whoever starts it gives these two; the rest is carried over."""

    vcenter: str
    rule: str
    memory: str = ""
    """A packed `ThrottleMemory`."""
    room_s: float = Field(default=15, gt=0)
    """Pause between two looks whether a run has ended that others wait for."""
    linger_s: float = Field(default=600, gt=0)
    """How long repeated events are recognised at least, and how often starts and runs are looked through that nobody
    waits for."""
    longest_history: int = 1000
    """Events after which it continues as new."""


class Release(Message):
    """Input of `release_throttled`: decide what becomes of these targets, and carry it out."""

    vcenter: str
    rule: str
    memory: str
    """A packed `ThrottleMemory`: the targets to look at, in the order of their arrival, with the starts and runs of
    their groups, or of all groups where there is no target."""
    waiting: int
    """How many targets wait in all."""


class Outcome(StrEnum):
    """What became of a target."""

    STARTED = "started"
    JOINED = "joined"
    REPEATED = "repeated"
    SUPPRESSED = "suppressed"
    UNNEEDED = "unneeded"
    WAITS = "waits"


class Became(Message):
    """What became of one target."""

    outcome: Outcome
    run_id: str = ""
    """Of the run that this rule started."""
    at: datetime
    """Not before it was started."""
    until: datetime | None = None
    """Until when it waits; None where nobody knows. Not after `at`: it is looked at again at once."""
    why: str = ""


class Released(Message):
    """Result of `release_throttled`."""

    became: tuple[Became, ...] = ()
    """One for each target of the order."""
    closed: tuple[StartedRun, ...] = ()
    """Those of the order's runs that are closed."""
    forgotten: tuple[str, ...] = ()
    """Groups whose last start no longer matters."""
    terms: str = ""
    """The rule's throttles in words."""


class RuleTold(Message):
    """The signal `rule_throttled` to the watch: how one throttle fares. Its query `status` tells more."""

    rule: str
    terms: str = ""
    waiting: int = 0
    running: int = 0
    """Open runs that the rule started, as far as it counts them."""
    counters: ThrottleCounters = ThrottleCounters()
    next_at: datetime | None = None
    """When the first one that waits may start; None where none waits or nobody knows."""
    why: str = ""
    """Why it waits."""
    trouble: str = ""
    """What keeps the throttle from looking."""
    ended: bool = False
    """Nothing waits, and nothing has to be remembered."""


class ThrottleStatus(Message):
    """The answer to the query `status`, and the result when there was nothing left to do."""

    vcenter: str
    told: RuleTold
    waiting: tuple[WaitingTarget, ...] = ()
    """In the order of arrival."""
    groups: dict[str, GroupWait] = Field(default_factory=dict)
    runs: tuple[StartedRun, ...] = ()


def _some(events: tuple[_T, ...], limit: int = _EVENTS_A_TARGET) -> tuple[_T, ...]:
    """The first and the newest ones."""
    first = limit // 2
    return events if len(events) <= limit else (*events[:first], *events[first - limit :])
