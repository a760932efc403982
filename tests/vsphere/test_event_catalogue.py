"""What vCenter's catalogue of events says that an event can be called."""

import pytest

from contracts.errors import Unreachable
from vsphere.event_catalogue import type_ids_in


def answer(*entries: str) -> bytes:
    return (
        '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">'
        '<soapenv:Body><RetrievePropertiesExResponse xmlns="urn:vim25"><returnval><objects>'
        '<obj type="EventManager">EventManager</obj><propSet><name>description.eventInfo</name><val>'
        f"{''.join(entries)}"
        "</val></propSet></objects></returnval></RetrievePropertiesExResponse></soapenv:Body></soapenv:Envelope>"
    ).encode()


def entry(key: str, full_format: str) -> str:
    return (
        f"<EventDescriptionEventDetail><key>{key}</key><description>What it is</description><category>info</category>"
        f"<formatOnVm></formatOnVm><fullFormat>{full_format}</fullFormat>"
        "<longDescription>&lt;EventLongDescription/></longDescription></EventDescriptionEventDetail>"
    )


def test_types_go_by_their_key_and_dynamic_ones_by_what_their_format_begins_with() -> None:
    found = type_ids_in(
        answer(
            entry("HostAddedEvent", "Added host {host.name} | to {datacenter.name}"),
            entry("HostSangEvent", "of a release that nobody knows"),
            entry("EventEx", "com.vmware.vc.HA.DasHostFailedEvent|vSphere HA detected a host failure"),
            entry("EventEx", "esx.problem.hardware.nvd.error"),
            entry("ExtendedEvent", "ad.event.JoinDomainEvent|Join domain success"),
            entry("vim.event.VmPoweredOnEvent", "{vm.name} is powered on"),
        )
    )
    assert found == {
        "HostAddedEvent",
        "HostSangEvent",
        "com.vmware.vc.HA.DasHostFailedEvent",
        "esx.problem.hardware.nvd.error",
        "ad.event.JoinDomainEvent",
        "VmPoweredOnEvent",
    }


def test_a_format_without_an_id_is_none() -> None:
    assert type_ids_in(answer(entry("EventEx", "{message}, whatever | it is"), entry("EventEx", ""))) == set()


def test_an_empty_catalogue_has_nothing() -> None:
    assert type_ids_in(answer()) == set()


def test_what_is_no_catalogue_is_told() -> None:
    with pytest.raises(Unreachable, match="catalogue of events"):
        type_ids_in(b"<html>502 Bad Gateway")
