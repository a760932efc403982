"""VMs of hosts that do not answer: what can be done with them, and registering them elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import hosts, machines, power
from simulator.world import Host, VirtualMachine, World
from tests.simulator.ha_world import failed, gpu_vm, isolated, prepared
from tests.simulator.law_world import CALL, events, until, world_of


async def registered(world: World, path: str, host: Host | None, name: str | None = None, **more: Any) -> Any:
    """The VM, or the fault."""
    folder = world.managed(next(iter(world.datacenters.values())).vm_folder)
    target = world.ref(host) if host is not None else None
    task = folder.register_vm(CALL, path, more.pop("as_template", False), name, host=target, **more)
    await until(lambda: task.task_info.state in ("success", "error"))
    return task.task_info.error or world.vms[task.task_info.result._moId]


async def moved(world: World, vm: VirtualMachine, host: Host) -> VirtualMachine:
    path = world.managed(vm).read("config.files.vmPathName")
    world.managed(vm).unregister(CALL)
    found = await registered(world, path, host)
    assert isinstance(found, VirtualMachine), found
    return found


async def test_vms_of_a_lost_host_are_neither_started_nor_changed() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, _ = prepared(world)
        vm = await gpu_vm(world, one, "pinned", static=True)
        await failed(world, one)
        for attempt in (
            power.power_on(world, vm),
            power.power_off(world, vm),
            machines.reconfigure(world, vm, vim.vm.ConfigSpec(annotation="x")),
            machines.destroy(world, vm),
        ):
            with pytest.raises(vim.fault.InvalidHostConnectionState, match=one.name):
                await attempt


async def test_a_vm_of_a_dead_host_is_registered_elsewhere_as_the_same_vm_under_a_new_moid() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        vm = await gpu_vm(world, one, "pinned", static=True)
        world.actions["set_vm_ha"]("pinned", restart_priority="high")
        before = world.managed(vm).read("config")
        await failed(world, one)
        again = await moved(world, vm, two)
        after = world.managed(again).read("config")
        assert again.moid != vm.moid
        assert vm.moid not in world.registry.objects
        assert (after.instanceUuid, after.uuid, after.files.vmPathName) == (
            before.instanceUuid,
            before.uuid,
            before.files.vmPathName,
        )
        assert [device.key for device in after.hardware.device] == [device.key for device in before.hardware.device]
        settings = {option.key: option.value for option in after.extraConfig}
        assert settings["pciPassthru.64bitMMIOSizeGB"] == "1024"
        assert (again.power_state, again.restart_priority) == ("poweredOff", None)
        assert events(world)[-2:] == ["VmRemovedEvent", "VmRegisteredEvent"]
        await power.power_on(world, again, two)
        assert again.host is two
        # The address means a device of the other host.
        assert again.gpus[0].assigned_id == vm.gpus[0].pci_id

        hosts.restore(world, one)
        await until(lambda: one.up)
        assert not one.vms
        assert [found for found in world.vms.values() if found.instance_uuid == vm.instance_uuid] == [again]


async def test_a_vm_that_nobody_registered_is_discovered_when_its_host_is_back() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, _ = prepared(world)
        vm = await gpu_vm(world, one, "pinned", static=True)
        await failed(world, one)
        world.managed(vm).unregister(CALL)
        assert not world.vms
        hosts.restore(world, one)
        await until(lambda: one.up)
        (found,) = one.vms.values()
        assert (found.instance_uuid, found.power_state) == (vm.instance_uuid, "poweredOff")
        assert found.moid != vm.moid
        assert "VmDiscoveredEvent" in events(world)


@pytest.mark.parametrize("how", ["cut off", "isolated"])
async def test_while_it_runs_on_a_host_that_is_cut_off_its_copy_finds_the_files_locked(how: str) -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, two, three = prepared(world)
        vm = await gpu_vm(world, one, "train")
        held = vm.gpus[0].assigned_id
        if how == "isolated":
            await isolated(world, one)
        else:
            hosts.disconnect_abruptly(world, one)
        again = await moved(world, vm, two)
        with pytest.raises(vim.fault.FileLocked, match="Failed to lock the file"):
            await power.power_on(world, again)

        # vCenter shows it where it runs, when it sees that.
        hosts.restore(world, one)
        assert (again.host, again.power_state, again.gpus[0].assigned_id) == (one, "poweredOn", held)
        assert list(world.vms.values()) == [again]
        await failed(world, one)
        assert (again.host in (two, three), again.power_state) == (True, "poweredOn")


async def test_the_files_are_free_once_the_host_that_is_cut_off_dies() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        vm = await gpu_vm(world, one, "train")
        hosts.disconnect_abruptly(world, one)
        again = await moved(world, vm, two)
        await failed(world, one)
        await power.power_on(world, again)
        hosts.restore(world, one)
        await until(lambda: one.up)
        assert (again.host, again.power_state, one.vms) == (two, "poweredOn", {})


async def test_what_cannot_be_registered_is_refused_with_its_reason() -> None:
    async with world_of(hosts=2, vms=1, clusters=2) as world:
        one, _, other, _ = world.hosts.values()
        vm = next(iter(world.vms.values()))
        path = vm.vmx
        with pytest.raises(vim.fault.InvalidPowerState):
            world.managed(vm).unregister(CALL)
        assert isinstance(await registered(world, path, one), vim.fault.AlreadyExists)
        await power.power_off(world, vm)
        world.managed(vm).unregister(CALL)
        assert isinstance(await registered(world, path, other), vim.fault.InvalidDatastorePath)
        assert isinstance(await registered(world, "[vsan-01] no/no.vmx", one), vim.fault.NotFound)
        assert isinstance(await registered(world, path, None), vim.fault.InvalidState)
        assert isinstance(await registered(world, "vm.vmx", one), vim.fault.InvalidDatastorePath)
        hosts.disconnect_abruptly(world, one)
        assert isinstance(await registered(world, path, one), vmodl.fault.HostNotConnected)
        hosts.restore(world, one)
        template = await registered(world, path, one, name="golden", as_template=True)
        assert (template.name, template.template, template.pool, template.vmx) == ("golden", True, None, path)
        again = await registered(world, path, one)
        assert isinstance(again, vim.fault.AlreadyExists)


async def test_rules_and_snapshots_of_a_vm_that_leaves_the_inventory() -> None:
    async with world_of(hosts=2, vms=1) as world:
        one, _ = world.hosts.values()
        (vm,) = world.vms.values()
        world.actions["add_vm_host_rule"]("gpu-01", "here", [vm.name], [one.name])
        await power.power_off(world, vm)
        made = world.managed(vm).create_snapshot(CALL, "before", False, False)
        await until(lambda: made.task_info.state == "success")
        again = await moved(world, vm, one)
        assert [found.name for found in again.snapshots] == ["before"]
        assert world.managed(again).read("snapshot").currentSnapshot._moId == again.snapshots[0].moid
        groups = world.managed(one.compute).read("configurationEx").group
        assert [len(group.vm) for group in groups if isinstance(group, vim.cluster.VmGroup)] == [0]
        world.actions["remove_vm_host_rule"]("gpu-01", "here")
        with pytest.raises(KeyError):
            world.actions["remove_vm_host_rule"]("gpu-01", "here")
