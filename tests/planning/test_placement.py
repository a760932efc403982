"""Where GPU VMs could run: explained in words, and held against an oracle that tries everything."""

from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetVm, GpuFleet, VgpuKind, VmGpu
from contracts.host import HostRef
from contracts.vms import DynamicGpu, GpuWish, StaticGpu, VgpuGpu, VmRequest, VmSource
from planning.placement import place, place_many
from planning.rooms import MIG_SLICES, Refusal, pairs_of, profile_kind, room_of, wishes_of

A100, A40 = "10de:20f1", "10de:2235"
TIMES = ("nvidia_a40-8c", "nvidia_a40-16c", "nvidia_a40-24c", "nvidia_a40-48c")
SLICES = ("grid_a100-1-5c", "grid_a100-3-20c", "grid_a100-4-20c", "grid_a100-7-40c")
CLUSTER = FleetCluster(moid="domain-c1", name="gpu-01", drs_enabled=True)


def request(*gpus: GpuWish, memory_mib: int = 4096) -> VmRequest:
    return VmRequest(
        name="train-1",
        vcenter="vc",
        cluster="gpu-01",
        source=VmSource(guest_id="ubuntu64Guest"),
        memory_mib=memory_mib,
        gpus=gpus,
    )


def whole(sbdf: str, pair: str = A100, label: str = "", active: bool = True, by: str = "") -> FleetGpu:
    return FleetGpu(
        sbdf=sbdf,
        vendor_device=pair,
        name=pair,
        framebuffer_mib=40960,
        passthru_active=active,
        label=label,
        active_type="direct" if active else "shared",
        vm_moids=(by,) if by else (),
    )


def shared(sbdf: str, mode: str = "sameSize", profiles: tuple[str, ...] = TIMES) -> FleetGpu:
    size = 40960 if mode == "multiInstanceGpu" else 49152
    pair = A100 if mode == "multiInstanceGpu" else A40
    return FleetGpu(
        sbdf=sbdf,
        vendor_device=pair,
        name=pair,
        framebuffer_mib=size,
        active_type="sharedDirect",
        vgpu_mode=mode,
        profiles=profiles,
    )


def host(number: int, *gpus: FleetGpu, **more: object) -> FleetHost:
    ref = HostRef(vcenter="vc", key=f"key-{number}", moid=f"host-{number}", name=f"esx-{number}")
    given: dict[str, object] = {"cluster_moid": "domain-c1", "memory_mib": 65536, "cpus": 64, "gpus": gpus, **more}
    return FleetHost.model_validate({"ref": ref, **given})


def vm(number: int, on: FleetHost, *gpus: VmGpu) -> FleetVm:
    return FleetVm(
        moid=f"vm-{number}",
        instance_uuid=f"uuid-{number}",
        name=f"vm-{number}",
        host_moid=on.ref.moid,
        powered_on=True,
        memory_mib=4096,
        gpus=gpus,
    )


def fleet(*hosts: FleetHost, vms: tuple[FleetVm, ...] = ()) -> GpuFleet:
    return GpuFleet(vcenter="vc", clusters=(CLUSTER,), hosts=hosts, vms=vms)


ONE = DynamicGpu(match=A100)


@pytest.mark.parametrize(
    ("there", "wish", "code", "words"),
    [
        (host(1, whole("0000:81:00.0", A40)), ONE, "no-such-gpu", "it has no 10de:20f1"),
        (host(1, whole("0000:81:00.0", label="Other")), DynamicGpu(match=A100, label="Training"), "label-differs",
         "none of them has the label 'Training': 0000:81:00.0 Other"),
        (host(1, whole("0000:81:00.0", by="vm-9")), ONE, "in-use", "in use: 0000:81:00.0"),
        (host(1, whole("0000:81:00.0", active=False)), ONE, "wrong-mode", "none of them is in passthrough"),
        (host(1, whole("0000:81:00.0")), DynamicGpu(model="A100", count=2), "too-few", "1 of them are free"),
        (host(1, whole("0000:81:00.0")), StaticGpu(host="esx-1", sbdf="0000:82:00.0"), "no-such-gpu", "no GPU at"),
        (host(1, whole("0000:81:00.0")), StaticGpu(host="esx-2", sbdf="0000:81:00.0"), "other-host", "is on esx-2"),
        (host(1, whole("0000:81:00.0")), VgpuGpu(profile="nvidia_a40-8c"), "wrong-mode", "in vGPU mode"),
        (host(1, shared("0000:81:00.0")), VgpuGpu(profile="nvidia_a40-1q"), "profile-not-offered", "nvidia_a40-8c"),
        (host(1, whole("0000:81:00.0"), in_maintenance=True), ONE, "maintenance", "in maintenance mode"),
        (host(1, whole("0000:81:00.0"), connection_state="notResponding"), ONE, "not-connected", "notResponding"),
        (host(1, whole("0000:81:00.0"), standby=True), ONE, "standby", "DPM"),
        (host(1, whole("0000:81:00.0"), reserved_mib=64000), ONE, "memory-reservation", "1536 MiB"),
        (host(1, whole("0000:81:00.0"), cpus=2), ONE, "cpus", "2 logical processors, and 4"),
    ],
)  # fmt: skip
def test_why_a_host_cannot_take_a_vm_is_told(there: FleetHost, wish: GpuWish, code: str, words: str) -> None:
    found = place(fleet(there), request(wish))
    assert not found.fitting
    assert found.room == 0
    assert found.hosts[0].code == code
    assert words in found.hosts[0].why


def test_sizes_do_not_mix_on_a_card_unless_the_host_runs_it_so() -> None:
    for mode, code in (("sameSize", "mixed-size"), ("mixedSize", "")):
        there = host(1, shared("0000:81:00.0", mode))
        running = vm(1, there, VmGpu(key=1, kind="vgpu", profile="nvidia_a40-24c", assigned="0000:81:00.0"))
        found = place(fleet(there, vms=(running,)), request(VgpuGpu(profile="nvidia_a40-8c")))
        assert found.hosts[0].code == code


def test_a_mig_card_has_seven_slices() -> None:
    there = host(1, shared("0000:81:00.0", "multiInstanceGpu", SLICES))
    running = vm(1, there, VmGpu(key=1, kind="vgpu", profile="grid_a100-4-20c"))
    found = place(fleet(there, vms=(running,)), request(VgpuGpu(profile="grid_a100-4-20c")))
    assert found.hosts[0].code == "mig-slices"
    assert place(fleet(there, vms=(running,)), request(VgpuGpu(profile="grid_a100-3-20c"))).room == 1


def test_a_card_in_mig_mode_takes_no_time_sliced_vgpu_though_its_model_has_the_profile() -> None:
    mixed = ("grid_a100-20c", "grid_a100-3-20c")
    time_sliced = shared("a", profiles=mixed).model_copy(update={"vendor_device": A100, "framebuffer_mib": 40960})
    there = host(1, time_sliced, shared("b", "multiInstanceGpu", mixed))
    room = room_of(there, [])
    assert [room.take([VgpuGpu(profile="grid_a100-20c")], 0) for _ in range(2)] == [("a",), ("a",)]
    (full,) = room.take([VgpuGpu(profile="grid_a100-20c")], 0)
    assert isinstance(full, Refusal)
    assert [room.take([VgpuGpu(profile="grid_a100-3-20c")], 0) for _ in range(2)] == [("b",), ("b",)]


def test_before_8_0_3_what_runs_on_a_card_tells_how_it_is_shared() -> None:
    silent = shared("a", profiles=("grid_a100-10c", "grid_a100-3-20c")).model_copy(update={"vgpu_mode": None})
    there = host(1, silent)
    room = room_of(there, [])
    assert room.take([VgpuGpu(profile="grid_a100-10c")], 0) == ("a",)
    (refused,) = room.take([VgpuGpu(profile="grid_a100-3-20c")], 0)
    assert isinstance(refused, Refusal)
    assert refused.code == "profile-not-offered"


def test_several_vgpus_of_one_vm_are_whole_cards() -> None:
    there = host(1, shared("0000:81:00.0"), shared("0000:82:00.0"))
    assert place(fleet(there), request(VgpuGpu(profile="nvidia_a40-48c", count=2))).room == 1
    found = place(fleet(there), request(VgpuGpu(profile="nvidia_a40-24c", count=2))).hosts[0]
    assert found.code == "not-whole-card"
    assert "each is a whole, time-sliced card" in found.why


def test_overlapping_wishes_leave_the_labelled_gpu_to_the_one_that_needs_it() -> None:
    there = host(1, whole("0000:81:00.0", label="Training"), whole("0000:82:00.0"))
    found = place(fleet(there), request(ONE, DynamicGpu(match=A100, label="Training")))
    assert found.fitting[0].sbdfs == ("0000:82:00.0", "0000:81:00.0")


def test_what_a_vm_has_is_taken_as_it_is() -> None:
    there = host(1, whole("0000:3b:00.0", A40, "Training"), whole("0000:5e:00.0", A100))
    either = VmGpu(key=1, kind="dynamic", allowed=(A100, A40))
    free = room_of(there, [])
    # The one without a label goes first: the other is the only one for whoever names the label.
    assert free.take(wishes_of(vm(1, there, either)), 4096) == ("0000:5e:00.0",)
    long_label = VmGpu(key=1, kind="dynamic", allowed=(A100,), label="L" * 40)
    (refusal,) = free.take(wishes_of(vm(2, there, long_label)), 4096)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "label-differs"
    pinned = vm(3, there, VmGpu(key=1, kind="static", sbdf="0000:3b:00.0"), VmGpu(key=2, kind="other"))
    assert free.take(wishes_of(pinned), 4096) == ("0000:3b:00.0",)


def test_the_vm_that_is_to_be_changed_does_not_stand_in_its_own_way() -> None:
    there = host(1, whole("0000:81:00.0", by="vm-1"))
    running = vm(1, there, VmGpu(key=1, kind="dynamic", allowed=(A100,), assigned="0000:81:00.0"))
    world = fleet(there, vms=(running,))
    assert not place(world, request(ONE)).fitting
    assert place(world, request(ONE), without="vm-1").fitting


def test_every_reason_of_a_host_is_told_at_once() -> None:
    there = host(1, whole("0000:81:00.0", A40), in_maintenance=True, reserved_mib=65536)
    why = place(fleet(there), request(ONE)).hosts[0].why
    assert "maintenance" in why
    assert "reserved" in why
    assert "no 10de:20f1" in why


def test_many_are_spread_or_packed() -> None:
    gpus = [whole(f"0000:8{n}:00.0") for n in range(4)]
    world = fleet(host(1, *gpus), host(2, *gpus))
    assert sorted(place_many(world, request(ONE), 4)) == ["key-1", "key-1", "key-2", "key-2"]
    assert len(set(place_many(world, request(ONE), 4, packed=True))) == 1
    assert len(place_many(world, request(ONE), 99)) == 8


# -- an oracle that tries everything ----------------------------------------------------------------------------------

labels = st.sampled_from(["", "Training"])
wholes = st.builds(
    lambda pair, label, active, by: (pair, label, active, by),
    st.sampled_from([A100, A40]), labels, st.booleans(), st.sampled_from(["", "", "vm-99"]),
)  # fmt: skip
dynamics = st.lists(
    st.builds(
        lambda pair, label, count: DynamicGpu(match=pair, label=label or None, count=count),
        st.sampled_from([A100, A40]), labels, st.integers(1, 2),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(wholes, max_size=4), dynamics)
def test_whole_gpus_fit_exactly_when_some_order_of_them_fits(
    gpus: list[tuple[str, str, bool, str]], wishes: list[DynamicGpu]
) -> None:
    there = host(1, *(whole(f"0000:8{n}:00.0", *gpu) for n, gpu in enumerate(gpus)))
    singles = [wish for wish in wishes for _ in range(wish.count)]
    free = [gpu for gpu in there.gpus if gpu.passthru_active and not gpu.vm_moids]

    def meets(gpu: FleetGpu, wish: DynamicGpu) -> bool:
        return gpu.vendor_device in pairs_of(wish) and (wish.label is None or wish.label == gpu.label)

    possible = any(
        all(meets(gpu, wish) for gpu, wish in zip(order, singles, strict=True))
        for order in permutations(free, len(singles))
    )
    fit = place(fleet(there), request(*wishes)).hosts[0]
    assert fit.fits == possible
    if fit.fits:
        by_address = {gpu.sbdf: gpu for gpu in free}
        assert len(set(fit.sbdfs)) == len(singles)
        assert all(meets(by_address[sbdf], wish) for sbdf, wish in zip(fit.sbdfs, singles, strict=True))
    else:
        assert fit.why


def holds(kinds: list[VgpuKind], card: FleetGpu, alone: bool = True) -> bool:
    """The rules of one card, said once more and otherwise than in the planner."""
    if any(kind.name not in card.profiles for kind in kinds):
        return False
    if not alone and any(kind.slices or kind.framebuffer_mib != 49152 for kind in kinds):
        return False
    if card.vgpu_mode == "multiInstanceGpu":
        return sum(k.slices for k in kinds) <= MIG_SLICES and sum(k.framebuffer_mib for k in kinds) <= 40960
    sizes = {kind.framebuffer_mib for kind in kinds}
    return sum(k.framebuffer_mib for k in kinds) <= 49152 and (card.vgpu_mode == "mixedSize" or len(sizes) <= 1)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["sameSize", "mixedSize", "multiInstanceGpu"]), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(TIMES + SLICES)), max_size=3),
    st.lists(st.sampled_from(TIMES + SLICES), min_size=1, max_size=3),
    st.sampled_from(["performance", "consolidation", None]),
)
def test_shares_fit_exactly_when_some_distribution_over_the_cards_fits(
    modes: list[str], running: list[tuple[int, str]], wanted: list[str], policy: str | None
) -> None:
    cards = [
        shared(f"0000:8{n}:00.0", mode, SLICES if mode == "multiInstanceGpu" else TIMES) for n, mode in enumerate(modes)
    ]
    there = host(1, *cards, assignment_policy=policy)
    on: dict[int, list[VgpuKind]] = {n: [] for n in range(len(cards))}
    vms = []
    for index, (at, name) in enumerate(running):
        kind = profile_kind(there, name)
        if at < len(cards) and holds([*on[at], kind], cards[at]):
            on[at].append(kind)
            vms.append(vm(index, there, VmGpu(key=1, kind="vgpu", profile=name, assigned=cards[at].sbdf)))
    kinds = [profile_kind(there, name) for name in wanted]
    possible = any(
        all(
            holds([*on[n], *(mine := [kind for kind, at in zip(kinds, way, strict=True) if at == n])], card)
            and holds(mine, card, alone=len(kinds) == 1)
            for n, card in enumerate(cards)
            if n in way
        )
        for way in product(range(len(cards)), repeat=len(kinds))
    )
    fit = place(fleet(there, vms=tuple(vms)), request(*(VgpuGpu(profile=name) for name in wanted))).hosts[0]
    assert fit.fits == possible
    assert fit.fits or fit.why


@given(st.integers(0, 6), st.integers(1, 3))
def test_room_counts_what_could_be_placed_one_after_the_other(gpus: int, each: int) -> None:
    there = host(1, *(whole(f"0000:8{n}:00.0") for n in range(gpus)))
    wish = request(DynamicGpu(match=A100, count=each))
    assert place(fleet(there), wish).room == gpus // each == len(place_many(fleet(there), wish, 99))
