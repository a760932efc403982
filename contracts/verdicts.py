"""What became of the GPU VMs of an incident: who was there, the verdict about each, and how the hosts stand."""

from datetime import datetime, timedelta
from enum import StrEnum

from contracts.base import Message
from contracts.fleet import FleetVm
from contracts.forecast import HostForecast
from contracts.host import HostRef

__all__ = [
    "Findings",
    "HeldGpu",
    "HostStanding",
    "IncidentHost",
    "Reason",
    "Recovery",
    "TimelineEntry",
    "Victim",
    "Victims",
    "VmVerdict",
]


class HeldGpu(Message):
    """A GPU that a VM held, or a share of one."""

    sbdf: str = ""
    """Empty where nothing told."""
    vendor_device: str = ""
    name: str = ""
    framebuffer_mib: int = 0
    label: str = ""
    """The GPU's hardware label."""
    profile: str = ""
    """vGPU: the profile that it was a share by."""


class Victim(Message):
    """A GPU VM that ran on a host when it was lost."""

    vm: FleetVm
    """As it was."""
    host: HostRef
    held: tuple[HeldGpu, ...] = ()
    lost_at: datetime
    """When its host was lost (vCenter's clock)."""
    known_by: str = "snapshot"
    """`snapshot`, `events` since it, or `inventory`: vCenter's last view of the host, for want of a snapshot."""


class Victims(Message):
    """Everybody who was there; `packed` wherever it travels."""

    vms: tuple[Victim, ...] = ()


class Recovery(StrEnum):
    """What became of a VM. The order is that of reports: the worst first."""

    NOT_RESTARTED = "not-restarted"
    UNKNOWN = "unknown"
    RESTARTING = "restarting"
    OTHER_GPU = "recovered-on-other-gpu"
    """It runs, on a GPU that is not as good as before or not what its device asks for."""
    RECOVERED = "recovered"
    KEPT_RUNNING = "kept-running"
    """It never stopped: its host was cut off, and came back or runs on."""
    RETIRED = "retired"
    """Somebody deleted it, or shut it down after it was back."""


class Reason(StrEnum):
    """Why a VM is not back."""

    NONE = ""
    STATIC_PINNED = "static-pinned"
    """Static DirectPath I/O binds it to a device of the failed host."""
    NO_FREE_GPU = "no-free-gpu"
    """No free GPU has the vendor:device and the label that it asks for."""
    NO_PROFILE_ROOM = "no-profile-room"
    """No card has room for its vGPU profile."""
    ISOLATION = "off-on-isolation"
    """HA powered it off or shut it down on an isolated host, and it was not restarted."""
    RECOMMENDATION = "drs-recommendation"
    """DRS recommends where to power it on, and waits for somebody to apply that."""
    HA_OFF = "ha-off"
    UNPROTECTED = "unprotected"
    """HA did not protect it: its restarts are disabled, or protection had not begun."""
    ADMISSION = "admission-refused"
    """Not enough memory or CPU (reservations, admission control), though there is a GPU."""
    RULE = "host-rule"
    """Mandatory VM-host rules keep it off the hosts that have room."""
    MMIO = "mmio"
    """Too little 64-bit MMIO space: it does not power on, or its guest does not boot."""
    RESERVATION = "reservation"
    """Its memory is not reserved in full, so a VM with GPUs does not power on."""
    ORPHANED = "orphaned"
    INACCESSIBLE = "inaccessible"
    QUESTION = "question"
    """It waits for somebody's answer."""
    HOST_UNREACHABLE = "host-unreachable"
    """Its host runs cut off from vCenter, as far as HA says: whether the VM runs cannot be seen."""
    NOT_KNOWN = "not-known"


class VmVerdict(Message):
    """What became of one GPU VM, and how that is known."""

    moid: str
    """As it was; a VM that was registered again has another one."""
    instance_uuid: str
    name: str
    was_on: str
    """Name of the lost host."""
    held: tuple[HeldGpu, ...] = ()
    recovery: Recovery
    reason: Reason = Reason.NONE
    text: str
    """The verdict in a sentence."""
    evidence: tuple[str, ...] = ()
    """Each with where it is from: a property, an event with its key, a comparison."""
    now_on: str = ""
    holds: tuple[HeldGpu, ...] = ()
    restart_priority: str = "medium"
    lost_at: datetime
    recovered_at: datetime | None = None

    @property
    def took(self) -> timedelta | None:
        """From the loss of its host to its recovery."""
        return self.recovered_at - self.lost_at if self.recovered_at else None


class TimelineEntry(Message):
    """A line of the incident's story."""

    at: datetime
    """vCenter's clock."""
    what: str
    host: str = ""
    vm: str = ""
    key: int = -1
    """Of the vCenter event; -1 for what gpuwright did or saw itself."""


class HostStanding(StrEnum):
    """How a host of the incident stands now."""

    DOWN = "down"
    ISOLATED = "isolated"
    CUT_OFF = "cut-off"
    """It runs and vCenter does not reach it."""
    BACK = "back"
    REMOVED = "removed"
    """It is no longer in the inventory."""


class IncidentHost(Message):
    """A host of the incident."""

    host: HostRef
    standing: HostStanding
    lost_at: datetime
    back_at: datetime | None = None
    evidence: str = ""


class Findings(Message):
    """What a look found, in full; `packed` wherever it travels."""

    verdicts: tuple[VmVerdict, ...] = ()
    """The worst first."""
    timeline: tuple[TimelineEntry, ...] = ()
    """Oldest first."""
    capacity: tuple[HostForecast, ...] = ()
    """What a second failure would do, for each host that is left; the worst first."""
