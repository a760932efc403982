"""One client, two worlds: what govmomi's simulator answers, ours answers alike."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import SoapStubAdapter, vim, vmodl

from tests.support.simulator import SimulatorProcess
from tests.support.vcsim import VcsimProcess

PC = vmodl.query.PropertyCollector
OURS, VCSIM = "ours", "vcsim"


@pytest.fixture(scope="module")
def vcsim() -> Iterator[VcsimProcess]:
    with VcsimProcess() as running:
        yield running


@pytest.fixture(scope="module", params=[OURS, VCSIM])
def vcenter(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A logged-in service instance."""
    if request.param == OURS:
        ours: SimulatorProcess = request.getfixturevalue("simulator")
        target, trusted = ours, ours.ca_file
    else:
        theirs: VcsimProcess = request.getfixturevalue("vcsim")
        target, trusted = theirs, theirs.cert  # type: ignore[assignment]
    client = SmartConnect(
        host=target.host,
        port=target.port,
        user=target.user,
        pwd=target.password,
        sslContext=ssl.create_default_context(cafile=str(trusted)),
    )
    yield client
    Disconnect(client)
    client._stub.DropConnections()


def below_root(client: Any, kind: Any) -> Any:
    content = client.content
    return content.viewManager.CreateContainerView(content.rootFolder, [kind], True)


def spec(view: Any, kind: Any, *paths: str) -> Any:
    members = PC.TraversalSpec(name="members", type=vim.view.ContainerView, path="view", skip=False)
    start = PC.ObjectSpec(obj=view, skip=True, selectSet=[members])
    return PC.FilterSpec(objectSet=[start], propSet=[PC.PropertySpec(type=kind, pathSet=list(paths))])


def done(task: Any) -> Any:
    deadline = time.monotonic() + 20
    while (info := task.info).state in ("queued", "running"):
        assert time.monotonic() < deadline, info
        time.sleep(0.02)
    return info


def test_the_version_is_negotiated(vcenter: Any) -> None:
    assert vcenter._stub.version == "vim.version.v8_0_2_0"
    assert vcenter.content.about.apiType == "VirtualCenter"


def test_a_wrong_password_is_refused(vcenter: Any) -> None:
    address = vcenter._stub.host.rpartition(":")
    stub = SoapStubAdapter(
        host=address[0],
        port=int(address[2]),
        version=vcenter._stub.version,
        sslContext=vcenter._stub.schemeArgs["context"],
    )
    try:
        manager = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent().sessionManager
        with pytest.raises(vim.fault.InvalidLogin):
            manager.Login("user", "not the password")
    finally:
        stub.DropConnections()


def test_pages_and_tokens_bring_every_object_once(vcenter: Any) -> None:
    collector = vcenter.content.propertyCollector
    view = below_root(vcenter, vim.VirtualMachine)
    page = collector.RetrievePropertiesEx([spec(view, vim.VirtualMachine, "name")], PC.RetrieveOptions(maxObjects=2))
    seen = [entry.obj._moId for entry in page.objects]
    while page.token:
        assert len(page.objects) == 2
        page = collector.ContinueRetrievePropertiesEx(page.token)
        seen += [entry.obj._moId for entry in page.objects]
    assert sorted(seen) == sorted(vm._moId for vm in view.view)
    view.DestroyView()


def test_keyed_paths_read_one_element(vcenter: Any) -> None:
    view = below_root(vcenter, vim.VirtualMachine)
    vm = view.view[0]
    device = vm.config.hardware.device[0]
    path = f"config.hardware.device[{device.key}]"
    start = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=vm)], propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=[path])]
    )
    (entry,) = vcenter.content.propertyCollector.RetrieveContents([start])
    assert [(each.name, type(each.val), each.val.key) for each in entry.propSet] == [(path, type(device), device.key)]


def test_an_update_follows_a_power_operation(vcenter: Any) -> None:
    vm = below_root(vcenter, vim.VirtualMachine).view[0]
    done(vm.PowerOnVM_Task())  # it may fail, when it is on
    collector = vcenter.content.propertyCollector
    made = collector.CreateFilter(
        PC.FilterSpec(
            objectSet=[PC.ObjectSpec(obj=vm)],
            propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState"])],
        ),
        True,
    )
    first = collector.WaitForUpdatesEx("", PC.WaitOptions(maxWaitSeconds=5))
    (update,) = first.filterSet[0].objectSet
    assert (update.kind, update.changeSet[0].val) == ("enter", "poweredOn")
    assert done(vm.PowerOffVM_Task()).state == "success"
    second = collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=5))
    (update,) = second.filterSet[0].objectSet
    assert (update.kind, update.changeSet[0].name, update.changeSet[0].val) == (
        "modify",
        "runtime.powerState",
        "poweredOff",
    )
    assert collector.WaitForUpdatesEx(second.version, PC.WaitOptions(maxWaitSeconds=0)) is None
    made.DestroyPropertyFilter()
    refused = done(vm.PowerOffVM_Task())
    assert refused.state == "error"
    assert isinstance(refused.error, vim.fault.InvalidPowerState)
    assert done(vm.PowerOnVM_Task()).state == "success"


def test_a_collector_pages_through_the_events_of_a_vm(vcenter: Any) -> None:
    vm = below_root(vcenter, vim.VirtualMachine).view[1]
    for operation in (vm.PowerOffVM_Task, vm.PowerOnVM_Task):
        done(operation())
    manager = vcenter.content.eventManager
    collector = manager.CreateCollectorForEvents(
        vim.event.EventFilterSpec(
            entity=vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self"),
            eventTypeId=["VmPoweredOffEvent", "VmPoweredOnEvent"],
        )
    )
    collector.RewindCollector()
    seen: list[Any] = []
    while page := collector.ReadNextEvents(1):
        assert len(page) == 1
        seen += page
    off, on = seen[-2:]
    assert isinstance(off, vim.event.VmPoweredOffEvent)
    assert isinstance(on, vim.event.VmPoweredOnEvent)  # with DRS, the derived DrsVmPoweredOnEvent
    assert {event.vm.vm._moId for event in seen} == {vm._moId}
    keys = [event.key for event in seen]
    assert keys == sorted(set(keys))
    collector.DestroyCollector()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        collector.ReadNextEvents(1)


def test_an_event_filter_knows_dynamic_types_by_their_id_and_others_by_type_and_base(vcenter: Any) -> None:
    manager = vcenter.content.eventManager
    host = below_root(vcenter, vim.HostSystem).view[0]
    about = {
        "host": vim.event.HostEventArgument(name=host.name, host=host),
        "key": 0,
        "chainId": 0,
        "createdTime": vcenter.CurrentTime(),
        "userName": "",
    }
    concerned = {"objectType": vim.HostSystem, "objectId": host._moId, "objectName": host.name}
    posted = [
        vim.event.EventEx(eventTypeId="com.example.Found", **about, **concerned),
        vim.event.EventEx(eventTypeId="com.example.lost", **about, **concerned),
        vim.event.HostConnectedEvent(**about),
        vim.event.HostRemovedEvent(**about),
    ]
    for event in posted:
        manager.PostEvent(event)

    def shown(*type_ids: str) -> list[str]:
        by_host = vim.event.EventFilterSpec.ByEntity(entity=host, recursion="self")
        collector = manager.CreateCollectorForEvents(
            vim.event.EventFilterSpec(entity=by_host, eventTypeId=list(type_ids))
        )
        found = [getattr(event, "eventTypeId", "") or type(event).__name__ for event in collector.ReadNextEvents(1000)]
        collector.DestroyCollector()
        mine = ("com.example", "vim.event.HostConnectedEvent", "vim.event.HostRemovedEvent")
        return [name for name in found if name.startswith(mine)]

    assert shown("com.example.Found") == ["com.example.Found"]
    assert shown("com.example.found", "COM.EXAMPLE.LOST") == []
    assert shown("EventEx") == []
    assert shown("com.example.lost", "HostConnectedEvent") == ["com.example.lost", "vim.event.HostConnectedEvent"]
    assert shown("HostEvent") == ["vim.event.HostConnectedEvent", "vim.event.HostRemovedEvent"]
    assert shown("NobodyPostsThis") == []


def test_the_search_index_finds_what_the_inventory_holds(vcenter: Any) -> None:
    index = vcenter.content.searchIndex
    host = below_root(vcenter, vim.HostSystem).view[0]
    path = "/".join(("DC0", "host", host.parent.name, host.name))
    assert index.FindByInventoryPath(path) == host
    assert index.FindByInventoryPath("DC0/host/none") is None
    vm = below_root(vcenter, vim.VirtualMachine).view[0]
    assert index.FindByUuid(None, vm.config.instanceUuid, True, True) == vm


def test_an_object_that_is_not_there_is_named(vcenter: Any) -> None:
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as missing:
        _ = vim.HostSystem("host-99999", vcenter._stub).name
    assert missing.value.obj._moId == "host-99999"
