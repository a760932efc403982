"""Is the object behind a moid still the host that was meant? Moids change when a host is re-added."""

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest
from contracts.host import HostRef
from vsphere.faults import translated
from vsphere.inventory import host_index
from vsphere.properties import read_properties

__all__ = ["confirm_host"]


def confirm_host(si: vim.ServiceInstance, ref: HostRef) -> HostRef:
    """The host with the key of `ref` as it is in the inventory now: same moid, or a new one after a re-add.

    One small read where nothing changed. Raises `BadRequest` when no host has that key any more.
    """
    with translated(f"look for host {ref.name} of {ref.vcenter}"):
        try:
            read = read_properties(si, vim.HostSystem(ref.moid, si._stub), {vim.HostSystem: ["summary.hardware.uuid"]})[
                ref.moid
            ]
        except vmodl.fault.ManagedObjectNotFound:
            uuid = ""
        else:
            uuid = str(read.get("summary.hardware.uuid") or "").lower()
    if ref.key in (uuid, f"{uuid}.{ref.moid}") or (not uuid and ref.key == ref.moid):
        return ref
    moved = [host.ref for host in host_index(si, ref.vcenter).hosts if host.ref.key == ref.key]
    if not moved:
        raise BadRequest(f"host {ref.name} ({ref.key}) is no longer in the inventory of {ref.vcenter}")
    return moved[0]
