"""Hosts that are isolated, or that vCenter alone has lost: who is off, who runs on, and how the hosts are shown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from simulator.laws import hosts
from simulator.laws.placement import hosts_for
from simulator.world import Host, World
from tests.simulator.ha_world import failed, gpu_vm, isolated, prepared, recorded, said
from tests.simulator.law_world import dynamic_gpu, events, until, world_of


def ha_state(world: World, host: Host) -> Any:
    found = world.managed(host).read("runtime.dasHostState")
    return found and found.state


async def test_each_vm_follows_its_own_isolation_response_and_the_others_their_clusters() -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, *_ = prepared(world)
        world.actions["set_ha"]("gpu-01", isolation_response="powerOff")
        names = ("as-cluster", "shut-down", "left")
        vms = [await gpu_vm(world, one, name, dynamic_gpu("Training")) for name in names[:2]]
        vms.append(world.vms[await world.actions["add_vm"](one.name, names[2])])
        world.actions["set_vm_ha"]("shut-down", isolation_response="shutdown")
        world.actions["set_vm_ha"]("left", isolation_response="none")
        found = recorded(world)
        await isolated(world, one)
        assert [(vm.power_state, vm.host is one) for vm in vms] == [
            ("poweredOn", False),
            ("poweredOn", False),
            ("poweredOn", True),
        ]
        assert said(found, "VmPowerOffOnIsolationEvent", vms[0])
        assert said(found, "VmShutdownOnIsolationEvent", vms[1])
        assert not [event for event in found if event.vm is not None and event.vm.name == "left"]
        assert events(world).index("DasHostIsolatedEvent") < events(world).index("VmPowerOffOnIsolationEvent")


async def test_what_cannot_start_elsewhere_stays_off_after_isolation_as_after_a_failure() -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, two, three = prepared(world)
        world.actions["set_ha"]("gpu-01", isolation_response="powerOff")
        pinned = await gpu_vm(world, one, "pinned", static=True)
        waits = await gpu_vm(world, one, "waits", dynamic_gpu("Training"))
        for other in (two, three):
            for function in other.pci.values():
                function.hardware_label = "Inference"
        found = recorded(world)
        await isolated(world, one)
        assert {vm.power_state for vm in (pinned, waits)} == {"poweredOff"}
        assert said(found, "VmPowerOffOnIsolationEvent", pinned)
        assert not said(found, "VmFailoverFailed", pinned)
        assert said(found, "VmFailoverFailed", waits)
        # vCenter does not see the host: it shows what it saw last.
        assert world.managed(waits).read("runtime.powerState") == "poweredOn"
        hosts.restore(world, one)
        await until(lambda: one.up)
        assert world.managed(waits).read("runtime.powerState") == "poweredOff"


async def test_a_host_that_vcenter_alone_has_lost_is_no_matter_for_ha() -> None:
    async with world_of(hosts=3, vms=0) as world:
        _, one, *_ = prepared(world)
        vm = await gpu_vm(world, one, "train")
        booted = vm.boot_time
        hosts.disconnect_abruptly(world, one)
        assert ha_state(world, one) == "connectedToMaster"
        assert world.managed(vm).read("runtime.connectionState") == "disconnected"
        await world.sleep(600)
        hosts.restore(world, one)
        assert [kind for kind in events(world) if kind.startswith(("Host", "Das"))] == [
            "HostConnectionLostEvent",
            "HostConnectedEvent",
        ]
        assert (vm.power_state, vm.host, vm.boot_time) == ("poweredOn", one, booted)


async def test_nothing_is_placed_on_an_isolated_host_also_before_vcenter_notices() -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, two, three = prepared(world)
        vm = await gpu_vm(world, one, "train")
        hosts.isolate(world, two)
        await asyncio.sleep(0)
        assert (two.connection_state, two in hosts_for(world, vm)) == ("connected", False)
        await failed(world, one)
        assert vm.host is three


async def test_host_states_are_those_that_ha_sees() -> None:
    async with world_of(hosts=4, vms=0) as world:
        one, two, three, four = world.hosts.values()
        assert [ha_state(world, host) for host in (one, two)] == ["master", "connectedToMaster"]
        await failed(world, one)
        await isolated(world, two)
        hosts.set_maintenance(world, four, True)
        assert [ha_state(world, host) for host in (one, two, three, four)] == [
            "hostDown",
            "networkIsolated",
            "master",
            None,
        ]
        for host in (one, two):
            hosts.restore(world, host)
        await until(lambda: one.up and two.up)
        assert [ha_state(world, host) for host in (one, two)] == ["master", "connectedToMaster"]
        world.actions["set_ha"]("gpu-01", enabled=False)
        assert {ha_state(world, host) for host in (one, two, three)} == {None}


@pytest.mark.parametrize("planned", ["maintenance", "standby"])
async def test_a_host_that_is_out_on_purpose_is_no_incident(planned: str) -> None:
    async with world_of(hosts=3, vms=0) as world:
        one = next(iter(world.hosts.values()))
        if planned == "maintenance":
            hosts.set_maintenance(world, one, True)
        else:
            await world.actions["enter_standby"](one.name)
        hosts.fail(world, one)
        assert one.background is not None
        await one.background
        assert not [kind for kind in events(world) if kind.startswith("Das")]
