"""What a rule's throttles let start now, and what waits until when. Pure.

- Quiet hours: nothing starts; everything waits until they are over.
- `once_within`: so long after a start nothing else of the group starts. What comes in that time is suppressed; what
  waited before it waits on, because what once waits is never dropped.
- `max_concurrent`: so many runs of the group are open at most; everything else waits for room.
- What has a live run already joins it, whatever the throttles say: that starts nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.rules import Rule
from contracts.windows import Window
from planning.windows import covered_until

__all__ = ["UNTHROTTLED", "Candidate", "Choice", "Terms", "Verdict", "choose", "terms_of"]


@dataclass(frozen=True, slots=True)
class Terms:
    """The throttles of one rule."""

    once_within: timedelta | None = None
    max_concurrent: int | None = None
    quiet: tuple[Window, ...] = ()


UNTHROTTLED = Terms()
"""Of a rule that is gone or has no throttles any more: what waits starts."""


def terms_of(rule: Rule | None) -> Terms:
    """The throttles of a rule; none where it is gone."""
    return Terms(rule.once_within, rule.max_concurrent, rule.quiet) if rule else UNTHROTTLED


class Verdict(StrEnum):
    """What becomes of a target."""

    START = "start"
    JOIN = "join"
    WAIT = "wait"
    SUPPRESS = "suppress"
    """A run for the group was started not long ago."""
    UNNEEDED = "unneeded"
    """Its events start nothing by themselves, and there is no live run that they could join."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that a rule would start a run for."""

    group: str
    live: bool = False
    """It has a live run, whoever started it."""
    begins: bool = True
    """Some of its events start a run; the others only join one."""
    waited: bool = False
    """An earlier look let it wait."""
    behind: bool = False
    """Targets of its group that came earlier wait, and are not among these candidates."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The verdict on one candidate."""

    verdict: Verdict
    until: datetime | None = None
    """Until when it waits or further ones are suppressed; None where it waits for a run to end."""
    why: str = ""


def choose(
    candidates: Sequence[Candidate],
    terms: Terms,
    started: Mapping[str, datetime],
    running: Mapping[str, int],
    now: datetime,
) -> tuple[Choice, ...]:
    """The verdict on each candidate, in their order, which is the order of arrival in each group.

    `started` is when the rule last started a run for a group, `running` how many of those it started are open.
    """
    quiet_until = covered_until(terms.quiet, now)
    last, open_runs, held = dict(started), Counter(running), set[str]()
    choices = []
    for candidate in candidates:
        choice = _choose(candidate, terms, last.get(candidate.group), open_runs[candidate.group], quiet_until, now)
        if choice.verdict is Verdict.START:
            if candidate.behind or candidate.group in held:
                choice = Choice(Verdict.WAIT, None, "others of its group came first")
            else:
                last[candidate.group] = now
                open_runs[candidate.group] += 1
        if choice.verdict is Verdict.WAIT:
            held.add(candidate.group)
        choices.append(choice)
    return tuple(choices)


def _choose(
    candidate: Candidate, terms: Terms, last: datetime | None, running: int, quiet_until: datetime | None, now: datetime
) -> Choice:
    if candidate.live:
        return Choice(Verdict.JOIN)
    if not candidate.begins:
        return Choice(Verdict.UNNEEDED)
    again = last + terms.once_within if last is not None and terms.once_within is not None else now
    if again > now and not candidate.waited:
        return Choice(Verdict.SUPPRESS, again, "a run was started not long ago (once_within)")
    if quiet_until is not None and quiet_until >= again:
        return Choice(Verdict.WAIT, quiet_until, "quiet hours")
    if again > now:
        return Choice(Verdict.WAIT, again, "a run was started not long ago (once_within)")
    if terms.max_concurrent is not None and running >= terms.max_concurrent:
        return Choice(Verdict.WAIT, None, f"{running} of {terms.max_concurrent} runs are open (max_concurrent)")
    return Choice(Verdict.START)
