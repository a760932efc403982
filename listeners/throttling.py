"""Rules with throttles: their matches go to the rule's `RuleThrottle`, whose activity starts what may start."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256

from temporalio.client import Client

from contracts import ids, names
from contracts.audit import HaRecoveryAuditInput
from contracts.prepare import PrepareGpuHostInput
from contracts.provision import ProvisionGpuVmInput
from contracts.rules import Grouping
from contracts.throttles import ThrottledEvents, ThrottledTarget, ThrottleInput
from listeners.hand_over import Call, HandOver, order_of
from listeners.patience import until_answered
from listeners.rules import Group
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost

__all__ = ["Throttles", "throttle_group"]

_TARGETS_A_SIGNAL, _EVENTS_A_SIGNAL = 100, 400


class Throttles:
    """Gives groups of events to the throttles of their rules, on `task_queue`."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._hand_over = HandOver(client, task_queue)

    async def give(
        self, groups: Sequence[Group], hosts: Mapping[str, IndexedHost], epoch: str, still_here: Callable[[], None]
    ) -> None:
        """Give the groups, all of one vCenter, to their rules' throttles; returns when Temporal has them durably.

        Raises `RPCError` for what trying again does not mend.
        """
        by_rule: dict[str, list[ThrottledTarget]] = {}
        for group in groups:
            by_rule.setdefault(group.rule.name, []).extend(_targets(group, hosts, epoch))
        for rule, targets in by_rule.items():
            await self._give(groups[0].vcenter, rule, targets, still_here)

    async def _give(
        self, vcenter: str, rule: str, targets: Sequence[ThrottledTarget], still_here: Callable[[], None]
    ) -> None:
        for some in _signals(targets):
            message = ThrottledEvents(targets=tuple(some))
            # Readers that overlap may make other messages of the same events, so all of them name it: to which of them
            # events are new the throttle knows.
            said = "\n".join(f"{t.workflow_id} {key.epoch}/{key.key}" for t in some for key in t.keys)
            call = Call(
                workflow_type=names.RULE_THROTTLE,
                workflow_id=ids.throttle(vcenter, rule),
                order=ThrottleInput(vcenter=vcenter, rule=rule),
                request_id=sha256(said.encode()).hexdigest(),
                summary=f"Throttle rule {rule} for the events of {vcenter}",
            )
            await until_answered(
                lambda call=call, message=message: self._hand_over.signal_with_start(  # type: ignore[misc]
                    call, names.THROTTLED_EVENTS, message
                ),
                still_here,
            )
            still_here()


def throttle_group(group: Group, hosts: Mapping[str, IndexedHost]) -> tuple[str, str]:
    """What the throttles of the group's rule count it under, and the same in words.

    By its first event that starts a run. A host in no cluster is a cluster of its own; what is about no host is counted
    by its target.
    """
    by = group.rule.group_by
    if by is Grouping.VCENTER:
        return "vcenter", group.vcenter
    event = next(filter(group.target.starts_for, group.events), group.events[0])
    host = hosts.get(event.host_moid)
    if by is Grouping.CLUSTER and (moid := host.cluster_moid if host else event.cluster_moid):
        return f"cluster/{moid}", (host.cluster_name if host else event.cluster_name) or moid
    if by is not None and host is not None:
        return f"host/{host.ref.key}", host.ref.name
    return group.workflow_id, group.target.summary


def _targets(group: Group, hosts: Mapping[str, IndexedHost], epoch: str) -> Iterator[ThrottledTarget]:
    """The group; in parts where it has very many events."""
    counted, name = throttle_group(group, hosts)
    for start in range(0, len(group.events), _EVENTS_A_SIGNAL):
        events: Sequence[RawEvent] = group.events[start : start + _EVENTS_A_SIGNAL]
        order, summary = order_of(group, epoch, events)
        yield ThrottledTarget(
            workflow_id=group.workflow_id,
            group=counted,
            group_name=name,
            summary=summary,
            begins=any(map(group.target.starts_for, events)),
            prepare=order if isinstance(order, PrepareGpuHostInput) else None,
            audit=order if isinstance(order, HaRecoveryAuditInput) else None,
            provision=order if isinstance(order, ProvisionGpuVmInput) else None,
        )


def _signals(targets: Sequence[ThrottledTarget]) -> Iterator[list[ThrottledTarget]]:
    """The targets in portions that fit a signal."""
    some: list[ThrottledTarget] = []
    events = 0
    for target in targets:
        if some and (len(some) == _TARGETS_A_SIGNAL or events + len(target.keys) > _EVENTS_A_SIGNAL):
            yield some
            some, events = [], 0
        some.append(target)
        events += len(target.keys)
    if some:
        yield some
