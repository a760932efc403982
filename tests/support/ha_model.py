"""A model of vSphere HA of the tests' own: what becomes of the GPU VMs of hosts that fail.

It follows the written laws of HA on plain data; it shares no code with the simulator, which acts by these laws, nor
with the planners, which judge what came of it. Words are those of `contracts.audit`.
"""

from dataclasses import dataclass, field

from contracts.verdicts import Reason, Recovery
from tests.support.ha_spec import FRAMEBUFFER_GIB, PRIORITIES, Case, Device, Gpu, Host, Vm, mmio_needed_gib, profiles

__all__ = ["Model", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What is to be found about a VM: soon after, and when no guest boots any more."""

    early: tuple[Recovery, Reason]
    late: tuple[Recovery, Reason]
    host: str = ""
    """Where it runs, if vCenter can see that."""


@dataclass
class _State:
    """A VM in the course of events."""

    vm: Vm
    host: str
    on: bool = True
    cards: tuple[str, ...] = ()
    held: tuple[tuple[str, str, str], ...] = ()
    booted: bool = False
    guest_before: bool = False
    restarted: bool = False
    stopped: bool = False
    """By the isolation response."""
    tried: bool = False
    """HA tried in vain, and said so."""
    small_mmio: bool = False
    recommended: bool = False
    asks: bool = False
    fate: str = ""
    """What people did with it in the end."""


@dataclass
class Model:
    """Follows one case; `follow` it, then ask for `outcomes`."""

    case: Case
    states: dict[str, _State] = field(default_factory=dict)
    down: dict[str, str] = field(default_factory=dict)
    """What befell each host that is not there."""

    def __post_init__(self) -> None:
        for vm in self.case.cluster.vms:
            state = self.states[vm.name] = _State(vm, vm.host, on=False)
            cards = self.fit(vm, self.host(vm.host))
            if cards is None:
                raise ValueError(f"{vm.name} does not fit on {vm.host}")
            self._run(state, vm.host, cards)
            state.guest_before = not _too_small(vm, self.host(vm.host), cards)
        self.victims: dict[str, _State] = {}

    def host(self, name: str) -> Host:
        return next(host for host in self.case.cluster.hosts if host.name == name)

    # -- room ------------------------------------------------------------------------------------------------------

    def free_gib(self, host: Host) -> int:
        on_it = (state for state in self.states.values() if state.on and state.host == host.name)
        return host.memory_gib - sum(state.vm.memory_gib for state in on_it)

    def fit(self, vm: Vm, host: Host) -> tuple[str, ...] | None:
        """The cards that the VM gets there, one for each device; None where there are none."""
        others = [state for state in self.states.values() if state.on and state.host == host.name]
        whole = {
            card
            for state in others
            for device, card in zip(state.vm.gpus, state.cards, strict=True)
            if device.kind != "vgpu"
        }
        shares = {
            gpu.address: [
                device.profile
                for state in others
                for device, card in zip(state.vm.gpus, state.cards, strict=True)
                if device.kind == "vgpu" and card == gpu.address
            ]
            for gpu in host.gpus
        }
        found: list[str] = []
        for device in vm.gpus:
            if device.kind == "vgpu":
                card = _share(host, shares, device.profile, alone=len(vm.gpus) == 1)
                if card:
                    shares[card].append(device.profile)
            else:
                card = next(
                    (gpu.address for gpu in _in_order(host) if gpu.address not in whole and _meets(gpu, device)), ""
                )
                whole.add(card)
            if not card:
                return None
            found.append(card)
        return tuple(found)

    def barred(self, vm: Vm, host: Host) -> bool:
        rules = self.case.cluster.rules
        return any(vm.name in rule.vms and (host.name in rule.hosts) != rule.affine for rule in rules)

    def left(self) -> list[Host]:
        """The hosts that HA can use."""
        return [host for host in self.case.cluster.hosts if host.name not in self.down and not host.maintenance]

    # -- what happens ----------------------------------------------------------------------------------------------

    def follow(self) -> "Model":
        """The failures, HA, and what people did before and after."""
        for name in self.case.before:
            self.states[name].on = False
        self.down = {host: kind for kind, host in self.case.failures}
        lost = [state for state in self.states.values() if state.on and state.host in self.down]
        self.victims = {state.vm.name: state for state in lost if state.vm.gpus}
        for state in lost:
            host = self.host(state.host)
            gpus = {gpu.address: gpu for gpu in host.gpus}
            devices = zip(state.vm.gpus, state.cards, strict=True)
            state.held = tuple((gpus[card].model, gpus[card].label, device.profile) for device, card in devices)
        self._fail(lost)
        for what, name in self.case.after:
            self._befall(what, name)
        return self

    def _acts(self) -> bool:
        return self.case.cluster.ha and self.case.cluster.host_monitoring

    def _fail(self, lost: list[_State]) -> None:
        waiting: list[_State] = []
        for state in lost:
            kind = self.down[state.host]
            if kind == "isolation" and self._acts():
                state.stopped = (state.vm.isolation_response or self.case.cluster.isolation_response) != "none"
            if kind == "power" or state.stopped:
                state.on = False
                waiting.append(state)
        if self._acts():
            waiting = self._try_all(waiting)
        for host in self.case.early:
            del self.down[host]
        if self._acts():
            self._try_all(waiting)

    def _try_all(self, waiting: list[_State]) -> list[_State]:
        order = list(self.states)
        ranked = sorted(waiting, key=lambda state: (PRIORITIES.index(self._priority(state.vm)),
                                                    order.index(state.vm.name)))  # fmt: skip
        return [state for state in ranked if self._try(state)]

    def _priority(self, vm: Vm) -> str:
        return vm.restart_priority or self.case.cluster.restart_priority

    def _try(self, state: _State) -> bool:
        """Whether HA tries this VM again."""
        vm, drs = state.vm, self.case.cluster.drs
        if not self._protected(vm) or any(device.kind == "static" for device in vm.gpus):
            return False
        if vm.gpus and not vm.reserved:
            state.tried = True
            return False
        places = [(host, cards) for host in self.left() if (cards := self._place(vm, host)) is not None]
        if not places:
            state.tried = True
            return True
        host, cards = max(places, key=lambda place: self.free_gib(place[0]))
        if vm.gpus and drs is not None and (vm.drs_override or drs) == "manual":
            state.recommended = True
            return False
        boots = not _too_small(vm, host, cards)
        if host.names_small_mmio and not boots:
            state.tried = state.small_mmio = True
            return False
        self._run(state, host.name, cards)
        state.restarted, state.asks = True, vm.question != ""
        state.booted = boots and not vm.no_tools and not state.asks
        return False

    def _protected(self, vm: Vm) -> bool:
        return vm.protected and self._priority(vm) != "disabled"

    def _place(self, vm: Vm, host: Host) -> tuple[str, ...] | None:
        if self.barred(vm, host) or self.free_gib(host) < vm.memory_gib:
            return None
        return self.fit(vm, host)

    def _run(self, state: _State, host: str, cards: tuple[str, ...]) -> None:
        state.host, state.cards, state.on = host, cards, True

    def _befall(self, what: str, name: str) -> None:
        if what == "return":
            del self.down[name]
            return
        state = self.states[name]
        state.fate, state.on = what, False

    # -- what is to be found ---------------------------------------------------------------------------------------

    def outcomes(self) -> dict[str, Outcome]:
        """For each GPU VM that ran on a host that was lost."""
        return {name: self._outcome(state) for name, state in self.victims.items()}

    def _outcome(self, state: _State) -> Outcome:
        fates = {
            "orphan": (Recovery.NOT_RESTARTED, Reason.ORPHANED),
            "lose-files": (Recovery.NOT_RESTARTED, Reason.INACCESSIBLE),
            "power-off": (Recovery.RETIRED, Reason.NONE),
            "suspend": (Recovery.RETIRED, Reason.NONE),
            "remove": (Recovery.RETIRED, Reason.NONE),
        }
        if state.fate:
            return Outcome(fates[state.fate], fates[state.fate])
        if not state.on:
            reason = self._why_off(state)
            return Outcome((Recovery.NOT_RESTARTED, reason), (Recovery.NOT_RESTARTED, reason))
        if state.host in self.down:
            seen = (
                (Recovery.UNKNOWN, Reason.HOST_UNREACHABLE) if self._acts() else (Recovery.NOT_RESTARTED, Reason.HA_OFF)
            )
            return Outcome(seen, seen)
        if state.asks:
            asks = (Recovery.NOT_RESTARTED, Reason.QUESTION)
            return Outcome(asks, asks, state.host)
        if not state.restarted:
            return Outcome((Recovery.KEPT_RUNNING, Reason.NONE), (Recovery.KEPT_RUNNING, Reason.NONE), state.host)
        return self._restarted(state)

    def _restarted(self, state: _State) -> Outcome:
        host, vm = self.host(state.host), state.vm
        if state.guest_before and not state.booted:
            late = (
                (Recovery.NOT_RESTARTED, Reason.MMIO)
                if _too_small(vm, host, state.cards)
                else (Recovery.UNKNOWN, Reason.NOT_KNOWN)
            )
            return Outcome((Recovery.RESTARTING, Reason.NONE), late, state.host)
        gpus = {gpu.address: gpu for gpu in host.gpus}
        devices = zip(vm.gpus, state.cards, strict=True)
        holds = [(gpus[card].model, gpus[card].label, device.profile) for device, card in devices]
        same = sorted(holds) == sorted(state.held)
        found = (Recovery.RECOVERED if same else Recovery.OTHER_GPU, Reason.NONE)
        return Outcome(found, found, state.host)

    def _why_off(self, state: _State) -> Reason:
        vm = state.vm
        if not self._acts():
            return Reason.HA_OFF
        if any(device.kind == "static" for device in vm.gpus):
            return Reason.STATIC_PINNED
        if not self._protected(vm):
            return Reason.UNPROTECTED
        if state.recommended:
            return Reason.RECOMMENDATION
        if not vm.reserved:
            return Reason.RESERVATION
        if state.small_mmio:
            return Reason.MMIO
        with_gpus = [host for host in self.left() if self.fit(vm, host) is not None]
        allowed = [host for host in with_gpus if not self.barred(vm, host)]
        if not with_gpus:
            vgpu = all(device.kind == "vgpu" for device in vm.gpus)
            return Reason.NO_PROFILE_ROOM if vgpu else Reason.NO_FREE_GPU
        if not allowed:
            return Reason.RULE
        if all(self.free_gib(host) < vm.memory_gib for host in allowed):
            return Reason.ADMISSION
        return Reason.ISOLATION if state.stopped else Reason.NOT_KNOWN


# -- cards -------------------------------------------------------------------------------------------------------------


def _too_small(vm: Vm, host: Host, cards: tuple[str, ...]) -> bool:
    gpus = {gpu.address: gpu for gpu in host.gpus}
    sizes = [
        profiles(gpus[card])[device.profile][0] if device.kind == "vgpu" else FRAMEBUFFER_GIB[gpus[card].model]
        for device, card in zip(vm.gpus, cards, strict=True)
    ]
    return vm.mmio_gib < mmio_needed_gib(sizes)


def _in_order(host: Host) -> list[Gpu]:
    return sorted(host.gpus, key=lambda gpu: gpu.address)


def _meets(gpu: Gpu, device: Device) -> bool:
    if gpu.mode != "passthrough":
        return False
    if device.kind == "static":
        return gpu.address == device.address
    return gpu.model in device.allowed and device.label in ("", gpu.label)


def _share(host: Host, shares: dict[str, list[str]], profile: str, *, alone: bool) -> str:
    """The card that gets one more vGPU: the emptiest, or under `consolidation` the fullest; empty for none."""
    room = {}
    for gpu in _in_order(host):
        offered = profiles(gpu)
        if profile not in offered:
            continue
        gib, slices = offered[profile]
        used = [offered[each] for each in shares[gpu.address]]
        left = FRAMEBUFFER_GIB[gpu.model] - sum(each for each, _ in used) - gib
        one_size = slices > 0 or all(each == gib for each, _ in used)
        most = max(count for _, count in offered.values())
        sliced = sum(count for _, count in used) + slices <= most
        whole = gib == FRAMEBUFFER_GIB[gpu.model] and slices == 0
        if left >= 0 and one_size and sliced and (alone or whole):
            room[gpu.address] = left
    pick = min if host.policy == "consolidation" else max
    return pick(room, key=lambda address: room[address]) if room else ""
