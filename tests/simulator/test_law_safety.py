from __future__ import annotations

import asyncio

import pytest
from pyVmomi import vim

from simulator.laws import machines, maintenance, power, vsan
from simulator.world import Host, VirtualMachine, VmGpu, World
from tests.simulator.law_world import give, until, world_of
from tests.simulator.test_law_packages import NEW
from tests.simulator.test_law_profiles import host_with


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


async def stays(world: World, vm: VirtualMachine) -> bool:
    """Whether the VM keeps its host from maintenance mode."""
    host = vm.host
    try:
        await maintenance.enter(world, host, timeout_s=200)
    except vim.fault.Timedout:
        return True
    assert vm.host is not host
    assert vm.power_state == "poweredOn"
    return False


async def vgpu_vm(world: World) -> VirtualMachine:
    """A running vGPU VM, with another host that could take it."""
    host = await host_with(world, NEW, "10de:2235")
    other = await host_with_name(world, "other")
    vm = give(next(iter(world.vms.values())), VmGpu(13000, "vgpu", profile="nvidia_a40-24c"))
    await power.power_on(world, vm, host)
    assert other.up
    return vm


async def host_with_name(world: World, name: str) -> Host:
    host = next(host for host in world.hosts.values() if host.name == "shared")
    host.name = "first-shared"
    made = await host_with(world, NEW, "10de:2235")
    made.name = name
    return made


async def test_maintenance_waits_for_vsan_to_rebuild_objects_unless_told_not_to() -> None:
    async with world_of() as world:
        host, other, third = world.hosts.values()
        vsan.start_resync(world, host.compute, 2000)
        with pytest.raises(vim.fault.Timedout, match="vSAN"):
            await maintenance.enter(world, host, timeout_s=20)
        assert not host.in_maintenance
        await maintenance.enter(world, other, timeout_s=20, vsan_mode="noAction")
        assert other.in_maintenance
        assert host.compute.vsan_resync_seconds > 0
        await maintenance.enter(world, third, timeout_s=0)
        assert (third.in_maintenance, host.compute.vsan_resync_seconds) == (True, 0)


async def test_agent_vms_do_not_count() -> None:
    async with world_of() as world:
        host = first(world)
        moid = await world.actions["add_vm"](host.name, "vCLS-1", managed_by="com.vmware.vim.eam")
        await maintenance.enter(world, host, timeout_s=60)
        assert (host.in_maintenance, world.vms[moid].power_state) == (True, "poweredOff")


async def test_a_fault_tolerant_vm_stays() -> None:
    async with world_of(vms=3) as world:
        vm = next(iter(world.vms.values()))
        world.actions["set_fault_tolerant"](vm.name)
        assert world.managed(vm).read("runtime.faultToleranceState") == "running"
        assert await stays(world, vm)
        world.actions["set_fault_tolerant"](vm.name, on=False)
        assert not await stays(world, vm)


@pytest.mark.parametrize(("override", "kept"), [("manual", True), ("disabled", True), ("fullyAutomated", False)])
async def test_an_override_keeps_drs_from_moving_a_vm(override: str, kept: bool) -> None:
    async with world_of(vms=3) as world:
        vm = next(iter(world.vms.values()))
        world.actions["set_drs_override"](vm.name, override)
        (shown,) = world.managed(vm.host.compute).read("configurationEx.drsVmConfig")
        assert shown.enabled == (override != "disabled")
        assert await stays(world, vm) == kept


async def test_a_mandatory_rule_keeps_vms_off_hosts_and_a_preference_does_not() -> None:
    async with world_of(vms=3) as world:
        vm = next(iter(world.vms.values()))
        world.actions["add_vm_host_rule"]("gpu-01", "wish", [vm.name], [vm.host.name], mandatory=False)
        host = vm.host
        assert not await stays(world, vm)
        await maintenance.leave(world, host)
        world.actions["add_vm_host_rule"]("gpu-01", "site", [vm.name], [vm.host.name])
        rules = world.managed(host.compute).read("configurationEx.rule")
        assert [(rule.name, rule.mandatory) for rule in rules] == [("wish", False), ("site", True)]
        assert await stays(world, vm)


@pytest.mark.parametrize("missing", ["", "hotmigrate", "profile", "option"])
async def test_a_vgpu_vm_moves_when_vcenter_the_driver_and_drs_allow_it(missing: str) -> None:
    async with world_of(vms=1) as world:
        vm = await vgpu_vm(world)
        world.registry.settings["vgpu.hotmigrate.enabled"] = missing != "hotmigrate"
        vm.host.vgpu_migration = missing != "profile"
        if missing != "option":
            world.actions["set_drs_option"]("gpu-01", "VgpuMMAutomationTimeoutSecs", "-1")
        assert await stays(world, vm) == bool(missing)
        assert vm.gpus[0].assigned_id in vm.host.gpus


async def test_a_vgpu_vm_is_migrated_by_hand_when_vcenter_allows_it() -> None:
    async with world_of(vms=1) as world:
        vm = await vgpu_vm(world)
        other = world.host_named("other")
        with pytest.raises(vim.fault.MigrationFault):
            await machines.relocate(world, vm, other)
        world.registry.settings["vgpu.hotmigrate.enabled"] = True
        await machines.relocate(world, vm, other)
        assert (vm.host, vm.gpus[0].assigned_id) == (other, next(iter(other.gpus)))


async def test_admission_control_keeps_its_reserve() -> None:
    async with world_of(hosts=2, vms=2) as world:
        vm = next(iter(world.vms.values()))
        vm.memory_reserved_all = True
        das = world.managed(vm.host.compute).read("configurationEx.dasConfig")
        assert (das.admissionControlEnabled, das.admissionControlPolicy.failoverLevel) == (True, 1)
        assert await stays(world, vm)
        world.actions["set_admission_control"]("gpu-01", on=False)
        assert not await stays(world, vm)


async def test_a_host_in_standby_takes_no_vms() -> None:
    async with world_of(hosts=2, vms=2) as world:
        host, other = world.hosts.values()
        world.actions["set_dpm"]("gpu-01", on=True)
        world.actions["set_standby"](other.name, "in")
        shown = world.managed(other)
        assert (shown.read("runtime.standbyMode"), shown.read("runtime.powerState")) == ("in", "standBy")
        assert world.managed(host.compute).read("configurationEx.dpmConfigInfo.enabled")
        assert await stays(world, next(iter(host.vms.values())))


async def test_the_resync_can_be_read_while_it_runs() -> None:
    async with world_of() as world:
        cluster = first(world).compute
        vsan.start_resync(world, cluster, 100)
        assert vsan.resyncing(cluster)[0] == 50
        await until(lambda: vsan.resyncing(cluster) == (0, 0))
        await asyncio.sleep(0)
        assert vsan.accessible_without(cluster)
