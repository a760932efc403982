"""What the hosts of a cluster have left for the VMs of one that fails, shared by the forecasts of all of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.fleet import FleetHost, FleetVm, GpuFleet, VmGpu
from planning.gpu_models import pair_words
from planning.rooms import Refusal, Room, room_by_ha, wishes_of

__all__ = ["Spare", "Trial", "device_name", "refusals_in"]

_Device = tuple[str, tuple[str, ...], str, str]


def device_name(gpu: VmGpu) -> str:
    """A device as its VM asks for it: `A100 label Training`, `10de:20f1 label Training`, `nvidia_a40-24c`."""
    if gpu.kind == "vgpu":
        return gpu.profile
    return pair_words(gpu.allowed) + (f" label {gpu.label}" if gpu.label else "")


class Spare:
    """The rooms of a cluster's hosts as they are now. They are never changed, so that all forecasts share them."""

    def __init__(self, fleet: GpuFleet, cluster_moid: str, down: Collection[str] = ()) -> None:
        """`down`: keys of hosts that count as gone already."""
        hosts = [host for host in fleet.hosts if host.cluster_moid == cluster_moid]
        self.hosts = {host.ref.moid: host for host in hosts}
        self._vms: dict[str, list[FleetVm]] = {}
        for vm in fleet.vms:
            self._vms.setdefault(vm.host_moid, []).append(vm)
        self.rooms = {host.ref.moid: self._room(host, down) for host in hosts}
        self._refusals: dict[tuple[tuple[_Device, ...], str], tuple[Refusal, ...]] = {}

    def _room(self, host: FleetHost, down: Collection[str]) -> Room:
        room = room_by_ha(host, self._vms.get(host.ref.moid, ()))
        room.memory_mib = max(0, room.memory_mib)
        if host.ref.key in down:
            room.refused = Refusal("down", "it is down")
        return room

    def running_on(self, host_moid: str) -> list[FleetVm]:
        """The GPU VMs that run there, as far as vCenter shows."""
        return [vm for vm in self._vms.get(host_moid, ()) if vm.powered_on]

    def refusals(self, host_moid: str, gpus: Sequence[VmGpu], wanting: FleetVm) -> tuple[Refusal, ...]:
        """Why a host has not these devices of a VM now, whatever its memory; empty where it has."""
        key = (tuple((gpu.kind, gpu.allowed, gpu.label, gpu.profile) for gpu in gpus), host_moid)
        if key not in self._refusals:
            self._refusals[key] = refusals_in(self.rooms[host_moid], gpus, wanting)
        return self._refusals[key]


def refusals_in(room: Room, gpus: Sequence[VmGpu], wanting: FleetVm) -> tuple[Refusal, ...]:
    """Why a room has not these devices, whatever its memory; empty where it has. The room stays as it is."""
    asked = wishes_of(wanting.model_copy(update={"gpus": tuple(gpus)}))
    return tuple(each for each in room.copy().take(asked, 0) if isinstance(each, Refusal))


@dataclass
class Trial:
    """The cluster without one host; what VMs take is kept in copies of the rooms that they take it from."""

    spare: Spare
    failed: str
    """Moid of the host that fails."""
    others: Mapping[str, FleetHost] = field(init=False)
    """The other hosts, by moid, in the order of the inventory."""
    _taken: dict[str, Room] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.others = {moid: host for moid, host in self.spare.hosts.items() if moid != self.failed}

    def memory_mib(self, moid: str) -> int:
        """Memory that is left on a host."""
        return self._room(moid).memory_mib

    def refusals(self, moid: str, gpus: Sequence[VmGpu], wanting: FleetVm) -> tuple[Refusal, ...]:
        """Why a host has not these devices of a VM any more; empty where it has."""
        if before := self.spare.refusals(moid, gpus, wanting):
            # What is taken meanwhile gives nobody room.
            return before
        return refusals_in(self._taken[moid], gpus, wanting) if moid in self._taken else ()

    def take(self, moid: str, gpus: Sequence[VmGpu], wanting: FleetVm, memory_mib: int) -> None:
        """Give a VM these devices and memory on a host that has them."""
        room = self._room(moid).copy()
        room.take(wishes_of(wanting.model_copy(update={"gpus": tuple(gpus)})), memory_mib)
        self._taken[moid] = room

    def _room(self, moid: str) -> Room:
        return self._taken.get(moid) or self.spare.rooms[moid]
