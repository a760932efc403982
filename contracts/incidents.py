"""What vCenter's events say about hosts that fail and VMs that HA restarts: one table, compared without letter case.

Classic types carry their WSDL name; newer releases send `EventEx` with an `eventTypeId`, whose letter case varies.
"""

from datetime import datetime
from enum import StrEnum

from contracts.base import Message
from contracts.events import EventKey
from contracts.host import HostRef

__all__ = ["INCIDENT_BEGINS", "INCIDENT_TYPES", "HostDown", "IncidentEvent", "Meaning", "meaning_of"]


class Meaning(StrEnum):
    """What an event means for an incident."""

    HOST_FAILED = "host-failed"
    HOST_ISOLATED = "host-isolated"
    HOST_LOST = "host-lost"
    """vCenter lost the connection; the host and its VMs may run on."""
    HOST_BACK = "host-back"
    MAINTENANCE_BEGINS = "maintenance-begins"
    MAINTENANCE_ENDS = "maintenance-ends"
    STANDBY_BEGINS = "standby-begins"
    STANDBY_ENDS = "standby-ends"
    VM_RESTARTED = "vm-restarted"
    VM_RESTART_FAILED = "vm-restart-failed"
    VM_NO_RESOURCES = "vm-no-resources"
    VM_OFF_ON_ISOLATION = "vm-off-on-isolation"
    VM_LOST = "vm-lost"
    """Orphaned or inaccessible."""
    VM_ON = "vm-on"
    VM_OFF = "vm-off"
    VM_MOVED = "vm-moved"
    VM_GONE = "vm-gone"
    VM_MADE = "vm-made"
    VM_CHANGED = "vm-changed"


_MEANINGS: dict[Meaning, tuple[str, ...]] = {
    Meaning.HOST_FAILED: ("DasHostFailedEvent", "com.vmware.vc.HA.DasHostFailedEvent"),
    Meaning.HOST_ISOLATED: ("DasHostIsolatedEvent", "com.vmware.vc.HA.DasHostIsolatedEvent"),
    Meaning.HOST_LOST: ("HostConnectionLostEvent", "HostDisconnectedEvent"),
    Meaning.HOST_BACK: ("HostConnectedEvent",),
    Meaning.MAINTENANCE_BEGINS: ("EnteringMaintenanceModeEvent", "EnteredMaintenanceModeEvent"),
    Meaning.MAINTENANCE_ENDS: ("ExitMaintenanceModeEvent", "CanceledHostOperationEvent"),
    Meaning.STANDBY_BEGINS: (
        "EnteringStandbyModeEvent",
        "EnteredStandbyModeEvent",
        "DrsEnteringStandbyModeEvent",
        "DrsEnteredStandbyModeEvent",
    ),
    Meaning.STANDBY_ENDS: ("ExitedStandbyModeEvent", "DrsExitedStandbyModeEvent"),
    Meaning.VM_RESTARTED: ("VmRestartedOnAlternateHostEvent", "com.vmware.vc.ha.VmRestartedByHAEvent"),
    Meaning.VM_RESTART_FAILED: ("VmFailoverFailed",),
    Meaning.VM_NO_RESOURCES: ("NotEnoughResourcesToStartVmEvent",),
    Meaning.VM_OFF_ON_ISOLATION: ("VmPowerOffOnIsolationEvent", "VmShutdownOnIsolationEvent"),
    Meaning.VM_LOST: ("VmOrphanedEvent", "VmDisconnectedEvent"),
    Meaning.VM_ON: ("VmPoweredOnEvent", "DrsVmPoweredOnEvent", "VmResumingEvent"),
    Meaning.VM_OFF: ("VmPoweredOffEvent", "VmGuestShutdownEvent", "VmSuspendedEvent"),
    Meaning.VM_MOVED: ("VmMigratedEvent", "DrsVmMigratedEvent", "VmRelocatedEvent"),
    Meaning.VM_GONE: ("VmRemovedEvent",),
    Meaning.VM_MADE: ("VmCreatedEvent", "VmClonedEvent", "VmRegisteredEvent", "VmDeployedEvent"),
    Meaning.VM_CHANGED: ("VmReconfiguredEvent",),
}  # fmt: skip
INCIDENT_TYPES = tuple(name for names in _MEANINGS.values() for name in names)
"""Every type that has a meaning: WSDL names, and `eventTypeId`s of `EventEx` (those with dots)."""
_BY_NAME = {name.casefold(): meaning for meaning, names in _MEANINGS.items() for name in names}

INCIDENT_BEGINS = frozenset({Meaning.HOST_FAILED, Meaning.HOST_ISOLATED, Meaning.HOST_LOST})
"""A host is gone, or seems to be."""


def meaning_of(type_name: str) -> Meaning | None:
    """What an event of this type (WSDL name or `eventTypeId`) says; None: nothing about incidents."""
    return _BY_NAME.get(type_name.casefold())


class IncidentEvent(Message):
    """An event as far as an audit cares. Absent fields are empty."""

    key: EventKey
    type_name: str
    created: datetime
    """vCenter's clock."""
    host_moid: str = ""
    host_name: str = ""
    source_host_moid: str = ""
    """Where a VM was before (`sourceHost`); `EventEx` does not say."""
    source_host_name: str = ""
    vm_moid: str = ""
    vm_name: str = ""
    reason: str = ""
    """The event's own `reason`, where it has one, cut to 300 characters."""
    message: str = ""
    """`fullFormattedMessage`, cut to 300 characters."""

    @property
    def meaning(self) -> Meaning | None:
        """See `meaning_of`."""
        return meaning_of(self.type_name)


class HostDown(Message):
    """A host of an incident, and when it was lost (vCenter's clock)."""

    host: HostRef
    at: datetime
