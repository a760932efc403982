from __future__ import annotations

import pytest

from simulator.depots import DEPOTS
from simulator.laws import adding, graphics, services
from simulator.laws.hosts import boot
from simulator.laws.profiles import offered, profiles_of
from simulator.world import Host, World
from tests.simulator.law_world import world_of
from tests.simulator.test_law_packages import GRAPHICS, NEW


async def host_with(world: World, package: str, *models: str) -> Host:
    """A host that shares these cards, with a package that runs."""
    host = adding.new_host(world, next(iter(world.clusters.values())), "shared", gpus=list(models))
    host.vibs.append(DEPOTS[package].vib)
    graphics.set_host_default(world, host, "sharedDirect", None)
    await boot(world, host)
    return host


@pytest.mark.parametrize(
    ("package", "model", "letters"),
    [(NEW, "10de:2235", {"c"}), (GRAPHICS, "10de:2235", set("qba")), (NEW, "10de:20f1", {"c"}),
     (GRAPHICS, "10de:20f1", set())],
)  # fmt: skip
async def test_each_package_offers_its_own_kind_of_profiles(package: str, model: str, letters: set[str]) -> None:
    async with world_of() as world:
        host = await host_with(world, package, model)
        assert {name[-1] for name in offered(host)} == letters


async def test_profiles_are_those_of_the_model() -> None:
    async with world_of() as world:
        host = await host_with(world, NEW, "10de:2235", "10de:20f1")
        a40, a100 = sorted(host.gpus, key=lambda pci_id: host.gpus[pci_id].name, reverse=True)
        assert "nvidia_a40-24c" in profiles_of(host, a40)
        assert "grid_a100-40c" in profiles_of(host, a100)
        assert not profiles_of(host, a40).keys() & profiles_of(host, a100).keys()


async def test_without_sriov_in_the_bios_ampere_offers_nothing_though_the_driver_runs() -> None:
    async with world_of() as world:
        ampere = await host_with(world, NEW, "10de:2235")
        ampere.bios_sriov = False
        assert (ampere.vgpu_manager_runs, offered(ampere)) == (True, {})
        volta = adding.new_host(world, ampere.compute, "volta", gpus=["10de:1db4"])
        volta.vibs, volta.bios_sriov = list(ampere.vibs), False
        graphics.set_host_default(world, volta, "sharedDirect", None)
        await boot(world, volta)
        assert "grid_v100-16c" in offered(volta)


@pytest.mark.parametrize(
    ("version", "active"), [("6.7.0", "sharedDirect"), ("7.0.0", "sharedDirect"), ("7.0.1", "basic")]
)
async def test_restarting_xorg_is_enough_below_7_0_1_only(version: str, active: str) -> None:
    async with world_of() as world:
        host = adding.new_host(world, next(iter(world.clusters.values())), "x", version=version)
        host.running_vibs = frozenset([*host.vibs, DEPOTS[NEW].vib])
        graphics.set_host_default(world, host, "sharedDirect", None)
        services.restart(world, host, "xorg")
        assert {card.active_type for card in host.gpus.values()} == {active}
