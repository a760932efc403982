"""`redrive_events`: quarantined events, read again and handed over after all."""

from collections.abc import Iterable, Mapping, Sequence

import structlog
from temporalio import activity
from temporalio.service import RPCError

from contracts.errors import GpuwrightError, Unreachable
from contracts.listen_activities import QuarantineActivities
from contracts.rules import RulesFile
from contracts.watch import QuarantinedEvent, Redriven, RedriveOrder, RedriveResult
from listeners.cursor import OVERLAP
from listeners.hand_over import Delivery, HandOver
from listeners.metrics import EventMetrics
from listeners.purposes import Purposes
from listeners.reading import Reading
from listeners.rules import Group, RuleBook, group_by_target, why_unresolved, with_names
from vsphere.event_xml import decode_events
from vsphere.events import RawEvent
from vsphere.sessions import SessionPool, pool_named

__all__ = ["Redriver"]

_log = structlog.get_logger(__name__)

_PAGE_SIZE = 200
_PAGES_AN_EVENT = 20
"""A busy minute. The event is within a page or two of where the search begins."""
_TOLD = {
    Delivery.STARTED: "started {}",
    Delivery.JOINED: "joined {}",
    Delivery.REPEATED: "{} was given it before",
    Delivery.UNNEEDED: "starts nothing by itself, and {} is not live",
}


class Redriver(QuarantineActivities):
    """Implements `redrive_events` for the vCenters of one worker."""

    def __init__(self, pools: Mapping[str, SessionPool], rules: RulesFile, task_queue: str) -> None:
        """`task_queue` is where the started workflows run."""
        self._pools = pools
        self._rules = rules
        self._task_queue = task_queue

    @activity.defn(name="redrive_events")
    async def redrive_events(self, order: RedriveOrder) -> RedriveResult:
        """Read the events again from vCenter, or what was kept of them, and hand over those that can be by now.

        Repeating it does no harm: targets know the events that they were given. Raises `BadRequest` for a vCenter that
        this worker does not know, and what reading raises.
        """
        reading = Reading(pool_named(self._pools, order.vcenter), activity.heartbeat)
        try:
            uuid = await reading.connect()
            # What vCenter shows now is of the watch's epoch, where it is this vCenter's.
            there = [e for e in order.events if e.epoch == order.epoch and e.epoch.rpartition(".")[0] == uuid]
            seen = await _read_again(reading, there)
            became: dict[tuple[str, int, str, str], Redriven] = {}
            for epoch in sorted({event.epoch for event in order.events}):
                read = seen if epoch == order.epoch else {}
                events = [event for event in order.events if event.epoch == epoch]
                became |= await self._hand_over(reading, order.vcenter, epoch, events, read)
        finally:
            await reading.close()
        ended = [became[event.identity] for event in order.events]
        EventMetrics(activity.metric_meter(), order.vcenter).count(redriven=sum(each.settled for each in ended))
        return RedriveResult(events=tuple(ended))

    async def _hand_over(
        self,
        reading: Reading,
        vcenter: str,
        epoch: str,
        quarantined: Sequence[QuarantinedEvent],
        seen: Mapping[int, RawEvent],
    ) -> dict[tuple[str, int, str, str], Redriven]:
        """What became of events of one epoch, by identity; `seen` are those that vCenter still shows, by key."""
        found = {event.identity: seen.get(event.key) or _kept(event) for event in quarantined}
        hosts = await reading.hosts()
        sound = {event.key: with_names(event, hosts) for event in found.values() if event and event.key >= 0}
        rules, hand_over = RuleBook(vcenter, self._rules.rules), HandOver(activity.client(), self._task_queue)
        matches = [match for _, event in sorted(sound.items()) for match in rules.matches(event)]
        matched = {match.event.key for match in matches}
        purposes = Purposes(vcenter, activity.client(), hand_over, reading)
        stream = [event for _, event in sorted({**seen, **sound}.items())]
        try:
            matches, _ = await purposes.unplanned(stream, matches, hosts, epoch, activity.heartbeat)
        except RPCError as refused:
            raise Unreachable(f"Temporal refused to tell a run: {refused}") from refused
        groups, unresolved = group_by_target(vcenter, matches, hosts, self._rules.vms)
        told: dict[int, list[str]] = {}
        trouble = {match.event.key: why_unresolved(match) for match in unresolved}
        for group in groups:
            try:
                text = await _deliver(hand_over, group, epoch)
            except RPCError as refused:
                trouble |= {event.key: f"Temporal refused the hand-over: {refused}" for event in group.events}
                continue
            for event in group.events:
                told.setdefault(event.key, []).append(text)
        return {event.identity: _became(event, found[event.identity], matched, told, trouble) for event in quarantined}


async def _deliver(hand_over: HandOver, group: Group, epoch: str) -> str:
    delivery = await hand_over.deliver(group, epoch, maybe_repeated=True, still_here=activity.heartbeat)
    keys = [event.key for event in group.events]
    _log.info("events_redriven", workflow_id=group.workflow_id, delivery=delivery, keys=keys)
    return _TOLD[delivery].format(group.workflow_id)


def _became(
    event: QuarantinedEvent,
    found: RawEvent | None,
    matched: Iterable[int],
    told: Mapping[int, Sequence[str]],
    trouble: Mapping[int, str],
) -> Redriven:
    """What to tell of one event."""

    def ends(text: str, *, settled: bool) -> Redriven:
        return Redriven(key=event.key, type_name=event.type_name, settled=settled, text=text)

    if found is None:
        return ends(f"vCenter does not show it any more, and too little of it was kept; {event.reason}", settled=False)
    if found.key in trouble:
        return ends(trouble[found.key], settled=False)
    if found.key in told:
        return ends("; ".join(told[found.key]), settled=True)
    if found.key in matched:
        return ends("what happened was done on purpose, so it starts no audit", settled=True)
    if found.problem:
        return ends(f"the event is broken: {found.problem}", settled=False)
    return ends("no rule is for it", settled=True)


async def _read_again(reading: Reading, wanted: Sequence[QuarantinedEvent]) -> dict[int, RawEvent]:
    """Events around the wanted ones as vCenter shows them now, by key."""
    seen: dict[int, RawEvent] = {}
    for event in sorted(wanted, key=lambda event: event.key):
        begin = event.created or event.after
        if event.key < 0 or event.key in seen or begin is None:
            continue
        await reading.open(begin - OVERLAP, _PAGE_SIZE)
        for _ in range(_PAGES_AN_EVENT):
            activity.heartbeat()
            page = await reading.read_page()
            keyed = {each.key: each for each in page if each.key >= 0}
            seen |= keyed
            if event.key in seen or not page or min(keyed, default=0) > event.key:
                break
    return seen


def _kept(event: QuarantinedEvent) -> RawEvent | None:
    """The event from what was kept of it; None where that is only a part, or its message."""
    if not event.raw.startswith("<"):
        return None
    try:
        return next(iter(decode_events(event.raw.encode())), None)
    except GpuwrightError:
        return None
