"""vCenters for one command: opened when asked for and closed after."""

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import BadRequest, Conflict
from contracts.host import HostRef
from vsphere.inventory import find_host
from vsphere.sessions import SessionPool
from workers.settings import Settings

__all__ = ["locate_host", "sessions"]


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
