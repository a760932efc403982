"""Events that pyVmomi would choke on, and their neighbours, are read."""

from datetime import UTC, datetime

import pytest

from contracts.errors import Unreachable
from vsphere.event_xml import decode_events, update_version

_ENVELOPE = (
    '<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
    '<ReadNextEventsResponse xmlns="urn:vim25">{}</ReadNextEventsResponse></soapenv:Body></soapenv:Envelope>'
)


def event(
    key: str = "7", kind: str = "HostAddedEvent", created: str = "2026-01-02T03:04:05.678Z", extra: str = ""
) -> str:
    return (
        f'<returnval xsi:type="{kind}"><key>{key}</key><chainId>1</chainId><createdTime>{created}</createdTime>'
        "<userName>LAB\\svc</userName><computeResource><name>gpu-a</name>"
        '<computeResource type="ClusterComputeResource">domain-c9</computeResource></computeResource>'
        '<host><name>esx-01</name><host type="HostSystem">host-12</host></host>'
        '<vm><name>vm a</name><vm type="VirtualMachine">vm-3</vm></vm>'
        f"<fullFormattedMessage>Added &amp; done</fullFormattedMessage>{extra}</returnval>"
    )


def page(*events: str) -> bytes:
    return _ENVELOPE.format("".join(events)).encode()


def test_every_field_of_an_event_is_read() -> None:
    (read,) = decode_events(page(event()))
    assert (read.key, read.type_name, read.created) == (7, "HostAddedEvent", datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))
    assert (read.host_moid, read.host_name) == ("host-12", "esx-01")
    assert (read.cluster_moid, read.cluster_name) == ("domain-c9", "gpu-a")
    assert (read.vm_moid, read.vm_name) == ("vm-3", "vm a")
    assert (read.user, read.message, read.problem, read.xml) == ("LAB\\svc", "Added & done", "", "")


def test_an_event_ex_goes_by_its_event_type_id() -> None:
    extended = "<eventTypeId>com.vmware.vc.HA.DasHostFailedEvent</eventTypeId><severity>error</severity>"
    (read,) = decode_events(page(event(kind="vim25:EventEx", extra=extended)))
    assert (read.type_name, read.base_type) == ("com.vmware.vc.HA.DasHostFailedEvent", "EventEx")


@pytest.mark.parametrize(
    "odd",
    [
        event("8", kind="EventOfTheFuture"),
        event("8", extra="<fieldOfTheFuture><deep>1</deep></fieldOfTheFuture>"),
        event("8", extra="<numHosts></numHosts>"),
        event("8", extra="<reason>bell \x07 and &#x1b; and &#0;</reason>"),
    ],
)
def test_an_odd_event_takes_no_neighbour_along(odd: str) -> None:
    assert [read.key for read in decode_events(page(event("7"), odd, event("9")))] == [7, 8, 9]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [(event(key=""), "its key '' is not a number"), (event(created="soon"), "its createdTime 'soon' is not a time")],
)
def test_a_broken_event_is_kept_raw_with_its_problem(broken: str, problem: str) -> None:
    first, second = decode_events(page(broken, event("9")))
    assert (first.problem, second.problem) == (problem, "")
    assert "host-12" in first.xml


def test_an_answer_that_is_no_xml_is_told() -> None:
    with pytest.raises(Unreachable, match="not XML"):
        decode_events(b"<html><br>Bad gateway")


def test_a_wait_without_news_has_no_version() -> None:
    answer = _ENVELOPE.replace("ReadNextEvents", "WaitForUpdatesEx")
    assert update_version(answer.format("").encode()) is None
    assert update_version(answer.format("<returnval><version>12</version></returnval>").encode()) == "12"
