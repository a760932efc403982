"""VMs that cannot move while they are on: what may be done about them, where they could go, and where they are."""

from enum import StrEnum

from contracts.base import Message

__all__ = ["FreeDevice", "Neighbour", "ShutDownVm", "StoppedVm", "StuckVms", "WantedDevice"]


class StuckVms(StrEnum):
    """What a profile lets a run do about VMs that cannot move while on, once a person approved each by name."""

    WAIT = "wait"
    """Nothing: wait until somebody shut them down."""
    SHUT_DOWN = "shut-down"
    """Shut them down by their guests, and power them on again on this host after the work."""
    COLD_MIGRATE = "cold-migrate"
    """Shut them down, and power those with Dynamic DirectPath I/O devices on at once on another host that has one."""


class WantedDevice(Message):
    """A Dynamic DirectPath I/O device of a VM: any device of these kinds, with this label."""

    allowed: tuple[str, ...]
    """Vendor:device pairs."""
    label: str = ""
    """Empty: any label will do."""


class FreeDevice(Message):
    """A device in passthrough that no running VM holds."""

    sbdf: str
    vendor_device: str
    label: str = ""


class Neighbour(Message):
    """Another host of the cluster that takes VMs now: connected, not in maintenance, not in standby."""

    moid: str
    name: str
    free: tuple[FreeDevice, ...] = ()
    datastores: tuple[str, ...] = ()
    """Moids of the datastores that it reaches."""
    free_memory_mib: int | None = None
    """None where the host does not say."""


class ShutDownVm(Message):
    """A VM that a run shut down, as the run wrote it down: it is to be running again at the end."""

    moid: str
    name: str
    destination: str = ""
    """Moid of the host that it is moved to; empty where it stays."""


class StoppedVm(ShutDownVm):
    """A `ShutDownVm` as it is now."""

    powered_on: bool = False
    gone: bool = False
    """It is no longer in the inventory."""
    host_moid: str = ""
    """Where it is registered."""
    host_name: str = ""
    datastores: tuple[str, ...] = ()
    wants: tuple[WantedDevice, ...] = ()
    memory_mib: int = 0
