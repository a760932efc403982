"""Look how many VMs of one shape could be had now, and on which hosts: one read for all of them."""

from activities.vm_looking import reported_framebuffers
from contracts.fleet import FleetCluster
from contracts.plan import Blocker
from contracts.provision import VmWork
from contracts.vm_fleet import Arrangement, LookForRoom, RoomFound
from planning.machine import VmSight, plan_vm
from planning.placement import place, place_many
from vsphere.fleet import read_fleet
from vsphere.sessions import SessionPool
from vsphere.vm_target import resolve_target

__all__ = ["look_for_room"]


def look_for_room(pool: SessionPool, order: LookForRoom) -> RoomFound:
    """Resolve the request's names and find a host for each VM that is not there; changes nothing.

    Raises `BadRequest` for names that vCenter does not know, and the translated faults of the reads.
    """
    with pool.session() as si:
        target = resolve_target(si, order.request)
        fleet = read_fleet(si, pool.name, target.cluster)
    has = {vm.name for vm in fleet.vms}
    there = tuple(name for name in order.names if name in has)
    request = order.request.model_copy(update={"cluster": target.cluster})
    placement = place(fleet, request)
    sight = VmSight(state=None, target=target, placement=placement, reported_mib=reported_framebuffers(fleet, request))
    blockers = plan_vm(VmWork.PROVISION, order.request, sight).blockers
    if blockers:
        return RoomFound(there=there, why=" ".join(map(_told, blockers)), error=blockers[0].error)
    packed = order.arrangement is Arrangement.PACKED
    refs = {host.ref.key: host.ref for host in fleet.hosts}
    keys = place_many(fleet, request, len(order.names) - len(there), packed=packed)
    cluster = fleet.cluster(target.cluster)
    return RoomFound(
        there=there,
        hosts=tuple(refs[key] for key in keys),
        named=cluster is not None and _named(cluster, packed=packed),
    )


def _named(cluster: FleetCluster, *, packed: bool) -> bool:
    """Whether VMs are told their hosts: without DRS they must be, and DRS spreads by itself.

    Where DRS is manual, people place VMs by its recommendations, and naming a host would go around them.
    """
    if not cluster.drs_enabled:
        return True
    return packed and cluster.drs_automation != "manual"


def _told(blocker: Blocker) -> str:
    return f"{blocker.text}. Fix: {blocker.fix}."
