"""What is remembered of prepared hosts, and what counts as drift."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from contracts.host import HostRef
from contracts.packing import packed
from contracts.plan import Blocker, Plan, Risk, Step, StepKind
from contracts.reconcile import (
    FleetMemory,
    LivePreparation,
    Preparation,
    Proposal,
    RememberedHost,
    Standing,
    recollect,
)
from planning.drift import OVERLAP, Place, drift_key, group, judge, locate, merge, read_from

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEYS = [f"host-{number}" for number in range(4)]
PROFILES = ["training", "inference"]


def ref(key: str) -> HostRef:
    return HostRef(vcenter="vc", key=key, moid=f"moid-{key}", name=f"{key}.gpu.test")


def step(kind: StepKind = StepKind.SET_LABEL, target: str = "0000:81:00.0", reason: str = "", **params: str) -> Step:
    return Step(kind=kind, target=target, reason=reason, change="", risk=Risk.SAFE, params=params)


def remembered(key: str = "host-0", **changes: object) -> RememberedHost:
    fields = {"host": ref(key), "profile": "training", "prepared_at": NOW}
    return RememberedHost.model_validate(fields | changes)


PREPARATIONS = st.lists(
    st.builds(
        Preparation,
        host=st.sampled_from(KEYS).map(ref),
        profile=st.sampled_from(PROFILES),
        closed_at=st.integers(0, 100).map(lambda minutes: NOW + timedelta(minutes=minutes)),
        skip=st.sampled_from([(), ("set-hardware-label|x",)]),
    ),
    max_size=12,
    unique_by=lambda each: (each.host.key, each.closed_at),
)
PLANS = st.lists(
    st.builds(step, st.sampled_from(StepKind), st.sampled_from(["a", "b"]), reason=st.text(max_size=3)), max_size=5
).map(lambda steps: Plan(steps=tuple(steps)))


@given(PREPARATIONS, st.randoms(), st.integers(0, 12))
def test_the_newest_preparation_counts_however_and_how_often_it_is_read(
    found: Sequence[Preparation], random: Random, split: int
) -> None:
    whole = merge(FleetMemory(), found, NOW)
    for each in whole.hosts:
        newest = max((one for one in found if one.host.key == each.host.key), key=lambda one: one.closed_at)
        assert (each.profile, each.prepared_at, each.skip) == (newest.profile, newest.closed_at, newest.skip)
    assert {each.host.key for each in whole.hosts} == {each.host.key for each in found}
    shuffled = list(found)
    random.shuffle(shuffled)
    parts = merge(merge(FleetMemory(), shuffled[:split], NOW), shuffled[split:], NOW)
    assert parts == whole
    assert merge(whole, shuffled, NOW) == whole


@given(PREPARATIONS)
def test_memory_survives_being_packed(found: Sequence[Preparation]) -> None:
    memory = merge(FleetMemory(), found, NOW)
    assert recollect(packed(memory)) == memory
    assert recollect("") == FleetMemory()


def test_reading_an_old_preparation_again_keeps_what_was_proposed_and_a_newer_one_forgets_it() -> None:
    known = FleetMemory(hosts=(remembered(proposed="abc", proposed_run="run"),), read_at=NOW)
    same = Preparation(host=ref("host-0"), profile="training", closed_at=NOW)
    assert merge(known, [same], NOW).hosts[0].proposed == "abc"
    newer = same.model_copy(update={"closed_at": NOW + timedelta(seconds=1), "profile": "inference"})
    (after,) = merge(known, [same, newer], NOW).hosts
    assert (after.proposed, after.proposed_run, after.profile) == ("", "", "inference")


@given(PREPARATIONS, st.sets(st.sampled_from(KEYS)), st.sets(st.sampled_from(PROFILES)))
def test_who_left_is_told_exactly_once_and_only_those(
    found: Sequence[Preparation], present: set[str], profiles: set[str]
) -> None:
    places: dict[str, Place] = {key: (ref(key), "domain-1", "gpu-01") for key in present}
    memory = FleetMemory()
    told: list[str] = []
    # Each look reads the same preparations again, as long as they lie within the overlap.
    for look in range(4):
        at = NOW + timedelta(minutes=100) + look * OVERLAP
        since = read_from(memory)
        memory = merge(memory, [each for each in found if since is None or each.closed_at >= since], at)
        memory, left = locate(memory, places, profiles)
        told += [each.host.key for each in left]
        looked_at = {key for each in group(memory) for key in each.hosts}
        assert looked_at == {
            each.host.key for each in merge(FleetMemory(), found, at).hosts
            if each.host.key in present and each.profile in profiles
        }  # fmt: skip
    assert len(told) == len(set(told))
    assert set(told) == {each.host.key for each in found} - looked_at
    assert not [each for each in memory.hosts if each.left]


def test_a_host_is_found_where_the_inventory_has_it_now() -> None:
    moved = HostRef(vcenter="vc", key="host-0", moid="host-77", name="renamed")
    memory, left = locate(FleetMemory(hosts=(remembered(),)), {"host-0": (moved, "domain-2", "gpu-02")}, ["training"])
    assert not left
    assert (memory.hosts[0].host, memory.hosts[0].cluster_name) == (moved, "gpu-02")


@given(PLANS, PLANS)
def test_drifts_are_the_same_when_their_effects_are(one: Plan, other: Plan) -> None:
    besides = {
        StepKind.ENTER_MAINTENANCE,
        StepKind.EXIT_MAINTENANCE,
        StepKind.SHUT_DOWN_GUEST,
        StepKind.MIGRATE_COLD,
        StepKind.POWER_ON_VM,
    }

    def effects(plan: Plan) -> list[str]:
        return [each.id for each in plan.steps if each.kind not in besides]

    keys = drift_key("training", one), drift_key("training", other)
    assert (keys[0] == keys[1]) == (effects(one) == effects(other))
    assert (keys[0] == "") == (not effects(one))
    assert keys[0] == "" or keys[0] != drift_key("inference", one)


@given(PLANS)
def test_a_drift_is_proposed_once_until_it_changes_or_is_gone(plan: Plan) -> None:
    host = remembered()
    found = judge(host, plan, connected=True)
    if not drift_key(host.profile, plan):
        assert found is None or found.proposal is Proposal.BLOCKED
        return
    assert found is not None
    assert (found.standing, found.proposal, found.steps) == (Standing.DRIFTED, Proposal.WANTED, plan.steps)
    asked = host.after(found.model_copy(update={"proposal": Proposal.STARTED, "run_id": "run"}))
    again = judge(asked, plan, connected=True)
    assert again is not None
    assert (again.proposal, again.run_id) == (Proposal.DECLINED, "run")
    away = judge(asked, Plan(), connected=False)
    assert asked.after(away) == asked.after(again) == asked
    assert asked.after(judge(asked, Plan(), connected=True)) == host
    changed = Plan(steps=(*plan.steps, step(StepKind.REBOOT, "another")))
    other = judge(asked, changed, connected=True)
    assert other is not None
    assert other.proposal is Proposal.WANTED
    # Wanted and not started, because too many run: it is still to be proposed.
    assert asked.after(other) == host


def test_what_is_in_the_way_is_told_and_not_proposed() -> None:
    blocker = Blocker(code="vms-cannot-move", text="vm-1 cannot move", fix="shut it down")
    found = judge(remembered(), Plan(steps=(step(),), blockers=(blocker,)), connected=True)
    assert found is not None
    assert (found.standing, found.proposal) == (Standing.DRIFTED, Proposal.BLOCKED)
    assert "vm-1 cannot move. Fix: shut it down." in found.words


def test_a_host_that_is_not_connected_is_unknown_not_drifted() -> None:
    blocker = Blocker(code="host-not-connected", text="away", fix="reconnect")
    found = judge(remembered(), Plan(blockers=(blocker,)), connected=False)
    assert found is not None
    assert (found.standing, found.proposal, found.steps) == (Standing.UNKNOWN, Proposal.NONE, ())


def test_a_drift_that_is_asked_already_is_not_proposed_again() -> None:
    live = LivePreparation(host_key="host-0", workflow_id="w", run_id="r", asks=True)
    found = judge(remembered(), Plan(steps=(step(),)), connected=True, live=live)
    assert found is not None
    assert (found.proposal, found.run_id) == (Proposal.OPEN, "r")


def test_memory_of_the_largest_vcenter_is_far_below_a_payloads_limit() -> None:
    hosts = tuple(
        remembered(
            f"{number:08x}-{number * 7919:04x}-4c4c-4544-{number * 104729:012x}",
            cluster_moid=f"domain-c{number // 64}",
            cluster_name=f"gpu-cluster-{number // 64}",
            proposed=f"{number * 15485863:032x}",
            proposed_run=f"{number * 32452843:036x}",
        )
        for number in range(2500)
    )
    memory = FleetMemory(hosts=hosts, read_at=NOW)
    assert len(packed(memory)) < 400_000
    groups = group(memory)
    assert sum(len(each.hosts) for each in groups) == 2500
    assert max(len(each.hosts) for each in groups) <= 50
