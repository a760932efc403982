from __future__ import annotations

import asyncio

import pytest
from pyVmomi import vim

from simulator.laws import hosts, maintenance, power
from simulator.world import Host, World
from tests.simulator.law_world import dynamic_gpu, events, give, make_passthrough, until, world_of


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


async def test_drs_moves_running_vms_away_before_the_host_counts_as_maintained() -> None:
    async with world_of(vms=6) as world:
        host = first(world)
        vms = list(host.vms.values())
        await maintenance.enter(world, host, timeout_s=0)
        assert host.in_maintenance
        assert host.vms == {}
        assert {vm.power_state for vm in vms} == {"poweredOn"}
        assert events(world) == [
            "EnteringMaintenanceModeEvent",
            *["DrsVmMigratedEvent"] * len(vms),
            "EnteredMaintenanceModeEvent",
        ]
        await maintenance.leave(world, host)
        assert (host.in_maintenance, events(world)[-1]) == (False, "ExitMaintenanceModeEvent")


async def test_a_passthrough_vm_blocks_until_the_timeout() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        make_passthrough(host)
        vm = give(next(iter(host.vms.values())), dynamic_gpu())
        await power.power_on(world, vm)
        assert vm.host is host
        with pytest.raises(vim.fault.Timedout):
            await maintenance.enter(world, host, timeout_s=120)
        assert (host.in_maintenance, host.entering_maintenance) == (False, False)
        assert events(world).count("NoMaintenanceModeDrsRecommendationForVM") == 1
        assert vm.power_state == "poweredOn"


async def test_without_a_timeout_it_waits_until_the_vm_is_off() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        make_passthrough(host)
        vm = give(next(iter(host.vms.values())), dynamic_gpu())
        await power.power_on(world, vm)
        entering = asyncio.ensure_future(maintenance.enter(world, host, timeout_s=0))
        await until(lambda: "NoMaintenanceModeDrsRecommendationForVM" in events(world))
        await power.power_off(world, vm)
        await entering
        assert host.in_maintenance


async def test_without_full_automation_drs_moves_nothing() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        host.compute.drs_behavior = "partiallyAutomated"
        with pytest.raises(vim.fault.Timedout):
            await maintenance.enter(world, host, timeout_s=60)
        assert len(host.vms) == 1


async def test_agent_vms_do_not_count() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        host.compute.drs_enabled = False
        vm = next(iter(host.vms.values()))
        vm.managed_by = (maintenance.AGENT_EXTENSION, "cluster-agent")
        await maintenance.enter(world, host, timeout_s=60)
        assert (host.in_maintenance, vm.power_state) == (True, "poweredOff")


async def test_entering_twice_and_leaving_without_are_invalid_states() -> None:
    async with world_of() as world:
        host = first(world)
        with pytest.raises(vim.fault.InvalidState):
            await maintenance.leave(world, host)
        await maintenance.enter(world, host, timeout_s=0)
        with pytest.raises(vim.fault.InvalidState):
            await maintenance.enter(world, host, timeout_s=0)


async def test_a_cancelled_task_leaves_the_host_as_it_was() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        host.compute.drs_enabled = False
        entering = asyncio.ensure_future(maintenance.enter(world, host, timeout_s=0))
        await until(lambda: host.entering_maintenance)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert (host.in_maintenance, host.entering_maintenance) == (False, False)


async def test_someone_elses_maintenance_shows_at_once() -> None:
    async with world_of() as world:
        host = first(world)
        revision = world.managed(host).revision
        hosts.set_maintenance(world, host, on=True)
        assert world.managed(host).read("runtime.inMaintenanceMode") is True
        assert world.managed(host).revision > revision
