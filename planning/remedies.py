"""What would bring the GPU VMs back that are off after a failure: a plan that people are asked about, and notes.

VMs are given room by restart priority, one after the other, so that nothing is promised twice. A VM that may still run,
on a host that is cut off or isolated, is never touched; nor is one that somebody else's product owns. Rules: domain.md
§3 and §5. Notes name no times: the approval is bound to them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from contracts.audit import RemedyPolicy
from contracts.fleet import FleetHost, FleetVm, GpuFleet, VmGpu
from contracts.plan import Plan, Step, StepKind
from contracts.verdicts import (
    Reason,
    Recovery,
    Victim,
    VmVerdict,
)
from contracts.vms import GpuWish, StaticGpu
from planning.mmio import MMIO_SIZE, USE_MMIO, framebuffer_gib, mmio_settings, mmio_too_small
from planning.remedy_notes import Notes, kind_words
from planning.remedy_rooms import RANKS, Displaced, Place, Promises, Wanted, by_priority
from planning.remedy_steps import LOCKED, remedy_step, written
from planning.rooms import AnyOf, profile_kind, wishes_of

__all__ = ["MOST_VMS", "remedies"]

MOST_VMS = 100
"""VMs that one plan brings back: the whole plan travels with every step, and a run's history is limited."""
_HOST_DOWN = "hostDown"
_HOPELESS = {
    Reason.ORPHANED: "vCenter lost its registration: register it again, or restore it",
    Reason.INACCESSIBLE: "its files cannot be reached: bring its datastore back",
}


def remedies(verdicts: Sequence[VmVerdict], victims: Sequence[Victim], fleet: GpuFleet, policy: RemedyPolicy) -> Plan:
    """The steps that bring back what is off, as far as policy allows; notes tell what every other VM waits for."""
    planner = _Planner(fleet, policy, {victim.vm.instance_uuid: victim for victim in victims}, Promises(fleet))
    lost = [verdict for verdict in verdicts if verdict.recovery in (Recovery.NOT_RESTARTED, Recovery.UNKNOWN)]
    for verdict in sorted(lost, key=lambda each: by_priority(each.restart_priority, each.moid)):
        planner.bring_back(verdict)
    return Plan(steps=tuple(planner.steps), notes=planner.notes.told())


@dataclass
class _Lost:
    """A VM that is off, and may be acted on."""

    verdict: VmVerdict
    vm: FleetVm
    host: FleetHost
    """That has it now."""
    hosts: tuple[str, ...]
    """Moids of those that it may run on."""
    pinned: bool
    """It has static devices."""

    def wanted(self, wishes: tuple[GpuWish, ...], hosts: tuple[str, ...] | None = None) -> Wanted:
        rank = RANKS.get(self.verdict.restart_priority, len(RANKS))
        allowed = self.hosts if hosts is None else hosts
        return Wanted(wishes, self.vm.memory_mib, allowed, self.host.ref.moid, rank)


@dataclass
class _Planner:
    fleet: GpuFleet
    policy: RemedyPolicy
    victims: dict[str, Victim]
    room: Promises
    steps: list[Step] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    _helped: int = 0

    def __post_init__(self) -> None:
        self._vms: dict[str, FleetVm] = {}
        for vm in self.fleet.vms:
            self._vms.setdefault(vm.instance_uuid, vm)

    def bring_back(self, verdict: VmVerdict) -> None:
        """Add the steps for one VM, or a note about it."""
        lost = self._judged(verdict)
        if lost is None:
            return
        if verdict.recovery is Recovery.UNKNOWN:
            self.notes.add("what became of it is not known: look at it in vCenter", verdict.name)
            return
        if self._helped >= MOST_VMS:
            self.notes.add("they come after the ones of this plan", verdict.name)
            return
        found = self._pinned(lost) if lost.pinned else self._placed(lost)
        if found:
            self._helped += 1
            self.steps += found

    # -- who may be touched ------------------------------------------------------------------------------------------

    def _judged(self, verdict: VmVerdict) -> _Lost | None:
        """The VM, if it may be acted on; otherwise a note says why not, or nothing where it is back."""
        name, vm = verdict.name, self._vms.get(verdict.instance_uuid)
        if vm is None:
            was = self.victims.get(verdict.instance_uuid)
            self.notes.add(
                "it is no longer in the inventory with GPU devices"
                + (f"; its file was {was.vm.path}" if was is not None and was.vm.path else ""),
                name,
            )
            return None
        host = self.room.hosts.get(vm.host_moid)
        here = host is not None and host.connection_state == "connected"
        if why := self._not_to_be_touched(verdict, vm):
            self.notes.add(why, name)
            return None
        if here and vm.powered_on:
            if verdict.reason is Reason.MMIO:
                self.notes.add(
                    "it runs with too little MMIO space and its guest does not boot: power it off, and look again", name
                )
            return None
        if host is None:
            self.notes.add(f"its host {verdict.was_on} is not in the inventory, or has no GPUs any more", name)
            return None
        if not here and host.ha_state != _HOST_DOWN:
            self.notes.add(
                f"waits for host {host.ref.name}: HA does not say that it is down, so its VMs may run there", name
            )
            return None
        if not here and not (vm.path and vm.folder_moid and vm.pool_moid):
            self.notes.add("vCenter does not tell by what file, folder and pool it is registered", name)
            return None
        return _Lost(verdict, vm, host, self._open_to(vm, host), any(gpu.kind == "static" for gpu in vm.gpus))

    @staticmethod
    def _not_to_be_touched(verdict: VmVerdict, vm: FleetVm) -> str:
        if verdict.reason in _HOPELESS:
            return _HOPELESS[verdict.reason]
        if vm.connection_state == "orphaned":
            return _HOPELESS[Reason.ORPHANED]
        if vm.connection_state in ("inaccessible", "invalid"):
            return _HOPELESS[Reason.INACCESSIBLE]
        if vm.managed_by:
            return f"the extension {vm.managed_by} owns it: use that product's own tools"
        if vm.template:
            return "it is a template"
        if any(gpu.kind == "other" for gpu in vm.gpus):
            return "it has GPU devices of a kind that gpuwright does not touch"
        if {"vgpu"} < {gpu.kind for gpu in vm.gpus}:
            return "it has whole GPUs and vGPUs at once, and no host starts such a VM"
        if vm.question:
            return f"it waits for an answer: {vm.question}"
        if vm.power_state == "suspended":
            return "it is suspended: resume it"
        return ""

    def _open_to(self, vm: FleetVm, host: FleetHost) -> tuple[str, ...]:
        """Hosts of its cluster that no mandatory rule bars."""
        if not host.cluster_moid:
            return (host.ref.moid,)
        return tuple(
            moid
            for moid, other in self.room.hosts.items()
            if other.cluster_moid == host.cluster_moid and moid not in vm.barred
        )

    # -- what is done ------------------------------------------------------------------------------------------------

    def _placed(self, lost: _Lost) -> list[Step]:
        """A VM whose devices any host may have: applied as DRS recommends, powered on, or given room by others."""
        wanted = lost.wanted(wishes_of(lost.vm))
        if not self.policy.power_on and not self._was_converted(lost):
            for host in self.room.fits_somewhere(wanted)[:1]:
                self.notes.add(
                    f"there is room on {host.ref.name}, and policy leaves powering on to people", lost.vm.name
                )
                return []
            self._no_room(lost, wanted)
            return []
        if advised := self._recommended(lost, wanted):
            return advised
        if (place := self.room.place(wanted)) is not None:
            return self._power_on(lost, place, self._settings(lost, place, lost.vm.gpus))
        how = self.policy.make_room
        if how != "never" and (made := self.room.make_room(wanted, how, self._where_it_may_move)) is not None:
            place, displaced = made
            moved = [self._displace(lost, each) for each in displaced]
            return [*moved, *self._power_on(lost, place, self._settings(lost, place, lost.vm.gpus))]
        self._no_room(lost, wanted)
        return []

    def _was_converted(self, lost: _Lost) -> bool:
        """It had static devices when its host was lost: an approved conversion is carried to its end."""
        victim = self.victims.get(lost.vm.instance_uuid)
        return self.policy.convert_static and victim is not None and any(gpu.kind == "static" for gpu in victim.vm.gpus)

    def _where_it_may_move(self, vm: FleetVm) -> tuple[str, ...]:
        return self._open_to(vm, self.room.hosts[vm.host_moid])

    def _recommended(self, lost: _Lost, wanted: Wanted) -> list[Step]:
        cluster = self.fleet.cluster(lost.host.cluster_moid) if lost.host.cluster_moid else None
        for each in cluster.recommendations if cluster is not None else ():
            if each.vm_moid != lost.vm.moid or cluster is None:
                continue
            only = lost.wanted(wanted.wishes, tuple(moid for moid in wanted.hosts if moid == each.host_moid))
            place = self.room.place(only)
            if place is None:
                continue
            before = self._settings(lost, place, lost.vm.gpus)
            more = {"key": each.key, "cluster": lost.host.cluster_moid}
            apply = self._step(lost, StepKind.APPLY_RECOMMENDATION, place.host, more)
            return [*self._configure(lost, before), apply]
        return []

    def _pinned(self, lost: _Lost) -> list[Step]:
        """A VM with static devices: on its own host if the devices are free there, else converted."""
        name = lost.vm.name
        victim, home = self.victims.get(lost.vm.instance_uuid), lost.host.ref
        # On any other host the same address is another device.
        at_home = victim is None or victim.host.key == home.key
        allowed = tuple(moid for moid in lost.hosts if moid == home.moid and at_home)
        own = self.room.place(lost.wanted(wishes_of(lost.vm), allowed))
        if own is not None:
            if self.policy.power_on:
                return self._power_on(lost, own, self._settings(lost, own, lost.vm.gpus))
            self.notes.add(f"its device is free on {own.host.ref.name}, and policy leaves powering on to people", name)
            return []
        if not self.policy.convert_static:
            self.notes.add(f"waits for host {lost.verdict.was_on}, to which its static device binds it", name)
            return []
        kinds = self._kinds_held(lost)
        if kinds is None:
            self.notes.add(
                f"waits for host {lost.verdict.was_on}: what kind of GPU its static device was is not known", name
            )
            return []
        wishes = tuple(_asking(gpu) for gpu in kinds)
        place = self.room.place(lost.wanted(wishes))
        if place is None:
            self._no_room(lost, lost.wanted(wishes))
            return []
        gpus = _labelled(kinds, place)
        converted = tuple(gpu for gpu in gpus if gpu.sbdf)
        self.notes.general(
            "Dynamic DirectPath I/O needs hardware version 17: a VM with an older one is left as it is. Once "
            "converted, a VM runs wherever HA or DRS finds such a GPU"
        )
        steps = self._power_on(lost, place, self._settings(lost, place, gpus, converting=True))
        convert = self._step(lost, StepKind.SET_VM_GPUS, more={"gpus": written(converted)})
        return [*steps[:-1], convert, steps[-1]]

    def _kinds_held(self, lost: _Lost) -> tuple[VmGpu, ...] | None:
        """The VM's devices, the static ones as the dynamic ones that would replace them, still with their address."""
        victim = self.victims.get(lost.vm.instance_uuid)
        held = {gpu.sbdf: gpu for gpu in (*(victim.held if victim else ()), *lost.verdict.held) if gpu.vendor_device}
        found = []
        for gpu in lost.vm.gpus:
            if gpu.kind == "static":
                if gpu.sbdf not in held:
                    return None
                was = held[gpu.sbdf]
                gpu = VmGpu(key=0, kind="dynamic", allowed=(was.vendor_device,), label=was.label, sbdf=gpu.sbdf)
            found.append(gpu)
        return tuple(found)

    # -- steps -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _step(
        lost: _Lost, kind: StepKind, host: FleetHost | None = None, more: Mapping[str, str] = MappingProxyType({})
    ) -> Step:
        # The moid as it was: it stays the same in later plans, when the VM was registered again.
        params = {**_told(host), **more}
        return remedy_step(kind, lost.vm.name, uuid=lost.vm.instance_uuid, moid=lost.verdict.moid, more=params)

    def _configure(self, lost: _Lost, settings: dict[str, str]) -> list[Step]:
        return [self._step(lost, StepKind.CONFIGURE_VM, more=settings)] if settings else []

    def _power_on(self, lost: _Lost, place: Place, settings: dict[str, str]) -> list[Step]:
        steps = []
        if lost.host.connection_state != "connected":
            old = lost.host.ref
            self.notes.general(
                "a VM that is registered again gets a new moid: permissions, tags and overrides of HA and DRS that it "
                "has itself are lost; when its old host comes back, that host's own registration of it is stale"
            )
            more = {
                "from": old.moid,
                "from_name": old.name,
                "path": lost.vm.path,
                "folder": lost.vm.folder_moid,
                "pool": lost.vm.pool_moid,
            }
            steps.append(self._step(lost, StepKind.REGISTER_VM, place.host, more))
        return [*steps, *self._configure(lost, settings), self._step(lost, StepKind.POWER_ON_VM, place.host)]

    def _displace(self, lost: _Lost, displaced: Displaced) -> Step:
        vm = displaced.vm
        return remedy_step(
            StepKind.MOVE_VM if displaced.host is not None else StepKind.SUSPEND_VM,
            vm.name,
            uuid=vm.instance_uuid,
            moid=vm.moid,
            wanted_by=lost.vm.instance_uuid,
            more={**_told(displaced.host), "for_name": lost.vm.name},
        )

    def _settings(
        self, lost: _Lost, place: Place, gpus: Sequence[VmGpu], *, converting: bool = False
    ) -> dict[str, str]:
        """What it lacks to power on and boot with these devices: all of its memory reserved, and MMIO space."""
        needed = lost.verdict.reason is Reason.MMIO
        sizes = _framebuffers(place, gpus, needed)
        settings, have = mmio_settings(sizes), lost.vm.mmio_gib
        if have is None:
            lacks = needed or converting
        else:
            lacks = mmio_too_small({USE_MMIO: "TRUE", MMIO_SIZE: str(have)} if have else {}, sizes) != ""
        if (settings and lacks) or not lost.vm.memory_reserved:
            return {**(settings if lacks else {}), LOCKED: "TRUE"}
        return {}

    # -- notes -------------------------------------------------------------------------------------------------------

    def _no_room(self, lost: _Lost, wanted: Wanted) -> None:
        """Why no host takes it: rules, memory, or GPUs that are missing."""
        vm, words = lost.vm, ", ".join(kind_words(wanted.wishes))
        everywhere = tuple(
            moid
            for moid, host in self.room.hosts.items()
            if host.cluster_moid == lost.host.cluster_moid and host.cluster_moid
        )
        barred = self.room.fits_somewhere(lost.wanted(wanted.wishes, everywhere))
        if barred:
            names = ", ".join(host.ref.name for host in barred)
            self.notes.add(f"mandatory VM-host rules keep it off {names}, where there is room", vm.name)
            return
        light = Wanted(wanted.wishes, 0, wanted.hosts)
        if with_gpu := self.room.fits_somewhere(light):
            names = ", ".join(host.ref.name for host in with_gpu)
            self.notes.add(
                f"{words} is free on {names}, which has not the memory that the VM reserves ({vm.memory_mib} MiB)",
                vm.name,
            )
            return
        waits = f" or for host {lost.host.ref.name}" if lost.host.connection_state != "connected" else ""
        self.notes.missing(wanted, self.room, waits, vm.name)
        if self.policy.make_room != "never":
            self._holders_that_stay(lost, wanted)

    def _holders_that_stay(self, lost: _Lost, wanted: Wanted) -> None:
        """Running VMs of lower priority that could not make room."""
        if any(not isinstance(wish, AnyOf | StaticGpu) for wish in wanted.wishes):
            return
        lower = [
            vm
            for vm in self.fleet.vms
            if vm.powered_on
            and vm.host_moid in wanted.hosts
            and any(gpu.kind in ("dynamic", "static") for gpu in vm.gpus)
            and RANKS.get(vm.restart_priority, -1) > wanted.rank
        ]
        if lower:
            self.notes.general(
                "VMs with whole GPUs are neither moved while they run nor suspended: to give a GPU to a VM of higher "
                "restart priority, shut one down"
            )


def _told(host: FleetHost | None) -> dict[str, str]:
    return {"host": host.ref.moid, "host_name": host.ref.name} if host is not None else {}


def _asking(gpu: VmGpu) -> GpuWish:
    return AnyOf.model_construct(
        match=gpu.allowed[0] if gpu.allowed else None, model=None, label=gpu.label or None, allowed=gpu.allowed, count=1
    )


def _labelled(kinds: Iterable[VmGpu], place: Place) -> tuple[VmGpu, ...]:
    """The devices with the labels of the GPUs that they get: a label that it had, it has got."""
    labels = {gpu.sbdf: gpu.label for gpu in place.host.gpus}
    return tuple(
        gpu.model_copy(update={"label": gpu.label or labels[sbdf]}) if gpu.sbdf else gpu
        for gpu, sbdf in zip(kinds, place.sbdfs, strict=True)
    )


def _framebuffers(place: Place, gpus: Sequence[VmGpu], shares_count: bool) -> list[int]:
    """Framebuffers in GiB of the whole GPUs that the VM may get; of its shares, where they matter."""
    known = {gpu.sbdf: gpu for gpu in place.host.gpus}
    whole = [gpu for gpu in gpus if gpu.kind in ("dynamic", "static")]
    if whole:
        taken = [known[sbdf] for sbdf in place.sbdfs[: len(whole)]]
        return [
            max(
                framebuffer_gib(got.vendor_device, got.framebuffer_mib),
                *(framebuffer_gib(pair) for pair in gpu.allowed),
                0,
            )
            for got, gpu in zip(taken, whole, strict=True)
        ]
    if not shares_count:
        return []
    return [-(-profile_kind(place.host, gpu.profile).framebuffer_mib // 1024) for gpu in gpus]
