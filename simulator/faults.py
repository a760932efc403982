"""Fault injection: rules that delay, fail or drop calls, by method, object and session."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from pyVmomi import vim, vmodl

from simulator.core import Managed, SessionView

__all__ = ["FaultInjector", "FaultRule"]

_FIELDS = {"method", "object", "session", "delay_s", "error", "message", "drop", "truncate", "times", "probability"}


@dataclass(slots=True)
class FaultRule:
    """What happens to which calls.

    `method`, `object` (moid or name) and `session` (key) are globs. `delay_s` is in real seconds. `error` names a
    vSphere fault type (`HostConnectFault`, `vim.fault.Timedout`). `drop` closes the TCP connection without an
    answer: `before` the call is performed, or `after` (half-done). `truncate` ends the answer's body after that part
    of it (0.5: in the middle), as if it were all. The rule is used up after `times` hits.
    """

    id: int
    method: str = "*"
    object: str = "*"
    session: str = "*"
    delay_s: float = 0.0
    error: str | None = None
    message: str = "This fault was injected."
    drop: Literal["before", "after"] | None = None
    truncate: float | None = None
    times: int | None = None
    probability: float = 1.0
    hits: int = 0

    def matches(self, method: str, target: Managed, session: SessionView) -> bool:
        """Whether the rule is about this call."""
        if not fnmatchcase(method, self.method) or not fnmatchcase(session.key, self.session):
            return False
        if self.object == "*" or fnmatchcase(target.moid, self.object):
            return True
        return "name" in target.readers and fnmatchcase(str(target.read("name")), self.object)

    def fault(self) -> Any:
        """The pyVmomi fault to raise."""
        return fault_type(self.error or "")(msg=self.message)


@dataclass(slots=True)
class FaultInjector:
    """The rules in force; the first that matches (and whose dice fall so) applies."""

    seed: int = 0
    rules: dict[int, FaultRule] = field(default_factory=dict)
    _next: int = 1
    _dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def add(self, rule: dict[str, Any]) -> FaultRule:
        """Put a rule in force; raises `ValueError` that says what is wrong with it."""
        checked = _checked(rule)
        added = FaultRule(id=self._next, **checked)
        self.rules[added.id] = added
        self._next += 1
        return added

    def match(self, method: str, target: Managed, session: SessionView) -> FaultRule | None:
        """The rule that applies to this call, counting the hit."""
        for rule in self.rules.values():
            if rule.times is not None and rule.hits >= rule.times:
                continue
            if rule.matches(method, target, session) and self._dice.random() < rule.probability:
                rule.hits += 1
                return rule
        return None


def fault_type(name: str) -> Any:
    """A fault type by its short or full name; raises `ValueError` when there is none."""
    short = name.rpartition(".")[2]
    for namespace in (vim.fault, vmodl.fault, vmodl.query, vmodl):
        found = getattr(namespace, short, None)
        if isinstance(found, type) and issubclass(found, vmodl.MethodFault):
            return found
    raise ValueError(f"error: {name!r} is no vSphere fault: use one such as `HostConnectFault` or `vim.fault.Timedout`")


def _checked(rule: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(rule) - _FIELDS):
        raise ValueError(f"{', '.join(unknown)}: unknown; a rule has {', '.join(sorted(_FIELDS))}")
    for name in ("method", "object", "session", "message"):
        if not isinstance(rule.get(name, ""), str):
            raise ValueError(f"{name}: {rule[name]!r} is not text")
    if rule.get("error") is not None:
        fault_type(str(rule["error"]))
    if rule.get("drop") not in (None, "before", "after"):
        raise ValueError(f"drop: {rule['drop']!r} is neither `before` nor `after`")
    delay, probability, times = rule.get("delay_s", 0), rule.get("probability", 1), rule.get("times")
    if not isinstance(delay, (int, float)) or delay < 0:
        raise ValueError(f"delay_s: {delay!r} is not a number of seconds")
    truncate = rule.get("truncate")
    if truncate is not None and (not isinstance(truncate, (int, float)) or not 0 <= truncate < 1):
        raise ValueError(f"truncate: {truncate!r} is no part of the answer: 0 (nothing) up to, but not, 1 (all)")
    if not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
        raise ValueError(f"probability: {probability!r} is not between 0 and 1")
    if times is not None and (not isinstance(times, int) or times < 1):
        raise ValueError(f"times: {times!r} is not a positive whole number")
    if not (delay or rule.get("error") or rule.get("drop") or truncate is not None):
        raise ValueError("a rule needs an effect: `delay_s`, `error`, `drop` or `truncate`")
    return rule
