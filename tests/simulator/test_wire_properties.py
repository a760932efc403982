from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.core import Managed, Registry
from simulator.wire.property_filter import PropertyWatch
from tests.simulator.small_world import PASSWORD, USER, RunningSimulator

PC = vmodl.query.PropertyCollector
FOLDERS = [
    ("folders", vim.Folder, "childEntity"),
    ("vms", vim.Datacenter, "vmFolder"),
    ("hosts", vim.Datacenter, "hostFolder"),
    ("clusters", vim.ComputeResource, "host"),
]


def spec(start: Any, properties: dict[Any, list[str]], traversals: list[Any] | None = None) -> Any:
    return PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=start, skip=bool(traversals), selectSet=traversals or [])],
        propSet=[PC.PropertySpec(type=kind, pathSet=paths) for kind, paths in properties.items()],
    )


def through_view(view: Any, properties: dict[Any, list[str]]) -> Any:
    return spec(view, properties, [PC.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)])


def everything_below(folder: Any, properties: dict[Any, list[str]]) -> Any:
    """Named traversal specs that refer to each other, as govc writes them."""
    names = [PC.SelectionSpec(name=name) for name, _, _ in FOLDERS]
    traversals = [
        PC.TraversalSpec(name=name, type=kind, path=path, skip=False, selectSet=names) for name, kind, path in FOLDERS
    ]
    return spec(folder, properties, traversals)


def view_of(client: Any, *kinds: Any) -> Any:
    content = client.content
    return content.viewManager.CreateContainerView(content.rootFolder, list(kinds), True)


def test_a_container_view_lists_what_is_below_and_follows_changes() -> None:
    with RunningSimulator() as wire:
        client = wire.connect()
        view = view_of(client, vim.HostSystem)
        assert [host.name for host in view.view] == ["esx-0", "esx-1", "esx-2"]
        wire.do(wire.world.add_host, "esx-new")
        assert [host.name for host in view.view] == ["esx-0", "esx-1", "esx-2", "esx-new"]
        view.DestroyView()
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            _ = view.view


def test_pages_hold_max_objects_and_a_token_leads_to_the_next(client: Any) -> None:
    collector = client.content.propertyCollector
    wanted = through_view(view_of(client, vim.VirtualMachine), {vim.ManagedEntity: ["name"]})
    page = collector.RetrievePropertiesEx([wanted], PC.RetrieveOptions(maxObjects=2))
    seen, pages = [entry.propSet[0].val for entry in page.objects], 1
    while page.token:
        token = page.token
        page = collector.ContinueRetrievePropertiesEx(token)
        seen, pages = seen + [entry.propSet[0].val for entry in page.objects], pages + 1
        with pytest.raises(vmodl.fault.InvalidArgument):
            collector.ContinueRetrievePropertiesEx(token)
    assert (sorted(seen), pages) == ([f"vm-{n}" for n in range(5)], 3)


def test_a_cancelled_retrieval_cannot_be_continued(client: Any) -> None:
    collector = client.content.propertyCollector
    wanted = through_view(view_of(client, vim.VirtualMachine), {vim.ManagedEntity: ["name"]})
    token = collector.RetrievePropertiesEx([wanted], PC.RetrieveOptions(maxObjects=1)).token
    collector.CancelRetrievePropertiesEx(token)
    with pytest.raises(vmodl.fault.InvalidArgument):
        collector.ContinueRetrievePropertiesEx(token)


def test_recursive_named_traversals_reach_the_whole_inventory(client: Any) -> None:
    content = client.content
    found = content.propertyCollector.RetrieveContents(
        [everything_below(content.rootFolder, {vim.ManagedEntity: ["name"]})]
    )
    names = {entry.propSet[0].val for entry in found}
    assert names >= {"dc", "host", "vm", "gpu-a"} | {f"esx-{n}" for n in range(3)} | {f"vm-{n}" for n in range(5)}


def test_overlapping_property_sets_are_merged(client: Any) -> None:
    host = vim.HostSystem("host-100")
    wanted = spec(host, {vim.ManagedEntity: ["name", "parent"], vim.HostSystem: ["name", "config.pciPassthruInfo"]})
    (entry,) = client.content.propertyCollector.RetrieveContents([wanted])
    assert sorted(each.name for each in entry.propSet) == ["config.pciPassthruInfo", "name", "parent"]


def test_keyed_paths_reach_into_arrays_and_subtypes(client: Any) -> None:
    wanted = spec(
        vim.VirtualMachine("vm-1000"),
        {
            vim.VirtualMachine: [
                'config.extraConfig["pciPassthru.use64bitMMIO"].value',
                "config.hardware.device[13000].backing.vgpu",
                "config.hardware.device[4].key",
                "config.hardware.memoryMB",
                "summary.config.memorySizeMB",
            ]
        },
    )
    (entry,) = client.content.propertyCollector.RetrieveContents([wanted])
    assert {each.name: each.val for each in entry.propSet} == {
        'config.extraConfig["pciPassthru.use64bitMMIO"].value': "TRUE",
        "config.hardware.device[13000].backing.vgpu": "nvidia_a40-24c",
        "config.hardware.memoryMB": 8192,
        "summary.config.memorySizeMB": 8192,
    }


@pytest.mark.parametrize("path", ["nonsense", "config.nonsense", "config..name", "name.length", "config.hardware[1"])
def test_an_invalid_path_is_a_fault_that_names_it(client: Any, path: str) -> None:
    wanted = spec(vim.VirtualMachine("vm-1000"), {vim.VirtualMachine: [path]})
    with pytest.raises(vmodl.query.InvalidProperty) as refused:
        client.content.propertyCollector.RetrieveContents([wanted])
    assert refused.value.name == path


def test_a_property_that_cannot_be_read_is_in_the_missing_set(client: Any) -> None:
    wanted = spec(vim.HostSystem("host-100"), {vim.HostSystem: ["name", "runtime.inMaintenanceMode"]})
    (entry,) = client.content.propertyCollector.RetrieveContents([wanted])
    assert [each.name for each in entry.propSet] == ["name"]
    assert [each.path for each in entry.missingSet] == ["runtime.inMaintenanceMode"]
    assert isinstance(entry.missingSet[0].fault, vim.fault.HostConnectFault)


def passthrough_devices(client: Any) -> Any:
    wanted = spec(vim.HostSystem("host-100"), {vim.HostSystem: ["config.pciPassthruInfo"]})
    (entry,) = client.content.propertyCollector.RetrieveContents([wanted])
    return entry.propSet[0].val


def test_what_is_newer_than_the_negotiated_version_vanishes(wire: RunningSimulator) -> None:
    host = wire.world.hosts[0]
    host.label_set = "Training"
    seen = {}
    for version in ("vim.version.v8_0_2_0", "vim.version.v7_0"):
        stranger = wire.stranger(version)
        stranger.RetrieveContent().sessionManager.Login(USER, PASSWORD)
        (device,) = passthrough_devices(stranger)
        seen[version] = device.hardwareLabel
        stranger.content.sessionManager.Logout()
    assert seen == {"vim.version.v8_0_2_0": "Training", "vim.version.v7_0": None}


def test_updates_begin_with_everything_then_bring_changes_only(wire: RunningSimulator, client: Any) -> None:
    collector = client.content.propertyCollector
    made = collector.CreateFilter(through_view(view_of(client, vim.HostSystem), {vim.HostSystem: ["name"]}), True)
    first = collector.WaitForUpdatesEx("", PC.WaitOptions(maxWaitSeconds=5))
    assert [update.kind for update in first.filterSet[0].objectSet] == ["enter"] * len(wire.world.hosts)
    assert collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=0)) is None

    host = wire.world.hosts[1]
    before, host.label = host.label, "renamed"
    wire.do(host.touch)
    second = collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=5))
    (update,) = second.filterSet[0].objectSet
    assert (update.kind, update.obj._moId) == ("modify", host.moid)
    assert [(change.name, change.op, change.val) for change in update.changeSet] == [("name", "assign", "renamed")]

    repeated = collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=0))
    assert repeated.version == second.version
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        collector.WaitForUpdatesEx("777", PC.WaitOptions(maxWaitSeconds=0))
    host.label = before
    made.DestroyPropertyFilter()
    assert list(collector.filter) == []


def test_updates_tell_who_came_and_who_left() -> None:
    with RunningSimulator(hosts=1, vms=0) as wire:
        client = wire.connect()
        collector = client.content.propertyCollector
        collector.CreateFilter(through_view(view_of(client, vim.HostSystem), {vim.HostSystem: ["name"]}), True)
        version = collector.WaitForUpdatesEx("", None).version
        added = wire.do(wire.world.add_host, "esx-late")
        update = collector.WaitForUpdatesEx(version, None)
        assert [(each.kind, each.obj._moId) for each in update.filterSet[0].objectSet] == [("enter", added.moid)]

        def remove() -> None:
            wire.world.cluster.below.remove(added)
            wire.registry.remove(added)
            wire.world.cluster.touch()

        wire.do(remove)
        update = collector.WaitForUpdatesEx(update.version, None)
        assert [(each.kind, each.obj._moId) for each in update.filterSet[0].objectSet] == [("leave", added.moid)]


def test_a_large_update_is_truncated_and_continued(wire: RunningSimulator, client: Any) -> None:
    collector = client.content.propertyCollector
    collector.CreateFilter(through_view(view_of(client, vim.VirtualMachine), {vim.VirtualMachine: ["name"]}), True)
    version, sizes, truncated = "", [], True
    while truncated:
        update = collector.WaitForUpdatesEx(version, PC.WaitOptions(maxObjectUpdates=2, maxWaitSeconds=5))
        version, truncated = update.version, bool(update.truncated)
        sizes.append(len(update.filterSet[0].objectSet))
    assert sizes == [2, 2, 1]


def test_a_waiting_call_is_woken_by_a_change_and_by_a_cancellation(wire: RunningSimulator, client: Any) -> None:
    collector = client.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(spec(client.content.eventManager, {vim.event.EventManager: ["latestEvent"]}), True)
    version = collector.WaitForUpdatesEx("", None).version

    def after(delay_s: float, do: Callable[[], Any]) -> threading.Timer:
        timer = threading.Timer(delay_s, do)
        timer.start()
        return timer

    with ThreadPoolExecutor(1) as background:
        waiting = background.submit(collector.WaitForUpdatesEx, version, PC.WaitOptions(maxWaitSeconds=30))
        event = vim.event.GeneralUserEvent(message="hello")
        timer = after(0.2, lambda: wire.do(wire.registry.events.post, event))
        update = waiting.result(timeout=10)
        timer.join()
        assert update.filterSet[0].objectSet[0].changeSet[0].val.message == "hello"
        waiting = background.submit(collector.WaitForUpdatesEx, update.version, PC.WaitOptions(maxWaitSeconds=30))
        time.sleep(0.2)
        collector.CancelWaitForUpdates()
        with pytest.raises(vmodl.fault.RequestCanceled):
            waiting.result(timeout=10)
    collector.DestroyPropertyCollector()


def test_the_search_index_finds_by_path_and_name(client: Any) -> None:
    index = client.content.searchIndex
    host = index.FindByInventoryPath("/dc/host/gpu-a/esx-1")
    assert (type(host), host._moId) == (vim.HostSystem, "host-101")
    assert index.FindByInventoryPath("dc/vm/vm-3")._moId == "vm-1003"
    assert index.FindByInventoryPath("dc/vm/none") is None
    assert index.FindByDnsName(dnsName="ESX-2", vmSearch=False)._moId == "host-102"
    cluster = index.FindByInventoryPath("dc/host/gpu-a")
    assert index.FindChild(cluster, "esx-0")._moId == "host-100"


async def test_a_change_right_after_the_look_wakes_the_waiting_call() -> None:
    registry = Registry()
    watched = Managed(registry, "thing-1")
    looks = []

    class ChangesAfterTheFirstLook:
        moid = "filter-1"

        def reset(self) -> None:
            looks.clear()

        def updates(self) -> list[str]:
            looks.append(registry.revision)
            if len(looks) == 1:
                asyncio.get_running_loop().call_soon(watched.touch)
                return []
            return ["<objectSet/>"]

    watch = PropertyWatch(registry)
    watch.filters.append(ChangesAfterTheFirstLook())  # type: ignore[arg-type]
    update = await asyncio.wait_for(watch.wait("", None, None), timeout=2)
    assert update is not None
    assert len(looks) == 2
