"""What must hold for any host whose BIOS, BMC, image, secure boot and lockdown mode are any way they can be."""

import json
from dataclasses import dataclass, replace

from hypothesis import assume, given
from hypothesis import strategies as st

from contracts.host import BiosFeature, GraphicsDevice, HostState
from contracts.packages import DepotContent, DepotVib
from contracts.plan import Plan, Risk, Step, StepKind
from contracts.prepare import Restore
from contracts.profiles import GpuMode, Profile
from planning.bios import bios_in_doubt, replaced
from planning.devices import gpu_statuses, pin, wanted_gpus
from planning.host import plan_host
from planning.manager import image_in_doubt
from planning.restore import WayBack, configuration_of, restore_of, way_back
from tests.planning.test_host_plan_properties import MANAGER, SHARED, Card, Server, profiles, servers
from vsphere.redfish import BiosState, features_of, wanted_attributes

WANTED = "550.54.16"
COMPONENT = "NVD-AIE-800"
SWITCHES = {BiosFeature.IOMMU: "ProcVtd", BiosFeature.SRIOV: "SriovGlobalEnable", BiosFeature.ABOVE_4G: "MmioAbove4Gb"}
EXPECTED = {"iommu-off", "sriov-off", "lockdown", "secure-boot"}


@dataclass(frozen=True)
class Machine(Server):
    """A `Server` with a BIOS, perhaps a BMC, and perhaps in a cluster with an image."""

    bios: tuple[tuple[str, str], ...] = ()
    """In force."""
    ordered: tuple[tuple[str, str], ...] = ()
    bmc: bool = True
    managed: bool = False
    image: str | None = None
    """The vGPU Manager's version in the cluster's image."""
    secure_boot: bool = False
    lockdown: bool = False

    def on(self, feature: BiosFeature) -> bool:
        return features_of(dict(self.bios))[feature]

    def seen(self) -> HostState:
        state = super().seen()
        iommu, sriov = self.on(BiosFeature.IOMMU), self.on(BiosFeature.SRIOV)
        gpus = {card.sbdf for card in self.cards}
        pci = tuple(
            device.model_copy(update={"passthru_capable": iommu, "sriov_capable": sriov})
            if device.sbdf in gpus
            else device
            for device in state.pci
        )
        assert state.cluster
        return state.model_copy(
            update={
                "pci": pci,
                "cluster": state.cluster.model_copy(update={"lifecycle_managed": self.managed}),
                "secure_boot": self.secure_boot,
                "lockdown_mode": "lockdownNormal" if self.lockdown else "lockdownDisabled",
            }
        )

    def _graphics(self, card: Card) -> GraphicsDevice:
        shown = super()._graphics(card)
        if self.on(BiosFeature.SRIOV) and self.on(BiosFeature.IOMMU):
            return shown
        return shown.model_copy(update={"active_type": "direct" if card.active else "basic", "profiles": ()})

    def after(self, step: Step) -> "Machine":
        if step.risk is not Risk.SAFE and step.kind is not StepKind.ENTER_MAINTENANCE:
            assert self.maintenance, f"{step.id} outside maintenance mode"
        match step.kind:
            case StepKind.SET_BIOS:
                assert self.bmc
                return replace(self, ordered=tuple((dict(self.ordered) | self._order(step)).items()))
            case StepKind.REMEDIATE_IMAGE:
                assert self.managed
                version = None if step.params["version"] == "absent" else WANTED
                remediated = replace(self, image=version, installed=version)
                return self if remediated == self else remediated._booted()
            case StepKind.INSTALL_MANAGER | StepKind.REMOVE_MANAGER:
                assert not self.managed, "the image says what is installed"
            case StepKind.ENABLE_PASSTHROUGH | StepKind.DISABLE_PASSTHROUGH:
                assert self.on(BiosFeature.IOMMU), "vSphere refuses passthrough changes without an IOMMU"
            case StepKind.SET_MIG:
                assert not self.lockdown
            case StepKind.REBOOT:
                return self._booted()
        changed = super().after(step)
        assert isinstance(changed, Machine)
        return changed

    def _order(self, step: Step) -> dict[str, str]:
        if "values" in step.params:
            return dict(json.loads(step.params["values"]))
        features = [BiosFeature(name) for name in step.params["features"].split(",")]
        return wanted_attributes(dict(self.bios) | dict(self.ordered), features)

    def _booted(self) -> "Machine":
        bios = tuple((dict(self.bios) | dict(self.ordered)).items())
        iommu = features_of(dict(bios))[BiosFeature.IOMMU]
        cards = tuple(replace(card, active=card.enabled and iommu, booted=card.configured) for card in self.cards)
        return replace(self, bios=bios, ordered=(), cards=cards, running=self.installed)

    def _changed(self, card: Card, step: Step) -> Card:
        changed = super()._changed(card, step)
        if step.kind is StepKind.DISABLE_PASSTHROUGH and "label" in step.params:
            return replace(changed, label=step.params["label"])
        return changed


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    base = draw(servers())
    bios = {name: draw(st.sampled_from(["Enabled", "Disabled"])) for name in SWITCHES.values()}
    cards = base.cards
    if bios["ProcVtd"] == "Disabled":
        cards = tuple(replace(card, enabled=False, active=False) for card in cards)
    if "Disabled" in (bios["ProcVtd"], bios["SriovGlobalEnable"]):
        cards = tuple(replace(card, mig=False) for card in cards)
    machine = Machine(
        cards=cards,
        installed=base.installed,
        running=base.running,
        default_type=base.default_type,
        maintenance=base.maintenance,
        rebinds=base.rebinds,
        vms=base.vms,
        bios=tuple(bios.items()),
        bmc=draw(st.booleans()),
        managed=draw(st.booleans()),
        secure_boot=draw(st.booleans()),
        lockdown=draw(st.booleans()),
    )
    return replace(machine, image=draw(st.sampled_from([machine.installed, None]))) if machine.managed else machine


@st.composite
def depots(draw: st.DrawFn) -> DepotContent:
    vib = DepotVib(
        name=MANAGER.name, version=WANTED, vendor="NVD", acceptance_level="accepted", signed=draw(st.booleans())
    )
    return DepotContent(vibs=(vib,), components={COMPONENT: WANTED})


def look(
    machine: Machine, profile: Profile, depot: DepotContent, *, entered: bool = False, restore: Restore | None = None
) -> tuple[Plan, WayBack | None]:
    """What a look sees and plans: BMC and image are asked where they matter only."""
    state = machine.seen()
    if bios_in_doubt(state, wanted_gpus(state, profile)) or (restore and replaced(restore.ran)):
        update: dict[str, object] = {"bios_unread": "no BMC"}
        if machine.bmc:
            pending = {name: value for name, value in machine.ordered if dict(machine.bios)[name] != value}
            evidence = BiosState("", "", "On", dict(machine.bios), features_of(dict(machine.bios)), pending).evidence
            update = {"bios": evidence}
        state = state.model_copy(update=update)
    if image_in_doubt(state, profile):
        image = {COMPONENT: f"{machine.image}-1OEM"} if machine.image else {}
        state = state.model_copy(update={"image_components": image})
    back = way_back(state, profile, restore) if restore else None
    wanted = back.profile if back else profile
    return plan_host(state, wanted, entered_maintenance=entered, depot=depot, back=back), back


def run(
    machine: Machine, profile: Profile, depot: DepotContent, *, at_most: int = 99, restore: Restore | None = None,
    entered: bool = False,
) -> tuple[Machine, list[Step], bool, tuple[str, ...]]:  # fmt: skip
    """First steps as the workflow takes them: only approved ones, none twice; what ran, and what was left."""
    plan, back = look(machine, profile, depot, entered=entered, restore=restore)
    assert not plan.blockers, plan.blockers
    approved = {step.id for step in plan.steps}
    ran: list[Step] = []
    so_far = restore.ran if restore else ()
    while plan.steps and len(ran) < at_most:
        step = plan.steps[0]
        assert step.id in approved, f"{step.id} was not approved"
        assert step.id not in {each.id for each in ran}, f"{step.id} twice"
        ran.append(step)
        machine = machine.after(step)
        entered = (entered or step.kind is StepKind.ENTER_MAINTENANCE) and step.kind is not StepKind.EXIT_MAINTENANCE
        if restore:
            restore = restore.model_copy(update={"ran": (*so_far, *ran)})
        plan, back = look(machine, profile, depot, entered=entered, restore=restore)
        assert not plan.blockers, plan.blockers
    return machine, ran, entered, back.left if back else ()


@given(machines(), profiles(), depots())
def test_plans_converge_or_say_at_once_what_stands_in_the_way(
    machine: Machine, profile: Profile, depot: DepotContent
) -> None:
    state = machine.seen()
    assume(wanted_gpus(state, profile))
    profile = pin(state, profile)
    plan, _ = look(machine, profile, depot)
    if plan.blockers:
        assert {blocker.code for blocker in plan.blockers} <= EXPECTED
        codes = {blocker.code for blocker in plan.blockers}
        assert "iommu-off" not in codes or not (machine.bmc or machine.on(BiosFeature.IOMMU))
        assert "sriov-off" not in codes or not (machine.bmc or machine.on(BiosFeature.SRIOV))
        assert "secure-boot" not in codes or (machine.secure_boot and not depot.vibs[0].signed)
        assert "lockdown" not in codes or machine.lockdown
        return
    end, ran, _, _ = run(machine, profile, depot)
    assert all(status.right for status in gpu_statuses(end.seen(), profile))
    assert look(end, profile, depot)[0].done, "idempotent"
    assert end.maintenance == machine.maintenance
    assert sum(step.kind is StepKind.REBOOT for step in ran) <= 2
    if machine.managed and profile.vgpu_manager:
        assert end.image == end.installed, "what the next remediation would leave"
    if all(step.kind is not StepKind.SET_BIOS for step in ran):
        assert end.bios == machine.bios


@given(machines(), profiles(), depots())
def test_a_label_goes_with_passthrough_and_never_by_itself(
    machine: Machine, profile: Profile, depot: DepotContent
) -> None:
    state = machine.seen()
    assume(wanted_gpus(state, profile))
    profile = pin(state, profile)
    assume(not look(machine, profile, depot)[0].blockers)
    end, _, _, _ = run(machine, profile, depot)
    modes = {entry.sbdf: entry.mode for entry in profile.gpus}
    for was, now in zip(machine.cards, end.cards, strict=True):
        if modes.get(was.sbdf, GpuMode.PASSTHROUGH) is not GpuMode.PASSTHROUGH:
            assert (now.label or "") == ("" if was.enabled else was.label or "")


@given(machines(), profiles(), depots(), st.integers(1, 12))
def test_restoring_from_anywhere_puts_everything_back_or_says_what_not(
    machine: Machine, profile: Profile, depot: DepotContent, tried: int
) -> None:
    state = machine.seen()
    assume(wanted_gpus(state, profile))
    profile = pin(state, profile)
    assume(not look(machine, profile, depot)[0].blockers)
    before, recorded = configuration_of(state, profile), restore_of(state, profile)
    # vGPU without the manager that it needs, or MIG where nobody may log in, is nothing to go back to.
    was_shared = any(entry.mode in SHARED for entry in before.gpus)
    assume(not (was_shared and machine.installed is None))
    assume(not machine.lockdown)
    # A boot of the run puts into force what was only configured before it; that is not undone.
    half, ran, entered, _ = run(machine, profile, depot, at_most=tried)
    restore = recorded.model_copy(update={"ran": tuple(ran)})
    assume(not look(half, before, depot, entered=entered, restore=restore)[0].blockers)
    back, _, _, left = run(half, before, depot, restore=restore, entered=entered)
    chosen = {entry.sbdf for entry in before.gpus}
    for was, now in zip(machine.cards, back.cards, strict=True):
        if was.sbdf in chosen:
            assert (was.enabled, was.enabled or was.configured) == (now.enabled, now.enabled or now.configured)
            assert (was.label or "") == (now.label or "")
    assert back.maintenance == machine.maintenance
    words = " ".join(left)
    for feature, name in SWITCHES.items():
        if (was_set := dict(machine.bios)[name]) != dict(back.bios)[name]:
            assert f"{feature} stays on in the BIOS, because" in words
            assert was_set == "Disabled"
    if machine.installed != back.installed:
        assert "vGPU Manager" in words or MANAGER.name in words
    if machine.image != back.image:
        assert "the image of cluster" in words
