from __future__ import annotations

import time

import pytest
from pyVmomi import vim

from simulator.build import build_world
from simulator.core import Registry
from simulator.laws import adding, passthrough
from simulator.wire.property_types import path_hint
from simulator.wire.soap_write import value_xml
from simulator.world import Host, World
from tests.simulator.law_world import CALL, events, gpu_ids, make_passthrough, world_of

NEWEST = "vim.version.v8_0_2_0"


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


async def test_the_inventory_hangs_together_from_the_root_down() -> None:
    async with world_of(clusters=2, hosts=2, vms=4) as world:
        assert world.root_folder.moid == "group-d1"
        objects = world.registry.objects
        datacenter = objects[world.root_folder.read("childEntity")[0]._moId]
        assert datacenter.read("name") == "DC0"
        folder = objects[datacenter.read("hostFolder")._moId]
        clusters = [objects[ref._moId] for ref in folder.read("childEntity")]
        assert [cluster.read("name") for cluster in clusters] == ["gpu-01", "gpu-02"]
        hosts = [objects[ref._moId] for cluster in clusters for ref in cluster.read("host")]
        assert [host.read("name") for host in hosts] == [
            "esx-01-01.gpu.test", "esx-01-02.gpu.test", "esx-02-01.gpu.test", "esx-02-02.gpu.test",
        ]  # fmt: skip
        assert all(objects[host.read("parent")._moId] in clusters for host in hosts)
        assert all(cluster.read("configurationEx.dasConfig.enabled") for cluster in clusters)
        vms = objects[datacenter.read("vmFolder")._moId].read("childEntity")
        assert {vm._moId for vm in vms if vm._moId.startswith("vm-")} == world.vms.keys()
        assert {ref._moId for host in hosts for ref in host.read("vm")} == world.vms.keys()
        assert events(world) == []


async def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    def identities(seed: int) -> list[str]:
        world = build_world(Registry(), clusters=2, hosts=2, gpus=1, vms=4, gpu_vms=2, seed=seed)
        return [f"{item.moid} {item.name} {item.uuid}" for item in (*world.hosts.values(), *world.vms.values())]

    assert identities(1) == identities(1)
    assert not set(identities(1)) & set(identities(2))


async def test_every_property_of_every_object_can_be_sent() -> None:
    async with world_of(clusters=2, vms=4, gpu_vms=6) as world:
        cluster = next(iter(world.clusters.values()))
        adding.new_host(world, cluster, "odd", usb_boot=True, gpu_shares_bridge_with_nic=True, iommu=False)
        await adding.add_standalone_host(world, cluster.folder, "lone", connected=False)
        for obj in world.registry.objects.values():
            if obj.vim_type is vim.Task:
                continue
            for path in obj.readers:
                value_xml("val", obj.read(path), object, NEWEST, path_hint(obj.vim_type, path, NEWEST))


async def test_management_nics_and_the_boot_controller_are_in_use_and_gpus_are_not() -> None:
    async with world_of() as world:
        host = first(world)
        used = {function.used_by: function for function in host.pci.values() if function.used_by}
        assert used.keys() == {"vmhba0", "vmnic0", "vmnic1"}
        shown = world.managed(host)
        uplinks = shown.read("config.network.vswitch")[0].spec.bridge.nicDevice
        pnics = {nic.device: nic.pci for nic in shown.read("config.network.pnic")}
        assert {pnics[name] for name in uplinks} == {used["vmnic0"].id, used["vmnic1"].id}
        assert shown.read("config.storageDevice.hostBusAdapter")[0].pci == used["vmhba0"].id
        assert not any(host.pci[gpu].used_by for gpu in gpu_ids(host))
        assert all(function.dependent_device in host.pci for function in host.pci.values())


async def test_pci_ids_are_signed_shorts() -> None:
    async with world_of() as world:
        devices = {device.id: device for device in world.managed(first(world)).read("hardware.pciDevice")}
        assert devices["0000:00:00.0"].vendorId == -32634
        assert devices["0000:81:00.0"].bus == -127
        gpu = devices["0000:81:00.0"]
        assert (gpu.vendorId & 0xFFFF, gpu.deviceId & 0xFFFF) == (0x10DE, 0x20F1)


async def test_oddities_are_visible_where_vsphere_shows_them() -> None:
    async with world_of() as world:
        cluster = next(iter(world.clusters.values()))
        odd = world.actions["add_host"](
            cluster.name, "odd", gpus=["10de:2235"], usb_boot=True, gpu_shares_bridge_with_nic=True, iommu=False
        )
        host = world.hosts[odd]
        shown = world.managed(host)
        adapters = {adapter.device: adapter.pci for adapter in shown.read("config.storageDevice.hostBusAdapter")}
        assert host.pci[adapters["vmhba32"]].class_id == 0x0C03
        infos = {info.id: info for info in shown.read("config.pciPassthruInfo")}
        gpu = gpu_ids(host)[0]
        nic = next(function.id for function in host.pci.values() if function.used_by == "vmnic0")
        assert infos[gpu].dependentDevice == infos[nic].dependentDevice != gpu
        assert not any(info.passthruCapable for info in infos.values())
        world.actions["add_host"](cluster.name, "cpu-only", gpus=[])
        assert world.managed(world.host_named("cpu-only")).read("config.graphicsInfo") == []


async def test_built_gpu_vms_run_on_prepared_hosts_and_hold_their_devices() -> None:
    async with world_of(hosts=2, gpu_vms=3) as world:
        vms = list(world.vms.values())
        assert [gpu.kind for vm in vms for gpu in vm.gpus] == ["dynamic", "dynamic", "static"]
        assert {vm.power_state for vm in vms} == {"poweredOn"}
        assert all(vm.host.pci[gpu.assigned_id].passthru_active for vm in vms for gpu in vm.gpus if gpu.assigned_id)
        assert len({(vm.host.moid, gpu.assigned_id) for vm in vms for gpu in vm.gpus}) == 3
    with pytest.raises(ValueError, match="more GPUs"):
        build_world(Registry(), hosts=1, gpus=1, vms=0, gpu_vms=2)


async def test_the_environment_browser_offers_active_devices_and_the_device_limit() -> None:
    async with world_of() as world:
        host = first(world)
        browser = world.registry.objects[world.managed(host.compute).read("environmentBrowser")._moId]
        target = await browser.invoke("QueryConfigTarget", CALL, {"host": None})
        assert list(target.pciPassthrough) == []
        make_passthrough(host, label="Training")
        target = await browser.invoke("QueryConfigTarget", CALL, {"host": world.ref(host)})
        assert [info.pciDevice.id for info in target.pciPassthrough] == gpu_ids(host)
        assert [(kind.customLabel, kind.deviceId) for kind in target.dynamicPassthrough] == [("Training", 0x20F1)]
        for key, limit in (("vmx-19", 16), ("vmx-20", 32)):
            option = await browser.invoke("QueryConfigOption", CALL, {"key": key, "host": None})
            assert option.hardwareOptions.virtualDeviceOption[0].numPCIPassthroughDevices.max == limit
            value_xml("returnval", option, vim.vm.ConfigOption, NEWEST)
        value_xml("returnval", target, vim.vm.ConfigTarget, NEWEST)


async def test_a_change_touches_the_host_and_its_managers() -> None:
    async with world_of() as world:
        host = first(world)
        watched = [world.managed(host), world.registry.objects[f"pciPassthruSystem-{host.moid[5:]}"]]
        before = [obj.revision for obj in watched]
        passthrough.update(
            world, host, [vim.host.PciPassthruConfig(id=gpu_ids(host)[0], passthruEnabled=True)], "8.0.2.0"
        )
        assert all(obj.revision > revision for obj, revision in zip(watched, before, strict=True))
        assert watched[0].read("summary.rebootRequired") is True


async def test_a_vcenter_of_the_largest_size_is_built_in_seconds() -> None:
    start = time.monotonic()
    world = build_world(Registry(), clusters=50, hosts=50, gpus=8, vms=40_000)
    assert (len(world.hosts), len(world.vms)) == (2500, 40_000)
    assert time.monotonic() - start < 30
