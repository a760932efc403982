"""What the planner says about single hosts."""

import pytest

from contracts.host import BootDevice, ClusterRef, GraphicsDevice, HostState, HostVm
from contracts.packages import InstalledVib
from contracts.plan import Plan, Risk, StepKind, plan_hash
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from planning.devices import functions_behind, gpu_statuses
from planning.host import plan_host
from planning.iommu import Iommu, iommu_verdict
from tests.support.hosts import TRAINING, a100, host

UNLABELLED = Profile(name="plain", gpus=(GpuWanted(match="10de:20f1", mode=GpuMode.PASSTHROUGH),))
RIGHT = a100(passthru_enabled=True, passthru_active=True, hardware_label="Training")


def kinds(plan: Plan) -> list[str]:
    return [step.kind for step in plan.steps]


def codes(plan: Plan) -> list[str]:
    return [blocker.code for blocker in plan.blockers]


def test_a_fresh_host_is_emptied_changed_rebooted_and_given_back() -> None:
    plan = plan_host(host(), TRAINING)
    assert kinds(plan) == ["enter-maintenance", "enable-passthrough", "reboot", "exit-maintenance"]
    assert plan.steps[1].params == {"label": "Training"}
    assert plan.steps[2].only_if_needed
    assert not plan.blockers


def test_a_host_that_is_right_needs_nothing() -> None:
    assert plan_host(host(RIGHT), TRAINING) == Plan()


def test_a_missing_label_alone_is_safe_and_needs_neither_maintenance_nor_reboot() -> None:
    plan = plan_host(host(RIGHT.model_copy(update={"hardware_label": None})), TRAINING)
    assert kinds(plan) == ["set-hardware-label"]
    assert plan.steps[0].risk is Risk.SAFE
    assert not plan.needs_approval


def test_a_profile_without_label_leaves_labels_alone() -> None:
    assert plan_host(host(RIGHT), UNLABELLED).done


def test_passthrough_enabled_but_not_active_needs_the_reboot_only() -> None:
    plan = plan_host(host(RIGHT.model_copy(update={"passthru_active": False})), TRAINING)
    assert kinds(plan) == ["enter-maintenance", "reboot", "exit-maintenance"]
    assert not plan.steps[1].only_if_needed


def test_active_but_no_longer_enabled_is_switched_on_again() -> None:
    plan = plan_host(host(RIGHT.model_copy(update={"passthru_enabled": False})), TRAINING)
    assert "enable-passthrough" in kinds(plan)


def test_maintenance_mode_of_our_own_is_left_even_when_all_else_is_right() -> None:
    assert kinds(plan_host(host(RIGHT, in_maintenance=True), TRAINING, entered_maintenance=True)) == [
        "exit-maintenance"
    ]


def test_maintenance_mode_of_someone_else_is_used_and_never_left() -> None:
    plan = plan_host(host(in_maintenance=True), TRAINING)
    assert kinds(plan) == ["enable-passthrough", "reboot"]
    assert "someone else" in " ".join(plan.notes)
    assert plan_host(host(RIGHT, in_maintenance=True), TRAINING).done


def test_only_gpus_of_the_profile_are_touched() -> None:
    other = a100("0000:e2:00.0", vendor_device="10de:2235", name="NVIDIA A40")
    plan = plan_host(host(a100(), other), TRAINING)
    assert {step.target for step in plan.steps if step.kind is StepKind.ENABLE_PASSTHROUGH} == {"0000:81:00.0"}


def test_a_gpu_configured_for_vgpu_gets_its_graphics_type_back_first() -> None:
    gpu = a100()
    state = host(
        gpu,
        graphics=(
            GraphicsDevice(sbdf=gpu.sbdf, name="A100", active_type="sharedDirect", configured_type="sharedDirect"),
        ),
    )
    assert kinds(plan_host(state, TRAINING))[1:3] == ["set-graphics-type", "enable-passthrough"]


@pytest.mark.parametrize(
    ("state", "code", "error"),
    [
        (host(connection_state="notResponding"), "host-not-connected", "NeedsHuman"),
        (host(a100(vendor_device="1a03:2000")), "no-gpu", "NotSupported"),
        (host(a100(vendor_device="10de:2235")), "no-matching-gpu", "BadRequest"),
        (host(a100(passthru_capable=False)), "iommu-off", "NeedsHuman"),
        (host(kernel_no_iommu=True), "iommu-off", "NeedsHuman"),
        (host(a100(passthru_capable=False), a100("0000:82:00.0")), "not-capable", "NotSupported"),
        (host(boot_device=BootDevice(name="mpx.vmhba32", is_usb=True)), "boots-from-usb", "NotSupported"),
        (host(boot_device=None), "boot-device-unknown", "NeedsHuman"),
        (host(a100(dependent_device="0000:01:00.0")), "used-by-esxi", "NotSupported"),
        (host(api_version="7.0.1.0"), "label-needs-7.0.2", "NotSupported"),
        (
            host(vms=(HostVm(moid="vm-1", name="train", powered_on=True, passthrough=("0000:81:00.0",)),)),
            "vm-holds-gpu",
            "NeedsHuman",
        ),
        (
            host(vms=(HostVm(moid="vm-1", name="train", powered_on=True, passthrough=("0000:c1:00.0",)),)),
            "vms-cannot-move",
            "NeedsHuman",
        ),
        (
            host(vms=(HostVm(moid="vm-1", name="web", powered_on=True),), cluster=None),
            "no-evacuation",
            "NeedsHuman",
        ),
    ],
)
def test_what_stands_in_the_way_is_named_with_its_fix(state, code, error) -> None:
    plan = plan_host(state, TRAINING)
    found = {blocker.code: blocker for blocker in plan.blockers}
    assert code in found
    assert found[code].error == error
    assert found[code].fix


def test_a_gpu_whose_bridge_carries_the_management_nic_is_refused() -> None:
    gpu = a100(dependent_device="0000:80:00.0", parent_bridge="0000:80:00.0")
    nic = a100(
        "0000:81:00.1",
        vendor_device="8086:1572",
        class_id=0x0200,
        name="Intel X710",
        parent_bridge="0000:80:00.0",
        dependent_device="0000:80:00.0",
        used_by_esxi="uplink vmnic0",
    )
    bridge = a100("0000:80:00.0", vendor_device="8086:2030", class_id=0x0604, name="bridge", parent_bridge=None)
    state = host(bridge, gpu, nic)
    assert {device.sbdf for device in functions_behind(state, gpu)} == {"0000:80:00.0", gpu.sbdf, nic.sbdf}
    assert "used-by-esxi" in codes(plan_host(state, TRAINING))


def test_a_reboot_names_other_pending_passthrough_changes() -> None:
    other = a100("0000:c1:00.0", vendor_device="8086:0b60", name="accelerator", class_id=0x1200, passthru_enabled=True)
    plan = plan_host(host(a100(), other), TRAINING)
    assert any("0000:c1:00.0" in note and "pending" in note for note in plan.notes)


def test_a_configuration_profile_that_owns_the_setting_is_named() -> None:
    cluster = ClusterRef(moid="c", name="gpu-01", config_manager_enabled=True)
    assert any("configuration profile" in note for note in plan_host(host(cluster=cluster), TRAINING).notes)


def test_iommu_without_devices_is_unknown_not_off() -> None:
    assert iommu_verdict(host().model_copy(update={"pci": ()})).iommu is Iommu.UNKNOWN


def test_gpus_are_judged_by_active_values() -> None:
    pending = RIGHT.model_copy(update={"passthru_active": False})
    (status,) = gpu_statuses(host(pending), TRAINING)
    assert not status.right
    assert status.mode == "default"


def test_the_hash_changes_with_subject_steps_and_notes() -> None:
    plan = plan_host(host(), TRAINING)
    same = plan_host(host(), TRAINING)
    assert plan_hash("vc/a", plan) == plan_hash("vc/a", same)
    others = [
        plan_hash("vc/b", plan),
        plan_hash("vc/a", plan.model_copy(update={"notes": ("x",)})),
        plan_hash("vc/a", plan.model_copy(update={"steps": plan.steps[1:]})),
    ]
    assert plan_hash("vc/a", plan) not in others


IMAGE = ClusterRef(moid="c", name="gpu-01", drs_enabled=True, drs_fully_automated=True, lifecycle_managed=True, hosts=2)
MANAGER = VgpuManager(name="NVD-AIE_ESXi_8.0.0_Driver", version=">=550", depot="https://d.test/x.zip", sha256="0" * 64)
VGPU = Profile(name="vgpu", gpus=(GpuWanted(match="10de:20f1", mode=GpuMode.VGPU),), vgpu_manager=MANAGER)


def test_in_a_cluster_with_an_image_everything_comes_into_force_with_the_boot_of_the_remediation() -> None:
    plan = plan_host(host(cluster=IMAGE, vibs=()), VGPU)
    assert kinds(plan) == [
        "enter-maintenance",
        "set-host-graphics",
        "set-graphics-type",
        "remediate-image",
        "reboot",
        "exit-maintenance",
    ]
    assert plan.steps[4].only_if_needed
    assert "the other hosts become non-compliant" in plan.steps[3].change
    assert not plan.blockers


def test_in_a_cluster_with_an_image_a_package_leaves_by_the_image_too() -> None:
    vib = InstalledVib(name=MANAGER.name, version="550.54.16-1OEM", vendor="NVD")
    wanted = VGPU.model_copy(
        update={"vgpu_manager": "absent", "gpus": (GpuWanted(match="10de:20f1", mode=GpuMode.DEFAULT),)}
    )
    (step,) = (step for step in plan_host(host(cluster=IMAGE, vibs=(vib,)), wanted).steps if "image" in step.kind)
    assert step.params["version"] == "absent"


def test_an_image_takes_no_depot_from_a_datastore() -> None:
    manager = MANAGER.model_copy(update={"depot": "[ds1] x.zip"})
    plan = plan_host(host(cluster=IMAGE, vibs=()), VGPU.model_copy(update={"vgpu_manager": manager}))
    assert "image-needs-url" in codes(plan)
    assert "image-needs-url" not in codes(plan_host(host(vibs=()), VGPU.model_copy(update={"vgpu_manager": manager})))


MIG = VGPU.model_copy(update={"gpus": (GpuWanted(match="10de:20f1", mode=GpuMode.VGPU_MIG),)})
SLICES, SHARES = ("grid_a100-3-20c", "grid_a100-7-40c"), ("grid_a100-20c", "grid_a100-40c")


def vgpu_host(*profiles: str, cards: int = 2, **changes: object) -> HostState:
    """A host whose cards share, with these profiles on offer: all of them on equal cards, as below 8.0.3."""
    cards_there = [a100(f"0000:8{n}:00.0") for n in range(cards)]
    graphics = tuple(
        GraphicsDevice(
            sbdf=card.sbdf, name="A100", active_type="sharedDirect", configured_type="sharedDirect", profiles=profiles
        )
        for card in cards_there
    )
    vibs = (InstalledVib(name=MANAGER.name, version="550.54.16-1OEM", vendor="NVD"),)
    fields = {"graphics": graphics, "vibs": vibs, "default_graphics_type": "sharedDirect"}
    return host(*cards_there, **(fields | changes))


def test_mig_of_all_cards_is_one_step_because_equal_cards_cannot_be_told_apart() -> None:
    for profiles in (SHARES, SHARES + SLICES):
        plan = plan_host(vgpu_host(*profiles), MIG)
        assert [(step.kind, step.target) for step in plan.steps if step.kind is StepKind.SET_MIG] == [
            ("set-mig", "0000:80:00.0,0000:81:00.0")
        ]
        assert not plan.blockers
    assert plan_host(vgpu_host(*SLICES), MIG).done
    assert not plan_host(vgpu_host(*SLICES), VGPU).done


def test_mig_on_some_of_equal_cards_is_refused_where_it_could_not_be_proven() -> None:
    some = MIG.model_copy(
        update={
            "gpus": (
                GpuWanted(match="10de:20f1", count=1, mode=GpuMode.VGPU_MIG),
                GpuWanted(match="10de:20f1", mode=GpuMode.VGPU),
            )
        }
    )
    assert codes(plan_host(vgpu_host(*SHARES), some)) == ["mig-cannot-be-told"]
    assert not plan_host(vgpu_host(*SHARES, version="8.0.3"), some).blockers


def test_mig_needs_a_login_for_the_host() -> None:
    assert codes(plan_host(vgpu_host(*SHARES), MIG, ssh=False)) == ["no-ssh"]
    assert codes(plan_host(vgpu_host(*SHARES, lockdown_mode="lockdownNormal"), MIG)) == ["lockdown"]
    assert plan_host(vgpu_host(*SLICES), MIG, ssh=False).done
