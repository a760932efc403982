from __future__ import annotations

import pytest

from simulator.laws import power
from simulator.laws.hosts import boot
from simulator.laws.profiles import offered, profiles_of
from simulator.nvidia_smi import nvidia_smi
from simulator.world import Host, VmGpu, World
from tests.simulator.law_world import give, make_passthrough, world_of
from tests.simulator.test_law_packages import GRAPHICS, NEW
from tests.simulator.test_law_profiles import host_with

QUERY = ["--query-gpu=index,pci.bus_id,mig.mode.current,mig.mode.pending", "--format=csv,noheader"]


def smi(world: World, host: Host, *arguments: str) -> tuple[int, str]:
    output = nvidia_smi(world, host, list(arguments))
    return output.status, output.stdout


async def test_mig_on_ampere_waits_for_a_reset_of_the_card_and_changes_the_profiles() -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:20f1", "10de:20f1")
        one, other = host.gpus
        status, text = smi(world, host, "-i", "0", "-mig", "1")
        assert (status, "pending enable" in text) == (0, True)
        assert smi(world, host, "-i", "0", *QUERY)[1] == "0, 00000000:81:00.0, Disabled, Enabled\n"
        assert "grid_a100-40c" in profiles_of(host, one)
        assert smi(world, host, "--gpu-reset", "-i", "0")[0] == 0
        assert "grid_a100-3-20c" in profiles_of(host, one)
        assert "grid_a100-40c" not in profiles_of(host, one)
        assert "grid_a100-40c" in profiles_of(host, other)
        assert smi(world, host, *QUERY)[1].splitlines()[0] == "0, 00000000:81:00.0, Enabled, Enabled"


async def test_mig_waits_for_a_boot_just_as_well_and_survives_it() -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:20b7")
        smi(world, host, "-i", "00000000:81:00.0", "-mig", "1")
        await boot(world, host)
        assert set(offered(host)) == {"nvidia_a30-1-6c", "nvidia_a30-2-12c", "nvidia_a30-4-24c"}
        host.forgets_mig = True
        await boot(world, host)
        assert "nvidia_a30-24c" in offered(host)


async def test_mig_on_hopper_is_in_force_at_once() -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:2331")
        assert "pending" not in smi(world, host, "-mig", "1")[1]
        assert "nvidia_h100-7-80c" in offered(host)


async def test_a_card_without_mig_says_so() -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:2235")
        status, text = smi(world, host, "-i", "0", "-mig", "1")
        assert (status, "Not Supported" in text) == (3, True)
        assert smi(world, host, *QUERY)[1] == "0, 00000000:81:00.0, [N/A], [N/A]\n"


async def test_a_card_that_a_running_vm_uses_cannot_be_switched_or_reset() -> None:
    async with world_of(vms=3) as world:
        host = await host_with(world, NEW, "10de:2331")
        vm = give(next(iter(world.vms.values())), VmGpu(13000, "vgpu", profile="nvidia_h100-80c"))
        await power.power_on(world, vm, host)
        for arguments in (["-mig", "1"], ["--gpu-reset"]):
            status, text = smi(world, host, "-i", "0", *arguments)
            assert (status, "In use" in text) == (19, True)
        await power.power_off(world, vm)
        assert smi(world, host, "-i", "0", "-mig", "1")[0] == 0


async def test_a_card_in_passthrough_is_not_there() -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:20f1", "10de:20f1")
        first, second = host.gpus
        make_passthrough(host, first)
        assert second.upper() in smi(world, host, *QUERY)[1]
        assert first.upper() not in smi(world, host, *QUERY)[1]
        assert smi(world, host, "-i", "1", "-mig", "1")[0] == 2


async def test_the_graphics_package_offers_nothing_on_a_sliced_compute_card() -> None:
    async with world_of() as world:
        host = await host_with(world, GRAPHICS, "10de:2331")
        smi(world, host, "-mig", "1")
        assert offered(host) == {}


@pytest.mark.parametrize(("version", "mode"), [("8.0.2", None), ("8.0.3", "multiInstanceGpu")])
async def test_the_vgpu_mode_tells_of_mig_from_8_0_3_on(version: str, mode: str | None) -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:2331")
        host.version = version
        smi(world, host, "-mig", "1")
        (info,) = world.managed(host).read("config.graphicsInfo")
        assert info.vgpuMode == mode


@pytest.mark.parametrize(
    "arguments", [["-z"], ["-mig", "2"], ["-i"], ["--query-gpu=index"], ["--query-gpu=x", "--format=csv"]]
)
async def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:2331")
        assert smi(world, host, *arguments)[0] == 2


async def test_the_plain_and_the_long_output_name_the_driver() -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:2331")
        for arguments in ([], ["-q"]):
            status, text = smi(world, host, *arguments)
            assert (status, "550.54.16" in text, "H100" in text) == (0, True, True)
