"""Where a GPU VM could run, and why nowhere else: told before anybody is asked, from one read of the inventory."""

from contracts.fleet import FleetHost, GpuFleet
from contracts.machine import HostFit, Placement
from contracts.vms import VmRequest
from planning.rooms import Refusal, Room, room_of

__all__ = ["place", "place_many"]

_MOST_ROOM = 1000
"""Counting further tells nobody more."""


def place(fleet: GpuFleet, request: VmRequest, *, without: str = "", packed: bool = False) -> Placement:
    """Which hosts of the request's cluster could take one such VM now, and why the others could not.

    `without` is the moid of a VM that counts as off: the one that is to be changed. Hosts that fit come first, the one
    with most GPUs left before the others, or with `packed` the one with fewest.
    """
    fits, ranks, room = [], {}, 0
    for space in _rooms(fleet, request, without):
        attempt = space.copy()
        found = attempt.take(request.gpus, request.memory_mib, request.cpus)
        fit = _fit(space.host, found)
        fits.append(fit)
        ranks[fit.host.key] = _left(space) * (1 if packed else -1)
        while fit.fits and room < _MOST_ROOM:
            room += 1
            if any(isinstance(each, Refusal) for each in attempt.take(request.gpus, request.memory_mib, request.cpus)):
                break
    ordered = sorted(fits, key=lambda fit: (not fit.fits, ranks[fit.host.key] if fit.fits else 0, fit.host.name))
    cluster = fleet.cluster(request.cluster)
    return Placement(hosts=tuple(ordered), room=room, drs_places=cluster is None or cluster.drs_enabled)


def place_many(fleet: GpuFleet, request: VmRequest, count: int, *, packed: bool = False) -> tuple[str, ...]:
    """Host keys for up to `count` VMs of one shape, one entry a VM: spread over the hosts, or `packed` onto few."""
    rooms = {space.host.ref.key: space for space in _rooms(fleet, request, "")}
    chosen: list[str] = []
    load = dict.fromkeys(rooms, 0)
    while len(chosen) < count and rooms:
        key = min(rooms, key=lambda key: (-load[key] if packed else load[key], _left(rooms[key]), key))
        found = rooms[key].take(request.gpus, request.memory_mib, request.cpus)
        if any(isinstance(each, Refusal) for each in found):
            del rooms[key]
            continue
        load[key] += 1
        chosen.append(key)
    return tuple(chosen)


def _rooms(fleet: GpuFleet, request: VmRequest, without: str) -> list[Room]:
    cluster = fleet.cluster(request.cluster)
    by_host: dict[str, list[int]] = {}
    for index, vm in enumerate(fleet.vms):
        by_host.setdefault(vm.host_moid, []).append(index)
    return [
        room_of(host, [fleet.vms[index] for index in by_host.get(host.ref.moid, ())], without=without)
        for host in fleet.hosts
        if cluster is not None and host.cluster_moid == cluster.moid
    ]


def _fit(host: FleetHost, found: tuple[str, ...] | tuple[Refusal, ...]) -> HostFit:
    refusals = [each for each in found if isinstance(each, Refusal)]
    if refusals:
        return HostFit(host=host.ref, fits=False, why="; ".join(each.text for each in refusals), code=refusals[0].code)
    return HostFit(host=host.ref, fits=True, sbdfs=tuple(str(each) for each in found))


def _left(room: Room) -> int:
    """How much is left, in GPUs and MiB of shared framebuffer: for comparing hosts of one cluster."""
    shared = sum(card.gpu.framebuffer_mib - sum(use.framebuffer_mib for use in card.uses) for card in room.cards)
    return len(room.free) * 2**20 + shared
