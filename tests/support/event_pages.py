"""Pages of events as vCenter writes them, of many types, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetWsdlName

from simulator.wire.soap_write import inner_xml

__all__ = ["mixed_events", "page_of", "read_next_answer"]

_BEGIN = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/" '
    'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n<soapenv:Body>\n'
    '<ReadNextEventsResponse xmlns="urn:vim25">'
)
_END = "</ReadNextEventsResponse>\n</soapenv:Body>\n</soapenv:Envelope>"


def read_next_answer(events: Sequence[str]) -> bytes:
    """The answer of `ReadNextEvents` with these `returnval` elements."""
    return (_BEGIN + "".join(events) + _END).encode()


def page_of(events: Sequence[Any]) -> bytes:
    """The same with pyVmomi events."""
    return read_next_answer(
        [f'<returnval xsi:type="{GetWsdlName(type(each))}">{inner_xml(each).decode()}</returnval>' for each in events]
    )


def mixed_events(count: int, first_key: int = 1) -> list[Any]:
    """What a vCenter with GPU hosts logs on a busy day, in the shares of the types below, a few a second."""
    return [_event(key) for key in range(first_key, first_key + count)]


def _event(key: int) -> Any:
    host = vim.event.HostEventArgument(name=f"esx-{key % 40:02}.gpu.test", host=vim.HostSystem(f"host-{key % 40}"))
    vm = {"vm": vim.event.VmEventArgument(name=f"llm & {key % 97}", vm=vim.VirtualMachine(f"vm-{key % 97}"))}
    created = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(milliseconds=137 * key)
    base = {
        "key": key,
        "chainId": key,
        "createdTime": created,
        "userName": "VSPHERE.LOCAL\\vpxd-extension",
        "datacenter": vim.event.DatacenterEventArgument(name="dc", datacenter=vim.Datacenter("datacenter-2")),
        "computeResource": vim.event.ComputeResourceEventArgument(
            name="gpu-01", computeResource=vim.ClusterComputeResource("domain-c9")
        ),
        "host": host,
        "fullFormattedMessage": f"Something <happened> on {host.name} in gpu-01 that takes a line to tell, no. {key}",
    }
    match key % 10:
        case 0:
            return vim.event.HostConnectedEvent(**base)
        case 1 | 2:
            session = {"ipAddress": "10.0.0.1", "userAgent": "VMware vim-java 1.0", "locale": "en_US"}
            return vim.event.UserLoginSessionEvent(sessionId=f"52{key:06x}", **session, **base)
        case 3 | 4:
            entity = vim.event.ManagedEntityEventArgument(name=host.name, entity=host.host)
            alarm = vim.event.AlarmEventArgument(name="Host memory usage", alarm=vim.alarm.Alarm("alarm-5"))
            colours = {"from": "green", "to": "yellow"}
            return vim.event.AlarmStatusChangedEvent(alarm=alarm, source=entity, entity=entity, **colours, **base)
        case 5:
            info = vim.TaskInfo(
                key=f"task-{key}",
                task=vim.Task(f"task-{key}"),
                descriptionId="VirtualMachine.powerOn",
                entity=vm["vm"].vm,
                entityName=vm["vm"].name,
                state="running",
                cancelled=False,
                cancelable=True,
                reason=vim.TaskReasonUser(userName="LAB\\ops"),
                queueTime=created,
                eventChainId=key,
            )
            return vim.event.TaskEvent(info=info, **vm, **base)
        case 6:
            return vim.event.VmPoweredOnEvent(template=False, **vm, **base)
        case 7:
            reason = vmodl.LocalizedMethodFault(
                fault=vim.fault.NoCompatibleHost(), localizedMessage="No host is compatible with the virtual machine."
            )
            return vim.event.VmFailoverFailed(template=False, reason=reason, **vm, **base)
        case _:
            return vim.event.EventEx(
                eventTypeId="esx.problem.vob.vsan.net.update.failed"
                if key % 10 == 8
                else "com.vmware.vc.HA.DasHostFailedEvent",
                severity="warning",
                message="",
                arguments=[vmodl.KeyAnyValue(key="1", value="vmnic0"), vmodl.KeyAnyValue(key="2", value=host.name)],
                objectId=host.host._moId,
                objectType=vim.HostSystem,
                objectName=host.name,
                **base,
            )
