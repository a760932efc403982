"""Forecasts of random small clusters, held against oracles that try everything."""

from collections import Counter
from itertools import permutations, product

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetVm, GpuFleet, VmGpu
from contracts.forecast import HostForecast
from contracts.host import HostRef
from contracts.verdicts import Reason
from planning.capacity import forecast, forecasts

A100, A40 = "10de:20f1", "10de:2235"
CLUSTER = FleetCluster(
    moid="domain-c1", name="gpu-01", ha_enabled=True, drs_enabled=True, drs_automation="fullyAutomated"
)
PRIORITIES = ("highest", "high", "medium", "low", "lowest")
SIZE = 8192
Kind = tuple[str, str]
KINDS: tuple[Kind, ...] = ((A100, "Training"), (A100, ""), (A40, "Training"))

pairs = st.sampled_from([(A100,), (A40,), (A100, A40)])
devices = st.builds(lambda allowed, label: VmGpu(key=1, kind="dynamic", allowed=allowed, label=label), pairs,
                    st.sampled_from(["", "Training"]))  # fmt: skip
lost_vms = st.lists(
    st.tuples(
        st.sampled_from(PRIORITIES),
        st.lists(devices, min_size=1, max_size=2),
        st.integers(1, 3),
        st.sets(st.integers(2, 4), max_size=2),
    ),
    max_size=4,
)
spare_hosts = st.lists(
    st.tuples(st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), max_size=3), st.integers(0, 5)), max_size=3
)


def gpu(bus: int, kind: Kind, held: bool = False) -> FleetGpu:
    return FleetGpu(
        sbdf=f"0000:{bus:02x}:00.0",
        vendor_device=kind[0],
        name=kind[0],
        passthru_active=True,
        active_type="direct",
        label=kind[1],
        vm_moids=("vm-999",) if held else (),
    )


def host(number: int, gpus: list[FleetGpu], memory: int = 100) -> FleetHost:
    ref = HostRef(vcenter="vc", key=f"key-{number}", moid=f"host-{number}", name=f"esx-{number}")
    return FleetHost(ref=ref, cluster_moid=CLUSTER.moid, memory_mib=memory * SIZE, gpus=tuple(gpus))


def vm(
    number: int, on: int, gpus: list[VmGpu], priority: str = "medium", memory: int = 1, barred: tuple[str, ...] = ()
) -> FleetVm:
    return FleetVm(
        moid=f"vm-{number}",
        instance_uuid=f"u{number}",
        name=f"vm-{number}",
        host_moid=f"host-{on}",
        powered_on=True,
        memory_mib=memory * SIZE,
        gpus=tuple(gpus),
        restart_priority=priority,
        barred=barred,
    )


def device(kind: Kind) -> VmGpu:
    return VmGpu(key=1, kind="dynamic", allowed=(kind[0],), label=kind[1])


def fleet(hosts: list[FleetHost], vms: list[FleetVm]) -> GpuFleet:
    return GpuFleet(vcenter="vc", clusters=(CLUSTER,), hosts=tuple(hosts), vms=tuple(vms))


def together(on: FleetHost, vms: list[FleetVm]) -> bool:
    """All of these VMs can run on the host at once: some order of its free GPUs serves all of their devices."""
    if sum(each.memory_mib for each in vms) > on.memory_mib or any(on.ref.moid in each.barred for each in vms):
        return False
    asked = [each for one in vms for each in one.gpus]
    free = [each for each in on.gpus if not each.vm_moids]
    return any(
        all(
            have.vendor_device in want.allowed and want.label in ("", have.label)
            for have, want in zip(order, asked, strict=True)
        )
        for order in permutations(free, len(asked))
    )


def at_most(hosts: list[FleetHost], vms: list[FleetVm]) -> int:
    """How many of these VMs can run on the hosts together: every way to spread them is tried."""
    ways = product([None, *range(len(hosts))], repeat=len(vms))
    return max(
        len(vms) - way.count(None)
        for way in ways
        if all(
            together(each, [vm for vm, at in zip(vms, way, strict=True) if at == index])
            for index, each in enumerate(hosts)
        )
    )


@settings(max_examples=250, deadline=None)
@given(lost_vms, spare_hosts)
def test_nobody_comes_back_where_its_place_is_taken_and_nobody_stays_off_beside_room(
    lost: list[tuple[str, list[VmGpu], int, set[int]]], spare: list[tuple[list[tuple[Kind, bool]], int]]
) -> None:
    failing = host(1, [])
    others = [
        host(number, [gpu(bus, kind, held) for bus, (kind, held) in enumerate(gpus)], memory)
        for number, (gpus, memory) in enumerate(spare, 2)
    ]
    vms = [
        vm(number, 1, gpus, priority, memory, tuple(f"host-{each}" for each in sorted(barred)))
        for number, (priority, gpus, memory, barred) in enumerate(lost)
    ]
    found = forecast(fleet([failing, *others], vms), CLUSTER.moid, "key-1")
    assert sorted(each.name for each in found.vms) == sorted(each.name for each in vms)
    claims = {each.moid: each for each in found.vms}

    # All who come back fit together where they are said to.
    for other in others:
        assert together(other, [each for each in vms if claims[each.moid].host == other.ref.name])

    # Hosts that took nobody before could not have taken whom they refused, and the reason says why.
    ordered = sorted(vms, key=lambda each: (PRIORITIES.index(each.restart_priority), int(each.moid[3:])))
    for place, each in enumerate(ordered):
        claim = claims[each.moid]
        touched = {claims[before.moid].host for before in ordered[:place]}
        for other in others:
            if claim.comes_back or other.ref.name in touched:
                continue
            assert not together(other, [each])
            wide = other.model_copy(update={"memory_mib": 1000 * SIZE})
            if together(wide, [each.model_copy(update={"barred": ()})]):
                assert claim.reason in (Reason.ADMISSION, Reason.RULE)
                assert claim.reason != Reason.RULE or other.ref.moid in each.barred

    # The first one of all comes back exactly when it can; of the highest priority no more than can.
    if ordered:
        assert claims[ordered[0].moid].comes_back == (at_most(others, ordered[:1]) == 1)
        top = [each for each in ordered if each.restart_priority == ordered[0].restart_priority]
        assert sum(claims[each.moid].comes_back for each in top) <= at_most(others, top)
    assert all(0 <= short.missing <= short.needed for short in found.shortages)
    assert bool(found.lost and any(each.reason == Reason.NO_FREE_GPU for each in found.vms)) == any(
        short.missing for short in found.shortages
    )


kind_lists = st.lists(st.sampled_from(KINDS), max_size=4)


@settings(max_examples=250, deadline=None)
@given(kind_lists, st.lists(kind_lists, max_size=3))
def test_of_vms_with_one_gpu_each_as_many_come_back_as_the_oracle_can_place(
    asked: list[Kind], spare: list[list[Kind]]
) -> None:
    """Each names a kind and a label that no other kind serves."""
    exact = [kind for kind in asked if kind[1]]
    others = [host(number, [gpu(bus, kind) for bus, kind in enumerate(kinds)]) for number, kinds in enumerate(spare, 2)]
    vms = [vm(number, 1, [device(kind)]) for number, kind in enumerate(exact)]
    found = forecast(fleet([host(1, []), *others], vms), CLUSTER.moid, "key-1")
    assert len(vms) - found.lost == at_most(others, vms)
    assert sum(each.missing for each in found.shortages) == found.lost


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.lists(st.sampled_from([kind for kind in KINDS if kind[1]]), min_size=1, max_size=5))
def test_one_free_host_among_identical_ones_saves_every_single_host(count: int, kinds: list[Kind]) -> None:
    full = [host(number, [gpu(bus, kind, True) for bus, kind in enumerate(kinds)]) for number in range(1, count + 1)]
    free = host(99, [gpu(bus, kind) for bus, kind in enumerate(kinds)])
    vms = [
        vm(number * 10 + place, number, [device(kind)])
        for number in range(1, count + 1)
        for place, kind in enumerate(kinds)
    ]
    found = forecasts(fleet([*full, free], vms), CLUSTER.moid)
    assert [each.lost for each in found] == [0] * count
    after = forecasts(fleet([*full, free], vms), CLUSTER.moid, down=["key-99"])
    assert [each.lost for each in after] == [len(kinds)] * count


@settings(max_examples=150, deadline=None)
@given(st.lists(kind_lists, min_size=2, max_size=4), kind_lists, st.data())
def test_a_spare_host_less_never_brings_more_vms_back(
    spare: list[list[Kind]], asked: list[Kind], data: st.DataObject
) -> None:
    """For VMs of one size that name their kind: of different sizes, the order of restarts may favour fewer hosts."""
    vms = [vm(number, 1, [device(kind)]) for number, kind in enumerate(kind for kind in asked if kind[1])]
    others = [host(number, [gpu(bus, kind) for bus, kind in enumerate(kinds)]) for number, kinds in enumerate(spare, 2)]
    world = fleet([host(1, []), *others], vms)
    gone = data.draw(st.sampled_from([each.ref.key for each in others]))

    def missing(found: HostForecast) -> Counter[str]:
        return Counter({each.kind: each.missing for each in found.shortages})

    before = forecast(world, CLUSTER.moid, "key-1")
    after = forecast(world, CLUSTER.moid, "key-1", down=[gone])
    assert after.lost >= before.lost
    assert missing(after) >= missing(before)
    assert all(each.host != gone.replace("key", "esx") for each in after.vms)
