"""What giving up puts back, what it leaves because others need it or nobody can bring it back, and what it says."""

import json

from contracts.host import BiosEvidence, BiosFeature, HostState
from contracts.packages import InstalledVib
from contracts.plan import Plan, Step, StepKind
from contracts.prepare import Restore
from contracts.profiles import Profile
from planning.bios import replaced
from planning.host import plan_host
from planning.restore import WayBack, configuration_of, restore_of, way_back
from tests.planning.test_host_plan import VGPU, vgpu_host
from tests.support.hosts import TRAINING, a100, host

IOMMU, ABOVE_4G = BiosFeature.IOMMU, BiosFeature.ABOVE_4G
OFF = {"ProcVtd": "Disabled", "MmioAbove4Gb": "Disabled"}
ON = dict.fromkeys(OFF, "Enabled")
FRESH = host(a100(passthru_capable=False)).model_copy(
    update={
        "bios": BiosEvidence(
            off=(IOMMU, ABOVE_4G), off_by={IOMMU: ("ProcVtd",), ABOVE_4G: ("MmioAbove4Gb",)}, switches=OFF
        )
    }
)
SET_BIOS = next(step for step in plan_host(FRESH, TRAINING).steps if step.kind is StepKind.SET_BIOS)
PREPARED = a100(passthru_enabled=True, passthru_active=True, hardware_label="Training")


def booted(state: HostState) -> HostState:
    """With the BIOS as the run ordered it."""
    return state.model_copy(update={"bios": BiosEvidence(on=(IOMMU, ABOVE_4G), switches=ON), "in_maintenance": True})


def planned(
    state: HostState, *ran: Step, before: HostState = FRESH, profile: Profile = TRAINING
) -> tuple[Plan, WayBack]:
    recorded = restore_of(before, profile).model_copy(update={"ran": ran})
    back = way_back(state, configuration_of(before, profile), recorded)
    return plan_host(state, back.profile, entered_maintenance=True, back=back), back


def kinds(plan: Plan) -> list[str]:
    return [step.kind for step in plan.steps]


def test_the_approver_reads_the_old_values_and_the_step_keeps_them() -> None:
    assert "now ProcVtd=Disabled, MmioAbove4Gb=Disabled" in SET_BIOS.change
    assert replaced([SET_BIOS]) == {IOMMU: {"ProcVtd": "Disabled"}, ABOVE_4G: {"MmioAbove4Gb": "Disabled"}}


def test_the_bios_goes_back_to_its_old_values_with_the_boot_that_passthrough_needs() -> None:
    plan, back = planned(booted(host(PREPARED)), SET_BIOS)
    assert not back.left
    assert kinds(plan) == ["set-bios", "disable-passthrough", "reboot", "exit-maintenance"]
    assert json.loads(plan.steps[0].params["values"]) == OFF
    assert "ProcVtd Enabled → Disabled" in plan.steps[0].change


def test_an_order_that_no_boot_has_brought_into_force_is_taken_back_without_one() -> None:
    ordered = FRESH.bios.model_copy(update={"ordered": (IOMMU, ABOVE_4G), "pending": ON}) if FRESH.bios else None
    plan, _ = planned(FRESH.model_copy(update={"bios": ordered, "in_maintenance": True}), SET_BIOS)
    assert kinds(plan) == ["set-bios", "exit-maintenance"]


def test_a_bmc_that_shows_the_order_as_in_force_is_not_believed_before_the_boot() -> None:
    state = booted(host(a100()))
    order = planned(state, SET_BIOS)[0].steps[0]
    shown = FRESH.model_copy(update={"in_maintenance": True})
    assert kinds(planned(shown, SET_BIOS, order)[0]) == ["reboot", "exit-maintenance"]
    boot = next(step for step in planned(state, SET_BIOS)[0].steps if step.kind is StepKind.REBOOT)
    assert kinds(planned(shown, SET_BIOS, order, boot)[0]) == ["exit-maintenance"]


def test_values_that_are_back_need_no_step() -> None:
    plan, back = planned(FRESH.model_copy(update={"in_maintenance": True}), SET_BIOS)
    assert (kinds(plan), back.left) == (["exit-maintenance"], ())


def test_what_another_device_needs_by_now_stays_on_and_is_told_with_the_reason() -> None:
    other = a100("0000:e2:00.0", vendor_device="10de:2235", name="NVIDIA A40", passthru_enabled=True)
    plan, back = planned(booted(host(PREPARED, other)), SET_BIOS)
    assert "set-bios" not in kinds(plan)
    assert "iommu stays on in the BIOS, because 0000:e2:00.0 (NVIDIA A40), in passthrough, needs it" in back.left
    assert any("not put back: iommu stays on" in note for note in plan.notes)


def test_the_function_that_goes_with_the_gpu_keeps_nothing_on() -> None:
    audio = a100("0000:81:00.1", class_id=0x0403, dependent_device="0000:81:00.0", passthru_enabled=True)
    plan, back = planned(booted(host(PREPARED, audio)), SET_BIOS)
    assert "set-bios" in kinds(plan)
    assert not back.left


def test_virtual_functions_of_a_nic_keep_sriov_and_the_iommu_on() -> None:
    nic = a100("0000:03:00.0", vendor_device="15b3:1017", class_id=0x0200, name="ConnectX-5", sriov_enabled=True)
    _, back = planned(booted(host(PREPARED, nic)), SET_BIOS)
    assert [text.partition(" ")[0] for text in back.left] == ["above-4g", "iommu"]


def test_a_bmc_that_cannot_be_asked_holds_nothing_up_and_is_told() -> None:
    state = booted(host(PREPARED)).model_copy(update={"bios": None, "bios_unread": "no route"})
    plan, back = planned(state, SET_BIOS)
    assert kinds(plan) == ["disable-passthrough", "reboot", "exit-maintenance"]
    assert "ProcVtd was Disabled" in back.left[0]
    assert "no route" in back.left[0]


def test_an_attribute_that_the_bios_lost_is_told() -> None:
    state = booted(host(PREPARED))
    assert state.bios
    bios = state.bios.model_copy(update={"switches": {"ProcVtd": "Enabled"}, "pending": {}})
    _, back = planned(state.model_copy(update={"bios": bios}), SET_BIOS)
    assert back.bios == {"ProcVtd": "Disabled"}
    assert back.left == ("above-4g: the BIOS has no MmioAbove4Gb any more",)


def test_a_label_from_before_comes_back_to_a_card_out_of_passthrough() -> None:
    before = host(a100(hardware_label="Old"))
    plan, _ = planned(host(PREPARED, in_maintenance=True), before=before)
    assert plan.steps[0].params == {"label": "Old"}
    off = host(a100(hardware_label=""), in_maintenance=True)
    later, _ = planned(off, before=before)
    assert later.steps[0].id == "set-hardware-label|0000:81:00.0|label=Old"


def test_an_older_manager_stays_replaced_and_is_told_with_its_version() -> None:
    def with_manager(version: str) -> HostState:
        vib = InstalledVib(name="NVD-AIE_ESXi_8.0.0_Driver", version=version, vendor="NVD")
        return vgpu_host(cards=1, in_maintenance=True).model_copy(update={"vibs": (vib,)})

    plan, back = planned(with_manager("550.54.16-1"), before=with_manager("535.10.02-1"), profile=VGPU)
    assert kinds(plan) == ["exit-maintenance"]
    assert not plan.blockers
    assert "550.54.16-1 stays; NVD-AIE_ESXi_8.0.0_Driver 535.10.02 was there before" in back.left[0]


def test_a_cluster_s_image_is_not_taken_back_for_one_host() -> None:
    vib = InstalledVib(name="NVD-AIE_ESXi_8.0.0_Driver", version="550.54.16-1", vendor="NVD")
    cluster = host().cluster
    assert cluster
    image = {"cluster": cluster.model_copy(update={"lifecycle_managed": True})}
    before = host(vibs=()).model_copy(update=image)
    now = vgpu_host(cards=1, in_maintenance=True).model_copy(update=image | {"vibs": (vib,)})
    remediated = next(step for step in plan_host(before, VGPU).steps if step.kind is StepKind.REMEDIATE_IMAGE)
    plan, back = planned(now, remediated, before=before, profile=VGPU)
    assert "remediate-image" not in kinds(plan)
    assert "the image of cluster gpu-01, which its other hosts follow too, stays" in back.left[0]
    assert planned(now, before=before, profile=VGPU)[1].left == ()


def test_what_was_never_in_force_is_configured_again_and_not_waited_for() -> None:
    before = vgpu_host(cards=1)
    shown = before.graphics[0].model_copy(update={"active_type": "basic", "profiles": ()})
    before = before.model_copy(update={"graphics": (shown,), "vibs": ()})
    assert restore_of(before, VGPU).unsettled == (before.graphics[0].sbdf,)
    plan, _ = planned(before.model_copy(update={"in_maintenance": True}), before=before, profile=VGPU)
    assert kinds(plan) == ["exit-maintenance"]
    left, _ = planned(before, before=before, profile=VGPU)
    assert left.done


def test_a_restore_without_records_is_empty() -> None:
    assert way_back(host(), configuration_of(host(), TRAINING), Restore()).left == ()
