"""What holds for every decision, whatever the cluster, the leases and the queue."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from contracts.gate import ClusterState, GateDecision, GateHost, GateLimits, HolderGone, Lease, LeaseRequest
from contracts.host import HostRef
from planning.gate import decide_leases, down

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
COUNT = 6

hosts = st.builds(
    GateHost,
    moid=st.just("moid"),
    name=st.just("name"),
    connection_state=st.sampled_from(["connected"] * 5 + ["notResponding", "disconnected"]),
    in_maintenance=st.sampled_from([False] * 4 + [True]),
    standby=st.sampled_from([False] * 6 + [True]),
    going_down=st.sampled_from([""] * 6 + ["HostSystem.reboot"]),
    running_vms=st.integers(0, 3),
    cpu_mhz=st.just(1000),
    memory_mib=st.just(1000),
)


def request(token: str, number: int) -> LeaseRequest:
    ref = HostRef(vcenter="lab", key=f"uuid-{number}", moid=f"host-{number}", name=f"esx-{number}")
    return LeaseRequest(
        token=token,
        workflow_id=f"holder-{token}",
        first_run_id="run",
        host=ref,
        cluster_moid="domain-c1",
        cluster_name="gpu-01",
        requested_at=NOW,
    )


@st.composite
def situations(
    draw: st.DrawFn,
) -> tuple[ClusterState, tuple[Lease, ...], tuple[LeaseRequest, ...], GateLimits]:
    """A cluster, leases on different hosts (not more than allowed), a queue for any hosts, and the limits."""
    members = [
        host.model_copy(update={"moid": f"host-{n}", "uuid": f"uuid-{n}", "name": f"esx-{n}"})
        for n, host in enumerate(draw(st.lists(hosts, min_size=COUNT, max_size=COUNT)))
    ]
    limits = GateLimits(hosts_down=draw(st.integers(1, 4)))
    leases = []
    leased = draw(st.lists(st.integers(0, COUNT), unique=True, max_size=limits.hosts_down))  # COUNT is no member
    for number in leased:
        asked = request(f"lease-{number}", number)
        since = draw(st.none() | st.integers(0, 300))
        gone = None if since is None else NOW - timedelta(seconds=since)
        holder = None if gone is None else HolderGone(token=asked.token, why="gone", since=gone)
        leases.append(Lease(request=asked, granted_at=NOW, gone=holder))
    queue = [request(f"ask-{i}", number) for i, number in enumerate(draw(st.lists(st.integers(0, COUNT), max_size=8)))]
    cluster = ClusterState(
        moid="domain-c1",
        name="gpu-01",
        hosts=tuple(members),
        ha_enabled=draw(st.booleans()),
        admission_control=draw(st.booleans()),
        failover_level=draw(st.none() | st.integers(0, 4)),
    )
    return cluster, tuple(leases), tuple(queue), limits


def after(decision: GateDecision, leases: tuple[Lease, ...], queue: tuple[LeaseRequest, ...]) -> dict[str, str]:
    """Token → host of the leases, once the decision is carried out."""
    held = {lease.request.token: lease.request.host.moid for lease in leases}
    for token in (*decision.freed, *(grant.in_place_of for grant in decision.grants)):
        held.pop(token, None)
    asked = {asked.token: asked.host.moid for asked in queue}
    return held | {grant.token: asked[grant.token] for grant in decision.grants}


@given(situations())
def test_no_grant_brings_leased_hosts_and_hosts_down_above_the_limit(
    situation: tuple[ClusterState, tuple[Lease, ...], tuple[LeaseRequest, ...], GateLimits],
) -> None:
    cluster, leases, queue, limits = situation
    decision = decide_leases(cluster, leases, queue, limits, NOW)
    held = after(decision, leases, queue)
    assert len(set(held.values())) == len(held), "a host is leased once"
    if decision.grants:
        assert len(set(held.values()) | {host.moid for host in cluster.hosts if down(host)}) <= limits.hosts_down


@given(situations())
def test_only_leases_of_holders_that_are_gone_end_and_only_with_their_hosts_up(
    situation: tuple[ClusterState, tuple[Lease, ...], tuple[LeaseRequest, ...], GateLimits],
) -> None:
    cluster, leases, queue, limits = situation
    decision = decide_leases(cluster, leases, queue, limits, NOW)
    by_token = {lease.request.token: lease for lease in leases}
    for token in decision.freed:
        lease = by_token[token]
        assert lease.gone
        assert NOW - lease.gone.since >= timedelta(seconds=limits.holder_grace_s)
        host = cluster.find(lease.request.host)
        assert host is None or (not down(host) and not host.standby)
    for grant in decision.grants:
        assert not grant.in_place_of or by_token[grant.in_place_of].gone
    gone = {token for token, lease in by_token.items() if lease.gone}
    assert set(decision.kept) | set(decision.freed) == gone
    assert not set(decision.kept) & set(decision.freed)


@given(situations())
def test_who_asked_first_goes_first_among_hosts_that_are_up(
    situation: tuple[ClusterState, tuple[Lease, ...], tuple[LeaseRequest, ...], GateLimits],
) -> None:
    cluster, leases, queue, limits = situation
    cluster = cluster.model_copy(
        update={"hosts": tuple(h.model_copy(update={"running_vms": 1}) for h in cluster.hosts)}
    )
    granted = {grant.token for grant in decide_leases(cluster, leases, queue, limits, NOW).grants}
    leased = {lease.request.host.moid for lease in leases}
    seen: set[str] = set()
    waits = False
    for asked in queue:
        host = cluster.find(asked.host)
        if host is None or down(host) or host.moid in leased | seen:
            continue
        seen.add(host.moid)
        assert not (waits and asked.token in granted), "a later request for a host that is up overtook an earlier one"
        waits = waits or asked.token not in granted


@given(situations())
def test_what_waits_is_told_why(
    situation: tuple[ClusterState, tuple[Lease, ...], tuple[LeaseRequest, ...], GateLimits],
) -> None:
    cluster, leases, queue, limits = situation
    decision = decide_leases(cluster, leases, queue, limits, NOW)
    assert bool(decision.waiting) is (len(decision.grants) < len(queue))


@given(situations())
def test_with_every_host_back_and_every_holder_gone_all_leases_end_and_somebody_goes_on(
    situation: tuple[ClusterState, tuple[Lease, ...], tuple[LeaseRequest, ...], GateLimits],
) -> None:
    cluster, leases, queue, limits = situation
    up = {"connection_state": "connected", "in_maintenance": False, "standby": False, "going_down": ""}
    cluster = cluster.model_copy(
        update={"hosts": tuple(host.model_copy(update=up) for host in cluster.hosts), "ha_enabled": False}
    )
    leases = tuple(
        lease.model_copy(
            update={"gone": HolderGone(token=lease.request.token, why="gone", since=NOW - timedelta(days=1))}
        )
        for lease in leases
    )
    decision = decide_leases(cluster, leases, queue, limits, NOW)
    assert set(decision.freed) == {lease.request.token for lease in leases}
    members = [asked for asked in queue if cluster.find(asked.host)]
    assert bool(decision.grants) is bool(members), "no deadlock"
