"""vCenter's events as CloudEvents, with the attributes that VMware's event routers gave them. Pure.

Sources: the Knative VSphereSource (`com.vmware.vsphere.VmPoweredOnEvent.v0`, `eventclass`, `vsphereapiversion`) and the
VMware Event Router (`com.vmware.event.router/event` with the event's name as `subject`).
"""

from pydantic import ValidationError

from contracts.cloud_events import CloudEvent
from contracts.errors import BadRequest
from vsphere.event_json import event_json
from vsphere.events import RawEvent

__all__ = ["cloud_event_of"]

_CLASSES = {"eventex": "eventex", "extendedevent": "extendedevent"}


def cloud_event_of(event: RawEvent, *, epoch: str, source: str, api_version: str, type_format: str) -> CloudEvent:
    """The CloudEvent of an event that was read whole (`RawEvent.raw`).

    `type_format` is that of `ForwardedEvents.type`. The ID is the same whenever and by whomever the event is sent:
    `{epoch}/{key}`. Raises `BadRequest` for an event that CloudEvents or JSON cannot carry.
    """
    kind = _CLASSES.get(event.base_type.casefold(), "event")
    try:
        return CloudEvent(
            id=f"{epoch}/{event.key}",
            source=source,
            type=type_format.replace("{class}", kind).replace("{type}", event.type_name),
            subject=event.type_name,
            time=event.created,
            extensions={"eventclass": kind, "vsphereapiversion": api_version},
            data=event_json(event.raw),
        )
    except ValidationError as error:
        words = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise BadRequest(f"it is no CloudEvent: {words[:500]}") from None
