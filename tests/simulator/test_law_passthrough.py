from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import adding, hosts, passthrough
from simulator.world import Host, World
from tests.simulator.law_world import gpu_ids, until, world_of


def config(pci_id: str, **fields: object) -> object:
    return vim.host.PciPassthruConfig(id=pci_id, **fields)


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


async def rebooted(world: World, host: Host) -> None:
    before = host.boot_time
    await hosts.reboot(world, host, force=True)
    await until(lambda: host.boot_time != before)


async def test_enabling_waits_for_a_reboot_and_then_is_active() -> None:
    async with world_of() as world:
        host = first(world)
        gpu = host.pci[gpu_ids(host)[0]]
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True)], "8.0.2.0")
        assert (gpu.passthru_enabled, gpu.passthru_active, host.reboot_required) == (True, False, True)
        await rebooted(world, host)
        assert (gpu.passthru_active, host.reboot_required) == (True, False)
        assert host.gpus[gpu.id].active_type == "direct"
        assert [host.gpus[other].active_type for other in gpu_ids(host)[1:]] == ["basic"]


async def test_a_label_written_alone_turns_passthrough_off() -> None:
    async with world_of() as world:
        host = first(world)
        gpu = host.pci[gpu_ids(host)[0]]
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True)], "8.0.2.0")
        passthrough.update(world, host, [config(gpu.id, hardwareLabel="Training")], "8.0.2.0")
        assert (gpu.passthru_enabled, gpu.hardware_label) == (False, "Training")


async def test_an_empty_label_clears_and_an_absent_one_stays() -> None:
    async with world_of() as world:
        host = first(world)
        gpu = host.pci[gpu_ids(host)[0]]
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True, hardwareLabel="A")], "8.0.2.0")
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True)], "8.0.2.0")
        assert gpu.hardware_label == "A"
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True, hardwareLabel="")], "8.0.2.0")
        assert gpu.hardware_label == ""


async def test_a_device_that_leaves_passthrough_keeps_its_label_unless_the_same_call_clears_it() -> None:
    async with world_of() as world:
        host = first(world)
        gpu = host.pci[gpu_ids(host)[0]]
        for label, left in ((None, "A"), ("", "")):
            passthrough.update(world, host, [config(gpu.id, passthruEnabled=True, hardwareLabel="A")], "8.0.2.0")
            passthrough.update(world, host, [config(gpu.id, passthruEnabled=False, hardwareLabel=label)], "8.0.2.0")
            assert (gpu.passthru_enabled, gpu.hardware_label) == (False, left)


@pytest.mark.parametrize(("version", "label"), [("7.0.0.0", ""), ("7.0.1.0", ""), ("7.0.2.0", "A"), ("8.0.0.1", "A")])
async def test_the_label_vanishes_below_api_7_0_2(version: str, label: str) -> None:
    async with world_of() as world:
        host = first(world)
        gpu = host.pci[gpu_ids(host)[0]]
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True, hardwareLabel="A")], version)
        assert (gpu.passthru_enabled, gpu.hardware_label) == (True, label)


async def test_without_iommu_nothing_is_capable_and_writes_are_refused() -> None:
    async with world_of() as world:
        host = adding.new_host(world, next(iter(world.clusters.values())), "no-vtd", iommu=False)
        assert not any(passthrough.capable(host, function) for function in host.pci.values())
        with pytest.raises(vim.fault.HostConfigFault) as refused:
            passthrough.update(world, host, [config(gpu_ids(host)[0], passthruEnabled=True)], "8.0.2.0")
        assert "Host does not support passthrough configuration" in refused.value.msg


async def test_a_device_that_cannot_be_passed_through_and_an_unknown_one_are_refused() -> None:
    async with world_of() as world:
        host = first(world)
        with pytest.raises(vim.fault.HostConfigFault):
            passthrough.update(world, host, [config("0000:00:00.0", passthruEnabled=True)], "8.0.2.0")
        with pytest.raises(vmodl.fault.InvalidArgument):
            passthrough.update(world, host, [config("0000:ff:00.0", passthruEnabled=True)], "8.0.2.0")


async def test_apply_now_needs_a_host_that_can_rebind() -> None:
    async with world_of() as world:
        cluster = next(iter(world.clusters.values()))
        able = adding.new_host(world, cluster, "able", rebind_without_reboot=True)
        for host, active in ((able, True), (first(world), False)):
            gpu = host.pci[gpu_ids(host)[0]]
            passthrough.update(world, host, [config(gpu.id, passthruEnabled=True, applyNow=True)], "8.0.2.0")
            assert gpu.passthru_active is active
        assert able.gpus[gpu_ids(able)[0]].active_type == "direct"
        passthrough.update(world, able, [config(gpu_ids(able)[1], passthruEnabled=True)], "8.0.2.0")
        assert not able.pci[gpu_ids(able)[1]].passthru_active


async def test_a_bridge_switches_everything_behind_it_and_a_lone_function_stays_inactive() -> None:
    async with world_of() as world:
        host = adding.new_host(
            world, next(iter(world.clusters.values())), "shared", gpu_shares_bridge_with_nic=True, gpus=["10de:20f1"]
        )
        gpu = host.pci[gpu_ids(host)[0]]
        bridge = gpu.dependent_device
        assert bridge != gpu.id
        assert {host.pci[gpu.id].id, *(f.id for f in host.pci.values() if f.used_by.startswith("vmnic"))} <= {
            function.id for function in passthrough.group(host, bridge)
        }
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True)], "8.0.2.0")
        passthrough.activate(host)
        assert (gpu.passthru_enabled, gpu.passthru_active) == (True, False)
        passthrough.update(world, host, [config(bridge, passthruEnabled=True)], "8.0.2.0")
        assert all(f.passthru_enabled for f in host.pci.values() if f.used_by.startswith("vmnic"))
        assert passthrough.doomed(host)


async def test_a_host_that_gives_its_boot_controller_away_never_comes_back() -> None:
    async with world_of() as world:
        host = first(world)
        controller = next(function for function in host.pci.values() if function.used_by == "vmhba0")
        passthrough.update(world, host, [config(controller.id, passthruEnabled=True)], "8.0.2.0")
        await hosts.reboot(world, host, force=True)
        assert host.background is not None
        await host.background
        assert host.connection_state == "notResponding"
        hosts.restore(world, host)
        await until(lambda: host.connection_state == "connected")
        assert not controller.passthru_enabled


async def test_broken_passthrough_stays_inactive_after_a_reboot() -> None:
    async with world_of() as world:
        host = first(world)
        gpu = host.pci[gpu_ids(host)[0]]
        passthrough.break_passthrough(world, host, gpu.id)
        passthrough.update(world, host, [config(gpu.id, passthruEnabled=True)], "8.0.2.0")
        await rebooted(world, host)
        assert (gpu.passthru_enabled, gpu.passthru_active, host.reboot_required) == (True, False, True)


async def test_a_host_that_does_not_answer_takes_no_changes() -> None:
    async with world_of() as world:
        host = first(world)
        hosts.disconnect_abruptly(world, host)
        with pytest.raises(vmodl.fault.HostNotConnected):
            passthrough.update(world, host, [config(gpu_ids(host)[0], passthruEnabled=True)], "8.0.2.0")
