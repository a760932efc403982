"""vCenters for one command: opened when asked for and closed after."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pyVmomi import vim
from rich.markup import escape

from cli.show import stderr
from contracts.errors import BadRequest, Conflict
from contracts.fleet import GpuFleet
from contracts.host import HostRef
from contracts.machine import VmRef
from vsphere.fleet import read_fleet
from vsphere.inventory import IndexedHost, find_host, host_index
from vsphere.sessions import SessionPool
from vsphere.vm_state import find_vm
from workers.settings import Settings

__all__ = ["chosen_pools", "locate_cluster", "locate_host", "locate_vm", "read_fleets", "sessions"]

R = TypeVar("R", HostRef, VmRef)


@contextmanager
def sessions(settings: Settings) -> Iterator[dict[str, SessionPool]]:
    """Session pools of every configured vCenter; nothing is connected before it is used."""
    pools = {vcenter.name: SessionPool(vcenter) for vcenter in settings.vcenters}
    try:
        yield pools
    finally:
        for pool in pools.values():
            pool.close()


def locate_host(pools: dict[str, SessionPool], name: str, vcenter: str | None) -> HostRef:
    """Find a host by name, moid or hardware UUID in one vCenter, or in all of them.

    Raises `BadRequest` when there is no such host, and `Conflict` when several vCenters have one.
    """
    return _locate(pools, f"host {name!r}", vcenter, lambda si, pool: find_host(si, pool, name))


def locate_vm(pools: dict[str, SessionPool], name: str, vcenter: str | None) -> VmRef:
    """Find a VM by name, `folder/name`, moid or instance UUID in one vCenter, or in all of them.

    Raises `BadRequest` when there is no such VM, and `Conflict` when several vCenters have one.
    """
    return _locate(pools, f"VM {name!r}", vcenter, lambda si, pool: find_vm(si, pool, name))


def chosen_pools(pools: dict[str, SessionPool], vcenter: str | None) -> list[SessionPool]:
    """The vCenter of that name, or all of them; raises `BadRequest`."""
    if vcenter is not None and vcenter not in pools:
        raise BadRequest(f"there is no vCenter {vcenter!r} in the configuration; it has: {', '.join(pools)}")
    return [pools[vcenter]] if vcenter else list(pools.values())


def read_fleets(pools: dict[str, SessionPool], vcenter: str | None, cluster: str | None) -> list[GpuFleet]:
    """The GPUs of one vCenter or of all of them, or of the cluster in those that have one of that name or moid.

    What could not be read is told on stderr. Raises `BadRequest` where nobody has the cluster.
    """
    found: list[GpuFleet] = []
    missing: list[str] = []
    for pool in chosen_pools(pools, vcenter):
        try:
            with pool.session() as si:
                found.append(read_fleet(si, pool.name, cluster))
        except BadRequest as error:
            # A cluster is in one of the vCenters.
            missing.append(str(error))
            continue
        for unread in found[-1].unread:
            stderr.print(f"{escape(pool.name)}: could not be read: {escape(unread)}", style="yellow")
    if not found:
        raise BadRequest("; ".join(missing))
    return found


def _locate(
    pools: dict[str, SessionPool], what: str, vcenter: str | None, find: Callable[[vim.ServiceInstance, str], R]
) -> R:
    found: list[R] = []
    missing: list[str] = []
    for pool in chosen_pools(pools, vcenter):
        try:
            with pool.session() as si:
                found.append(find(si, pool.name))
        except BadRequest as error:
            missing.append(str(error))
    if len(found) > 1:
        where = ", ".join(ref.vcenter for ref in found)
        raise Conflict(f"{what} is in several vCenters: {where}; say which with --vcenter")
    if not found:
        raise BadRequest("; ".join(missing))
    return found[0]


def locate_cluster(pools: dict[str, SessionPool], name: str, vcenter: str | None) -> IndexedHost:
    """One host of the cluster of that name or moid, which says which cluster it is.

    Raises `BadRequest` when no cluster with hosts is called so, and `Conflict` when several are.
    """
    found: dict[tuple[str, str], IndexedHost] = {}
    known: set[str] = set()
    for pool in chosen_pools(pools, vcenter):
        with pool.session() as si:
            hosts = [host for host in host_index(si, pool.name).hosts if host.cluster_moid]
        known |= {host.cluster_name for host in hosts}
        found |= {
            (pool.name, host.cluster_moid): host for host in hosts if name in (host.cluster_name, host.cluster_moid)
        }
    if len(found) > 1:
        where = ", ".join(f"{moid} of {pool}" for pool, moid in found)
        raise Conflict(f"several clusters are called {name!r}: {where}; use the moid, and --vcenter")
    if not found:
        raise BadRequest(f"there is no cluster {name!r} with hosts; clusters are: {', '.join(sorted(known)) or 'none'}")
    return next(iter(found.values()))
