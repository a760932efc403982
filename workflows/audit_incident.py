"""Which hosts and VMs an audit is about, as events and looks tell, and when it looks again."""

from collections.abc import Iterable
from datetime import datetime

from contracts.audit import AuditLimits, IncidentLook, VictimsFound
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.incidents import INCIDENT_BEGINS, HostDown, IncidentEvent
from contracts.packing import packed, unpacked
from contracts.verdicts import HostStanding, Recovery, Victims

__all__ = ["AWAY", "OPEN", "Incident", "is_settled", "pause_s"]

AWAY = frozenset({HostStanding.DOWN, HostStanding.ISOLATED, HostStanding.CUT_OFF})
"""It may come back."""
OPEN = frozenset({Recovery.NOT_RESTARTED, Recovery.UNKNOWN, Recovery.RESTARTING})
"""The VM is not accounted for as running or wanted off."""


class Incident:
    """The hosts that were lost and who ran on them, by the hosts' moids: events tell nothing else of a host."""

    def __init__(self, vcenter: str) -> None:
        self._vcenter = vcenter
        self._heard: set[EventKey] = set()
        self._dismissed: dict[str, datetime] = {}
        """Hosts that were found not to be lost."""
        self.lost: dict[str, HostDown] = {}
        self.victims = ""
        """`packed` `Victims`."""
        self.count = 0
        self.unidentified: dict[str, HostDown] = {}
        """Hosts that are said to be lost and were not looked into yet."""

    @property
    def events(self) -> int:
        """Events that were told, each once."""
        return len(self._heard)

    def hear(self, events: Iterable[IncidentEvent]) -> None:
        """Take in events, doubled and late ones too."""
        for event in events:
            if event.key in self._heard:
                continue
            self._heard.add(event.key)
            if event.meaning in INCIDENT_BEGINS and event.host_moid:
                # The activity knows the host's key.
                moid, name = event.host_moid, event.host_name or event.host_moid
                self.suspect(
                    HostDown(host=HostRef(vcenter=self._vcenter, key=moid, moid=moid, name=name), at=event.created)
                )

    def suspect(self, down: HostDown) -> None:
        """A host may be lost; its earliest time counts, and one that was looked into only where it was lost again."""
        moid = down.host.moid
        known = [
            each for each in (self._dismissed.get(moid), self.lost[moid].at if moid in self.lost else None) if each
        ]
        if known and down.at <= max(known):
            return
        pending = self.unidentified.get(moid)
        if pending is None or down.at < pending.at:
            self.unidentified[moid] = down

    def identified(self, asked: Iterable[HostDown], found: VictimsFound) -> bool:
        """Take in what became of these suspicions; whether a host was lost that was not known to be."""
        lost = {down.host.moid: down for down in found.hosts}
        for down in asked:
            moid = down.host.moid
            if self.unidentified.get(moid) == down:
                del self.unidentified[moid]
            if moid not in lost:
                self._dismissed[moid] = down.at
        anew = {moid for moid, down in lost.items() if moid not in self.lost or down.at > self.lost[moid].at}
        for down in asked:
            # Another event of the same loss tells nothing new the next time either.
            if (moid := down.host.moid) in lost and moid not in anew and moid in self.lost:
                self._dismissed[moid] = down.at
        if not anew:
            return False
        self.lost |= {moid: lost[moid] for moid in anew}
        new = [victim for victim in unpacked(Victims, found.victims).vms if victim.host.moid in anew]
        uuids = {victim.vm.instance_uuid for victim in new}
        old = unpacked(Victims, self.victims).vms if self.victims else ()
        # A VM that was restarted on a host that was lost too is a victim of the later loss.
        vms = (*(victim for victim in old if victim.vm.instance_uuid not in uuids), *new)
        self.victims, self.count = packed(Victims(vms=vms)), len(vms)
        return True

    def seen(self, look: IncidentLook) -> None:
        """Take in what a look tells of hosts that nobody told of, or that were lost again."""
        down = {each.host.moid for each in look.also_down}
        for each in look.also_down:
            if each.host.moid not in self.lost and each.host.moid not in self._dismissed:
                self.suspect(each)
        for host in look.hosts:
            known = self.lost.get(host.host.moid)
            if host.standing in AWAY and known is not None and host.lost_at > known.at:
                self.suspect(HostDown(host=host.host, at=host.lost_at))
        # Once it was up in between, it counts anew.
        self._dismissed = {moid: at for moid, at in self._dismissed.items() if moid in down or moid in self.lost}


def is_settled(look: IncidentLook, lost: Iterable[HostDown]) -> bool:
    """Nothing more is to be expected of HA and DRS: they have been quiet, or it took too long (vCenter's clock)."""
    last_lost = max((down.at for down in lost), default=None)
    if last_lost is None:
        return True
    if (look.at - last_lost).total_seconds() >= look.limits.settle_s:
        return True
    last = max(last_lost, look.last_event_at or last_lost)
    return (look.at - last).total_seconds() >= look.limits.quiet_s and not look.count(Recovery.RESTARTING)


def pause_s(limits: AuditLimits, unchanged_s: float, *, settled: bool) -> float:
    """How long to wait for the next look, in seconds, when nothing has changed for so long.

    `look_s` at first while the cluster settles, six times as long once it has; and longer the longer nothing changes,
    so that an audit that waits days for an answer keeps a history that Temporal takes.
    """
    if settled:
        return min(max(6 * limits.look_s, unchanged_s / 10), 60 * limits.look_s)
    return min(max(limits.look_s, unchanged_s / 20), 6 * limits.look_s)
