"""Drift: which hosts were prepared with what, and whether one that was is still so."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from contracts.host import HostRef
from contracts.plan import Plan, StepKind
from contracts.reconcile import (
    FleetMemory,
    HostDrift,
    HostGroup,
    HostLeft,
    LivePreparation,
    Preparation,
    Proposal,
    RememberedHost,
    Standing,
)

__all__ = ["OVERLAP", "Place", "drift_key", "group", "judge", "locate", "merge", "read_from"]

OVERLAP = timedelta(hours=1)
"""How far closed preparations are read again: visibility lags, and clocks differ."""
_MOST_IN_GROUP = 50
_BESIDES = {
    StepKind.ENTER_MAINTENANCE,
    StepKind.EXIT_MAINTENANCE,
    StepKind.SHUT_DOWN_GUEST,
    StepKind.MIGRATE_COLD,
    StepKind.POWER_ON_VM,
}
"""What it takes to work on a host, by who is on it just then; not what differs."""

Place = tuple[HostRef, str, str]
"""A host as the inventory has it, with its cluster's moid and name."""


def read_from(memory: FleetMemory) -> datetime | None:
    """From when on closed preparations have to be read; None: from the first that Temporal keeps."""
    return memory.read_at - OVERLAP if memory.read_at else None


def merge(memory: FleetMemory, preparations: Iterable[Preparation], read_at: datetime) -> FleetMemory:
    """The memory with these preparations, in any order and however often they are read: a host's newest one counts.

    A newer preparation forgets what was proposed before it.
    """
    hosts = {each.host.key: each for each in memory.hosts}
    for found in sorted(preparations, key=lambda each: (each.closed_at, each.profile)):
        known = hosts.get(found.host.key)
        if known is None or found.closed_at > known.prepared_at:
            hosts[found.host.key] = RememberedHost(
                host=found.host, profile=found.profile, prepared_at=found.closed_at, skip=found.skip
            )
    return memory.model_copy(update={"hosts": tuple(hosts[key] for key in sorted(hosts)), "read_at": read_at})


def locate(
    memory: FleetMemory, places: Mapping[str, Place], profiles: Iterable[str]
) -> tuple[FleetMemory, tuple[HostLeft, ...]]:
    """The memory with each host where the inventory has it now, and who leaves it: told once, then forgotten.

    `places` are the inventory's hosts by key, `profiles` the names of the rules file.
    """
    names, kept, left = set(profiles), [], []
    again = read_from(memory)
    for each in memory.hosts:
        if each.left:
            # Its preparation may be read once more, which must not bring it back to be told again.
            if again is None or each.prepared_at >= again:
                kept.append(each)
            continue
        place, why = places.get(each.host.key), ""
        if place is None:
            why = f"the host is no longer in the inventory of {each.host.vcenter}"
        elif each.profile not in names:
            why = f"the rules file has no profile {each.profile!r} any more"
        if why:
            left.append(HostLeft(host=each.host, profile=each.profile, why=why))
            kept.append(each.model_copy(update={"left": True}))
        elif place:
            host, moid, name = place
            kept.append(each.model_copy(update={"host": host, "cluster_moid": moid, "cluster_name": name}))
    return memory.model_copy(update={"hosts": tuple(kept)}), tuple(left)


def group(memory: FleetMemory) -> tuple[HostGroup, ...]:
    """The hosts to look at, cluster by cluster, in groups that one activity can manage."""
    clusters: dict[tuple[str, str], list[RememberedHost]] = {}
    for each in memory.hosts:
        if not each.left:
            clusters.setdefault((each.cluster_name, each.cluster_moid), []).append(each)
    groups = []
    for (name, _), hosts in sorted(clusters.items()):
        keys = [each.host.key for each in sorted(hosts, key=lambda each: (each.host.name, each.host.key))]
        groups += [
            HostGroup(name=name or "hosts without cluster", hosts=tuple(keys[start : start + _MOST_IN_GROUP]))
            for start in range(0, len(keys), _MOST_IN_GROUP)
        ]
    return tuple(groups)


def drift_key(profile: str, plan: Plan) -> str:
    """What identifies a drift: the effects that would undo it, 32 hex digits; empty without any.

    Unlike the hash that an approval is bound to, it does not change when VMs come and go on the host or somebody puts
    it into maintenance mode: a plan that was denied is not asked for again because of that.
    """
    effects = [step.id for step in plan.steps if step.kind not in _BESIDES]
    if not effects:
        return ""
    return hashlib.sha256("\0".join([profile, *effects]).encode()).hexdigest()[:32]


def judge(
    remembered: RememberedHost, plan: Plan, *, connected: bool, live: LivePreparation | None = None
) -> HostDrift | None:
    """How a host stands that was looked at; None where it is right. `live` is a preparation that asks for approval."""
    words = " ".join(f"{blocker.text}. Fix: {blocker.fix}." for blocker in plan.blockers)
    if not connected:
        return remembered.stands(Standing.UNKNOWN, words)
    if plan.done:
        return None
    key = drift_key(remembered.profile, plan)
    run_id = ""
    if live is not None:
        proposal, run_id = Proposal.OPEN, live.run_id
    elif plan.blockers or not key:
        proposal = Proposal.BLOCKED
    elif key == remembered.proposed:
        proposal, run_id = Proposal.DECLINED, remembered.proposed_run
    else:
        proposal = Proposal.WANTED
    return remembered.stands(Standing.DRIFTED, words, steps=plan.steps, key=key, proposal=proposal, run_id=run_id)
