"""Events get the attributes by which triggers of event routers find them."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.cloud_events import CloudEvent
from contracts.errors import BadRequest
from listeners.vcenter_cloud_events import cloud_event_of
from tests.support.event_pages import read_next_answer
from vsphere.event_xml import decode_events

ROUTER = "com.vmware.event.router/{class}"


def cloud_event(event_type: str, type_format: str = "com.vmware.vsphere.{type}.v0", **fields: str) -> CloudEvent:
    xml = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    begin = "<key>7</key><chainId>7</chainId><createdTime>2026-03-01T12:00:00Z</createdTime>"
    page = read_next_answer([f'<returnval xsi:type="{event_type}">{begin}{xml}</returnval>'])
    [event] = decode_events(page, lambda _: True)
    given: dict[str, Any] = {"epoch": "vc.0", "source": "https://vc/sdk", "api_version": "8.0.2.0"}
    return cloud_event_of(event, type_format=type_format, **given)


@pytest.mark.parametrize(
    ("event_type", "type_id", "name", "kind"),
    [
        ("VmPoweredOnEvent", "", "VmPoweredOnEvent", "event"),
        ("EventEx", "com.vmware.vc.HA.DasHostFailedEvent", "com.vmware.vc.HA.DasHostFailedEvent", "eventex"),
        ("ExtendedEvent", "com.vmware.cl.Publish", "com.vmware.cl.Publish", "extendedevent"),
        ("HostSangEvent", "", "HostSangEvent", "event"),
    ],
)
def test_types_are_those_of_both_routers(event_type: str, type_id: str, name: str, kind: str) -> None:
    fields = {"eventTypeId": type_id} if type_id else {}
    knative, router = cloud_event(event_type, **fields), cloud_event(event_type, ROUTER, **fields)
    assert knative.type == f"com.vmware.vsphere.{name}.v0"
    assert router.type == f"com.vmware.event.router/{kind}"
    for event in (knative, router):
        assert (event.id, event.source, event.subject) == ("vc.0/7", "https://vc/sdk", name)
        assert event.extensions == {"eventclass": kind, "vsphereapiversion": "8.0.2.0"}
        assert isinstance(event.data, dict)
        assert event.data["Key"] == 7


def test_a_type_that_no_cloud_event_can_have_is_refused_with_the_reason() -> None:
    with pytest.raises(BadRequest, match=r"it is no CloudEvent: type: .*U\+0009"):
        cloud_event("EventEx", eventTypeId="a&#9;b")
