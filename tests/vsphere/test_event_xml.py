"""Events that pyVmomi would choke on, and their neighbours, are read."""

from datetime import UTC, datetime

import pytest

from contracts.errors import Unreachable
from vsphere.event_xml import RawEvent, decode_events, update_version

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
    assert (read.cluster_moid, read.cluster_name, read.cluster_type) == (
        "domain-c9",
        "gpu-a",
        "ClusterComputeResource",
    )
    assert (read.vm_moid, read.vm_name) == ("vm-3", "vm a")
    assert (read.user, read.message, read.problem, read.xml) == ("LAB\\svc", "Added & done", "", "")


def test_an_event_ex_goes_by_its_event_type_id() -> None:
    extended = "<eventTypeId>com.vmware.vc.HA.DasHostFailedEvent</eventTypeId><severity>error</severity>"
    (read,) = decode_events(page(event(kind="vim25:EventEx", extra=extended)))
    assert (read.type_name, read.base_type) == ("com.vmware.vc.HA.DasHostFailedEvent", "EventEx")


def bare(kind: str, extra: str) -> bytes:
    """An event without a host of its own."""
    return page(f'<Event xsi:type="{kind}"><key>7</key><createdTime>2026-01-02T03:04:05Z</createdTime>{extra}</Event>')


@pytest.mark.parametrize(
    ("kind", "argument"), [("DasHostFailedEvent", "failedHost"), ("DasHostIsolatedEvent", "isolatedHost")]
)
def test_an_event_of_a_cluster_is_about_the_host_that_failed(kind: str, argument: str) -> None:
    host = f'<{argument}><name>esx-02</name><host type="HostSystem">host-13</host></{argument}>'
    (read,) = decode_events(bare(kind, host))
    assert (read.host_moid, read.host_name) == ("host-13", "esx-02")


def test_the_host_of_a_vm_event_is_its_own_and_not_the_one_it_came_from() -> None:
    source = '<sourceHost><name>esx-02</name><host type="HostSystem">host-13</host></sourceHost>'
    (read,) = decode_events(page(event(kind="VmRestartedOnAlternateHostEvent", extra=source)))
    assert (read.host_moid, read.host_name) == ("host-12", "esx-01")
    assert (read.source_host_moid, read.source_host_name) == ("host-13", "esx-02")


@pytest.mark.parametrize(
    ("type_name", "host", "cluster", "vm"),
    [
        ("HostSystem", ("x-1", "it"), ("", ""), ("", "")),
        ("ClusterComputeResource", ("", ""), ("x-1", "it"), ("", "")),
        ("VirtualMachine", ("", ""), ("", ""), ("x-1", "it")),
        ("Datastore", ("", ""), ("", ""), ("", "")),
    ],
)
def test_an_event_ex_without_entities_is_about_its_object(
    type_name: str, host: tuple[str, str], cluster: tuple[str, str], vm: tuple[str, str]
) -> None:
    said = f"<eventTypeId>a.b</eventTypeId><objectId>x-1</objectId><objectType>{type_name}</objectType>"
    (read,) = decode_events(bare("EventEx", f"{said}<objectName>it</objectName>"))
    assert (read.host_moid, read.host_name) == host
    assert (read.cluster_moid, read.cluster_name) == cluster
    assert read.cluster_type == (type_name if cluster[0] else "")
    assert (read.vm_moid, read.vm_name) == vm


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("<reason>no room\n</reason>", "no room"),
        ('<reason><fault xsi:type="vim25:NoCompatibleHost"/></reason>', "NoCompatibleHost"),
        (
            '<reason><fault xsi:type="NoCompatibleHost"/><localizedMessage>No host fits</localizedMessage></reason>',
            "No host fits",
        ),
        ('<fault xsi:type="NoCompatibleHost"><faultMessage/></fault>', "NoCompatibleHost"),
        ("", ""),
    ],
)
def test_the_reason_of_an_event_is_its_text_or_what_its_fault_says(reason: str, text: str) -> None:
    (read,) = decode_events(page(event(kind="VmFailoverFailed", extra=reason)))
    assert read.reason == text


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


def test_of_events_that_are_not_wanted_only_what_decides_it_is_read() -> None:
    extended = "<eventTypeId>com.vmware.vc.HA.DasHostFailedEvent</eventTypeId>"
    asked: list[RawEvent] = []

    def wanted(event: RawEvent) -> bool:
        asked.append(event)
        return event.key == 8

    answer = page(event("7"), event("8"), event("9", kind="vim25:EventEx", extra=extended))
    read, in_full = decode_events(answer, wanted), decode_events(answer)
    assert [each.type_name for each in asked] == [each.type_name for each in in_full]
    assert read[1] == in_full[1]
    for sketch, full in ((read[0], in_full[0]), (read[2], in_full[2])):
        assert sketch == RawEvent(full.key, full.created, full.type_name, full.base_type)


def test_a_page_of_an_event_without_its_beginning_is_not_guessed_at() -> None:
    headless = event("8").replace("<key>8</key>", "").replace("<vm>", "<deep><key>99</key></deep><vm>")
    read = decode_events(page(event("7"), headless, event("9")), lambda _: False)
    assert [each.key for each in read] == [7, -1, 9]
    assert headless == read[1].xml


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (event(key=""), "its key '' is not a number from 0 to 2147483647"),
        (event(created="soon"), "its createdTime 'soon' is not a time"),
    ],
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
