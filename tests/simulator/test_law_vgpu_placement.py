"""What fits on a card: one size at a time, slices, and whole-card profiles only for several in one VM."""

from __future__ import annotations

import pytest
from pyVmomi import vim

from simulator.laws import graphics, power
from simulator.laws.placement import fit
from simulator.world import Host, VirtualMachine, VmGpu, World
from tests.simulator.law_world import give, world_of

MANAGER = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"


def sharing(world: World, *, mode: str = "sameSize", mig: bool = False) -> Host:
    """The first host shares its cards; the VMs are on it."""
    host = next(iter(world.hosts.values()))
    host.default_graphics_type = "sharedDirect"
    for card in host.gpus.values():
        card.configured_type, card.configured_vgpu_mode, card.mig_pending = "sharedDirect", mode, mig
    world.actions["set_package"](host.name, MANAGER)
    graphics.activate(host)
    return host


def vgpu(profile: str, key: int = 13000) -> VmGpu:
    return VmGpu(key, "vgpu", profile=profile)


def vms_of(host: Host) -> list[VirtualMachine]:
    return list(host.vms.values())


async def test_a_card_runs_one_size_at_a_time() -> None:
    async with world_of(hosts=1, gpus=1, vms=3) as world:
        host = sharing(world)
        one, other, same = vms_of(host)
        await power.power_on(world, give(one, vgpu("grid_a100-10c")))
        with pytest.raises(vim.fault.InsufficientGraphicsResourcesFault, match="no card has room"):
            await power.power_on(world, give(other, vgpu("grid_a100-20c")))
        await power.power_on(world, give(same, vgpu("grid_a100-10c")))
        for vm in (one, same):
            await power.power_off(world, vm)
        await power.power_on(world, other)


async def test_mixed_sizes_share_a_card_in_that_mode_from_8_0_3_on() -> None:
    for version, mode, fits in (("8.0.3", "mixedSize", True), ("8.0.2", "mixedSize", False),
                                ("8.0.3", "sameSize", False)):  # fmt: skip
        async with world_of(hosts=1, gpus=1, vms=2) as world:
            host = sharing(world, mode=mode)
            host.version = version
            one, other = vms_of(host)
            await power.power_on(world, give(one, vgpu("grid_a100-10c")))
            assert (not fit(host, give(other, vgpu("grid_a100-20c"))).missing) is fits, (version, mode)


async def test_a_card_has_seven_slices() -> None:
    async with world_of(hosts=1, gpus=1, vms=5) as world:
        host = sharing(world, mig=True)
        vms = vms_of(host)
        for vm in vms[:3]:  # 3 × 2 slices of 10 GiB each
            await power.power_on(world, give(vm, vgpu("grid_a100-2-10c")))
        assert fit(host, give(vms[3], vgpu("grid_a100-2-10c"))).missing
        await power.power_on(world, give(vms[3], vgpu("grid_a100-1-5c")))
        assert fit(host, give(vms[4], vgpu("grid_a100-1-5c"))).missing
        assert "no card offers" in fit(host, give(vms[4], vgpu("grid_a100-20c"))).missing


async def test_several_vgpus_in_a_vm_are_whole_cards_each() -> None:
    async with world_of(hosts=1, gpus=2, vms=1) as world:
        host = sharing(world)
        (vm,) = vms_of(host)
        with pytest.raises(vim.fault.InsufficientGraphicsResourcesFault, match="whole-card"):
            await power.power_on(world, give(vm, vgpu("grid_a100-20c"), vgpu("grid_a100-20c", 13001)))
        await power.power_on(world, give(vm, vgpu("grid_a100-40c"), vgpu("grid_a100-40c", 13001)))
        assert {gpu.assigned_id for gpu in vm.gpus} == set(host.gpus)
