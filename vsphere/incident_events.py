"""Events about hosts that fail and VMs that HA restarts, as audits are told of them."""

from contracts.events import EventKey
from contracts.incidents import IncidentEvent
from vsphere.event_xml import RawEvent

__all__ = ["incident_event"]

_MESSAGE_LIMIT = 300


def incident_event(raw: RawEvent, epoch: str) -> IncidentEvent:
    """The event as far as an audit cares."""
    return IncidentEvent(
        key=EventKey(epoch=epoch, key=raw.key),
        type_name=raw.type_name,
        created=raw.created,
        host_moid=raw.host_moid,
        host_name=raw.host_name,
        source_host_moid=raw.source_host_moid,
        source_host_name=raw.source_host_name,
        vm_moid=raw.vm_moid,
        vm_name=raw.vm_name,
        reason=raw.reason,
        message=raw.message[:_MESSAGE_LIMIT],
    )
