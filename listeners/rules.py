"""Which events start what: pure matching and grouping, no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from operator import itemgetter
from types import MappingProxyType

from pydantic import ValidationError

from contracts import names
from contracts.rules import Rule, RuledVm
from listeners.targets import HostToPrepare, Target, target_of
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost

__all__ = ["Group", "Match", "RuleBook", "group_by_target", "why_unresolved", "with_names"]


@dataclass(frozen=True, slots=True)
class Match:
    """A rule and an event that it is for."""

    rule: Rule
    event: RawEvent
    trouble: str = ""
    """Why nothing can be started for it although its host is known, in words."""


@dataclass(frozen=True, slots=True)
class Group:
    """Events for one target, in the order of their keys; `rule` is the one that the first of them matched.

    A rule with throttles shares no group with other rules.
    """

    rule: Rule
    vcenter: str
    """Of the events."""
    target: Target
    events: tuple[RawEvent, ...]

    @property
    def workflow_id(self) -> str:
        """The target's, which makes the group."""
        return self.target.workflow_id


class RuleBook:
    """The rules of one vCenter, indexed by event type, so that uninteresting events cost one look-up."""

    def __init__(self, vcenter: str, rules: Sequence[Rule]) -> None:
        self._vcenter = vcenter
        self._by_type: dict[str, dict[int, Rule]] = {}
        named: set[str] = set()
        for position, rule in enumerate(rules):
            if rule.where.vcenter is None or fnmatchcase(vcenter, rule.where.vcenter):
                named.update(rule.on)
                for name in rule.on:
                    self._by_type.setdefault(name.casefold(), {})[position] = rule
        self.types = frozenset(self._by_type)
        """What rules name, without letter case: types and `eventTypeId`s."""
        self.names = frozenset(named)
        """The same, as they are written."""
        used = [rule for by_position in self._by_type.values() for rule in by_position.values()]
        self.audits = any(rule.start == names.HA_RECOVERY_AUDIT for rule in used)
        """Whether an audit is among what they start."""

    def cares(self, event: RawEvent) -> bool:
        """Whether some rule is for events of this type."""
        return event.type_name.casefold() in self.types or event.base_type.casefold() in self.types

    def matches(self, event: RawEvent) -> tuple[Match, ...]:
        """For each kind of `start` the first rule, in the order of the file, that the event matches.

        So a host that connects again may be prepared by one rule and join an audit by another, while two profiles for
        one host never compete. A rule's `on` is compared with the type name and the `eventTypeId` without letter case,
        because vCenter releases differ in it; an `EventEx` has both.
        """
        rules = self._by_type.get(event.type_name.casefold(), {}) | self._by_type.get(event.base_type.casefold(), {})
        first: dict[str, Match] = {}
        for _, rule in sorted(rules.items(), key=itemgetter(0)):
            if rule.start not in first and rule.where.fits(
                vcenter=self._vcenter, cluster=event.cluster_name, host=event.host_name
            ):
                first[rule.start] = Match(rule, event)
        return tuple(first.values())


def with_names(event: RawEvent, hosts: Mapping[str, IndexedHost]) -> RawEvent:
    """The event with the host's and cluster's names from the inventory where it does not tell them itself."""
    host = hosts.get(event.host_moid)
    if host is None or (event.host_name and event.cluster_name):
        return event
    return replace(
        event,
        host_name=event.host_name or host.ref.name,
        cluster_name=event.cluster_name or host.cluster_name,
    )


def group_by_target(
    vcenter: str,
    matches: Iterable[Match],
    hosts: Mapping[str, IndexedHost],
    vms: Mapping[str, RuledVm] = MappingProxyType({}),
) -> tuple[tuple[Group, ...], tuple[Match, ...]]:
    """The matches by target, and those that have none: their host is not among `hosts` (by moid), or in `trouble`.

    `vms` are those that the rules name. Every match is in exactly one group or among the rest; groups and their events
    keep the order of the matches.
    """
    by_workflow: dict[tuple[str, str], list[tuple[Match, Target]]] = {}
    unresolved = []
    for match in matches:
        host = hosts.get(match.event.host_moid)
        try:
            target = target_of(vcenter, match.rule, match.event, host, vms)
        except ValidationError as error:
            words = "; ".join(details["msg"].removeprefix("Value error, ") for details in error.errors())
            name = host.ref.name if host else match.event.host_name
            unresolved.append(replace(match, trouble=f"rule {match.rule.name!r}, host {name}: {words}"))
            continue
        if target is None:
            unresolved.append(match)
        else:
            throttled = match.rule.name if match.rule.throttled else ""
            by_workflow.setdefault((target.workflow_id, throttled), []).append((match, target))
    return tuple(_group(vcenter, found) for found in by_workflow.values()), tuple(unresolved)


def why_unresolved(match: Match) -> str:
    """Why nothing can be started for a match without a target, in words."""
    event = match.event
    host = (
        f"{event.host_name or 'its host'} ({event.host_moid})" if event.host_moid else "the event names no host, so it"
    )
    return (
        match.trouble
        or f"{host} is not in the inventory with a hardware UUID; if the host comes back, an event will tell"
    )


def _group(vcenter: str, found: Sequence[tuple[Match, Target]]) -> Group:
    (match, target), (_, newest) = found[0], found[-1]
    if isinstance(target, HostToPrepare) and isinstance(newest, HostToPrepare):
        # The first match says what is wanted; the newest event knows where the host is now.
        target = replace(target, host=newest.host)
    return Group(match.rule, vcenter, target, tuple(each.event for each, _ in found))
