"""Is the wanted vGPU Manager there to stay, and what is said when nobody but a person can bring it."""

from contracts.host import ClusterRef, HostState
from contracts.packages import InstalledVib
from contracts.plan import Blocker, Plan, StepKind
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from planning.host import plan_host
from planning.manager import image_in_doubt
from tests.planning.test_host_plan import IMAGE, MANAGER, VGPU, vgpu_host

BY_HAND = VGPU.model_copy(update={"vgpu_manager": MANAGER.model_copy(update={"depot": None, "sha256": None})})


def shared(version: str = "550.54.16-1OEM", name: str = MANAGER.name, **changes: object) -> HostState:
    """A host whose cards share, with this vGPU Manager."""
    vib = InstalledVib(name=name, version=version, vendor="NVD")
    return vgpu_host("grid_a100-20c", vibs=(vib,), **changes)


def blocker(plan: Plan, code: str) -> Blocker:
    return next(each for each in plan.blockers if each.code == code)


def images(plan: Plan) -> list[str]:
    return [step.reason for step in plan.steps if step.kind is StepKind.REMEDIATE_IMAGE]


def test_without_a_depot_the_blocker_names_found_and_wanted_and_what_a_person_does() -> None:
    older = blocker(plan_host(shared("535.10.02-1OEM"), BY_HAND), "no-depot")
    assert older.text == (
        f"{MANAGER.name} >=550 is wanted on esx-01, 535.10.02-1OEM is installed; the profile names no depot to take it "
        "from"
    )
    assert "esxcli software vib install" in older.fix
    assert "it is not installed" in blocker(plan_host(vgpu_host(vibs=()), BY_HAND), "no-depot").text
    in_image = blocker(plan_host(shared("535.10.02-1OEM", cluster=IMAGE), BY_HAND), "no-depot")
    assert "into the cluster's image" in in_image.fix
    assert "esxcli" not in in_image.fix


def test_a_manager_that_the_image_does_not_have_is_put_into_it_although_it_is_installed() -> None:
    state = shared(cluster=IMAGE)
    assert image_in_doubt(state, VGPU)
    for image in ({}, {"Intel-i40en": "2.3.4"}, {"NVD-AIE-800": "535.10.02-1OEM"}, {"NVD-VGPU-800": "550.90.07-1OEM"}):
        (reason,) = images(plan_host(state.model_copy(update={"image_components": image}), VGPU))
        assert "550.54.16-1OEM is on esx-01, but not in the image of cluster gpu-01" in reason


def test_a_manager_that_the_image_has_is_right() -> None:
    for image in ({"NVD-AIE-800": "550.54.16-1OEM"}, {"NVD-AIE-800": "550.90.07-1OEM"}):
        assert plan_host(shared(cluster=IMAGE, image_components=image), VGPU).done


def test_drift_without_a_depot_is_said_too() -> None:
    plan = plan_host(shared(cluster=IMAGE, image_components={}), BY_HAND)
    assert "the next remediation takes it away" in blocker(plan, "no-depot").text


def test_an_image_that_cannot_be_read_is_told_and_changes_nothing() -> None:
    plan = plan_host(shared(cluster=IMAGE, image_unread="no privilege"), VGPU)
    assert plan.done
    assert "no privilege" in plan.notes[0]


def test_only_an_image_managed_host_with_the_wanted_manager_has_its_image_read() -> None:
    default = Profile(name="d", gpus=(GpuWanted(match="10de:20f1", mode=GpuMode.DEFAULT),))
    assert not image_in_doubt(shared(), VGPU)
    assert not image_in_doubt(shared("535.10.02-1OEM", cluster=IMAGE), VGPU)
    assert not image_in_doubt(shared(cluster=IMAGE), default)
    baseline = ClusterRef(moid="c", name="gpu-01")
    assert not image_in_doubt(shared(cluster=baseline), VGPU)
    assert image_in_doubt(
        shared(cluster=IMAGE), VGPU.model_copy(update={"vgpu_manager": VgpuManager(name=MANAGER.name, version="550.*")})
    )
