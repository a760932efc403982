"""What a VM can do with static and with Dynamic DirectPath I/O, row by row, by running it.

| what the VM can do        | DirectPath I/O (static)     | Dynamic DirectPath I/O |
|---|---|---|
| HA restart on another host | no: stays powered off      | yes |
| DRS initial placement      | no                         | yes |
| host maintenance mode      | shut down and reconfigure  | cold migration |
"""

from __future__ import annotations

import pytest
from pyVmomi import vim

from simulator.laws import drs, maintenance, power
from simulator.world import VirtualMachine, World
from tests.simulator.ha_world import failed, gpu_vm, prepared
from tests.simulator.law_world import dynamic_gpu, gpu_ids, until, world_of

KINDS = pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])


@KINDS
async def test_ha_restart_on_another_host(static: bool) -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        vm = await gpu_vm(world, one, "train", static=static)
        await failed(world, one)
        expected = ("poweredOff", one) if static else ("poweredOn", two)
        assert (vm.power_state, vm.host) == expected


@KINDS
async def test_drs_initial_placement(static: bool) -> None:
    """All devices of the VM's own host are in use, another host has free ones."""
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        vm = await gpu_vm(world, one, "train", static=static)
        await power.power_off(world, vm)
        for number in range(len(gpu_ids(one))):
            await gpu_vm(world, one, f"other-{number}")
        result = await drs.power_on_many(world, [vm])
        assert (len(result.attempted), len(result.notAttempted)) == ((0, 1) if static else (1, 0))
        if static:
            assert isinstance(result.notAttempted[0].fault, vim.fault.GenericVmConfigFault)
            assert (vm.power_state, vm.host) == ("poweredOff", one)
        else:
            await until(lambda: vm.power_state == "poweredOn")
            assert vm.host is two


@KINDS
async def test_host_maintenance_mode(static: bool) -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        # On the other host the static VM's address belongs to somebody else.
        await gpu_vm(world, two, "other", static=True)
        vm = await gpu_vm(world, one, "train", static=static)
        with pytest.raises(vim.fault.Timedout):
            await maintenance.enter(world, one, 30)
        assert vm.power_state == "poweredOn", "neither kind moves while it runs"

        await power.power_off(world, vm)
        await maintenance.enter(world, one, 30, evacuate_powered_off=True)
        if static:
            assert vm.host is one
            assert not await starts(world, vm)
            world.actions["set_maintenance"](one.name, False)
            vm.gpus = [dynamic_gpu("Training")]
            await maintenance.enter(world, one, 30, evacuate_powered_off=True)
        assert vm.host is two
        assert await starts(world, vm)


async def starts(world: World, vm: VirtualMachine) -> bool:
    try:
        await power.power_on(world, vm)
    except (vim.fault.InvalidState, vim.fault.GenericVmConfigFault):
        return False
    return vm.power_state == "poweredOn"
