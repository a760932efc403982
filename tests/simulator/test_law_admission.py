"""HA's failover level follows the hosts that are up and what VMs reserve, and vCenter shows it where clients look."""

from __future__ import annotations

from pyVmomi import vim

from simulator.laws import hosts
from simulator.world import World
from tests.simulator.law_world import CALL, until, world_of


def shown(world: World) -> int:
    (cluster,) = {host.compute for host in world.hosts.values()}
    info = world.managed(cluster).read("summary").admissionControlInfo
    assert isinstance(info, vim.cluster.FailoverLevelAdmissionControlInfo)
    return int(info.currentFailoverLevel)


async def test_each_host_that_is_away_costs_a_level_until_it_is_back() -> None:
    async with world_of(hosts=3, vms=3) as world:
        one, two, _ = world.hosts.values()
        assert shown(world) == 2
        hosts.disconnect_abruptly(world, one)
        assert shown(world) == 1
        hosts.set_maintenance(world, two, True)
        await until(lambda: two.in_maintenance)
        assert shown(world) == 0
        hosts.restore(world, one)
        await until(lambda: one.up)
        assert shown(world) == 1


async def test_what_the_largest_vm_reserves_makes_the_slot_and_takes_the_room() -> None:
    async with world_of(hosts=3, vms=3) as world:
        vm, host = next(iter(world.vms.values())), next(iter(world.hosts.values()))
        assert shown(world) == 2
        # Each host has one slot then, and there are three VMs.
        vm.memory_reservation_mib = host.memory_bytes // 2**20 * 3 // 4
        assert shown(world) == 0
        vm.power_state = "poweredOff"
        assert shown(world) == 2, "who is off reserves nothing"


async def test_the_slots_can_be_read() -> None:
    async with world_of(hosts=2, vms=4) as world:
        cluster = world.managed(next(iter(world.hosts.values())).compute)
        info = cluster.das_advanced_runtime_info(CALL)
        assert (info.usedSlots, info.totalGoodHosts) == (4, 2)
        assert info.totalSlots == sum(each.slots for each in info.hostSlots)
        assert info.unreservedSlots == info.totalSlots - 4


async def test_nothing_is_said_of_failures_without_admission_control() -> None:
    async with world_of() as world:
        world.actions["set_admission_control"]("gpu-01", on=False)
        (cluster,) = {host.compute for host in world.hosts.values()}
        assert world.managed(cluster).read("summary").admissionControlInfo is None
