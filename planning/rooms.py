"""What is free on one GPU host, and taking GPUs and shares of cards from it, as vSphere would.

The host has the last word at power-on: DRS only hints at the device. Rules: domain.md §1 and §3; NVIDIA's vGPU user
guide for mixed sizes ("time-sliced vGPUs with different amounts of frame buffer", vSphere 8.0.3) and MIG slices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from contracts.fleet import FleetGpu, FleetHost, FleetVm, VgpuKind
from contracts.vms import DynamicGpu, GpuWish, StaticGpu, VgpuGpu
from planning.gpu_models import models_named

__all__ = [
    "MIG_SLICES",
    "AnyOf",
    "Card",
    "Refusal",
    "Room",
    "pairs_of",
    "profile_kind",
    "room_by_ha",
    "room_of",
    "wishes_of",
]

MIG_SLICES = 7
"""GPU instance slices of one MIG card."""
_SHARED = "sharedDirect"
_MIG = "multiInstanceGpu"
_MIXED = "mixedSize"
_CUT_OFF = ("networkIsolated", "hostDown")


@dataclass(frozen=True)
class Refusal:
    """Why a wish cannot be met here: a stable word, and what people read."""

    code: str
    text: str


class AnyOf(DynamicGpu):
    """A Dynamic DirectPath I/O device as a VM has it: several vendor:device pairs may fit."""

    allowed: tuple[str, ...] = ()


@dataclass
class Card:
    """A card that is shared: the vGPUs on it."""

    gpu: FleetGpu
    uses: list[VgpuKind] = field(default_factory=list)

    @property
    def mig(self) -> bool:
        """Its vGPUs are MIG instances."""
        return self.gpu.vgpu_mode == _MIG

    def refuses(self, kind: VgpuKind, *, alone: bool = True) -> str:
        """Why one more vGPU of this kind does not fit, as a stable word; empty when it does.

        One that is not `alone` in its VM has to be a whole, time-sliced card.
        """
        if kind.name not in self.gpu.profiles or not self._shares_so(kind):
            return "profile-not-offered"
        if not alone and (kind.slices or kind.framebuffer_mib < self.gpu.framebuffer_mib):
            return "not-whole-card"
        if kind.slices and sum(use.slices for use in self.uses) + kind.slices > MIG_SLICES:
            return "mig-slices"
        if sum(use.framebuffer_mib for use in self.uses) + kind.framebuffer_mib > self.gpu.framebuffer_mib:
            return "in-use"
        same_size = not kind.slices and self.gpu.vgpu_mode != _MIXED
        if same_size and any(use.framebuffer_mib != kind.framebuffer_mib for use in self.uses):
            return "mixed-size"
        return ""

    def _shares_so(self, kind: VgpuKind) -> bool:
        """MIG instances are on cards in MIG mode, time-sliced vGPUs on others.

        A host tells its profiles by model, and two cards of one model may differ in this; which is which, the vGPU
        mode tells (8.0.3), and before that only what runs there.
        """
        sliced = kind.slices > 0
        if self.gpu.vgpu_mode is not None and self.mig != sliced:
            return False
        return all((use.slices > 0) == sliced for use in self.uses)


@dataclass
class Room:
    """What a host has left. Taking changes it; take from a copy to try."""

    host: FleetHost
    memory_mib: int
    free: list[FleetGpu]
    """Whole GPUs in passthrough that no powered-on VM holds."""
    cards: list[Card]
    refused: Refusal | None = None
    """Why nothing at all can be started here."""
    holders: dict[str, str] = field(default_factory=dict)
    """Names of the VMs that hold a GPU, by its address."""

    def copy(self) -> "Room":
        """A room to try things in."""
        cards = [Card(card.gpu, list(card.uses)) for card in self.cards]
        return Room(self.host, self.memory_mib, list(self.free), cards, self.refused, self.holders)

    def take(self, wishes: Sequence[GpuWish], memory_mib: int, cpus: int = 1) -> tuple[str, ...] | tuple[Refusal, ...]:
        """Take GPUs for one VM: their addresses in the order of the wishes, or every reason why not (nothing taken)."""
        refusals = list(self._host_refusals(memory_mib, cpus))
        whole = [one for wish in wishes if not isinstance(wish, VgpuGpu) for one in _singles(wish)]
        shares = [wish for wish in wishes if isinstance(wish, VgpuGpu)]
        picked, missing = self._match(whole)
        refusals += missing
        placed, none = self._share(shares)
        refusals += none
        if refusals:
            return tuple(dict.fromkeys(refusals))
        taken = {gpu.sbdf for gpu in picked}
        self.free = [gpu for gpu in self.free if gpu.sbdf not in taken]
        for card, kind in placed:
            card.uses.append(kind)
        self.memory_mib -= memory_mib
        return (*(gpu.sbdf for gpu in picked), *(card.gpu.sbdf for card, _ in placed))

    def _host_refusals(self, memory_mib: int, cpus: int) -> Iterable[Refusal]:
        if self.refused is not None:
            yield self.refused
        if self.memory_mib < memory_mib:
            yield Refusal(
                "memory-reservation",
                f"{self.memory_mib} MiB of memory are not reserved by running VMs, and a GPU VM reserves all of its "
                f"{memory_mib} MiB",
            )
        if self.host.cpus and self.host.cpus < cpus:
            yield Refusal("cpus", f"it has {self.host.cpus} logical processors, and {cpus} are asked for")

    def _match(self, wishes: list[DynamicGpu | StaticGpu]) -> tuple[list[FleetGpu], list[Refusal]]:
        """A free GPU for each wish, no GPU twice: a maximum matching, because wishes may overlap."""
        holder: dict[str, int] = {}
        free = {gpu.sbdf: gpu for gpu in self.free}
        # Those with a label last: they are the only ones for wishes that name it.
        fits = [
            [gpu.sbdf for gpu in sorted(self.free, key=lambda gpu: gpu.label != "") if _meets(self.host, gpu, wish)]
            for wish in wishes
        ]

        def seat(index: int, tried: set[str]) -> bool:
            for sbdf in fits[index]:
                if sbdf in tried:
                    continue
                tried.add(sbdf)
                if sbdf not in holder or seat(holder[sbdf], tried):
                    holder[sbdf] = index
                    return True
            return False

        unmet = [wish for index, wish in enumerate(wishes) if not seat(index, set())]
        seats = {index: free[sbdf] for sbdf, index in holder.items()}
        refusals = [self._why_not(wish, len(wishes)) for wish in unmet]
        return [seats[index] for index in sorted(seats)], refusals

    def _why_not(self, wish: DynamicGpu | StaticGpu, asked: int) -> Refusal:
        gpus = self.host.gpus
        if isinstance(wish, StaticGpu):
            if not _is_host(self.host, wish.host):
                return Refusal("other-host", f"the device asked for is on {wish.host}")
            gpus = tuple(gpu for gpu in gpus if gpu.sbdf == wish.sbdf)
            if not gpus:
                return Refusal("no-such-gpu", f"it has no GPU at {wish.sbdf}")
        else:
            pairs = pairs_of(wish)
            gpus = tuple(gpu for gpu in gpus if gpu.vendor_device in pairs)
            if not gpus:
                have = ", ".join(sorted({f"{gpu.vendor_device} ({gpu.name})" for gpu in self.host.gpus})) or "none"
                return Refusal("no-such-gpu", f"it has no {wish.model or ' or '.join(pairs)}; its GPUs: {have}")
        active = [gpu for gpu in gpus if gpu.passthru_active]
        if not active:
            how = ", ".join(f"{gpu.sbdf} {gpu.active_type or 'unknown'}" for gpu in gpus)
            return Refusal("wrong-mode", f"none of them is in passthrough: {how}")
        if isinstance(wish, DynamicGpu) and wish.label is not None:
            labelled = [gpu for gpu in active if gpu.label == wish.label]
            if not labelled:
                have = ", ".join(f"{gpu.sbdf} {gpu.label or 'none'}" for gpu in active)
                return Refusal("label-differs", f"none of them has the label {wish.label!r}: {have}")
            active = labelled
        free = [gpu for gpu in active if any(gpu.sbdf == other.sbdf for other in self.free)]
        if free:
            return Refusal("too-few", f"{len(free)} of them are free, and the VM asks for {asked} GPUs")
        held = (f"{gpu.sbdf} by {self.holders[gpu.sbdf]}" if gpu.sbdf in self.holders else gpu.sbdf for gpu in active)
        return Refusal("in-use", "in use: " + ", ".join(held))

    def _share(self, wishes: list[VgpuGpu]) -> tuple[list[tuple[Card, VgpuKind]], list[Refusal]]:
        """A card for every vGPU of the VM, found by trying: sizes may exclude each other."""
        if not wishes:
            return [], []
        asked = [profile_kind(self.host, wish.profile) for wish in wishes for _ in range(wish.count)]
        order = sorted(range(len(asked)), key=lambda index: -asked[index].framebuffer_mib)
        seats: dict[int, Card] = {}

        def seat(position: int) -> bool:
            if position == len(order):
                return True
            kind = asked[order[position]]
            tried: set[tuple[object, ...]] = set()
            for card in self._preferred(kind):
                # Cards that look alike fail alike.
                look = (card.gpu.framebuffer_mib, card.gpu.profiles, tuple(sorted(use.name for use in card.uses)))
                if look in tried or card.refuses(kind, alone=len(asked) == 1):
                    continue
                tried.add(look)
                card.uses.append(kind)
                seats[order[position]] = card
                if seat(position + 1):
                    return True
                card.uses.pop()
                del seats[order[position]]
            return False

        if seat(0):
            for index, card in seats.items():
                card.uses.remove(asked[index])
            return [(seats[index], asked[index]) for index in range(len(asked))], []
        return [], [self._why_no_share(wish, len(asked)) for wish in wishes]

    def _preferred(self, kind: VgpuKind) -> list[Card]:
        """Cards in the order in which the host fills them; one of the same size first, so that sizes stay apart."""
        fill = 1 if self.host.assignment_policy == "consolidation" else -1
        return sorted(
            self.cards,
            key=lambda card: (
                not any(use.framebuffer_mib == kind.framebuffer_mib for use in card.uses) if fill > 0 else 0,
                -fill * sum(use.framebuffer_mib for use in card.uses),
                card.gpu.sbdf,
            ),
        )

    def _why_no_share(self, wish: VgpuGpu, asked: int) -> Refusal:
        kind = profile_kind(self.host, wish.profile)
        if not self.cards:
            return Refusal("wrong-mode", "none of its GPUs is in vGPU mode (Shared Direct)")
        why = {card.gpu.sbdf: card.refuses(kind, alone=asked == 1) for card in self.cards}
        if all(code == "profile-not-offered" for code in why.values()):
            offered = ", ".join(sorted({name for card in self.cards for name in card.gpu.profiles})) or "none"
            return Refusal("profile-not-offered", f"profile {wish.profile} is not on offer; on offer: {offered}")
        found = {sbdf: code for sbdf, code in why.items() if code != "profile-not-offered"}
        if not all(found.values()):
            return Refusal("too-few", f"there is room for some, and not for all of the {asked} vGPUs that it asks for")
        code = next(iter(found.values()))
        said = {
            "in-use": "no card has enough framebuffer left",
            "mig-slices": f"no card has enough of its {MIG_SLICES} MIG slices left",
            "not-whole-card": "a VM has several vGPUs only where each is a whole, time-sliced card: no card is that",
            "mixed-size": "vGPUs of another size run on the cards with room, and they do not mix sizes",
        }
        return Refusal(code, f"{said[code]} for {wish.profile}: {_uses(self.cards)}")


def room_of(host: FleetHost, vms: Sequence[FleetVm], *, without: str = "") -> Room:
    """What `host` has left beside its powered-on `vms`; the VM with the moid `without` counts as off."""
    running = [vm for vm in vms if vm.powered_on and vm.moid != without and vm.host_moid == host.ref.moid]
    others = {moid for gpu in host.gpus for moid in gpu.vm_moids} - {without}
    cards = [Card(gpu) for gpu in host.gpus if gpu.active_type == _SHARED and not gpu.passthru_active]
    for vm in running:
        _seat_running(host, cards, vm)
    names = {vm.moid: vm.name for vm in vms}
    holders = {gpu.sbdf: [names[moid] for moid in gpu.vm_moids if moid in names] for gpu in host.gpus}
    gone = next((vm for vm in vms if vm.moid == without and vm.powered_on and vm.host_moid == host.ref.moid), None)
    return Room(
        host,
        host.memory_mib - host.reserved_mib + (gone.memory_mib if gone else 0),
        [gpu for gpu in host.gpus if gpu.passthru_active and not others.intersection(gpu.vm_moids)],
        cards,
        _unusable(host),
        {sbdf: ", ".join(sorted(held)) for sbdf, held in holders.items() if held},
    )


def _seat_running(host: FleetHost, cards: list[Card], vm: FleetVm) -> None:
    """Put a running VM's vGPUs on their cards: where it says so, else where the card names the VM, else by room."""
    shares = [gpu for gpu in vm.gpus if gpu.kind == "vgpu"]
    named = [card for card in cards if vm.moid in card.gpu.vm_moids]
    for index, share in enumerate(shares):
        kind = profile_kind(host, share.profile)
        card = next((card for card in cards if card.gpu.sbdf == share.assigned), None)
        if card is None and named:
            card = named[index % len(named)]
        if card is None:
            card = next((card for card in cards if not card.refuses(kind)), cards[0] if cards else None)
        if card is not None:
            card.uses.append(kind)


def room_by_ha(host: FleetHost, vms: Sequence[FleetVm]) -> Room:
    """As `room_of`, without what HA says is cut off although vCenter still shows it connected."""
    room = room_of(host, vms)
    if room.refused is None and host.ha_state in _CUT_OFF:
        room.refused = Refusal("isolated", f"HA says {host.ha_state}")
    return room


def _unusable(host: FleetHost) -> Refusal | None:
    if host.connection_state != "connected":
        return Refusal("not-connected", f"it is {host.connection_state}")
    if host.standby:
        return Refusal("standby", "DPM has it in standby")
    if host.in_maintenance:
        return Refusal("maintenance", "it is in maintenance mode")
    return None


def profile_kind(host: FleetHost, profile: str) -> VgpuKind:
    """What the host says about a profile; where it says nothing, the name does: `grid_a100-3-20c` is 3 slices and
    20 GiB, `nvidia_a40-24c` is time-sliced with 24 GiB."""
    known = next((kind for kind in host.vgpu_kinds if kind.name == profile), VgpuKind(name=profile))
    slices, size = _name_tells(profile)
    return known.model_copy(update={"framebuffer_mib": known.framebuffer_mib or size, "slices": known.slices or slices})


def _name_tells(profile: str) -> tuple[int, int]:
    """MIG slices and framebuffer (MiB) by a profile's name; zeros where it does not tell."""
    numbers = [part.rstrip("abcqmei") for part in profile.rsplit("-", 2)[1:]]
    if len(numbers) == 2 and numbers[0].isdigit() and numbers[1].isdigit():
        return int(numbers[0]), int(numbers[1]) * 1024
    if numbers and numbers[-1].isdigit():
        return 0, int(numbers[-1]) * 1024
    return 0, 0


def pairs_of(wish: DynamicGpu) -> tuple[str, ...]:
    """The vendor:device pairs that fit a wish; empty for a model that is not in the table."""
    if isinstance(wish, AnyOf):
        return wish.allowed
    return (wish.match,) if wish.match is not None else models_named(wish.model or "")


def wishes_of(vm: FleetVm) -> tuple[GpuWish, ...]:
    """The GPU devices of a VM that is there, as wishes; those of kind `other` are left out.

    What vSphere holds is taken as it is: limits on what people write do not count.
    """
    found: list[GpuWish] = []
    for gpu in vm.gpus:
        if gpu.kind == "dynamic":
            first = next(iter(gpu.allowed), None)
            found.append(
                AnyOf.model_construct(match=first, model=None, label=gpu.label or None, allowed=gpu.allowed, count=1)
            )
        elif gpu.kind == "static":
            found.append(StaticGpu.model_construct(host=vm.host_moid, sbdf=gpu.sbdf))
        elif gpu.kind == "vgpu":
            found.append(VgpuGpu.model_construct(profile=gpu.profile, count=1))
    return tuple(found)


def _singles(wish: DynamicGpu | StaticGpu) -> list[DynamicGpu | StaticGpu]:
    return [wish] * (wish.count if isinstance(wish, DynamicGpu) else 1)


def _meets(host: FleetHost, gpu: FleetGpu, wish: DynamicGpu | StaticGpu) -> bool:
    if isinstance(wish, StaticGpu):
        return _is_host(host, wish.host) and gpu.sbdf == wish.sbdf
    return gpu.vendor_device in pairs_of(wish) and wish.label in (None, gpu.label)


def _is_host(host: FleetHost, wanted: str) -> bool:
    return wanted in (host.ref.key, host.ref.moid) or wanted.casefold() == host.ref.name.casefold()


def _uses(cards: list[Card]) -> str:
    return "; ".join(f"{card.gpu.sbdf} {', '.join(use.name for use in card.uses) or 'empty'}" for card in cards)
