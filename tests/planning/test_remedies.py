"""What would bring GPU VMs back: each kind of VM by name, and any fleet against an oracle that tries everything."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.audit import RemedyPolicy
from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetRecommendation, FleetVm, GpuFleet, VgpuKind, VmGpu
from contracts.host import HostRef
from contracts.plan import Plan, Risk, StepKind, plan_hash
from contracts.verdicts import (
    HeldGpu,
    Reason,
    Recovery,
    Victim,
    VmVerdict,
)
from planning.remedies import MOST_VMS, remedies
from planning.remedy_steps import conversions_of

A100, A40, T4 = "10de:20f1", "10de:2235", "10de:1eb8"
LOST_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
EIGHT, SIXTEEN = "nvidia_a40-8c", "nvidia_a40-16c"
KINDS = (
    VgpuKind(name=EIGHT, framebuffer_mib=8192, migrate_supported=True),
    VgpuKind(name=SIXTEEN, framebuffer_mib=16384),
)
CLUSTER = FleetCluster(moid="domain-c1", name="gpu-01", drs_enabled=True, ha_enabled=True)
DOWN = {"connection_state": "notResponding", "ha_state": "hostDown"}


def ref(number: int) -> HostRef:
    return HostRef(vcenter="vc", key=f"key-{number}", moid=f"host-{number}", name=f"esx-{number}")


def whole(number: int, pair: str = A100, label: str = "", *by: str) -> FleetGpu:
    return FleetGpu(
        sbdf=f"0000:{number:02x}:00.0",
        vendor_device=pair,
        name=pair,
        framebuffer_mib=16384 if pair == T4 else 40960,
        passthru_active=True,
        label=label,
        active_type="direct",
        vm_moids=by,
    )


def card(number: int, size_mib: int = 16384) -> FleetGpu:
    return FleetGpu(
        sbdf=f"0000:{number:02x}:00.0",
        vendor_device=A40,
        name=A40,
        framebuffer_mib=size_mib,
        active_type="sharedDirect",
        vgpu_mode="sameSize",
        profiles=(EIGHT, SIXTEEN),
    )


def host(number: int, *gpus: FleetGpu, **more: Any) -> FleetHost:
    given: dict[str, Any] = {"cluster_moid": "domain-c1", "memory_mib": 65536, "gpus": gpus, "vgpu_kinds": KINDS}
    return FleetHost.model_validate({"ref": ref(number), **given, **more})


def dynamic(pair: str = A100, label: str = "") -> VmGpu:
    return VmGpu(key=1, kind="dynamic", allowed=(pair,), label=label)


def static(number: int = 1) -> VmGpu:
    return VmGpu(key=1, kind="static", sbdf=f"0000:{number:02x}:00.0")


def share(profile: str = EIGHT) -> VmGpu:
    return VmGpu(key=1, kind="vgpu", profile=profile)


def vm(number: int, on: int, *gpus: VmGpu, **more: Any) -> FleetVm:
    given: dict[str, Any] = {
        "powered_on": False, "memory_mib": 4096, "path": f"[ds] vm-{number}/vm-{number}.vmx", "folder_moid": "group-v1",
        "pool_moid": "resgroup-1", "mmio_gib": 128,
    }  # fmt: skip
    fields = {"moid": f"vm-{number}", "instance_uuid": f"uuid-{number}", "name": f"train-{number}"}
    return FleetVm.model_validate({**fields, "host_moid": f"host-{on}", "gpus": gpus, **given, **more})


def running(number: int, on: int, *gpus: VmGpu, **more: Any) -> FleetVm:
    return vm(number, on, *gpus, powered_on=True, power_state="poweredOn", tools_running=True, **more)


def verdict(machine: FleetVm, reason: Reason = Reason.NOT_KNOWN, **more: Any) -> VmVerdict:
    given: dict[str, Any] = {
        "moid": machine.moid, "instance_uuid": machine.instance_uuid, "name": machine.name, "was_on": "esx-1",
        "recovery": Recovery.NOT_RESTARTED, "reason": reason, "text": "off", "lost_at": LOST_AT,
        "restart_priority": machine.restart_priority,
    }  # fmt: skip
    return VmVerdict.model_validate({**given, **more})


def victim(machine: FleetVm, *held: HeldGpu) -> Victim:
    return Victim(vm=machine, host=ref(1), held=held, lost_at=LOST_AT)


def fleet(*hosts: FleetHost, vms: tuple[FleetVm, ...], cluster: FleetCluster = CLUSTER) -> GpuFleet:
    return GpuFleet(vcenter="vc", clusters=(cluster,), hosts=hosts, vms=vms)


def plan_for(there: GpuFleet, *lost: FleetVm, reason: Reason = Reason.NOT_KNOWN, **policy: Any) -> Plan:
    """The plan for VMs that are off; those with static devices held an A100 with the label Training."""
    held = HeldGpu(sbdf="0000:01:00.0", vendor_device=A100, label="Training")
    return remedies(
        [verdict(machine, reason) for machine in lost],
        [victim(machine, held) for machine in lost],
        there,
        RemedyPolicy(**policy),
    )


def told(plan: Plan) -> list[tuple[StepKind, str, str]]:
    return [(step.kind, step.target, step.params.get("host_name", "")) for step in plan.steps]


def test_a_vm_of_a_dead_host_is_registered_where_there_is_room_and_powered_on() -> None:
    lost = vm(7, 1, dynamic(label="Training"), powered_on=True, connection_state="disconnected")
    there = fleet(host(1, whole(1, label="Training"), **DOWN), host(2, whole(1)), host(3, whole(1, A100, "Training")),
                  vms=(lost,))  # fmt: skip
    plan = plan_for(there, lost)
    assert told(plan) == [
        (StepKind.REGISTER_VM, "train-7", "esx-3"),
        (StepKind.POWER_ON_VM, "train-7", "esx-3"),
    ]
    register, on = plan.steps
    assert register.params == {
        "vm": "uuid-7", "moid": "vm-7", "for": "uuid-7", "host": "host-3", "host_name": "esx-3", "from": "host-1",
        "from_name": "esx-1", "path": "[ds] vm-7/vm-7.vmx", "folder": "group-v1", "pool": "resgroup-1",
    }  # fmt: skip
    assert register.change == (
        "[ds] vm-7/vm-7.vmx is registered on esx-3, and no longer on esx-1, which HA says is down"
    )
    assert on.change == "powered on on esx-3"
    assert {step.risk for step in plan.steps} == {Risk.DISRUPTIVE}
    assert "gets a new moid" in plan.notes[0]


@pytest.mark.parametrize("state", ["connectedToMaster", "networkIsolated", ""])
def test_what_may_run_on_a_host_that_is_cut_off_is_never_registered_elsewhere(state: str) -> None:
    lost = vm(7, 1, dynamic(), powered_on=True, connection_state="disconnected")
    cut_off = host(1, whole(1), connection_state="notResponding", ha_state=state)
    plan = plan_for(fleet(cut_off, host(2, whole(1)), vms=(lost,)), lost, reason=Reason.HOST_UNREACHABLE)
    assert plan.steps == ()
    assert plan.notes == (
        "train-7: waits for host esx-1: HA does not say that it is down, so its VMs may run there",
    )  # fmt: skip


def test_a_vm_that_is_off_where_it_was_is_powered_on_there_first() -> None:
    lost = vm(7, 2, dynamic())
    there = fleet(host(1, whole(1)), host(2, whole(1)), vms=(lost,))
    assert told(plan_for(there, lost)) == [(StepKind.POWER_ON_VM, "train-7", "esx-2")]
    there = fleet(host(1, whole(1)), host(2, whole(1, A100, "", "vm-1")), vms=(lost, running(1, 2, dynamic())))
    assert told(plan_for(there, lost)) == [(StepKind.POWER_ON_VM, "train-7", "esx-1")]


def test_the_last_gpu_goes_to_the_highest_priority_and_then_to_the_lowest_moid() -> None:
    lost = [
        vm(10, 2, dynamic(), restart_priority="medium"),
        vm(9, 2, dynamic(), restart_priority="medium"),
        vm(30, 2, dynamic(), restart_priority="high"),
        vm(1, 2, dynamic(), restart_priority="disabled"),
    ]
    plan = plan_for(fleet(host(2, whole(1), whole(2)), vms=tuple(lost)), *lost)
    assert told(plan) == [(StepKind.POWER_ON_VM, "train-30", "esx-2"), (StepKind.POWER_ON_VM, "train-9", "esx-2")]
    assert plan.notes == (
        "train-10, train-1: GPUs are missing: 2 of 2 10de:20f1; waits for one to become free",
    )  # fmt: skip


def test_gpus_with_labels_are_left_to_those_that_name_them() -> None:
    lost = [vm(1, 4, dynamic()), vm(2, 4, dynamic(label="Training"))]
    hosts = (host(2, whole(1, A100, "Training")), host(3, whole(1)), host(4))
    plan = plan_for(fleet(*hosts, vms=tuple(lost)), *lost)
    assert [(target, where) for _, target, where in told(plan)] == [("train-1", "esx-3"), ("train-2", "esx-2")]


def test_what_drs_recommends_is_applied_where_that_room_is_left() -> None:
    lost = vm(7, 2, dynamic())
    advice = FleetRecommendation(key="12", vm_moid="vm-7", host_moid="host-3")
    cluster = CLUSTER.model_copy(update={"recommendations": (advice,)})
    there = fleet(host(2, whole(1)), host(3, whole(1)), vms=(lost,), cluster=cluster)
    (step,) = plan_for(there, lost, reason=Reason.RECOMMENDATION).steps
    assert (step.kind, step.params["key"], step.params["cluster"]) == (
        StepKind.APPLY_RECOMMENDATION, "12", "domain-c1",
    )  # fmt: skip
    assert step.change == "recommendation 12 of DRS is applied: powered on on esx-3"
    taken = fleet(host(2, whole(1)), host(3), vms=(lost,), cluster=cluster)
    assert told(plan_for(taken, lost, reason=Reason.RECOMMENDATION)) == [(StepKind.POWER_ON_VM, "train-7", "esx-2")]


def test_a_static_device_becomes_a_dynamic_one_of_the_same_kind_and_label() -> None:
    lost = vm(7, 1, static(), powered_on=True, mmio_gib=0, memory_reserved=False)
    there = fleet(
        host(1, whole(1, label="Training"), **DOWN), host(2, whole(1), whole(2, T4, "Training")),
        host(3, whole(5, A100, "Training")), vms=(lost,),
    )  # fmt: skip
    plan = plan_for(there, lost, reason=Reason.STATIC_PINNED)
    assert [kind for kind, _, _ in told(plan)] == [
        StepKind.REGISTER_VM, StepKind.CONFIGURE_VM, StepKind.SET_VM_GPUS, StepKind.POWER_ON_VM,
    ]  # fmt: skip
    _, configure, convert, on = plan.steps
    assert configure.change == (
        "memoryReservationLockedToMax = TRUE; pciPassthru.64bitMMIOSizeGB = 128; pciPassthru.use64bitMMIO = TRUE"
    )
    assert convert.change == "static 0000:01:00.0 → dynamic 10de:20f1 label Training"
    assert conversions_of(convert.params) == (
        VmGpu(key=0, kind="dynamic", allowed=(A100,), label="Training", sbdf="0000:01:00.0"),
    )
    assert on.params["host"] == "host-3"
    assert any("hardware version 17" in note for note in plan.notes)
    assert len({step.params["for"] for step in plan.steps}) == 1


def test_a_converted_vm_takes_the_label_of_its_new_gpu_and_stays_on_that_host() -> None:
    lost = vm(7, 2, static(), memory_reserved=True)
    there = fleet(host(1, whole(9)), host(2), host(3, whole(5, A100, "Spare")), vms=(lost,))
    held = HeldGpu(sbdf="0000:01:00.0", vendor_device=A100)
    taken = there.model_copy(update={"hosts": (host(1), *there.hosts[1:])})
    plan = remedies([verdict(lost)], [victim(lost, held)], taken, RemedyPolicy())
    assert [step.kind for step in plan.steps] == [StepKind.SET_VM_GPUS, StepKind.POWER_ON_VM]
    assert plan.steps[0].change.endswith("label Spare")
    # A GPU without a label is taken first, and named by none.
    plan = remedies([verdict(lost)], [victim(lost, held)], there, RemedyPolicy())
    assert plan.steps[0].change == "static 0000:01:00.0 → dynamic 10de:20f1"
    # Once it is converted, what is left of the plan is what was approved.
    converted = lost.model_copy(update={"gpus": (dynamic(),)})
    later = remedies(
        [verdict(converted)],
        [victim(lost, held)],
        there.model_copy(update={"vms": (converted,)}),
        RemedyPolicy(power_on=False),
    )
    assert [step.id for step in later.steps] == [plan.steps[1].id]


def test_a_static_vm_whose_host_is_back_is_powered_on_there() -> None:
    lost = vm(7, 1, static())
    there = fleet(host(1, whole(1)), host(2, whole(1, A100, "Training")), vms=(lost,))
    assert told(plan_for(there, lost, reason=Reason.STATIC_PINNED)) == [(StepKind.POWER_ON_VM, "train-7", "esx-1")]
    # The same address on another host is another device.
    moved = lost.model_copy(update={"host_moid": "host-2"})
    assert told(plan_for(there.model_copy(update={"vms": (moved,)}), moved))[0][0] is StepKind.SET_VM_GPUS


def test_static_vms_wait_where_nothing_can_be_done_for_them() -> None:
    lost = vm(7, 1, static())
    down, other = host(1, whole(1), **DOWN), host(2, whole(1, A40, "Training"))
    plan = plan_for(fleet(down, other, vms=(lost,)), lost)
    assert plan.notes == (
        "train-7: GPUs are missing: 1 of 1 10de:20f1 label Training; waits for one to become free or for host esx-1",
    )
    plan = plan_for(fleet(down, other, vms=(lost,)), lost, convert_static=False)
    assert plan.notes == ("train-7: waits for host esx-1, to which its static device binds it",)
    plan = remedies([verdict(lost)], [victim(lost)], fleet(down, other, vms=(lost,)), RemedyPolicy())
    assert plan.notes == ("train-7: waits for host esx-1: what kind of GPU its static device was is not known",)
    assert plan.steps == ()


def test_what_keeps_a_vm_from_powering_on_or_booting_is_set_first() -> None:
    lost = vm(7, 2, dynamic(), memory_reserved=False)
    plan = plan_for(fleet(host(2, whole(1)), vms=(lost,)), lost, reason=Reason.RESERVATION)
    assert [step.change for step in plan.steps] == ["memoryReservationLockedToMax = TRUE", "powered on on esx-2"]
    small = vm(7, 2, dynamic(), mmio_gib=64)
    plan = plan_for(fleet(host(2, whole(1)), vms=(small,)), small, reason=Reason.MMIO)
    assert plan.steps[0].params["pciPassthru.64bitMMIOSizeGB"] == "128"
    on = running(7, 2, dynamic(), mmio_gib=64)
    plan = plan_for(fleet(host(2, whole(1, A100, "", "vm-7")), vms=(on,)), on, reason=Reason.MMIO)
    assert plan.steps == ()
    assert "power it off" in plan.notes[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"managed_by": "com.vmware.wcp"}, "the extension com.vmware.wcp owns it"),
        ({"template": True}, "template"),
        ({"connection_state": "orphaned"}, "register it again"),
        ({"connection_state": "inaccessible"}, "datastore"),
        ({"connection_state": "invalid"}, "datastore"),
        ({"question": "Moved or copied?"}, "waits for an answer: Moved or copied?"),
        ({"power_state": "suspended"}, "resume it"),
        ({"gpus": (dynamic(), VmGpu(key=2, kind="other"))}, "does not touch"),
        ({"gpus": (dynamic(), share())}, "whole GPUs and vGPUs at once"),
        ({"barred": ("host-2",)}, "rules keep it off esx-2"),
        ({"memory_mib": 70000}, r"1 × 10de:20f1 is free on esx-2, which has not the memory"),
    ],
)
def test_vms_that_are_left_to_people_are_told_with_why(more: dict[str, Any], words: str) -> None:
    lost = vm(7, 2, dynamic()).model_copy(update=more)
    plan = plan_for(fleet(host(2, whole(1)), vms=(lost,)), lost)
    assert plan.steps == ()
    (note,) = plan.notes
    assert note.startswith("train-7: ")
    assert words in note


def test_policy_may_leave_powering_on_to_people() -> None:
    lost = vm(7, 2, dynamic())
    plan = plan_for(fleet(host(2, whole(1)), vms=(lost,)), lost, power_on=False)
    assert plan.steps == ()
    assert plan.notes == ("train-7: there is room on esx-2, and policy leaves powering on to people",)


def test_only_vms_that_are_known_to_be_off_are_touched() -> None:
    lost = vm(7, 2, dynamic())
    there = fleet(host(2, whole(1)), vms=(lost,))
    for recovery in Recovery:
        plan = remedies([verdict(lost, recovery=recovery)], [victim(lost)], there, RemedyPolicy())
        assert bool(plan.steps) == (recovery is Recovery.NOT_RESTARTED), recovery
    gone = remedies([verdict(lost)], [victim(lost)], fleet(host(2, whole(1)), vms=()), RemedyPolicy())
    assert gone.notes == (
        "train-7: it is no longer in the inventory with GPU devices; its file was [ds] vm-7/vm-7.vmx",
    )  # fmt: skip


def test_a_vm_of_lower_priority_moves_where_its_profile_migrates() -> None:
    lost = vm(7, 2, share(SIXTEEN), restart_priority="high")
    low, equal = running(1, 2, share(), restart_priority="low"), running(2, 3, share(), restart_priority="high")
    there = fleet(host(2, card(1)), host(3, card(1)), vms=(lost, low, equal))
    plan = plan_for(there, lost, make_room="move")
    assert told(plan) == [(StepKind.MOVE_VM, "train-1", "esx-3"), (StepKind.POWER_ON_VM, "train-7", "esx-2")]
    assert {step.params["for"] for step in plan.steps} == {"uuid-7"}
    assert plan.steps[0].change == "moved, running, to esx-3, to make room for train-7"
    plan = plan_for(there, lost, make_room="suspend")
    assert told(plan) == [(StepKind.SUSPEND_VM, "train-1", ""), (StepKind.POWER_ON_VM, "train-7", "esx-2")]
    assert plan_for(there, lost).steps == ()
    stuck = running(1, 2, share(SIXTEEN), restart_priority="low")
    assert plan_for(fleet(*there.hosts, vms=(lost, stuck, equal)), lost, make_room="move").steps == ()


def test_the_fewest_make_room() -> None:
    lost = vm(7, 2, share(SIXTEEN), restart_priority="highest")
    vms = (lost, running(1, 2, share()), running(2, 2, share()), running(3, 3, share(SIXTEEN)))
    plan = plan_for(fleet(host(2, card(1)), host(3, card(1)), vms=vms), lost, make_room="suspend")
    assert told(plan) == [(StepKind.SUSPEND_VM, "train-3", ""), (StepKind.POWER_ON_VM, "train-7", "esx-3")]


def test_room_that_was_made_for_one_serves_the_next_too() -> None:
    lost = [vm(number, 2, share(), restart_priority="high") for number in (7, 8, 9, 10)]
    seats = [running(each, each, share(SIXTEEN), restart_priority="low") for each in (2, 3)]
    plan = plan_for(fleet(host(2, card(1)), host(3, card(1)), vms=(*lost, *seats)), *lost, make_room="suspend")
    assert [(kind, name) for kind, name, _ in told(plan)] == [
        (StepKind.SUSPEND_VM, "train-2"),
        (StepKind.POWER_ON_VM, "train-7"),
        (StepKind.POWER_ON_VM, "train-8"),
        (StepKind.SUSPEND_VM, "train-3"),
        (StepKind.POWER_ON_VM, "train-9"),
        (StepKind.POWER_ON_VM, "train-10"),
    ]


def test_one_host_may_make_room_for_one_after_the_other() -> None:
    lost = [vm(number, 2, share(SIXTEEN), restart_priority="high") for number in (7, 8)]
    seats = [running(each, 2, share(SIXTEEN), restart_priority="low") for each in (1, 2)]
    plan = plan_for(fleet(host(2, card(1), card(2)), vms=(*lost, *seats)), *lost, make_room="suspend")
    assert [name for _, name, _ in told(plan)] == ["train-1", "train-7", "train-2", "train-8"]


def test_whole_gpus_of_others_are_never_taken() -> None:
    lost = vm(7, 2, dynamic(), restart_priority="highest")
    there = fleet(host(2, whole(1, A100, "", "vm-1")), vms=(lost, running(1, 2, dynamic())))
    plan = plan_for(there, lost, make_room="suspend")
    assert plan.steps == ()
    assert any("neither moved while they run nor suspended" in note for note in plan.notes)


def test_one_plan_brings_back_so_many_that_it_can_travel() -> None:
    lost = [vm(number, 2, dynamic()) for number in range(1, MOST_VMS + 11)]
    there = fleet(host(2, *(whole(number) for number in range(1, 200)), memory_mib=2**20), vms=tuple(lost))
    plan = plan_for(there, *lost)
    assert len(plan.steps) == MOST_VMS
    assert plan.notes[0].endswith("they come after the ones of this plan")


# -- any fleet -------------------------------------------------------------------------------------------------------

PRIORITIES = ("disabled", "lowest", "low", "medium", "high", "highest")
_devices = st.one_of(
    st.tuples(st.sampled_from([dynamic(), dynamic(A40), dynamic(label="Training")])),
    st.just((dynamic(), dynamic())),
    st.tuples(st.sampled_from([share(), share(SIXTEEN)])),
    st.just((static(),)),
)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[GpuFleet, list[VmVerdict], list[Victim], RemedyPolicy]:
    """A cluster whose first host is gone or back: VMs that run on the others, and VMs that are off."""
    hosts = [host(1, whole(1, A100, draw(st.sampled_from(["", "Training"]))), **draw(st.sampled_from([DOWN, {}])))]
    vms: list[FleetVm] = []
    for number in range(2, 2 + draw(st.integers(1, 3))):
        gpus: list[FleetGpu] = []
        for index in range(1, 1 + draw(st.integers(1, 3))):
            if draw(st.booleans()):
                label, pair = draw(st.sampled_from(["", "Training"])), draw(st.sampled_from([A100, A40]))
                held = draw(st.booleans())
                moid = 100 * number + index
                gpus.append(whole(index, pair, label, *([f"vm-{moid}"] if held else [])))
                if held:
                    vms.append(running(moid, number, dynamic(pair), restart_priority=draw(st.sampled_from(PRIORITIES))))
            else:
                gpus.append(card(index))
                for seat in range(draw(st.integers(0, 2))):
                    moid = 1000 * number + 10 * index + seat
                    seated = share().model_copy(update={"assigned": gpus[-1].sbdf})
                    vms.append(running(moid, number, seated, restart_priority=draw(st.sampled_from(PRIORITIES))))
        used = 4096 * sum(each.host_moid == f"host-{number}" for each in vms)
        memory = used + 4096 * draw(st.integers(0, 4))
        more = draw(st.sampled_from([{}, {}, {"in_maintenance": True}, {"ha_state": "networkIsolated"}]))
        hosts.append(host(number, *gpus, memory_mib=memory, reserved_mib=used, **more))
    lost = [
        vm(
            number,
            draw(st.sampled_from([1, 1, 2])),
            *draw(_devices),
            restart_priority=draw(st.sampled_from(PRIORITIES)),
            barred=draw(st.sampled_from([(), (), ("host-2",)])),
            memory_reserved=draw(st.booleans()),
        )
        for number in range(1, 1 + draw(st.integers(1, 6)))
    ]
    held = HeldGpu(sbdf="0000:01:00.0", vendor_device=A100, label=hosts[0].gpus[0].label)
    back = draw(st.sets(st.sampled_from(lost).map(lambda each: each.moid), max_size=2))
    verdicts = [
        verdict(each, recovery=Recovery.RECOVERED if each.moid in back else Recovery.NOT_RESTARTED) for each in lost
    ]
    policy = RemedyPolicy(
        make_room=draw(st.sampled_from(["never", "move", "suspend"])), convert_static=draw(st.booleans())
    )
    there = fleet(*draw(st.permutations(hosts)), vms=tuple(draw(st.permutations([*vms, *lost]))))
    return there, draw(st.permutations(verdicts)), [victim(each, held) for each in lost], policy


@st.composite
def crowded(draw: st.DrawFn) -> tuple[GpuFleet, list[VmVerdict], list[Victim], RemedyPolicy]:
    """Hosts whose cards are shared by VMs of every priority, and VMs that are off and want shares too."""
    hosts, vms = [], []
    for number in range(2, 2 + draw(st.integers(2, 3))):
        cards = [card(index) for index in range(1, 1 + draw(st.integers(1, 2)))]
        for index, each in enumerate(cards):
            profile = draw(st.sampled_from([EIGHT, EIGHT, SIXTEEN]))
            for seat in range(draw(st.integers(0, 1 if profile == SIXTEEN else 2))):
                gpu = share(profile).model_copy(update={"assigned": each.sbdf})
                priority = draw(st.sampled_from(["lowest", "low", "medium", "disabled"]))
                vms.append(running(1000 * number + 10 * index + seat, number, gpu, restart_priority=priority))
        used = 4096 * sum(each.host_moid == f"host-{number}" for each in vms)
        hosts.append(host(number, *cards, memory_mib=used + 4096 * draw(st.integers(0, 6)), reserved_mib=used))
    profiles = st.sampled_from([EIGHT, EIGHT, SIXTEEN])
    lost = [
        vm(number, 2, share(draw(profiles)), restart_priority=draw(st.sampled_from(["low", "medium", "highest"])))
        for number in range(1, 1 + draw(st.integers(2, 5)))
    ]
    policy = RemedyPolicy(make_room=draw(st.sampled_from(["move", "move", "suspend"])))
    return fleet(*hosts, vms=(*vms, *lost)), [verdict(each) for each in lost], [victim(each) for each in lost], policy


def seated(wishes: list[VmGpu], gpus: list[FleetGpu]) -> bool:
    """Every wish gets a GPU of its own: tried one by one."""
    if not wishes:
        return True
    first, rest = wishes[0], wishes[1:]
    for gpu in gpus:
        meets = (
            gpu.sbdf == first.sbdf
            if first.kind == "static"
            else gpu.vendor_device in first.allowed and first.label in ("", gpu.label)
        )
        if meets and seated(rest, [other for other in gpus if other is not gpu]):
            return True
    return False


def shared_out(wishes: list[str], cards: list[list[str]]) -> bool:
    """Every profile gets its share of a card of 16 GiB: two of 8 GiB or one of 16."""
    if not wishes:
        return True
    for index, uses in enumerate(cards):
        after = [*uses, wishes[0]]
        fits = (set(after) == {EIGHT} and len(after) <= 2) or after == [SIXTEEN]
        if fits and shared_out(wishes[1:], [*cards[:index], after, *cards[index + 1 :]]):
            return True
    return False


def check_fits(there: GpuFleet, plan: Plan) -> None:
    """Carry the plan out on a model of the fleet; at its end everything that runs has what it needs, on every host."""
    vms = {each.instance_uuid: each for each in there.vms}
    hosts = {each.ref.moid: each for each in there.hosts}
    for step in plan.steps:
        machine = vms[step.params["vm"]]
        goal = hosts[step.params["host"]] if "host" in step.params else None
        update: dict[str, Any] = {}
        match step.kind:
            case StepKind.REGISTER_VM:
                assert hosts[machine.host_moid].ha_state == "hostDown"
                update = {"host_moid": step.params["host"]}
            case StepKind.CONFIGURE_VM:
                update = {"memory_reserved": True}
            case StepKind.SET_VM_GPUS:
                assert hosts[machine.host_moid].connection_state == "connected"
                update = {"gpus": tuple(dynamic(gpu.allowed[0], gpu.label) for gpu in conversions_of(step.params))}
            case StepKind.SUSPEND_VM:
                update = {"powered_on": False}
            case StepKind.MOVE_VM:
                assert all(gpu.profile == EIGHT for gpu in machine.gpus)
                update = {"host_moid": step.params["host"]}
            case _:
                assert machine.memory_reserved
                assert hosts[machine.host_moid].connection_state == "connected"
                update = {"powered_on": True, "host_moid": step.params["host"]}
        if goal is not None:
            assert (goal.connection_state, goal.in_maintenance) == ("connected", False)
            assert goal.ha_state not in ("networkIsolated", "hostDown")
            assert goal.ref.moid not in machine.barred
        if step.kind in (StepKind.MOVE_VM, StepKind.SUSPEND_VM):
            helped = vms[step.params["for"]]
            assert machine.powered_on
            assert all(gpu.kind == "vgpu" for gpu in machine.gpus)
            order = PRIORITIES.index
            assert order(machine.restart_priority) < order(helped.restart_priority)
            assert "disabled" not in (machine.restart_priority, helped.restart_priority)
        vms[machine.instance_uuid] = machine.model_copy(update=update)
    for moid, each in hosts.items():
        on = [machine for machine in vms.values() if machine.powered_on and machine.host_moid == moid]
        came = [machine for machine in on if not _was_here(there, machine)]
        held = [gpu for gpu in each.gpus if not gpu.vm_moids and gpu.passthru_active]
        assert seated([gpu for machine in came for gpu in machine.gpus if gpu.kind != "vgpu"], held)
        cards = {gpu.sbdf: list[str]() for gpu in each.gpus if gpu.active_type == "sharedDirect"}
        for machine in on:
            if machine not in came:
                for gpu in machine.gpus:
                    if gpu.kind == "vgpu":
                        cards[gpu.assigned].append(gpu.profile)
        wishes = [gpu.profile for machine in came for gpu in machine.gpus if gpu.kind == "vgpu"]
        assert shared_out(wishes, list(cards.values()))
        if came:
            assert sum(machine.memory_mib for machine in on) <= each.memory_mib


def _was_here(there: GpuFleet, machine: FleetVm) -> bool:
    return any(
        each.instance_uuid == machine.instance_uuid and each.powered_on and each.host_moid == machine.host_moid
        for each in there.vms
    )


@settings(max_examples=300, deadline=None)
@given(st.one_of(scenes(), crowded()))
def test_whatever_is_promised_fits_together(
    scene: tuple[GpuFleet, list[VmVerdict], list[Victim], RemedyPolicy],
) -> None:
    there, verdicts, victims, policy = scene
    plan = remedies(verdicts, victims, there, policy)
    check_fits(there, plan)
    off = {each.instance_uuid for each in verdicts if each.recovery is Recovery.NOT_RESTARTED}
    # No step for anybody who is back, one power-on for each VM that is helped, and its steps stand together.
    assert {step.params["for"] for step in plan.steps} <= off
    by_vm = [step.params["for"] for step in plan.steps]
    assert by_vm == [uuid for uuid in dict.fromkeys(by_vm) for _ in range(by_vm.count(uuid))]
    powered = Counter(step.params["vm"] for step in plan.steps if step.kind is StepKind.POWER_ON_VM)
    assert powered == Counter(dict.fromkeys(by_vm, 1))
    # Each VM that is off is helped or told of.
    names = {each.name for each in verdicts if each.instance_uuid in off - set(by_vm)}
    assert all(any(name in note.partition(":")[0].split(", ") for note in plan.notes) for name in names)


@settings(max_examples=50, deadline=None)
@given(st.one_of(scenes(), crowded()), st.randoms(use_true_random=False))
def test_the_order_of_what_was_read_does_not_matter(
    scene: tuple[GpuFleet, list[VmVerdict], list[Victim], RemedyPolicy], chance: Any
) -> None:
    there, verdicts, victims, policy = scene
    first = remedies(verdicts, victims, there, policy)
    parts = [list(verdicts), list(victims), list(there.hosts), list(there.vms)]
    for part in parts:
        chance.shuffle(part)
    again = remedies(
        parts[0], parts[1], there.model_copy(update={"hosts": tuple(parts[2]), "vms": tuple(parts[3])}), policy
    )
    assert plan_hash("vc/domain-c1", again) == plan_hash("vc/domain-c1", first)


@settings(max_examples=50, deadline=None)
@given(scenes())
def test_whoever_got_a_gpu_comes_before_whoever_did_not(
    scene: tuple[GpuFleet, list[VmVerdict], list[Victim], RemedyPolicy],
) -> None:
    there, verdicts, victims, _ = scene
    plan = remedies(verdicts, victims, there, RemedyPolicy(convert_static=False))
    helped = {step.params["for"] for step in plan.steps}
    alone = [each for each in verdicts if remedies([each], victims, there, RemedyPolicy(convert_static=False)).steps]
    if alone:
        first = min(alone, key=lambda each: (-PRIORITIES.index(each.restart_priority), int(each.moid[3:])))
        assert first.instance_uuid in helped
