from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.simulator.small_world import PASSWORD, USER, RunningSimulator

Spec = vim.event.EventFilterSpec


def posted(wire: RunningSimulator, *events: Any, hidden: bool = False) -> list[int]:
    def post() -> list[int]:
        return [wire.registry.events.post(event, hidden=hidden).key for event in events]

    return wire.do(post)


def note(text: str = "note") -> Any:
    return vim.event.GeneralUserEvent(message=text)


def about_host(kind: Any, moid: str = "host-100") -> Any:
    return kind(host=vim.event.HostEventArgument(name="esx", host=vim.HostSystem(moid)))


def about_vm() -> Any:
    return vim.event.VmPoweredOnEvent(
        template=False, vm=vim.event.VmEventArgument(name="vm-0", vm=vim.VirtualMachine("vm-1000"))
    )


def collector_of(client: Any, **spec: Any) -> Any:
    return client.content.eventManager.CreateCollectorForEvents(Spec(**spec))


def keys(events: Any) -> list[int]:
    return [event.key for event in events]


def test_an_event_gets_key_time_user_chain_and_its_places(wire: RunningSimulator, client: Any) -> None:
    (key,) = posted(wire, about_host(vim.event.HostAddedEvent))
    latest = client.content.eventManager.latestEvent
    assert (latest.key, latest.chainId, latest.host.host._moId) == (key, key, "host-100")
    assert (latest.computeResource.name, latest.datacenter.name) == ("gpu-a", "dc")
    assert latest.fullFormattedMessage == "Host added: esx in gpu-a"
    assert abs(client.CurrentTime() - latest.createdTime) < timedelta(seconds=5)
    sent = note("sent")
    sent.createdTime = client.CurrentTime()
    client.content.eventManager.PostEvent(sent)
    assert client.content.eventManager.latestEvent.userName == USER


def test_a_collector_reads_forwards_and_backwards_from_its_position(wire: RunningSimulator, client: Any) -> None:
    collector = collector_of(client, eventTypeId=["GeneralUserEvent"])
    collector.ReadNextEvents(1000)
    mine = posted(wire, *(note(str(n)) for n in range(25)))
    assert keys(collector.ReadNextEvents(10)) == mine[:10]
    assert keys(collector.ReadNextEvents(1000)) == mine[10:]
    assert keys(collector.ReadNextEvents(10)) == []
    assert keys(collector.ReadPreviousEvents(3)) == mine[:-4:-1]
    assert keys(collector.ReadNextEvents(1)) == [mine[-3]]
    collector.RewindCollector()
    assert collector.ReadNextEvents(1000)[-1].key == mine[-1]
    collector.SetCollectorPageSize(5)
    assert sorted(keys(collector.latestPage)) == mine[-5:]
    collector.ResetCollector()
    assert keys(collector.ReadNextEvents(2)) == mine[-5:-3]
    collector.DestroyCollector()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        collector.ReadNextEvents(1)


def test_filters_select_by_type_time_user_and_place(wire: RunningSimulator, client: Any) -> None:
    added, powered, lost, other = posted(
        wire,
        about_host(vim.event.HostAddedEvent),
        about_vm(),
        about_host(vim.event.HostConnectionLostEvent, "host-101"),
        note(),
    )
    ours = (added, powered, lost, other)

    def shown(**spec: Any) -> list[int]:
        found = keys(client.content.eventManager.QueryEvents(Spec(**spec)))
        return sorted(key for key in found if key in ours)

    def place(kind: Any, moid: str, recursion: str) -> Any:
        return Spec.ByEntity(entity=kind(moid), recursion=recursion)

    assert shown(type=[vim.event.HostEvent]) == [added, lost]
    assert shown(eventTypeId=["HostAddedEvent", "VmPoweredOnEvent"]) == [added, powered]
    assert shown(eventTypeId=["vim.event.HostConnectionLostEvent"]) == [lost]
    assert shown(entity=place(vim.HostSystem, "host-101", "self")) == [lost]
    cluster = ("domain-c5", "all")
    assert shown(entity=place(vim.ClusterComputeResource, *cluster)) == [added, lost]
    assert shown(entity=place(vim.Folder, "group-v4", "children")) == [powered]
    assert shown(entity=place(vim.Folder, "group-v4", "self")) == []
    assert shown(entity=place(vim.Folder, "group-d1", "all")) == list(ours)
    start = client.content.eventManager.latestEvent.createdTime
    assert shown(time=Spec.ByTime(beginTime=start)) == [other]
    assert shown(time=Spec.ByTime(endTime=start - timedelta(hours=1))) == []
    assert shown(userName=Spec.ByUsername(systemUser=False, userList=["nobody"])) == []
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        shown(entity=place(vim.HostSystem, "host-9999", "self"))


def test_event_ex_is_found_by_its_type_id(wire: RunningSimulator, client: Any) -> None:
    type_id = "com.vmware.vc.HA.DasHostFailedEvent"
    (key,) = posted(wire, vim.event.EventEx(eventTypeId=type_id, objectId="host-100", objectType=vim.HostSystem))
    found = client.content.eventManager.QueryEvents(Spec(eventTypeId=[type_id]))
    assert [(event.key, event.eventTypeId) for event in found] == [(key, type_id)]


def test_hidden_events_leave_an_empty_page_with_more_behind_it(wire: RunningSimulator, client: Any) -> None:
    collector = collector_of(client)
    while collector.ReadNextEvents(1000):
        pass
    posted(wire, *(note() for _ in range(5)), hidden=True)
    (visible,) = posted(wire, note("seen"))
    assert keys(collector.ReadNextEvents(5)) == []
    assert client.content.eventManager.latestEvent.key == visible
    assert keys(collector.ReadNextEvents(5)) == [visible]


def test_a_session_has_at_most_32_collectors(wire: RunningSimulator) -> None:
    client = wire.connect()
    first, *_ = [collector_of(client) for _ in range(32)]
    with pytest.raises(vim.fault.InvalidState):
        collector_of(client)
    first.DestroyCollector()
    collector_of(client)


def test_a_page_holds_at_most_a_thousand_and_a_backlog_of_100_000_is_read_through() -> None:
    with RunningSimulator() as wire:
        posted(wire, *(about_host(vim.event.HostConnectedEvent) for _ in range(1000)))

        def backlog() -> None:
            event = note()
            for _ in range(99_000):
                event.chainId = 0
                wire.registry.events.post(event)

        wire.do(backlog)
        client = wire.connect()
        collector = collector_of(client, eventTypeId=["GeneralUserEvent", "HostConnectedEvent"])
        stub_reads = 0
        last = 0
        while page := collector.ReadNextEvents(5000):
            assert len(page) <= 1000
            assert page[0].key > last
            last, stub_reads = page[-1].key, stub_reads + 1
            if stub_reads == 3:  # decoding with pyVmomi is the slow half: skip ahead on the server's side
                wire.do(lambda: setattr(wire_collector(wire, collector), "_position", 98_000))
        assert last >= 100_000
        assert stub_reads <= 6


def wire_collector(wire: RunningSimulator, collector: Any) -> Any:
    for session in wire.simulator.sessions:
        if found := session.objects.get(collector._moId):
            return found
    raise LookupError(collector._moId)


def test_retention_purges_the_oldest_and_a_restored_vcenter_starts_over() -> None:
    with RunningSimulator(max_events=10) as wire:
        client = wire.connect()
        collector = collector_of(client)
        mine = posted(wire, *(note() for _ in range(30)))
        assert keys(collector.ReadNextEvents(1000)) == mine[-10:]

        def restore() -> None:
            wire.registry.events.next_key = 5

        wire.do(restore)
        assert posted(wire, note()) == [5]
        assert keys(collector.ReadNextEvents(1000)) == [5]


def test_an_older_client_gets_events_without_what_it_does_not_know(wire: RunningSimulator) -> None:
    event = about_vm()
    event.vm = vim.event.VmEventArgument(name="vm-0", vm=vim.VirtualMachine("vm-1000"))
    (key,) = posted(wire, event)
    stranger = wire.stranger("vim.version.version9")
    stranger.RetrieveContent().sessionManager.Login(USER, PASSWORD)
    found = stranger.content.eventManager.QueryEvents(Spec(eventTypeId=["VmPoweredOnEvent"]))
    assert found[0].key == key
    assert found[0].vm.name == "vm-0"


def test_the_description_knows_every_kind_of_event(client: Any) -> None:
    described = {str(each.key.__name__): each for each in client.content.eventManager.description.eventInfo}
    assert described["vim.event.HostAddedEvent"].description == "Host added"
    assert described["vim.event.DasHostFailedEvent"].category == "error"
    assert len(described) > 400
