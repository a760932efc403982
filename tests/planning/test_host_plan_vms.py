"""What becomes of VMs that cannot move while on: named, and shut down only where the profile lets a run do so."""

from typing import Any

import pytest

from contracts.evacuation import FreeDevice, Neighbour, StoppedVm, StuckVms, WantedDevice
from contracts.host import AffinityRule, HostState, HostVm
from contracts.packages import InstalledVib
from contracts.plan import Plan, Risk
from contracts.profiles import Profile, VgpuManager
from planning.host import plan_host
from tests.support.hosts import TRAINING, a100, host

A100 = "10de:20f1"
RIGHT = a100(passthru_enabled=True, passthru_active=True, hardware_label="Training")
SHUT_DOWN = TRAINING.model_copy(update={"stuck_vms": StuckVms.SHUT_DOWN})
COLD = TRAINING.model_copy(update={"stuck_vms": StuckVms.COLD_MIGRATE})


def dynamic(moid: str = "vm-1", label: str = "Inference", **changes: Any) -> HostVm:
    fields: dict[str, Any] = {
        "moid": moid,
        "name": f"name-of-{moid}",
        "powered_on": True,
        "dynamic_passthrough": True,
        "can_move": False,
        "stays_because": "it has a Dynamic DirectPath I/O device",
        "tools_running": True,
        "wants": (WantedDevice(allowed=(A100,), label=label),),
        "datastores": ("datastore-1",),
        "memory_mib": 4096,
    }
    return HostVm.model_validate(fields | changes)


def stopped(moid: str = "vm-1", **changes: Any) -> StoppedVm:
    fields: dict[str, Any] = {"moid": moid, "name": f"name-of-{moid}", "host_moid": "host-1", "host_name": "esx-01"}
    return StoppedVm.model_validate(fields | changes)


def beside(*free: str, moid: str = "host-2", **changes: Any) -> Neighbour:
    """A neighbour with a free A100 for each label."""
    fields: dict[str, Any] = {
        "moid": moid,
        "name": f"esx-{moid}",
        "free": tuple(
            FreeDevice(sbdf=f"0000:{n:02x}:00.0", vendor_device=A100, label=label) for n, label in enumerate(free)
        ),
        "datastores": ("datastore-1", "datastore-2"),
        "free_memory_mib": 8192,
    }
    return Neighbour.model_validate(fields | changes)


def steps(plan: Plan) -> list[tuple[str, str]]:
    return [(step.kind, step.target) for step in plan.steps]


def state(*vms: HostVm, **changes: Any) -> HostState:
    return host(a100(), vms=vms, **changes)


def test_by_default_vms_that_cannot_move_are_waited_for_by_name() -> None:
    plan = plan_host(state(dynamic(), dynamic("vm-2")), TRAINING)
    (blocker,) = plan.blockers
    assert blocker.code == "vms-cannot-move"
    assert "name-of-vm-1 (it has a Dynamic DirectPath I/O device); name-of-vm-2 (" in blocker.text
    assert "stuck_vms" in blocker.fix
    assert "shut-down-guest" not in dict(steps(plan))


def test_each_vm_is_shut_down_before_and_powered_on_after_the_work() -> None:
    plan = plan_host(state(dynamic(), dynamic("vm-2"), HostVm(moid="vm-3", name="plain", powered_on=True)), SHUT_DOWN)
    assert not plan.blockers
    assert steps(plan) == [
        ("shut-down-guest", "name-of-vm-1"),
        ("shut-down-guest", "name-of-vm-2"),
        ("enter-maintenance", "esx-01"),
        ("enable-passthrough", "0000:81:00.0"),
        ("reboot", "esx-01"),
        ("exit-maintenance", "esx-01"),
        ("power-on-vm", "name-of-vm-1"),
        ("power-on-vm", "name-of-vm-2"),
    ]
    assert plan.steps[0].risk is Risk.DISRUPTIVE
    assert "stays off until this host has left maintenance mode, then is powered on again" in plan.steps[0].change
    assert "1 powered-on VMs are moved by DRS, 2 cannot be and are off by then" in plan.steps[2].change


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tools_running": False}, "VMware Tools do not run in it"),
        ({"managed_by": "com.example.appliance"}, "the extension com.example.appliance owns it"),
        ({"question": "Was it moved or copied?"}, "it waits for an answer: Was it moved or copied?"),
        ({"fault_tolerant": True}, "fault tolerance would start it elsewhere"),
    ],
)
@pytest.mark.parametrize("profile", [SHUT_DOWN, COLD], ids=["shut-down", "cold-migrate"])
def test_a_vm_that_cannot_be_shut_down_is_waited_for_and_nobody_else_is_shut_down(
    changes: dict[str, Any], why: str, profile: Profile
) -> None:
    plan = plan_host(state(dynamic(), dynamic("vm-2", **changes), neighbours=(beside("Inference"),)), profile)
    (blocker,) = plan.blockers
    assert f"name-of-vm-2 (it has a Dynamic DirectPath I/O device; {why})" in blocker.text
    assert "name-of-vm-1" not in blocker.text
    assert ("shut-down-guest", "name-of-vm-2") not in steps(plan)


def test_a_vm_that_holds_the_very_gpu_is_never_shut_down_for_it() -> None:
    plan = plan_host(state(dynamic(passthrough=("0000:81:00.0",))), SHUT_DOWN)
    assert [blocker.code for blocker in plan.blockers] == ["vm-holds-gpu"]


def test_a_vgpu_vm_is_not_shut_down_where_the_vgpu_manager_goes() -> None:
    vm = dynamic(wants=(), dynamic_passthrough=False, vgpu_profiles=("grid_a100-20c",))
    absent = SHUT_DOWN.model_copy(update={"vgpu_manager": "absent"})
    vibs = (InstalledVib(name="NVD-AIE_ESXi_8.0.0_Driver", version="550.54.16-1OEM", vendor="NVD"),)
    (blocker,) = plan_host(state(vm, vibs=vibs), absent).blockers
    assert "could not be powered on again without the vGPU Manager" in blocker.text
    kept = SHUT_DOWN.model_copy(update={"vgpu_manager": VgpuManager(name=vibs[0].name, version="550.*")})
    assert ("power-on-vm", vm.name) in steps(plan_host(state(vm, vibs=vibs), kept))


def test_a_vm_with_a_dynamic_device_moves_to_where_one_is_free_and_runs_there_before_the_host_goes() -> None:
    plan = plan_host(state(dynamic(), neighbours=(beside("Training"), beside("Inference", moid="host-3"))), COLD)
    assert steps(plan)[:4] == [
        ("shut-down-guest", "name-of-vm-1"),
        ("migrate-cold", "name-of-vm-1"),
        ("power-on-vm", "name-of-vm-1"),
        ("enter-maintenance", "esx-01"),
    ]
    assert plan.steps[1].params["destination"] == "host-3"
    assert "moved to esx-host-3" in plan.steps[0].change
    assert steps(plan)[-1] == ("exit-maintenance", "esx-01")


@pytest.mark.parametrize(
    ("vm", "neighbour", "why"),
    [
        (dynamic(), beside("Training"), "a free 10de:20f1 'Inference'"),
        (dynamic(), beside("Inference", datastores=("datastore-2",)), "its datastores"),
        (dynamic(), beside("Inference", free_memory_mib=1024), "memory"),
        (dynamic(static_passthrough=True), beside("Inference"), "its DirectPath I/O device is here"),
        (dynamic(wants=()), beside("Inference"), "only VMs with Dynamic DirectPath I/O devices"),
    ],
)
def test_a_vm_that_fits_nowhere_is_powered_on_again_here_and_the_step_says_why(
    vm: HostVm, neighbour: Neighbour, why: str
) -> None:
    plan = plan_host(state(vm, neighbours=(neighbour,)), COLD)
    assert steps(plan)[0] == ("shut-down-guest", vm.name)
    assert steps(plan)[-1] == ("power-on-vm", vm.name)
    assert why in plan.steps[0].change
    assert "migrate-cold" not in dict(steps(plan))


def test_a_free_device_is_given_to_one_vm_only() -> None:
    plan = plan_host(state(dynamic(), dynamic("vm-2"), neighbours=(beside("Inference"),)), COLD)
    moved = [step.target for step in plan.steps if step.kind == "migrate-cold"]
    assert moved == ["name-of-vm-1"]
    assert steps(plan)[-1] == ("power-on-vm", "name-of-vm-2")


def test_a_mandatory_rule_keeps_a_vm_from_a_host() -> None:
    rule = AffinityRule(name="site", mandatory=True, vm_moids=("vm-1",), host_moids=("host-1", "host-3"))
    there = (beside("Inference"), beside("Inference", moid="host-3"))
    plan = plan_host(state(dynamic(), neighbours=there, affinity_rules=(rule,)), COLD)
    assert [step.params["destination"] for step in plan.steps if step.kind == "migrate-cold"] == ["host-3"]


def test_a_vm_that_is_off_goes_only_where_it_was_approved_to_go_and_else_runs_here_again() -> None:
    vm = stopped(destination="host-2", wants=dynamic().wants, datastores=("datastore-1",), memory_mib=4096)
    there = state(neighbours=(beside("Inference"),), stopped=(vm,))
    assert steps(plan_host(there, COLD))[:2] == [("migrate-cold", vm.name), ("power-on-vm", vm.name)]
    other = state(neighbours=(beside("Inference", moid="host-3"),), stopped=(vm,))
    assert steps(plan_host(other, COLD))[-1] == ("power-on-vm", vm.name)
    assert "migrate-cold" not in dict(steps(plan_host(other, COLD)))


def test_a_skipped_move_leaves_the_power_on_at_the_end() -> None:
    vm = stopped(destination="host-2", wants=dynamic().wants, datastores=("datastore-1",))
    now = state(neighbours=(beside("Inference"),), stopped=(vm,))
    move = plan_host(now, COLD).steps[0]
    assert steps(plan_host(now, COLD, skip=(move.id,)))[-1] == ("power-on-vm", vm.name)


def test_skipping_the_shut_down_goes_back_to_waiting() -> None:
    stop = plan_host(state(dynamic()), SHUT_DOWN).steps[0]
    plan = plan_host(state(dynamic()), SHUT_DOWN, skip=(stop.id,))
    assert [blocker.code for blocker in plan.blockers] == ["vms-cannot-move"]
    assert "power-on-vm" not in dict(steps(plan))


def test_what_this_run_shut_down_is_powered_on_even_when_all_else_is_right() -> None:
    plan = plan_host(host(RIGHT, stopped=(stopped(),)), TRAINING)
    assert steps(plan) == [("power-on-vm", "name-of-vm-1")]
    assert not plan.needs_approval
    inside = plan_host(host(RIGHT, in_maintenance=True, stopped=(stopped(),)), TRAINING, entered_maintenance=True)
    assert steps(inside) == [("exit-maintenance", "esx-01"), ("power-on-vm", "name-of-vm-1")]


def test_vms_wait_while_somebody_else_keeps_the_host_in_maintenance() -> None:
    plan = plan_host(host(RIGHT, in_maintenance=True, stopped=(stopped(),)), TRAINING)
    assert [blocker.code for blocker in plan.blockers] == ["vms-left-off"]
    assert "name-of-vm-1" in plan.blockers[0].text


@pytest.mark.parametrize("changes", [{"powered_on": True}, {"gone": True}])
def test_a_vm_that_runs_again_or_was_deleted_is_left_alone(changes: dict[str, Any]) -> None:
    assert plan_host(host(RIGHT, stopped=(stopped(**changes),)), TRAINING).done
