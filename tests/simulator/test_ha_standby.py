"""Hosts in standby: idle ones go, nothing is placed on them, and they come back."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import power
from simulator.world import Host, World
from tests.simulator.law_world import CALL, events, until, world_of


def shown(world: World, host: Host) -> tuple[Any, ...]:
    runtime = world.managed(host).read("runtime")
    return runtime.standbyMode, runtime.powerState, runtime.connectionState, runtime.dasHostState is None


async def ended(task: Any) -> Any:
    await until(lambda: task.task_info.state in ("success", "error"))
    return task.task_info.error


async def test_an_idle_host_goes_to_standby_and_comes_back() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, _ = world.hosts.values()
        before = one.boot_time
        assert await ended(world.managed(one).enter_standby(CALL, 0)) is None
        assert shown(world, one) == ("in", "standBy", "notResponding", True)
        with pytest.raises(vmodl.fault.HostNotConnected):
            await world.actions["enter_standby"](one.name)
        assert await ended(world.managed(one).exit_standby(CALL, 0)) is None
        assert shown(world, one) == ("none", "poweredOn", "connected", False)
        assert one.boot_time > before
        assert events(world) == [
            "EnteringStandbyModeEvent",
            "HostConnectionLostEvent",
            "EnteredStandbyModeEvent",
            "ExitingStandbyModeEvent",
            "HostConnectedEvent",
            "ExitedStandbyModeEvent",
        ]
        assert isinstance(await ended(world.managed(one).exit_standby(CALL, 0)), vim.fault.InvalidState)


async def test_dpm_is_named_in_its_events_and_takes_what_is_off_along() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = world.hosts.values()
        vm = world.vms[await world.actions["add_vm"](one.name, "off", on=False)]
        await world.actions["enter_standby"](one.name)
        assert vm.host is two
        await power.power_on(world, vm)
        assert vm.host is two
        await world.actions["exit_standby"](one.name)
        assert [kind for kind in events(world) if kind.startswith("Drs")] == [
            "DrsEnteringStandbyModeEvent",
            "DrsEnteredStandbyModeEvent",
            "DrsExitingStandbyModeEvent",
            "DrsExitedStandbyModeEvent",
        ]


async def test_a_host_that_runs_vms_or_is_in_maintenance_does_not_go() -> None:
    async with world_of(hosts=2, vms=2) as world:
        one, two = world.hosts.values()
        with pytest.raises(vim.fault.InvalidState, match="VMs run"):
            await world.actions["enter_standby"](one.name)
        world.actions["set_maintenance"](two.name, True)
        with pytest.raises(vim.fault.InvalidState, match="maintenance"):
            await world.actions["enter_standby"](two.name)
        assert (one.standby_mode, two.standby_mode) == ("none", "none")
