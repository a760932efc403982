from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import graphics
from simulator.laws.hosts import boot
from simulator.laws.profiles import offered, profiles_of
from simulator.world import Host, Vib
from tests.simulator.law_world import gpu_ids, make_passthrough, world_of

VGPU_MANAGER = Vib("NVD-AIE_ESXi_8.0.0_Driver", "550.54.16-1OEM.800.1.0.20613240", "NVD", provides_vgpu=True)


def config(host: Host, *, types: dict[str, str], default: str = "shared", policy: str = "performance") -> Any:
    devices = [vim.host.GraphicsConfig.DeviceType(deviceId=key, graphicsType=value) for key, value in types.items()]
    return vim.host.GraphicsConfig(
        hostDefaultGraphicsType=default, sharedPassthruAssignmentPolicy=policy, deviceType=devices
    )


async def test_a_fresh_host_is_shared_and_basic_without_profiles() -> None:
    async with world_of() as world:
        host = next(iter(world.hosts.values()))
        assert (host.default_graphics_type, host.active_default_graphics_type) == ("shared", "shared")
        assert {(card.configured_type, card.active_type) for card in host.gpus.values()} == {("shared", "basic")}
        assert not any(function.passthru_enabled for function in host.pci.values())
        assert offered(host) == {}


async def test_a_partial_device_list_and_a_missing_policy_reset_the_rest() -> None:
    async with world_of() as world:
        host = next(iter(world.hosts.values()))
        one, other = gpu_ids(host)
        full = {one: "sharedDirect", other: "sharedDirect"}
        graphics.update(world, host, config(host, types=full, policy="consolidation"))
        graphics.update(world, host, config(host, types={one: "sharedDirect"}, policy=""))
        assert [card.configured_type for card in host.gpus.values()] == ["sharedDirect", "shared"]
        assert host.assignment_policy == "performance"


async def test_the_default_type_is_pending_until_the_reboot() -> None:
    async with world_of() as world:
        host = next(iter(world.hosts.values()))
        graphics.set_host_default(world, host, "sharedDirect", None)
        assert (host.default_graphics_type, host.active_default_graphics_type) == ("sharedDirect", "shared")
        assert host.reboot_required
        await boot(world, host)
        assert (host.active_default_graphics_type, host.reboot_required) == ("sharedDirect", False)


async def test_profiles_are_on_offer_once_the_vgpu_manager_runs() -> None:
    async with world_of() as world:
        host = next(iter(world.hosts.values()))
        graphics.set_host_default(world, host, "sharedDirect", None)
        await boot(world, host)
        assert {card.active_type for card in host.gpus.values()} == {"basic"}
        host.vibs.append(VGPU_MANAGER)
        assert (offered(host), host.reboot_required) == ({}, True)
        await boot(world, host)
        assert {card.active_type for card in host.gpus.values()} == {"sharedDirect"}
        assert "grid_a100-20c" in offered(host)


async def test_a_gpu_in_passthrough_is_invisible_to_the_vgpu_manager() -> None:
    async with world_of() as world:
        host = next(iter(world.hosts.values()))
        one, other = gpu_ids(host)
        make_passthrough(host, one)
        host.vibs.append(VGPU_MANAGER)
        graphics.set_host_default(world, host, "sharedDirect", None)
        await boot(world, host)
        assert (host.gpus[one].active_type, host.gpus[other].active_type) == ("direct", "sharedDirect")
        assert profiles_of(host, one) == {}
        assert profiles_of(host, other)


async def test_unknown_types_policies_and_devices_are_refused_and_change_nothing() -> None:
    async with world_of() as world:
        host = next(iter(world.hosts.values()))
        for wrong in (
            config(host, types={}, default="nonsense"),
            config(host, types={}, policy="nonsense"),
            config(host, types={"0000:ff:00.0": "shared"}, default="sharedDirect"),
        ):
            with pytest.raises(vmodl.fault.InvalidArgument):
                graphics.update(world, host, wrong)
        assert (host.default_graphics_type, host.assignment_policy) == ("shared", "performance")
