"""HA's settings, where clients read them and as they change them."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import hosts, power
from simulator.world import World
from tests.simulator.ha_world import cluster_of, recorded, said
from tests.simulator.law_world import CALL, until, world_of


async def reconfigured(world: World, **spec: Any) -> Any:
    task = world.managed(cluster_of(world)).reconfigure(CALL, vim.cluster.ConfigSpecEx(**spec), True)
    await until(lambda: task.task_info.state in ("success", "error"))
    return task.task_info.error


def own(world: World) -> dict[str, tuple[str, str]]:
    """The VMs' own settings, from both places where clients look."""
    cluster = world.managed(cluster_of(world))
    places = [cluster.read(f"{place}.dasVmConfig") for place in ("configuration", "configurationEx")]
    both = [
        {
            world.vms[each.key._moId].name: (each.dasSettings.restartPriority, each.dasSettings.isolationResponse)
            for each in found
        }
        for found in places
    ]
    assert both[0] == both[1]
    return both[0]


async def test_a_clusters_settings_are_changed_by_clients() -> None:
    async with world_of(vms=3) as world:
        das = vim.cluster.DasConfigInfo(
            hostMonitoring="disabled",
            admissionControlEnabled=False,
            admissionControlPolicy=vim.cluster.FailoverLevelAdmissionControlPolicy(failoverLevel=2),
            defaultVmSettings=vim.cluster.DasVmSettings(restartPriority="low", isolationResponse="shutdown"),
        )
        assert await reconfigured(world, dasConfig=das) is None
        shown = world.managed(cluster_of(world)).read("configuration.dasConfig")
        assert (shown.enabled, shown.hostMonitoring, shown.admissionControlEnabled) == (True, "disabled", False)
        assert shown.admissionControlPolicy.failoverLevel == 2
        settings = shown.defaultVmSettings
        assert (settings.restartPriority, settings.isolationResponse) == ("low", "shutdown")


async def test_a_vms_own_settings_are_added_changed_and_removed_by_clients() -> None:
    def spec(operation: str, vm: Any, **settings: str) -> list[Any]:
        key = world.ref(vm)
        if operation == "remove":
            return [vim.cluster.DasVmConfigSpec(operation=operation, removeKey=key)]
        info = vim.cluster.DasVmConfigInfo(key=key, dasSettings=vim.cluster.DasVmSettings(**settings))
        return [vim.cluster.DasVmConfigSpec(operation=operation, info=info)]

    async with world_of(vms=3) as world:
        vm = next(iter(world.vms.values()))
        assert own(world) == {}
        added = spec("add", vm, restartPriority="high", isolationResponse="powerOff")
        assert await reconfigured(world, dasVmConfigSpec=added) is None
        assert own(world) == {vm.name: ("high", "powerOff")}
        assert isinstance(await reconfigured(world, dasVmConfigSpec=added), vmodl.fault.InvalidArgument)
        edited = spec("edit", vm, restartPriority="disabled", isolationResponse="clusterIsolationResponse")
        assert await reconfigured(world, dasVmConfigSpec=edited) is None
        assert own(world) == {vm.name: ("disabled", "clusterIsolationResponse")}
        unknown = spec("edit", vm, restartPriority="urgent")
        assert isinstance(await reconfigured(world, dasVmConfigSpec=unknown), vmodl.fault.InvalidArgument)
        assert await reconfigured(world, dasVmConfigSpec=spec("remove", vm)) is None
        assert own(world) == {}
        assert isinstance(await reconfigured(world, dasVmConfigSpec=spec("remove", vm)), vmodl.fault.InvalidArgument)


async def test_protection_is_shown_for_what_would_be_restarted() -> None:
    def shown() -> Any:
        found = world.managed(vm).read("runtime.dasVmProtection")
        return found and found.dasProtected

    async with world_of(vms=3) as world:
        vm = next(iter(world.vms.values()))
        assert shown() is True
        world.actions["set_ha"]("gpu-01", restart_priority="disabled")
        assert shown() is False
        world.actions["set_vm_ha"](vm.name, restart_priority="lowest")
        assert shown() is True
        world.actions["set_vm_ha"](vm.name, restart_priority="clusterRestartPriority")
        assert shown() is False
        world.actions["set_ha"]("gpu-01", enabled=False)
        assert shown() is None
        world.actions["set_ha"]("gpu-01", enabled=True, restart_priority="medium")
        assert shown() is True, "it ran before HA was switched on"
        await power.power_off(world, vm)
        assert shown() is False


@pytest.mark.parametrize("wrong", [{"restart_priority": "urgent"}, {"isolation_response": "leave"}])
async def test_unknown_words_are_refused_by_the_actions(wrong: dict[str, str]) -> None:
    async with world_of(vms=1) as world:
        (vm,) = world.vms.values()
        with pytest.raises(ValueError, match="is none of"):
            world.actions["set_ha"]("gpu-01", **wrong)
        with pytest.raises(ValueError, match="is none of"):
            world.actions["set_vm_ha"](vm.name, **wrong)


async def test_admission_control_refuses_people_and_never_ha() -> None:
    async with world_of(hosts=3, vms=3) as world:
        one, two, _ = world.hosts.values()
        world.actions["set_ha"]("gpu-01", strict_admission=True)
        moid = await world.actions["add_vm"](one.name, "more", on=False)
        await power.power_on(world, world.vms[moid])
        await power.power_off(world, world.vms[moid])

        # One host has to be left over: with two hosts away there is none.
        hosts.set_maintenance(world, two, True)
        found = recorded(world)
        (victim,) = one.vms.values() if len(one.vms) == 1 else [vm for vm in one.vms.values() if vm.name != "more"]
        hosts.fail(world, one)
        assert one.background is not None
        await one.background
        assert one.compute.failover is not None
        await one.compute.failover
        assert (victim.power_state, len(said(found, "VmRestartedOnAlternateHostEvent"))) == ("poweredOn", 1)
        other = world.vms[await world.actions["add_vm"](victim.host.name, "another", on=False)]
        with pytest.raises(vim.fault.InsufficientFailoverResourcesFault, match="failover level of gpu-01"):
            await power.power_on(world, other)
        world.actions["set_ha"]("gpu-01", admission_control=False)
        await power.power_on(world, other)


async def test_vms_that_are_lost_are_shown_so_and_neither_started_nor_restarted() -> None:
    async with world_of(hosts=3, vms=3) as world:
        vm, other, _ = world.vms.values()
        found = recorded(world)
        world.actions["set_vm_connection"](vm.name, "orphaned")
        world.actions["set_vm_connection"](other.name, "inaccessible")
        assert [world.managed(each).read("runtime.connectionState") for each in (vm, other)] == [
            "orphaned",
            "inaccessible",
        ]
        assert said(found, "VmOrphanedEvent", vm)
        with pytest.raises(vim.fault.InvalidState, match="orphaned"):
            await power.power_on(world, vm)
        world.actions["set_vm_connection"](vm.name, "connected")
        await power.power_on(world, vm)
        with pytest.raises(ValueError, match="no connection state"):
            world.actions["set_vm_connection"](vm.name, "lost")
