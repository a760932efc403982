"""vCenters for one command: opened when asked for and closed after."""

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import BadRequest, Conflict
from contracts.host import HostRef
from vsphere.inventory import IndexedHost, find_host, host_index
from vsphere.sessions import SessionPool
from workers.settings import Settings

__all__ = ["locate_cluster", "locate_host", "sessions"]


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
    if vcenter is not None and vcenter not in pools:
        raise BadRequest(f"there is no vCenter {vcenter!r} in the configuration; it has: {', '.join(pools)}")
    found: list[HostRef] = []
    missing: list[str] = []
    for pool in [pools[vcenter]] if vcenter else pools.values():
        try:
            with pool.session() as si:
                found.append(find_host(si, pool.name, name))
        except BadRequest as error:
            missing.append(str(error))
    if len(found) > 1:
        where = ", ".join(ref.vcenter for ref in found)
        raise Conflict(f"host {name!r} is in several vCenters: {where}; say which with --vcenter")
    if not found:
        raise BadRequest("; ".join(missing))
    return found[0]


def locate_cluster(pools: dict[str, SessionPool], name: str, vcenter: str | None) -> IndexedHost:
    """One host of the cluster of that name or moid, which says which cluster it is.

    Raises `BadRequest` when no cluster with hosts is called so, and `Conflict` when several are.
    """
    if vcenter is not None and vcenter not in pools:
        raise BadRequest(f"there is no vCenter {vcenter!r} in the configuration; it has: {', '.join(pools)}")
    found: dict[tuple[str, str], IndexedHost] = {}
    known: set[str] = set()
    for pool in [pools[vcenter]] if vcenter else pools.values():
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
