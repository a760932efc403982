from __future__ import annotations

import asyncio

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import adding, hosts
from simulator.world import Host, World
from tests.simulator.law_world import events, until, world_of


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


async def test_a_reboot_disconnects_then_returns_with_a_new_boot_time() -> None:
    async with world_of() as world:
        host = first(world)
        host.in_maintenance = True
        before = host.boot_time
        await hosts.reboot(world, host, force=False)
        assert (host.connection_state, host.boot_time) == ("connected", before)
        await until(lambda: host.connection_state == "notResponding")
        assert host.boot_time == before
        await until(lambda: host.connection_state == "connected")
        assert host.boot_time > before
        assert host.in_maintenance
        assert events(world) == ["HostShutdownEvent", "HostConnectionLostEvent", "HostConnectedEvent"]


async def test_a_reboot_takes_about_four_minutes_of_the_worlds_time() -> None:
    async with world_of(time_scale=500) as world:
        host = first(world)
        host.in_maintenance = True
        loop = asyncio.get_running_loop()
        start, before = loop.time(), host.boot_time
        await hosts.reboot(world, host, force=False)
        await until(lambda: host.boot_time != before)
        assert 235 <= (loop.time() - start) * 500 <= 600


async def test_a_reboot_outside_of_maintenance_takes_force() -> None:
    async with world_of() as world:
        with pytest.raises(vim.fault.InvalidState):
            await hosts.reboot(world, first(world), force=False)
        with pytest.raises(vim.fault.InvalidState):
            await hosts.shut_down(world, first(world), force=False)
        assert events(world) == []


async def test_vms_die_with_a_forced_reboot_and_are_restarted_elsewhere() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        vm = next(iter(host.vms.values()))
        await hosts.reboot(world, host, force=True)
        await until(lambda: host.connection_state == "notResponding")
        assert (vm.power_state, vm.shown_power_state) == ("poweredOff", "poweredOn")
        await until(lambda: vm.power_state == "poweredOn")
        assert vm.host is not host


async def test_a_hanging_host_stays_lost_until_it_is_restored() -> None:
    async with world_of() as world:
        host = first(world)
        host.in_maintenance = True
        hosts.hang_reboot(world, host)
        await hosts.reboot(world, host, force=False)
        assert host.background is not None
        await host.background
        assert host.connection_state == "notResponding"
        before = host.boot_time
        hosts.restore(world, host)
        await until(lambda: host.connection_state == "connected")
        assert host.boot_time > before


async def test_a_slow_host_takes_the_time_it_was_given() -> None:
    async with world_of(time_scale=10_000) as world:
        host = first(world)
        host.in_maintenance = True
        hosts.slow_reboot(world, host, 5000)
        loop = asyncio.get_running_loop()
        start, before = loop.time(), host.boot_time
        await hosts.reboot(world, host, force=False)
        await until(lambda: host.boot_time != before)
        assert (loop.time() - start) * 10_000 >= 5000


async def test_a_shut_down_host_stays_off_until_it_is_restored() -> None:
    async with world_of() as world:
        host = first(world)
        host.in_maintenance = True
        before = host.boot_time
        await hosts.shut_down(world, host, force=False)
        assert host.background is not None
        await host.background
        assert (host.connection_state, host.power_state) == ("notResponding", "poweredOff")
        hosts.restore(world, host)
        await until(lambda: host.boot_time != before)


async def test_disconnecting_and_reconnecting_leaves_the_vms_running() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        await hosts.disconnect(world, host)
        assert world.managed(next(iter(host.vms.values()))).read("runtime.connectionState") == "disconnected"
        with pytest.raises(vim.fault.InvalidState):
            await hosts.disconnect(world, host)
        await hosts.reconnect(world, host)
        with pytest.raises(vim.fault.InvalidState):
            await hosts.reconnect(world, host)
        assert {vm.power_state for vm in host.vms.values()} == {"poweredOn"}
        assert events(world) == ["HostDisconnectedEvent", "HostConnectedEvent"]


async def test_a_host_that_does_not_answer_cannot_be_reconnected() -> None:
    async with world_of() as world:
        host = first(world)
        hosts.disconnect_abruptly(world, host)
        with pytest.raises(vmodl.fault.HostNotReachable):
            await hosts.reconnect(world, host)
        hosts.restore(world, host)
        assert host.connection_state == "connected"


async def test_an_added_host_is_fresh_and_announced_before_it_connects() -> None:
    async with world_of() as world:
        cluster = next(iter(world.clusters.values()))
        await adding.add_host_by_spec(world, cluster, "esx-new.gpu.test", connected=True)
        host = world.host_named("esx-new.gpu.test")
        assert len(host.gpus) == 2
        assert not any(function.passthru_enabled for function in host.pci.values())
        assert events(world) == ["HostAddedEvent", "HostConnectedEvent"]
        with pytest.raises(vim.fault.AlreadyConnected):
            await adding.add_host_by_spec(world, cluster, "esx-new.gpu.test", connected=True)


async def test_a_standalone_host_gets_a_compute_resource_that_goes_with_it() -> None:
    async with world_of() as world:
        folder = next(iter(world.datacenters.values())).host_folder
        compute = await adding.add_standalone_host(world, folder, "lone.gpu.test", connected=True)
        assert compute.vim_type is vim.ComputeResource
        await adding.remove_host(world, world.host_named("lone.gpu.test"))
        assert compute.moid not in world.registry.objects
        assert compute.moid not in folder.children
        assert events(world)[-1] == "HostRemovedEvent"


async def test_a_cluster_host_is_removed_only_in_maintenance_or_disconnected() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        with pytest.raises(vim.fault.InvalidState):
            await adding.remove_host(world, host)
        await hosts.disconnect(world, host)
        vms = list(host.vms)
        await adding.remove_host(world, host)
        gone = {host.moid, f"pciPassthruSystem-{host.moid[5:]}", *vms}
        assert not gone & world.registry.objects.keys()
