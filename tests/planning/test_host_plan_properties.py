"""What must hold for any state and any profile: plans converge, ask before they disrupt, and touch nothing else."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from contracts.host import GraphicsDevice, HostState, HostVm, PciFunction
from contracts.packages import InstalledVib
from contracts.plan import Risk, Step, StepKind
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from planning.devices import gpu_statuses, gpus, is_right, pin, wanted_gpus
from planning.host import plan_host
from planning.restore import configuration_of
from tests.support.hosts import a100, host

MANAGER = VgpuManager(
    name="NVD-AIE_ESXi_8.0.0_Driver", version=">=550", depot="https://depot.test/vgpu.zip", sha256="0" * 64
)
SHARED = {GpuMode.VGPU, GpuMode.VGPU_MIG}


@dataclass(frozen=True)
class Card:
    """The true state of one card; what vCenter shows of it is worked out."""

    sbdf: str
    device: str
    enabled: bool = False
    active: bool = False
    label: str | None = None
    configured: str = "shared"
    booted: str = "shared"
    mig: bool = False


@dataclass(frozen=True)
class Server:
    """The laws of domain.md about modes, as small as they can be said."""

    cards: tuple[Card, ...]
    installed: str | None
    """The vGPU Manager's version on disk."""
    running: str | None
    """The one that was loaded at boot."""
    default_type: str
    maintenance: bool = False
    rebinds: bool = False
    vms: int = 0
    policy: str = "performance"

    def seen(self) -> HostState:
        pci = [
            a100(
                card.sbdf,
                vendor_device=card.device,
                passthru_enabled=card.enabled,
                passthru_active=card.active,
                hardware_label=card.label,
            )
            for card in self.cards
        ]
        vibs = (
            (InstalledVib(name=MANAGER.name, version=f"{self.installed}-1OEM", vendor="NVD"),) if self.installed else ()
        )
        return host(
            *pci,
            graphics=tuple(self._graphics(card) for card in self.cards),
            default_graphics_type=self.default_type,
            shared_passthru_assignment_policy=self.policy,
            in_maintenance=self.maintenance,
            version="8.0.3",
            rebind_without_reboot=self.rebinds,
            vibs=vibs,
            reboot_required=self.installed != self.running,
            vms=tuple(HostVm(moid=f"vm-{n}", name=f"vm-{n}", powered_on=True) for n in range(self.vms)),
        )

    def _graphics(self, card: Card) -> GraphicsDevice:
        shared = card.booted == "sharedDirect" and self.running is not None and not card.active
        profiles = ("grid_a100-3-20c",) if card.mig else ("grid_a100-20c",)
        return GraphicsDevice(
            sbdf=card.sbdf,
            name="A100",
            configured_type=card.configured,
            active_type="direct" if card.active else "sharedDirect" if shared else "basic",
            profiles=profiles if shared else (),
        )

    def after(self, step: Step) -> "Server":
        cards = tuple(self._changed(card, step) if card.sbdf in step.target.split(",") else card for card in self.cards)
        server = replace(self, cards=cards)
        match step.kind:
            case StepKind.ENTER_MAINTENANCE:
                return replace(server, maintenance=True, vms=0)
            case StepKind.EXIT_MAINTENANCE:
                return replace(server, maintenance=False)
            case StepKind.INSTALL_MANAGER:
                assert self.maintenance
                return replace(server, installed="550.54.16")
            case StepKind.REMOVE_MANAGER:
                return replace(server, installed=None)
            case StepKind.SET_HOST_GRAPHICS:
                return replace(
                    server,
                    default_type=step.params.get("default_type", self.default_type),
                    policy=step.params.get("policy", self.policy),
                )
            case StepKind.REBOOT:
                assert self.maintenance, "never rebooted with VMs on it"
                booted = tuple(replace(card, active=card.enabled, booted=card.configured) for card in cards)
                return replace(server, cards=booted, running=self.installed)
        return server

    def _changed(self, card: Card, step: Step) -> Card:
        label = {"label": step.params["label"]} if "label" in step.params else {}
        match step.kind:
            case StepKind.ENABLE_PASSTHROUGH:
                return replace(card, enabled=True, active=card.active or self.rebinds, **label)
            case StepKind.DISABLE_PASSTHROUGH:
                return replace(card, enabled=False, active=card.active and not self.rebinds)
            case StepKind.SET_LABEL:
                return replace(card, **label)
            case StepKind.SET_GRAPHICS_TYPE:
                return replace(card, configured=step.params["graphics_type"])
            case StepKind.SET_MIG:
                assert self.running is not None, "nvidia-smi is there only while the vGPU Manager runs"
                assert not card.active, "a card in passthrough is invisible to the vGPU Manager"
                return replace(card, mig=step.params["mig"] == "on")
        raise AssertionError(f"{step.kind} is no step on a card")


DEVICES = ("10de:20f1", "10de:2235")


@st.composite
def servers(draw: st.DrawFn) -> Server:
    running = draw(st.sampled_from([None, "535.10.02", "550.54.16"]))
    cards = []
    for n in range(draw(st.integers(1, 4))):
        enabled, booted = draw(st.booleans()), draw(st.sampled_from(["shared", "sharedDirect"]))
        active = draw(st.booleans())
        visible = running is not None and booted == "sharedDirect" and not active
        cards.append(
            Card(
                sbdf=f"0000:{0x81 + n:02x}:00.0",
                device=draw(st.sampled_from(DEVICES)),
                enabled=enabled,
                active=active,
                label=draw(st.sampled_from([None, "Training", "Other"])),
                configured=draw(st.sampled_from(["shared", "sharedDirect"])),
                booted=booted,
                mig=visible and draw(st.booleans()),
            )
        )
    return Server(
        cards=tuple(cards),
        installed=draw(st.sampled_from([running, None, "535.10.02", "550.54.16"])),
        running=running,
        default_type=draw(st.sampled_from(["shared", "sharedDirect"])),
        maintenance=draw(st.booleans()),
        rebinds=draw(st.booleans()),
        vms=draw(st.integers(0, 2)),
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    entries = []
    for device in draw(st.lists(st.sampled_from(DEVICES), min_size=1, max_size=3)):
        mode = draw(st.sampled_from(list(GpuMode)))
        entries.append(
            GpuWanted(
                match=device,
                count=draw(st.sampled_from([None, 1, 2])),
                mode=mode,
                label=draw(st.sampled_from([None, "Training"])) if mode is GpuMode.PASSTHROUGH else None,
            )
        )
    needed = any(entry.mode in SHARED for entry in entries)
    return Profile(
        name="any",
        gpus=tuple(entries),
        vgpu_manager=MANAGER if needed or draw(st.booleans()) else None,
        sharing=draw(st.sampled_from([None, "performance", "consolidation"])) if needed else None,
    )


def converge(server: Server, profile: Profile) -> tuple[Server, list[str]]:
    """Carry out first steps as the workflow does: only approved ones, none twice; what ran, and where it ended."""
    profile = pin(server.seen(), profile)
    approved = {step.id for step in plan_host(server.seen(), profile).steps}
    entered, ran = False, []
    while (plan := plan_host(server.seen(), profile, entered_maintenance=entered)).steps:
        step = plan.steps[0]
        assert not plan.blockers, plan.blockers
        assert step.id in approved, f"{step.id} was not approved"
        assert step.id not in ran, f"{step.id} twice"
        ran.append(step.id)
        server = server.after(step)
        entered = (entered or step.kind is StepKind.ENTER_MAINTENANCE) and step.kind is not StepKind.EXIT_MAINTENANCE
        assert len(ran) < 30
    assert plan.done, plan.blockers
    return server, ran


def cards_of_the_profile(server: Server, profile: Profile) -> list[PciFunction]:
    state = server.seen()
    return [gpu for gpu, _ in wanted_gpus(state, profile)] if gpus(state) else []


@given(servers(), profiles())
def test_any_state_converges_to_any_profile_within_the_approved_plan(server: Server, profile: Profile) -> None:
    chosen = cards_of_the_profile(server, profile)
    if not chosen:
        assert plan_host(server.seen(), profile).blockers[0].error == "BadRequest"
        return
    end, ran = converge(server, profile)
    state = end.seen()
    assert all(status.right for status in gpu_statuses(state, profile))
    assert [gpu.sbdf for gpu, _ in wanted_gpus(state, profile)] == [gpu.sbdf for gpu in chosen], "the same cards"
    assert end.maintenance == server.maintenance, "maintenance mode is as it was found"
    untouched = {gpu.sbdf for gpu in gpus(state)} - {gpu.sbdf for gpu in chosen}
    for before, after in zip(server.cards, end.cards, strict=True):
        if before.sbdf in untouched:
            assert (before.enabled, before.configured, before.label) == (after.enabled, after.configured, after.label)
    assert plan_host(state, profile).done, "idempotent"
    assert len([each for each in ran if each.startswith("reboot")]) <= 1


@given(servers(), profiles())
def test_disruptive_steps_happen_in_maintenance_mode_only(server: Server, profile: Profile) -> None:
    plan = plan_host(server.seen(), profile)
    inside = server.maintenance
    for step in plan.steps:
        inside = inside or step.kind is StepKind.ENTER_MAINTENANCE
        if step.risk is not Risk.SAFE:
            assert inside
    assert plan.needs_approval == any(step.risk is not Risk.SAFE for step in plan.steps)


@given(servers(), profiles())
def test_a_plan_is_empty_exactly_when_every_gpu_and_the_manager_are_right(server: Server, profile: Profile) -> None:
    state = server.seen()
    pairs = wanted_gpus(state, profile)
    if plan_host(state, profile).done:
        assert pairs
        assert all(is_right(state, gpu, wanted) for gpu, wanted in pairs)
        if isinstance(profile.vgpu_manager, VgpuManager):
            assert server.installed == "550.54.16"


@given(servers(), profiles())
def test_restoring_brings_every_gpu_back_to_how_it_was_configured(server: Server, profile: Profile) -> None:
    if not cards_of_the_profile(server, profile):
        return
    before = configuration_of(server.seen(), pin(server.seen(), profile))
    end, _ = converge(server, profile)
    plan = plan_host(end.seen(), before)
    if any(blocker.code == "no-depot" for blocker in plan.blockers):
        assert server.installed not in (None, "550.54.16"), "only an older vGPU Manager needs a person"
        return
    if server.installed is None and any(entry.mode in SHARED for entry in before.gpus):
        return  # vGPU was configured without the manager that it needs: nothing to go back to
    back, _ = converge(end, before)
    chosen = {entry.sbdf for entry in before.gpus}
    for was, now in zip(server.cards, back.cards, strict=True):
        if was.sbdf in chosen:
            assert (was.enabled, was.enabled or was.configured) == (now.enabled, now.enabled or now.configured)
            assert not was.enabled or (was.label or "") == (now.label or "")
