"""What the failure of a host would do to its GPU VMs, told before it happens."""

from contracts.base import Message
from contracts.host import HostRef

__all__ = ["ForecastVm", "GpuShortage", "HostForecast"]


class ForecastVm(Message):
    """A GPU VM, were its host to fail now."""

    moid: str
    name: str
    restart_priority: str = "medium"
    comes_back: bool
    host: str = ""
    """Name of a host that would take it; HA and DRS have the last word."""
    reason: str = ""
    """Why it would not come back: a value of `contracts.audit.Reason`."""
    text: str = ""
    """That in words, with its evidence."""


class GpuShortage(Message):
    """GPUs of one kind that would be missing."""

    kind: str
    """As VMs ask for them: `10de:20f1 label Training`, `nvidia_a40-24c`."""
    needed: int
    """GPUs, or shares of cards, that the VMs of the host ask for."""
    missing: int
    """Of these, so many are nowhere free."""


class HostForecast(Message):
    """What the failure of one host would do."""

    host: HostRef
    vms: tuple[ForecastVm, ...] = ()
    """Its GPU VMs, those that would not come back first."""
    shortages: tuple[GpuShortage, ...] = ()

    @property
    def lost(self) -> int:
        """VMs that would not come back."""
        return sum(not vm.comes_back for vm in self.vms)
