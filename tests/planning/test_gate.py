"""Which leases are granted and freed, case by case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.gate import ClusterState, GateDecision, GateHost, GateLimits, HolderGone, Lease, LeaseRequest
from contracts.host import HostRef
from planning.gate import decide_leases

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
LIMITS = GateLimits(hosts_down=1, holder_grace_s=90)


def host(number: int, **changes: Any) -> GateHost:
    fields = {"moid": f"host-{number}", "name": f"esx-{number}", "uuid": f"uuid-{number}", "running_vms": 3}
    return GateHost.model_validate(fields | {"cpu_mhz": 1000, "memory_mib": 1000} | changes)


def cluster(*hosts: GateHost, **changes: Any) -> ClusterState:
    fields = {"moid": "domain-c1", "name": "gpu-01", "hosts": hosts, "drs_enabled": True}
    return ClusterState.model_validate(fields | {"drs_behavior": "fullyAutomated"} | changes)


def request(number: int, token: str = "", key: str = "") -> LeaseRequest:
    ref = HostRef(vcenter="lab", key=key or f"uuid-{number}", moid=f"host-{number}", name=f"esx-{number}")
    return LeaseRequest(
        token=token or f"token-{number}",
        workflow_id=f"prepare-gpu-host/lab/{token or number}",
        first_run_id="run",
        host=ref,
        cluster_moid="domain-c1",
        cluster_name="gpu-01",
        requested_at=NOW,
    )


def lease(number: int, gone_s: float | None = None, token: str = "") -> Lease:
    asked = request(number, token)
    if gone_s is None:
        return Lease(request=asked, granted_at=NOW)
    ended = HolderGone(token=asked.token, why="its holder ended (terminated)", since=NOW - timedelta(seconds=gone_s))
    return Lease(request=asked, granted_at=NOW, gone=ended)


def decide(
    state: ClusterState, leases: tuple[Lease, ...] = (), queue: tuple[LeaseRequest, ...] = (), hosts_down: int = 1
) -> GateDecision:
    return decide_leases(state, leases, queue, LIMITS.model_copy(update={"hosts_down": hosts_down}), NOW)


def tokens(decision: GateDecision) -> list[str]:
    return [grant.token for grant in decision.grants]


def test_requests_are_granted_in_order_up_to_the_limit() -> None:
    queue = (request(2), request(1), request(3))
    assert tokens(decide(cluster(host(1), host(2), host(3)), queue=queue)) == ["token-2"]
    decision = decide(cluster(host(1), host(2), host(3)), queue=queue, hosts_down=2)
    assert tokens(decision) == ["token-2", "token-1"]
    assert "at most 2" in decision.waiting
    assert "esx-2 is leased" in decision.waiting


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"in_maintenance": True}, "esx-2 is in maintenance mode"),
        ({"connection_state": "notResponding"}, "esx-2 is notResponding"),
        ({"connection_state": "disconnected"}, "esx-2 is disconnected"),
        ({"going_down": "HostSystem.enterMaintenanceMode"}, "esx-2 is going down"),
    ],
)
def test_a_host_seen_down_counts_though_nobody_leases_it(seen: dict[str, Any], why: str) -> None:
    decision = decide(cluster(host(1), host(2, **seen)), queue=(request(1),))
    assert not decision.grants
    assert why in decision.waiting
    assert why in decision.down[0]


def test_a_host_in_standby_does_not_count() -> None:
    asleep = host(2, standby=True, connection_state="notResponding")
    assert tokens(decide(cluster(host(1), asleep), queue=(request(1),))) == ["token-1"]


def test_a_leased_host_that_is_down_counts_once() -> None:
    decision = decide(cluster(host(1, in_maintenance=True), host(2)), (lease(1),), (request(2),), hosts_down=2)
    assert tokens(decision) == ["token-2"]
    assert not decision.down


def test_a_host_that_is_down_already_may_be_worked_on_before_those_that_wait_for_it() -> None:
    state = cluster(host(1), host(2, in_maintenance=True))
    decision = decide(state, queue=(request(1), request(2)))
    assert tokens(decision) == ["token-2"]
    assert "esx-2 is in maintenance" in decision.waiting


def test_a_holder_that_is_gone_keeps_its_lease_until_its_host_is_back() -> None:
    down = decide(cluster(host(1, in_maintenance=True), host(2)), (lease(1, gone_s=600),), (request(2),))
    assert not down.freed
    assert not down.grants
    assert "maintenance mode: bring it back" in down.kept["token-1"]
    back = decide(cluster(host(1), host(2)), (lease(1, gone_s=600),), (request(2),))
    assert back.freed == ("token-1",)
    assert tokens(back) == ["token-2"]


def test_a_lease_is_kept_while_a_call_of_the_holder_that_is_gone_may_be_on_its_way() -> None:
    decision = decide(cluster(host(1), host(2)), (lease(1, gone_s=60),), (request(2),))
    assert not decision.freed
    assert "on its way until 12:00:30 UTC" in decision.kept["token-1"]
    assert not decision.grants


def test_a_lease_is_kept_while_its_host_is_entering_maintenance_mode() -> None:
    entering = host(1, going_down="HostSystem.enterMaintenanceMode")
    assert not decide(cluster(entering, host(2)), (lease(1, gone_s=600),)).freed


def test_the_next_preparation_of_a_host_that_was_left_down_takes_the_lease_over() -> None:
    decision = decide(
        cluster(host(1, in_maintenance=True), host(2)),
        (lease(1, gone_s=600, token="dead"),),
        (request(2), request(1, "next")),
    )
    assert [(grant.token, grant.in_place_of) for grant in decision.grants] == [("next", "dead")]
    assert not decision.freed


def test_nobody_takes_over_from_a_holder_that_lives() -> None:
    decision = decide(cluster(host(1), host(2)), (lease(1, token="first"),), (request(1, "second"),), hosts_down=2)
    assert not decision.grants
    assert "leased to prepare-gpu-host/lab/first already" in decision.waiting


def test_the_lease_of_a_host_that_left_the_cluster_is_freed_and_a_request_for_it_waits() -> None:
    decision = decide(cluster(host(2)), (lease(1, gone_s=600),), (request(1, "next"),))
    assert decision.freed == ("token-1",)
    assert not decision.grants
    assert "not in cluster gpu-01" in decision.waiting


def test_a_host_added_again_with_a_new_moid_is_the_same_host() -> None:
    again = host(7, uuid="uuid-1", in_maintenance=True)
    assert not decide(cluster(again, host(2)), (lease(1, gone_s=600),), (request(2),)).freed


HA = {"ha_enabled": True, "admission_control": True}


def test_no_host_goes_down_when_ha_has_no_failure_left_to_make_up_for() -> None:
    decision = decide(cluster(host(1), host(2), failover_level=0, **HA), queue=(request(1),))
    assert not decision.grants
    assert "HA could not restart the 3 VMs of esx-1: gpu-01 can lose 0 hosts now" in decision.waiting
    assert tokens(decide(cluster(host(1), host(2), failover_level=1, **HA), queue=(request(1),))) == ["token-1"]


def test_a_leased_host_that_still_runs_is_part_of_what_ha_can_lose() -> None:
    state = cluster(host(1), host(2), host(3), failover_level=1, **HA)
    assert tokens(decide(state, queue=(request(1), request(2)), hosts_down=2)) == ["token-1"]
    assert not decide(state, (lease(1),), (request(2),), hosts_down=2).grants
    down = cluster(host(1, in_maintenance=True), host(2), host(3), failover_level=1, **HA)
    assert tokens(decide(down, (lease(1),), (request(2),), hosts_down=2)) == ["token-2"]


@pytest.mark.parametrize("off", [{"ha_enabled": False}, {"admission_control": False}])
def test_where_nothing_is_held_back_for_failures_the_gate_asks_for_nothing(off: dict[str, bool]) -> None:
    assert decide(cluster(host(1), host(2), failover_level=0, **(HA | off)), queue=(request(1),)).grants


def test_a_host_on_which_nothing_runs_needs_no_restart() -> None:
    assert decide(cluster(host(1, running_vms=0), host(2), failover_level=0, **HA), queue=(request(1),)).grants


@pytest.mark.parametrize(("cpu", "memory", "granted"), [(50, 50, True), (49, 60, False), (60, 49, False)])
def test_by_percentage_what_is_reserved_must_fit_on_the_hosts_that_stay(cpu: int, memory: int, granted: bool) -> None:
    state = cluster(host(1), host(2), free_cpu_percent=cpu, free_memory_percent=memory, **HA)
    decision = decide(state, queue=(request(1),))
    assert bool(decision.grants) is granted
    assert granted or "50 % would go" in decision.waiting


def test_a_dedicated_failover_host_must_stay_ready() -> None:
    hosts = (host(1), host(2), host(3))
    assert decide(cluster(*hosts, failover_hosts=("host-3",), **HA), queue=(request(1),)).grants
    assert not decide(cluster(*hosts, failover_hosts=("host-3",), **HA), queue=(request(3),)).grants
    assert not decide(cluster(*hosts, failover_hosts=(), **HA), queue=(request(1),)).grants


def test_ha_that_says_nothing_is_not_taken_for_a_yes() -> None:
    decision = decide(cluster(host(1), host(2), **HA), queue=(request(1),))
    assert not decision.grants
    assert "no failover level" in decision.waiting


def test_what_drs_does_not_do_by_itself_is_noted() -> None:
    assert "DRS is off" in decide(cluster(host(1), drs_enabled=False)).notes[0]
    assert "DRS is manual" in decide(cluster(host(1), drs_behavior="manual")).notes[0]
    assert not decide(cluster(host(1))).notes
