"""Look and plan for a GPU VM in one: used by the activity, and by `gpuwright plan vm`, which changes nothing."""

from typing import Any

from activities.vm_permits import subject_of
from contracts.approvals import ApprovalTerms
from contracts.errors import BadRequest, Conflict
from contracts.fleet import GpuFleet
from contracts.machine import Placement, VmRef, VmState, VmTarget
from contracts.plan import plan_hash
from contracts.provision import LookAtVm, VmLimits, VmPlan, VmWork
from contracts.vms import StaticGpu, VmRequest
from planning.machine import VmSight, needs_guest, plan_vm, proof_of
from planning.machine_rules import cannot_do
from planning.placement import place
from planning.rooms import profile_kind
from vsphere.fleet import read_fleet
from vsphere.sessions import SessionPool
from vsphere.vm_build import copies_under_way
from vsphere.vm_state import find_child, find_made_by, find_vm, read_vm, ref_of
from vsphere.vm_target import resolve_target

__all__ = ["look_at_vm", "reported_framebuffers"]

_MOST_HOSTS = 64
"""History keeps every look: hosts that fit come first, and the rest repeats itself."""


def look_at_vm(
    pool: SessionPool, order: LookAtVm, terms: ApprovalTerms, limits: VmLimits, *, ask_always: bool = False
) -> VmPlan:
    """Read the VM, if there is one, and where it could run, and plan what it lacks; changes nothing.

    Raises `BadRequest` for names that vCenter does not know, and the translated faults of the reads.
    """
    request = order.request
    if order.work is not VmWork.RETIRE and request is None:
        raise BadRequest(f"to {order.work} a VM takes a request")
    with pool.session() as si:
        target, state = _find(si, pool.name, order)
        fleet = _fleet(si, pool.name, order, target, state)
        copies: tuple[str, ...] = ()
        if order.work is VmWork.UNDO and state is None and order.vm is None and order.folder:
            copies = copies_under_way(si, order.folder, order.template)
    placement = Placement()
    if fleet is not None and request is not None:
        there = request.model_copy(update={"cluster": _cluster(request, target, state)})
        placement = place(fleet, there, without=state.ref.moid if state else "")
        placement = placement.model_copy(update={"hosts": placement.hosts[:_MOST_HOSTS]})
    sight = VmSight(
        state=state,
        target=target,
        placement=placement,
        run=order.run,
        reported_mib=reported_framebuffers(fleet, request) if fleet is not None and request is not None else {},
        guest=order.guest,
        shut_down=order.shut_down,
    )
    plan = plan_vm(order.work, request, sight)
    subject = subject_of(pool.name, state.ref if state else order.vm, request.name if request else "")
    return VmPlan(
        state=state,
        target=target,
        placement=placement,
        plan=plan,
        plan_hash=plan_hash(subject, plan),
        subject=subject,
        ask_always=ask_always and order.work is VmWork.PROVISION,
        copies=copies,
        guest_unread=needs_guest(order.work, request, sight),
        cannot=cannot_do(request.gpus) if request is not None else (),
        proof=proof_of(state, order.guest) if state is not None and state.powered_on else (),
        terms=terms,
        limits=limits,
    )


def reported_framebuffers(fleet: GpuFleet, request: VmRequest) -> dict[str, int]:
    """MiB that hosts report, the largest: by vendor:device, by address for static devices, by name for profiles."""
    found: dict[str, int] = {}

    def larger(key: str, mib: int) -> None:
        found[key] = max(mib, found.get(key, 0))

    for host in fleet.hosts:
        named = {host.ref.key, host.ref.moid, host.ref.name}
        for gpu in host.gpus:
            larger(gpu.vendor_device, gpu.framebuffer_mib)
        for wish in request.gpus:
            if wish.kind == "vgpu":
                larger(wish.profile, profile_kind(host, wish.profile).framebuffer_mib)
            elif isinstance(wish, StaticGpu) and wish.host in named:
                for gpu in host.gpus:
                    if gpu.sbdf == wish.sbdf:
                        larger(gpu.sbdf, gpu.framebuffer_mib)
    return found


def _find(si: Any, vcenter: str, order: LookAtVm) -> tuple[VmTarget | None, VmState | None]:
    """The VM as it is, and the request's names where a VM is to be made."""
    request = order.request
    if order.vm is not None:
        return _again(si, order, order.vm)
    if request is None:
        raise BadRequest(f"to {order.work} a VM takes its reference")
    if order.work is VmWork.CHANGE:
        return None, read_vm(si, find_vm(si, vcenter, request.name, request.folder))
    target = resolve_target(si, request) if order.work is VmWork.PROVISION else None
    folder = target.folder if target is not None else order.folder
    found = find_made_by(si, vcenter, order.run, folder, request.name) if order.run and folder else None
    if found is None and target is not None:
        found = _taken(si, vcenter, target.folder, request.name)
    return target, read_vm(si, found) if found is not None else None


def _again(si: Any, order: LookAtVm, vm: VmRef) -> tuple[VmTarget | None, VmState | None]:
    """A VM that was seen before."""
    state = read_vm(si, vm)
    if order.work is not VmWork.PROVISION or order.request is None:
        return None, state
    if state is None:
        raise Conflict(f"{vm.name} was made and is no longer in vCenter: somebody removed it")
    return (resolve_target(si, order.request) if state.half_made else None), state


def _taken(si: Any, vcenter: str, folder: str, name: str) -> VmRef | None:
    """A VM that has the name already, in the folder where names have to differ."""
    read = find_child(si, folder, name)
    return ref_of(vcenter, read) if read is not None and read.get("config.instanceUuid") else None


def _fleet(si: Any, vcenter: str, order: LookAtVm, target: VmTarget | None, state: VmState | None) -> GpuFleet | None:
    """The GPUs of the cluster, where the plan depends on them."""
    if order.request is None or order.work not in (VmWork.PROVISION, VmWork.CHANGE):
        return None
    if state is None and target is None:
        return None
    if order.work is VmWork.PROVISION and state is not None and state.powered_on:
        return None
    fleet = read_fleet(si, vcenter, _cluster(order.request, target, state))
    if order.work is VmWork.CHANGE and fleet.cluster(order.request.cluster) is None:
        raise BadRequest(f"{order.request.name} is in another cluster than {order.request.cluster!r}; name its own")
    return fleet


def _cluster(request: VmRequest, target: VmTarget | None, state: VmState | None) -> str:
    if target is not None:
        return target.cluster
    return state.cluster_moid if state is not None and state.cluster_moid else request.cluster
