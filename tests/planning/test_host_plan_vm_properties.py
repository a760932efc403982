"""For any VMs on a host and any neighbours: a VM is shut down only by an approved step, and runs again at the end."""

from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from contracts.evacuation import FreeDevice, Neighbour, ShutDownVm, StoppedVm, StuckVms, WantedDevice
from contracts.host import HostState, HostVm
from contracts.plan import Step, StepKind
from planning.host import plan_host
from tests.support.hosts import TRAINING, a100, host

A100 = "10de:20f1"
HERE = "host-1"
LABELS = ("Inference", "Rendering")
WANTS = {"dynamic": 1, "two dynamic": 2}


@dataclass(frozen=True)
class Guest:
    moid: str
    devices: str
    """`none`, `static`, `dynamic`, `two dynamic` or `vgpu`."""
    label: str
    on: bool
    tools: bool
    owner: str
    at: str = HERE

    @property
    def stuck(self) -> bool:
        return self.devices != "none"

    @property
    def stoppable(self) -> bool:
        return self.tools and not self.owner

    @property
    def wants(self) -> tuple[WantedDevice, ...]:
        return (WantedDevice(allowed=(A100,), label=self.label),) * WANTS.get(self.devices, 0)


@dataclass(frozen=True)
class Site:
    """A host whose one card is to change, its VMs, and the hosts beside it."""

    guests: dict[str, Guest]
    neighbours: dict[str, tuple[str, ...]]
    """Host → the labels of its cards."""
    rebinds: bool
    enabled: bool = False
    active: bool = False
    maintenance: bool = False

    def free(self, at: str) -> list[str]:
        cards = Counter(self.neighbours[at])
        for guest in self.guests.values():
            if guest.at == at and guest.on:
                cards[guest.label] -= len(guest.wants)
        assert min(cards.values(), default=0) >= 0, "a device was given twice"
        return sorted(cards.elements())

    def seen(self, shut_down: dict[str, ShutDownVm]) -> HostState:
        label = "Training" if self.enabled else None
        card = a100(passthru_enabled=self.enabled, passthru_active=self.active, hardware_label=label)
        return host(
            card,
            rebind_without_reboot=self.rebinds,
            in_maintenance=self.maintenance,
            vms=tuple(
                HostVm(
                    moid=guest.moid,
                    name=guest.moid,
                    powered_on=guest.on,
                    can_move=not guest.stuck,
                    stays_because=guest.devices if guest.stuck else "",
                    static_passthrough=guest.devices == "static",
                    dynamic_passthrough=bool(guest.wants),
                    vgpu_profiles=("grid_a100-20c",) if guest.devices == "vgpu" else (),
                    wants=guest.wants,
                    tools_running=guest.tools and guest.on,
                    managed_by=guest.owner,
                )
                for guest in self.guests.values()
                if guest.at == HERE
            ),
            neighbours=tuple(
                Neighbour(
                    moid=moid,
                    name=moid,
                    free=tuple(
                        FreeDevice(sbdf=f"0000:{n:02x}:00.0", vendor_device=A100, label=label)
                        for n, label in enumerate(self.free(moid))
                    ),
                )
                for moid in self.neighbours
            ),
            stopped=tuple(
                StoppedVm(
                    **vm.model_dump(),
                    powered_on=self.guests[moid].on,
                    host_moid=self.guests[moid].at,
                    host_name=self.guests[moid].at,
                    wants=self.guests[moid].wants,
                )
                for moid, vm in shut_down.items()
            ),
        )

    def after(self, step: Step) -> "Site":
        here_and_on = [guest for guest in self.guests.values() if guest.at == HERE and guest.on]
        match step.kind:
            case StepKind.SHUT_DOWN_GUEST | StepKind.MIGRATE_COLD | StepKind.POWER_ON_VM:
                guest = self.guests[step.params["moid"]]
                return replace(self, guests=self.guests | {guest.moid: self._changed(guest, step)})
            case StepKind.ENTER_MAINTENANCE:
                assert not [guest for guest in here_and_on if guest.stuck], "DRS can empty the host"
                moved = {guest.moid: replace(guest, at="elsewhere") for guest in here_and_on}
                return replace(self, maintenance=True, guests=self.guests | moved)
            case StepKind.EXIT_MAINTENANCE:
                return replace(self, maintenance=False)
            case StepKind.ENABLE_PASSTHROUGH:
                return replace(self, enabled=True, active=self.rebinds)
            case StepKind.REBOOT:
                assert self.maintenance
                assert not here_and_on, "never rebooted with a VM on"
                return replace(self, active=self.enabled)
        raise AssertionError(step.kind)

    def _changed(self, guest: Guest, step: Step) -> Guest:
        match step.kind:
            case StepKind.SHUT_DOWN_GUEST:
                assert guest.on
                assert guest.stuck, "what DRS can move is left to DRS"
                assert guest.stoppable
                return replace(guest, on=False)
            case StepKind.MIGRATE_COLD:
                assert not guest.on
                assert guest.devices not in ("static", "vgpu")
                return replace(guest, at=step.params["destination"])
        assert not guest.on
        if guest.at == HERE:
            assert not self.maintenance
        else:
            needed = len(guest.wants)
            assert self.free(guest.at).count(guest.label) >= needed, "its devices are free where it is powered on"
        return replace(guest, on=True)


@st.composite
def sites(draw: st.DrawFn) -> Site:
    guests = [
        Guest(
            moid=f"vm-{n}",
            devices=draw(st.sampled_from(["none", "static", "dynamic", "dynamic", "two dynamic", "vgpu"])),
            label=draw(st.sampled_from(LABELS)),
            on=draw(st.booleans()),
            tools=draw(st.sampled_from([True, True, True, False])),
            owner=draw(st.sampled_from(["", "", "", "com.example.product"])),
        )
        for n in range(draw(st.integers(0, 5)))
    ]
    neighbours = {
        f"host-{n}": tuple(draw(st.lists(st.sampled_from(LABELS), max_size=3)))
        for n in range(2, 2 + draw(st.integers(0, 3)))
    }
    return Site({guest.moid: guest for guest in guests}, neighbours, rebinds=draw(st.booleans()))


@given(sites(), st.sampled_from(StuckVms))
def test_a_vm_is_shut_down_only_by_an_approved_step_and_runs_again_at_the_end(site: Site, policy: StuckVms) -> None:
    profile = TRAINING.model_copy(update={"stuck_vms": policy})
    shut_down: dict[str, ShutDownVm] = {}
    plan = plan_host(site.seen(shut_down), profile)
    in_the_way = [
        guest
        for guest in site.guests.values()
        if guest.on and guest.stuck and (policy is StuckVms.WAIT or not guest.stoppable)
    ]
    assert bool(plan.blockers) == bool(in_the_way)
    if plan.blockers:
        assert all(guest.moid in plan.blockers[0].text for guest in in_the_way), "each is named"
        return
    approved, entered, now = {step.id for step in plan.steps}, False, site
    ran: list[Step] = []
    while (plan := plan_host(now.seen(shut_down), profile, entered_maintenance=entered)).steps:
        step = plan.steps[0]
        assert not plan.blockers
        assert step.id in approved, f"{step.id} was not approved"
        assert step.id not in {each.id for each in ran}, f"{step.id} twice"
        ran.append(step)
        if step.kind is StepKind.SHUT_DOWN_GUEST:
            moid = step.params["moid"]
            shut_down[moid] = ShutDownVm(moid=moid, name=moid, destination=step.params.get("destination", ""))
        now = now.after(step)
        entered = (entered or step.kind is StepKind.ENTER_MAINTENANCE) and step.kind is not StepKind.EXIT_MAINTENANCE
    assert plan.done
    assert not now.maintenance
    assert now.active
    for moid, guest in site.guests.items():
        assert now.guests[moid].on == guest.on, "what ran runs again; what was off stays off"
        assert (moid in shut_down) == (guest.on and guest.stuck)
        if moid in shut_down and now.guests[moid].at != HERE:
            assert policy is StuckVms.COLD_MIGRATE


@given(sites())
def test_a_vm_that_fits_beside_is_off_only_while_it_is_moved(site: Site) -> None:
    profile = TRAINING.model_copy(update={"stuck_vms": StuckVms.COLD_MIGRATE})
    plan = plan_host(site.seen({}), profile)
    moved = {step.target for step in plan.steps if step.kind is StepKind.MIGRATE_COLD}
    order = [(step.kind, step.target) for step in plan.steps]
    for name in moved:
        at = order.index((StepKind.SHUT_DOWN_GUEST, name))
        assert order[at : at + 3] == [(kind, name) for kind in ("shut-down-guest", "migrate-cold", "power-on-vm")]
        assert at < order.index((StepKind.ENTER_MAINTENANCE, "esx-01"))
