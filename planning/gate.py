"""Which hosts of a cluster may go down for work now: at most so many at once, and none that HA could not do without."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from contracts.gate import ClusterState, GateDecision, GateHost, GateLimits, Grant, Lease, LeaseRequest
from contracts.host import HostRef

__all__ = ["decide_leases", "down", "ha_forbids"]


def decide_leases(
    cluster: ClusterState, leases: Sequence[Lease], queue: Sequence[LeaseRequest], limits: GateLimits, now: datetime
) -> GateDecision:
    """Grant in order of request, and free the leases whose holders are gone and whose hosts are back.

    Leased hosts and hosts seen down count together. A request for a host that is down already, unleased or left so by
    a holder that is gone, takes nothing more down: it does not wait for its own host, nor for those ahead that do.
    """
    kept = {lease.request.token: why for lease in leases if (why := _kept(cluster, lease, limits, now))}
    freed = tuple(lease.request.token for lease in leases if lease.gone and lease.request.token not in kept)
    leased = {_key(cluster, lease.request.host): lease for lease in leases if lease.request.token not in freed}
    seen_down = {host.moid: why for host in cluster.hosts if (why := down(host))}
    taken = {
        key: f"{lease.request.host.name} is leased to {lease.request.workflow_id}" for key, lease in leased.items()
    }
    taken |= {moid: why for moid, why in seen_down.items() if moid not in leased}
    unleased = tuple(why for moid, why in seen_down.items() if moid not in leased)

    grants: list[Grant] = []
    waiting = ""
    for request in queue:
        key = _key(cluster, request.host)
        standing = leased.get(key)
        going = [each.moid for each in cluster.hosts if _in_use(each) and (each.moid in leased or each.going_down)]
        if why := _waits(cluster, request, standing, taken, going, limits):
            waiting = waiting or why
            continue
        grants.append(Grant(token=request.token, in_place_of=standing.request.token if standing else ""))
        leased[key] = Lease(request=request, granted_at=now)
        taken[key] = f"{request.host.name} is leased to {request.workflow_id}"
    return GateDecision(
        cluster_name=cluster.name,
        limits=limits,
        grants=tuple(grants),
        freed=freed,
        kept=kept,
        waiting=waiting,
        down=unleased,
        notes=_notes(cluster),
    )


def down(host: GateHost) -> str:
    """Why a host counts as down; empty when it does not.

    A host on its way down counts from the task's submission. DPM standby does not: vCenter keeps the host off for want
    of load, wakes it when it needs it, and HA's own numbers leave it out.
    """
    if host.standby:
        return ""
    if host.in_maintenance:
        return f"{host.name} is in maintenance mode"
    if host.connection_state != "connected":
        return f"{host.name} is {host.connection_state}"
    if host.going_down:
        return f"{host.name} is going down ({host.going_down})"
    return ""


def ha_forbids(cluster: ClusterState, host: GateHost, going: Collection[str]) -> str:
    """Why HA could not restart what runs on `host` once it is down; empty when it could.

    `going` are moids of hosts that are leased or on their way down and that HA's numbers include yet. Meaning of the
    numbers: vSphere API, `ClusterDasAdmissionControlInfo` and its three kinds. Where admission control is off, vCenter
    holds nothing back for failures and neither do we; a host on which nothing runs needs no restart.
    """
    if not (cluster.ha_enabled and cluster.admission_control and host.running_vms):
        return ""
    others = len([moid for moid in going if moid != host.moid])
    what = f"HA could not restart the {host.running_vms} VMs of {host.name}"
    if cluster.failover_hosts is not None:
        spare = len([moid for moid in cluster.failover_hosts if moid != host.moid and moid not in going])
        return "" if spare > others else f"{what}: {spare} failover hosts are ready, {others} more are about to go down"
    if cluster.free_cpu_percent is not None and cluster.free_memory_percent is not None:
        return _resources_forbid(cluster, host, going, what)
    if cluster.failover_level is None:
        return f"{what}, as far as vCenter says: it gives no failover level of {cluster.name}"
    if cluster.failover_level > others:
        return ""
    return f"{what}: {cluster.name} can lose {cluster.failover_level} hosts now" + (
        f", and {others} more are about to go down" if others else ""
    )


def _resources_forbid(cluster: ClusterState, host: GateHost, going: Collection[str], what: str) -> str:
    """What is reserved must fit on the hosts that stay: free share ≥ share of the hosts that go."""
    in_use = [each for each in cluster.hosts if _in_use(each)]
    leaving = [each for each in in_use if each.moid in going or each.moid == host.moid]
    shares = {
        "CPU": (_percent([e.cpu_mhz for e in leaving], [e.cpu_mhz for e in in_use]), cluster.free_cpu_percent or 0),
        "memory": (
            _percent([e.memory_mib for e in leaving], [e.memory_mib for e in in_use]),
            cluster.free_memory_percent or 0,
        ),
    }
    short = [
        f"{free} % of {name} is free, {share:.0f} % would go" for name, (share, free) in shares.items() if share > free
    ]
    return f"{what}: {'; '.join(short)}" if short else ""


def _in_use(host: GateHost) -> bool:
    """HA's numbers include the host."""
    return host.connection_state == "connected" and not host.in_maintenance and not host.standby


def _percent(part: Sequence[int], whole: Sequence[int]) -> float:
    return 100 * sum(part) / sum(whole) if sum(whole) else 100.0


def _waits(
    cluster: ClusterState,
    request: LeaseRequest,
    standing: Lease | None,
    taken: dict[str, str],
    going: Collection[str],
    limits: GateLimits,
) -> str:
    """Why a request has to wait; empty when it has not to."""
    host = cluster.find(request.host)
    if host is None:
        return f"{request.host.name} is not in cluster {cluster.name} any more"
    if standing and not standing.gone:
        return f"{request.host.name} is leased to {standing.request.workflow_id} already"
    others = [why for key, why in taken.items() if key != host.moid]
    if len(others) >= limits.hosts_down:
        return f"at most {limits.hosts_down} down at once: {'; '.join(others)}"
    return "" if down(host) else ha_forbids(cluster, host, going)


def _kept(cluster: ClusterState, lease: Lease, limits: GateLimits, now: datetime) -> str:
    """Why the lease of a holder that is gone is not free; empty when it is, or when the holder lives."""
    if lease.gone is None:
        return ""
    until = lease.gone.since + timedelta(seconds=limits.holder_grace_s)
    if now < until:
        return f"{lease.gone.why}; a call of it may be on its way until {until:%H:%M:%S} UTC"
    host = cluster.find(lease.request.host)
    if host is None:
        return ""
    if host.standby:
        return f"{lease.gone.why}; {host.name} is in standby"
    seen = down(host)
    return f"{lease.gone.why}; {seen}: bring it back (exit maintenance mode, reconnect)" if seen else ""


def _key(cluster: ClusterState, host: HostRef) -> str:
    """A host's name in the count: its moid now."""
    found = cluster.find(host)
    return found.moid if found else host.moid


def _notes(cluster: ClusterState) -> tuple[str, ...]:
    notes = []
    if not cluster.drs_enabled:
        notes.append("DRS is off: vCenter does not move running VMs away from a host that enters maintenance mode")
    elif cluster.drs_behavior != "fullyAutomated":
        notes.append(f"DRS is {cluster.drs_behavior}: somebody has to apply its recommendations to empty a host")
    if cluster.ha_enabled and not cluster.admission_control:
        notes.append("HA admission control is off: nothing is held back for failures, and the gate asks for nothing")
    return tuple(notes)
