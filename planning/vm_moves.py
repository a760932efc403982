"""What becomes of VMs that cannot move while on: shut down, moved cold where a device waits, powered on again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.evacuation import FreeDevice, Neighbour, StoppedVm, StuckVms, WantedDevice
from contracts.host import HostState, HostVm
from contracts.plan import Risk, Step, StepKind
from planning.evacuation import cannot_be_stopped, stuck_vms

__all__ = ["VmSteps", "vm_steps", "wants_neighbours"]


@dataclass
class VmSteps:
    """Steps on VMs around the work on their host."""

    before: list[Step] = field(default_factory=list)
    """Before the host enters maintenance mode."""
    after: list[Step] = field(default_factory=list)
    """Once it has left it."""


def wants_neighbours(state: HostState, policy: StuckVms) -> bool:
    """Where VMs could be moved to matters to the plan."""
    if policy is not StuckVms.COLD_MIGRATE or state.cluster is None:
        return False
    return any(_can_go(vm) for vm in stuck_vms(state)) or any(
        vm.destination and not vm.powered_on for vm in state.stopped
    )


def vm_steps(
    state: HostState, policy: StuckVms, *, empties: bool, manager_goes: bool = False, skip: tuple[str, ...] = ()
) -> VmSteps:
    """The steps on VMs of a plan that empties the host (`empties`), or that only has to give VMs back.

    A VM that this run shut down (`state.stopped`) is powered on again whatever else happens: where it was moved to,
    or here at the end. It is moved only to the host that was approved when it was shut down. `manager_goes`: the plan
    removes the vGPU Manager. `skip` holds the IDs of steps that a person skipped.
    """
    made = VmSteps()
    places = _destinations(state) if empties and policy is StuckVms.COLD_MIGRATE else {}
    shut_down = {vm.moid for vm in state.stopped if not vm.powered_on}
    for vm in stuck_vms(state) if empties and policy is not StuckVms.WAIT else ():
        if vm.moid in shut_down or cannot_be_stopped(vm, manager_goes=manager_goes):
            continue
        place = _unless_skipped(vm, places.get(vm.moid), skip)
        stop = _shut_down(vm, place, _stays(vm) if policy is StuckVms.COLD_MIGRATE else "")
        if stop.id not in skip:
            made.before.append(stop)
            _then_on(made, vm, place, state)
    for stopped in state.stopped:
        if stopped.powered_on or stopped.gone:
            continue
        if stopped.host_moid != state.ref.moid:
            made.before.append(_power_on(stopped, stopped.host_name))
        else:
            _then_on(made, stopped, _unless_skipped(stopped, places.get(stopped.moid), skip), state)
    made.before = [step for step in made.before if step.id not in skip]
    made.after = [step for step in made.after if step.id not in skip]
    return made


def _then_on(made: VmSteps, vm: HostVm | StoppedVm, place: Neighbour | None, state: HostState) -> None:
    if place is None:
        made.after.append(_power_on(vm, state.ref.name))
    else:
        made.before += [_migrate(vm, place), _power_on(vm, place.name)]


def _unless_skipped(vm: HostVm | StoppedVm, place: Neighbour | None, skip: tuple[str, ...]) -> Neighbour | None:
    return place if place is not None and _migrate(vm, place).id not in skip else None


def _can_go(vm: HostVm) -> bool:
    """Only devices that any host may have let a VM run elsewhere."""
    return bool(vm.wants) and not vm.static_passthrough and not vm.vgpu_profiles


def _stays(vm: HostVm) -> str:
    if vm.static_passthrough:
        return "its DirectPath I/O device is here"
    if not _can_go(vm):
        return "only VMs with Dynamic DirectPath I/O devices are moved cold"
    wanted = ", ".join(" or ".join(want.allowed) + (f" {want.label!r}" if want.label else "") for want in vm.wants)
    return f"no other host of the cluster has what it needs: a free {wanted}, its datastores and memory"


def _destinations(state: HostState) -> dict[str, Neighbour]:
    """VM → host for VMs to be moved cold; each device is given once. By moid, so that later looks agree."""
    neighbours = sorted(state.neighbours or (), key=lambda each: each.name)
    free = {each.moid: list(each.free) for each in neighbours}
    memory = {each.moid: each.free_memory_mib for each in neighbours}
    found: dict[str, Neighbour] = {}

    def give(vm: HostVm | StoppedVm, place: Neighbour) -> bool:
        room, devices = memory[place.moid], _devices(vm.wants, free[place.moid])
        if devices is None or (room is not None and room < vm.memory_mib):
            return False
        free[place.moid] = [device for device in free[place.moid] if device not in devices]
        memory[place.moid] = None if room is None else room - vm.memory_mib
        return True

    off = [vm for vm in state.stopped if not vm.powered_on and not vm.gone]
    for place in neighbours:
        # What was moved and is off still needs its devices there.
        for vm in off:
            if vm.host_moid == place.moid:
                give(vm, place)
    waiting = {vm.moid: vm for vm in stuck_vms(state) if _can_go(vm)}
    here = {vm.moid: vm for vm in off if vm.host_moid == state.ref.moid and vm.destination}
    for moid, machine in sorted((waiting | here).items()):
        for place in neighbours:
            approved = not isinstance(machine, StoppedVm) or machine.destination == place.moid
            if approved and _allowed(state, machine, place) and give(machine, place):
                found[moid] = place
                break
    return found


def _allowed(state: HostState, vm: HostVm | StoppedVm, place: Neighbour) -> bool:
    """The host reaches the VM's disks, and no mandatory rule keeps the VM from it."""
    ruled_out = any(
        rule.mandatory and vm.moid in rule.vm_moids and place.moid not in rule.host_moids
        for rule in state.affinity_rules
    )
    return not ruled_out and set(vm.datastores) <= set(place.datastores)


def _devices(wants: Sequence[WantedDevice], free: Sequence[FreeDevice]) -> list[FreeDevice] | None:
    """A device for each that is wanted, none twice; None where they are not all there."""
    if not wants:
        return []
    for device in free:
        if device.vendor_device in wants[0].allowed and wants[0].label in ("", device.label):
            rest = _devices(wants[1:], [other for other in free if other is not device])
            if rest is not None:
                return [device, *rest]
    return None


def _shut_down(vm: HostVm, place: Neighbour | None, stays: str) -> Step:
    if place:
        then = f"moved to {place.name}, which has free devices for it, and powered on there"
    else:
        then = "stays off until this host has left maintenance mode, then is powered on again"
        then += f" ({stays})" if stays else ""
    return Step(
        kind=StepKind.SHUT_DOWN_GUEST,
        target=vm.name,
        reason=f"it cannot be moved while on: {vm.stays_because or 'it holds a host device'}",
        change=f"VM {vm.name} is shut down by its guest, {then}",
        risk=Risk.DISRUPTIVE,
        params={"moid": vm.moid} | ({"destination": place.moid} if place else {}),
    )


def _migrate(vm: HostVm | StoppedVm, place: Neighbour) -> Step:
    return Step(
        kind=StepKind.MIGRATE_COLD,
        target=vm.name,
        reason=f"{place.name} has free devices for it",
        change=f"VM {vm.name}, off, is moved to {place.name}; its disks stay",
        risk=Risk.DISRUPTIVE,
        params={"moid": vm.moid, "destination": place.moid, "destination_name": place.name},
    )


def _power_on(vm: HostVm | StoppedVm, where: str) -> Step:
    return Step(
        kind=StepKind.POWER_ON_VM,
        target=vm.name,
        reason="this run shut it down",
        change=f"VM {vm.name} is powered on again on {where}",
        risk=Risk.SAFE,
        params={"moid": vm.moid},
    )
