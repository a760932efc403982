"""When the BIOS is changed, and what the plan then looks like at each look."""

from contracts.host import BiosEvidence, BiosFeature, HostState
from contracts.plan import Plan
from planning.bios import before_boot, bios_in_doubt
from planning.devices import wanted_gpus
from planning.host import plan_host
from planning.iommu import Iommu, iommu_verdict
from tests.planning.test_host_plan import VGPU, vgpu_host
from tests.support.hosts import TRAINING, a100, host

IOMMU, SRIOV, ABOVE_4G = BiosFeature.IOMMU, BiosFeature.SRIOV, BiosFeature.ABOVE_4G
OFF = host(a100(passthru_capable=False))


def steps(plan: Plan) -> list[str]:
    return [step.id.removesuffix("|esx-01").replace("|esx-01|", " ") for step in plan.steps]


def with_bios(state: HostState, **changes: object) -> HostState:
    return state.model_copy(update={"bios": BiosEvidence.model_validate(changes)})


def test_without_a_bmc_the_blocker_stays() -> None:
    plan = plan_host(OFF, TRAINING)
    assert [blocker.code for blocker in plan.blockers] == ["iommu-off"]
    assert "set-bios" not in " ".join(steps(plan))


def test_an_iommu_that_is_off_in_the_bios_comes_before_passthrough_with_a_boot_of_its_own() -> None:
    state = with_bios(OFF, off=(IOMMU, ABOVE_4G), on=(SRIOV,))
    plan = plan_host(state, TRAINING)
    assert not plan.blockers
    assert steps(plan) == [
        "enter-maintenance",
        "set-bios features=iommu,above-4g",
        "reboot for=bios",
        "enable-passthrough|0000:81:00.0|label=Training",
        "reboot",
        "exit-maintenance",
    ]
    ordered = with_bios(OFF, off=(IOMMU,), ordered=(IOMMU,)).model_copy(update={"in_maintenance": True})
    later = plan_host(ordered, TRAINING, entered_maintenance=True)
    assert not later.blockers
    assert steps(later)[0] == "reboot for=bios"
    assert set(steps(later)) <= set(steps(plan)), "nothing that was not approved"


def test_an_iommu_that_is_on_in_the_bios_but_not_in_force_is_for_a_person() -> None:
    plan = plan_host(with_bios(OFF, on=(IOMMU,)), TRAINING)
    assert [blocker.code for blocker in plan.blockers] == ["iommu-off"]
    assert "the BMC says that it is on in the BIOS" in plan.blockers[0].text
    assert plan.blockers[0].fix.startswith("reboot the host")


def test_an_order_that_the_bmc_shows_as_in_force_still_waits_for_the_boot() -> None:
    said = BiosEvidence(on=(IOMMU, SRIOV))
    assert before_boot(said, ()) == said
    assert before_boot(said, (IOMMU, ABOVE_4G)) == BiosEvidence(on=(SRIOV,), off=(IOMMU,), ordered=(IOMMU,))
    waits = BiosEvidence(off=(IOMMU,), ordered=(IOMMU,))
    assert before_boot(waits, (IOMMU,)) == waits


def test_a_bios_that_names_no_switch_is_for_a_person() -> None:
    assert "iommu-off" in [blocker.code for blocker in plan_host(with_bios(OFF, off=(SRIOV,)), TRAINING).blockers]


def test_the_kernel_setting_is_not_the_bios_s_doing() -> None:
    state = with_bios(OFF.model_copy(update={"kernel_no_iommu": True}), off=(IOMMU,))
    assert "iommu-off" in [blocker.code for blocker in plan_host(state, TRAINING).blockers]


def test_a_bmc_that_cannot_be_asked_is_named_in_verdict_and_notes() -> None:
    state = OFF.model_copy(update={"bios_unread": "no route"})
    verdict = iommu_verdict(state)
    assert verdict.iommu is Iommu.OFF
    assert "the BMC could not be asked: no route" in verdict.evidence
    assert any("no route" in note for note in plan_host(state, TRAINING).notes)


def test_sriov_needs_one_boot_with_everything_else_and_keeps_its_steps_on_the_way() -> None:
    gpu = a100(sriov_capable=False)
    assert "sriov-off" in [blocker.code for blocker in plan_host(host(gpu, vibs=()), VGPU).blockers]
    plan = plan_host(with_bios(host(gpu, vibs=()), off=(SRIOV,)), VGPU)
    assert not plan.blockers
    assert sum(step.startswith("reboot") for step in steps(plan)) == 1
    assert steps(plan)[1] == "set-bios features=sr-iov"
    last = vgpu_host(cards=1, in_maintenance=True)
    last = last.model_copy(update={"pci": tuple(d.model_copy(update={"sriov_capable": False}) for d in last.pci)})
    later = plan_host(with_bios(last, off=(SRIOV,), ordered=(SRIOV,)), VGPU, entered_maintenance=True)
    assert steps(later) == ["reboot for=bios", "exit-maintenance"]
    assert set(steps(later)) <= set(steps(plan))


def test_a_bmc_is_asked_only_where_something_is_missing() -> None:
    assert bios_in_doubt(OFF, wanted_gpus(OFF, TRAINING))
    for fine in (host(), host(a100(passthru_enabled=True, passthru_active=True, hardware_label="Training"))):
        assert not bios_in_doubt(fine, wanted_gpus(fine, TRAINING))
