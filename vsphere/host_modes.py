"""Whether hosts were taken out of service on purpose: one small read of a few hosts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pyVmomi import vim, vmodl

from vsphere.faults import translated
from vsphere.sessions import content, vcenter_name

__all__ = ["HostModes", "read_host_modes"]

_PC = vmodl.query.PropertyCollector


@dataclass(frozen=True, slots=True)
class HostModes:
    """How vCenter shows a host."""

    maintenance: bool
    """`runtime.inMaintenanceMode`: not before every VM is off it."""
    standby: bool
    """In DPM standby, or on its way in or out (`runtime.standbyMode`)."""


def read_host_modes(si: vim.ServiceInstance, moids: Sequence[str]) -> tuple[dict[str, HostModes], datetime]:
    """The hosts' modes by moid, and vCenter's time then; hosts that are gone are left out.

    Raises `Unreachable` when vCenter does not answer.
    """
    with translated(f"read the modes of {len(moids)} hosts of {vcenter_name(si)}"):
        now = si.CurrentTime()
        left = list(moids)
        while left:
            try:
                return _read(si, left), now
            except vmodl.fault.ManagedObjectNotFound as fault:
                # One that is gone hides the others.
                gone = fault.obj._moId if fault.obj is not None else ""
                if gone not in left:
                    raise
                left.remove(gone)
        return {}, now


def _read(si: vim.ServiceInstance, moids: Sequence[str]) -> dict[str, HostModes]:
    paths = ["runtime.inMaintenanceMode", "runtime.standbyMode"]
    spec = _PC.FilterSpec(
        objectSet=[_PC.ObjectSpec(obj=vim.HostSystem(moid, si._stub)) for moid in moids],
        propSet=[_PC.PropertySpec(type=vim.HostSystem, pathSet=paths)],
    )
    found = {}
    collector = content(si).propertyCollector
    result = collector.RetrievePropertiesEx([spec], _PC.RetrieveOptions())
    while result is not None:
        for item in result.objects:
            values = {change.name: change.val for change in item.propSet}
            found[item.obj._moId] = HostModes(
                maintenance=bool(values.get(paths[0])), standby=values.get(paths[1], "none") not in ("", "none")
            )
        result = collector.ContinueRetrievePropertiesEx(result.token) if result.token else None
    return found
