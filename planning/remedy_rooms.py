"""Room that is promised to one VM after the other, so that nothing is promised twice, and room that others make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from contracts.fleet import FleetHost, FleetVm, GpuFleet
from contracts.vms import DynamicGpu, GpuWish, VgpuGpu
from planning.rooms import Refusal, Room, room_by_ha, wishes_of

__all__ = ["RANKS", "Displaced", "Place", "Promises", "Wanted", "by_priority"]

RANKS = {"highest": 0, "high": 1, "medium": 2, "low": 3, "lowest": 4}
"""HA's restart priorities; `disabled` says nothing about who comes first."""
_MOST_DISPLACED = 4
_MOST_TRIES = 1000
"""Of making room, in one plan: what takes longer is for people to find."""


def by_priority(priority: str, moid: str) -> tuple[int, int, str]:
    """The order in which VMs are given room: by restart priority, equal ones by the number in their moid."""
    digits = moid.rpartition("-")[2]
    return RANKS.get(priority, len(RANKS)), int(digits) if digits.isdigit() else 0, moid


@dataclass(frozen=True)
class Wanted:
    """What a VM needs to run, and where it may."""

    wishes: tuple[GpuWish, ...]
    memory_mib: int
    hosts: tuple[str, ...]
    """Moids of the hosts that may take it."""
    home: str = ""
    """Moid of the host that has it now, which is preferred."""
    rank: int = len(RANKS)


@dataclass(frozen=True)
class Place:
    """Where a VM gets room."""

    host: FleetHost
    sbdfs: tuple[str, ...]
    """The GPUs, in the order of the whole ones asked for and then of shares; the host has the last word."""


@dataclass(frozen=True)
class Displaced:
    """A running VM that makes room: moved to `host`, or suspended."""

    vm: FleetVm
    host: FleetHost | None = None


@dataclass
class _Promise:
    wishes: tuple[GpuWish, ...]
    memory_mib: int


@dataclass
class Promises:
    """The rooms of a fleet's hosts, with what was promised in them. Hosts are tried by name, so that looks agree."""

    fleet: GpuFleet
    hosts: dict[str, FleetHost] = field(init=False)
    _rooms: dict[str, Room] = field(init=False)
    _made: dict[str, list[_Promise]] = field(init=False, default_factory=dict)
    _gone: set[str] = field(init=False, default_factory=set)
    _tries: int = field(init=False, default=_MOST_TRIES)
    _full: set[object] = field(init=False, default_factory=set)
    """Wishes that no host has room for."""
    _stuck: set[object] = field(init=False, default_factory=set)
    """Wishes, with their rank, that nobody can make room for."""
    _hopeless: set[tuple[str, int, object]] = field(init=False, default_factory=set)
    """Hosts where so many VMs are not enough for such a wish."""

    def __post_init__(self) -> None:
        ordered = sorted(self.fleet.hosts, key=lambda host: (host.ref.name, host.ref.key))
        self.hosts = {host.ref.moid: host for host in ordered}
        self._on: dict[str, list[FleetVm]] = {}
        for vm in self.fleet.vms:
            self._on.setdefault(vm.host_moid, []).append(vm)
        self._rooms = {moid: self._room(moid, frozenset()) for moid in self.hosts}

    def _room(self, moid: str, gone: frozenset[str]) -> Room:
        """A host's room, were the running VMs with these moids not there; without promises."""
        host, vms = self.hosts[moid], self._on.get(moid, [])
        out = [vm for vm in vms if vm.moid in gone and vm.powered_on]
        if out:
            left = {vm.moid for vm in out}
            gpus = tuple(
                gpu.model_copy(update={"vm_moids": tuple(each for each in gpu.vm_moids if each not in left)})
                for gpu in host.gpus
            )
            reserved = max(0, host.reserved_mib - sum(vm.memory_mib for vm in out))
            host = host.model_copy(update={"gpus": gpus, "reserved_mib": reserved})
        return room_by_ha(host, [vm for vm in vms if vm.moid not in gone])

    def place(self, wanted: Wanted) -> Place | None:
        """Promise room, on the VM's own host if it can be; None where there is none. Labels are spared."""
        best: tuple[tuple[int, int], str, Room, tuple[str, ...]] | None = None
        for order, moid in enumerate(self._open_to(wanted) if self._hopeful(wanted) else ()):
            attempt = self._rooms[moid].copy()
            found = _taken(attempt, wanted)
            if found is None:
                continue
            rank = (_labels_wasted(self.hosts[moid], wanted.wishes, found), order)
            if best is None or rank < best[0]:
                best = (rank, moid, attempt, found)
            if best[0][0] == 0:
                break
        if best is None:
            self._full.add(_key(wanted))
            return None
        _, moid, attempt, found = best
        self._promise(moid, attempt, wanted)
        return Place(self.hosts[moid], found)

    def fits_somewhere(self, wanted: Wanted) -> tuple[FleetHost, ...]:
        """The hosts that have room now; nothing is promised."""
        if not self._hopeful(wanted):
            return ()
        found = tuple(
            self.hosts[moid] for moid in self._open_to(wanted) if _taken(self._rooms[moid].copy(), wanted) is not None
        )
        if not found:
            self._full.add(_key(wanted))
        return found

    def _hopeful(self, wanted: Wanted) -> bool:
        """No equal wish was refused: what is full stays so, until somebody makes room."""
        return _key(wanted) not in self._full

    def missing(self, hosts: Sequence[str], wish: GpuWish, needed: int) -> int:
        """How many of `needed` GPUs, or shares, of this kind are nowhere left."""
        got = 0
        for moid in hosts:
            attempt = self._rooms[moid].copy()
            attempt.memory_mib = 0
            while got < needed and _taken(attempt, Wanted((wish,), 0, ())) is not None:
                got += 1
        return needed - got

    def _open_to(self, wanted: Wanted) -> list[str]:
        allowed = set(wanted.hosts)
        return sorted((moid for moid in self.hosts if moid in allowed), key=lambda moid: moid != wanted.home)

    def _promise(self, moid: str, room: Room, wanted: Wanted) -> None:
        self._rooms[moid] = room
        self._made.setdefault(moid, []).append(_Promise(wanted.wishes, wanted.memory_mib))

    def make_room(
        self, wanted: Wanted, how: str, hosts_for: Callable[[FleetVm], Sequence[str]]
    ) -> tuple[Place, tuple[Displaced, ...]] | None:
        """Promise room that running vGPU VMs of strictly lower restart priority make; None where they cannot.

        `how` is `move` or `suspend`. Fewest first, then those of the lowest priority.
        """
        if (key := (_key(wanted), wanted.rank)) in self._stuck:
            return None
        self._stuck.add(key)
        candidates = {moid: self._displaceable(moid, wanted.rank, how, hosts_for) for moid in self._open_to(wanted)}
        hopeful = {
            moid: vms
            for moid, vms in candidates.items()
            if vms and self._attempt(moid, frozenset(vm.moid for vm in vms), wanted) is not None
        }
        for size in range(1, _MOST_DISPLACED + 1):
            for moid, vms in hopeful.items():
                if (moid, size, key) in self._hopeless:
                    continue
                looks: set[object] = set()
                for chosen in combinations(vms, size):
                    look = tuple(sorted(map(_look, chosen)))
                    if look in looks:
                        continue
                    looks.add(look)
                    if self._tries <= 0:
                        return None
                    self._tries -= 1
                    if (made := self._displacing(moid, chosen, wanted, how, hosts_for)) is not None:
                        return made
                self._hopeless.add((moid, size, key))
        return None

    def _displaceable(
        self, moid: str, rank: int, how: str, hosts_for: Callable[[FleetVm], Sequence[str]]
    ) -> list[FleetVm]:
        migrates = {kind.name for kind in self.hosts[moid].vgpu_kinds if kind.migrate_supported}
        found = [
            vm
            for vm in self._on.get(moid, [])
            if vm.powered_on
            and vm.moid not in self._gone
            and vm.gpus
            and all(gpu.kind == "vgpu" for gpu in vm.gpus)
            and RANKS.get(vm.restart_priority, -1) > rank
            and not vm.managed_by
            and not vm.template
            and not vm.question
            and vm.connection_state == "connected"
            and (
                how != "move"
                or (
                    all(gpu.profile in migrates for gpu in vm.gpus)
                    and self.fits_somewhere(_moving(vm, [each for each in hosts_for(vm) if each != moid]))
                )
            )
        ]
        return sorted(found, key=lambda vm: (-RANKS[vm.restart_priority], by_priority("", vm.moid)))

    def _attempt(self, moid: str, gone: frozenset[str], wanted: Wanted) -> tuple[Room, tuple[str, ...]] | None:
        """The host's room after that VM has taken its part, were the VMs in `gone` not there."""
        room = self._room(moid, gone | self._gone)
        for promise in self._made.get(moid, ()):
            if _taken(room, Wanted(promise.wishes, promise.memory_mib, ())) is None:
                return None
        found = _taken(room, wanted)
        return None if found is None else (room, found)

    def _displacing(
        self,
        moid: str,
        chosen: tuple[FleetVm, ...],
        wanted: Wanted,
        how: str,
        hosts_for: Callable[[FleetVm], Sequence[str]],
    ) -> tuple[Place, tuple[Displaced, ...]] | None:
        made = self._attempt(moid, frozenset(vm.moid for vm in chosen), wanted)
        if made is None:
            return None
        rooms: dict[str, Room] = {}
        moved: list[tuple[FleetVm, str]] = []
        for vm in chosen if how == "move" else ():
            goal = _moving(vm, [each for each in hosts_for(vm) if each != moid])
            for other in self._open_to(goal):
                attempt = rooms.get(other, self._rooms[other]).copy()
                if _taken(attempt, goal) is not None:
                    rooms[other] = attempt
                    moved.append((vm, other))
                    break
            else:
                return None
        self._gone |= {vm.moid for vm in chosen}
        self._promise(moid, made[0], wanted)
        for vm, other in moved:
            self._promise(other, rooms[other], _moving(vm, ()))
        self._full.clear()
        self._stuck.clear()
        # Where nobody left, and nobody may go, nothing has become possible.
        self._hopeless = {each for each in self._hopeless if not moved and each[0] != moid}
        where = {vm.moid: self.hosts[other] for vm, other in moved}
        return Place(self.hosts[moid], made[1]), tuple(Displaced(vm, where.get(vm.moid)) for vm in chosen)


def _look(vm: FleetVm) -> tuple[object, ...]:
    """VMs that look alike leave the same room; one of which it is not known where it is, looks like no other."""
    seats = tuple(sorted((gpu.assigned, gpu.profile) for gpu in vm.gpus))
    return seats, vm.memory_mib, "" if all(seat for seat, _ in seats) else vm.moid


def _moving(vm: FleetVm, hosts: Sequence[str]) -> Wanted:
    return Wanted(wishes_of(vm), vm.memory_mib, tuple(hosts))


def _key(wanted: Wanted) -> tuple[object, ...]:
    return wanted.wishes, wanted.memory_mib, wanted.hosts


def _taken(room: Room, wanted: Wanted) -> tuple[str, ...] | None:
    """The GPUs taken from a room; None where they, or the memory, are not there."""
    found = room.take(wanted.wishes, wanted.memory_mib)
    return None if any(isinstance(each, Refusal) for each in found) else tuple(str(each) for each in found)


def _labels_wasted(host: FleetHost, wishes: Sequence[GpuWish], sbdfs: Sequence[str]) -> int:
    """GPUs with a label that go to wishes that name none."""
    labels = {gpu.sbdf: gpu.label for gpu in host.gpus}
    whole = [wish for wish in wishes if not isinstance(wish, VgpuGpu)]
    return sum(
        isinstance(wish, DynamicGpu) and wish.label is None and labels[sbdf] != ""
        for wish, sbdf in zip(whole, sbdfs, strict=False)
    )
