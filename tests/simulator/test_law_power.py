from __future__ import annotations

import asyncio

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import drs, graphics, power
from simulator.laws.hosts import boot
from simulator.world import Host, Vib, VirtualMachine, VmGpu, World
from tests.simulator.law_world import dynamic_gpu, events, give, gpu_ids, make_passthrough, static_gpu, until, world_of


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


def a_vm(world: World) -> VirtualMachine:
    return next(iter(first(world).vms.values()))


async def off_for_a_while(world: World, vm: VirtualMachine) -> None:
    await world.sleep(power.GUEST_BOOT_SECONDS * 3)
    assert not vm.booted


@pytest.mark.parametrize(
    ("framebuffers_gib", "mmio_gib"),
    [([16] * 2, 64), ([24] * 2, 128), ([16] * 8, 256), ([16] * 10, 512), ([40] * 2, 256), ([40], 128)],
)
def test_mmio_space_is_the_next_power_of_two_and_once_more(framebuffers_gib: list[int], mmio_gib: int) -> None:
    assert power.mmio_gib_needed([gib * 1024 for gib in framebuffers_gib]) == mmio_gib


async def test_a_plain_vm_goes_off_and_on_and_its_guest_comes_up() -> None:
    async with world_of(vms=3) as world:
        vm = a_vm(world)
        await power.power_off(world, vm)
        assert (vm.power_state, vm.ip_address) == ("poweredOff", None)
        with pytest.raises(vim.fault.InvalidPowerState):
            await power.power_off(world, vm)
        await power.power_on(world, vm)
        assert (vm.power_state, vm.booted) == ("poweredOn", False)
        with pytest.raises(vim.fault.InvalidPowerState):
            await power.power_on(world, vm)
        await until(lambda: vm.booted)
        assert vm.ip_address
        assert events(world) == ["VmStoppingEvent", "VmPoweredOffEvent", "VmStartingEvent", "VmPoweredOnEvent"]


async def test_a_guest_shuts_down_only_when_it_is_up() -> None:
    async with world_of(vms=3) as world:
        vm = a_vm(world)
        power.shut_down_guest(world, vm)
        await until(lambda: vm.power_state == "poweredOff")
        await power.power_on(world, vm)
        with pytest.raises(vim.fault.ToolsUnavailable):
            power.shut_down_guest(world, vm)


async def test_a_dynamic_vm_gets_a_free_device_with_its_label_on_any_host() -> None:
    async with world_of(vms=3) as world:
        host, other, _ = world.hosts.values()
        make_passthrough(host, label="Inference")
        make_passthrough(other, label="Training")
        vm = give(a_vm(world), dynamic_gpu("Training"))
        await power.power_on(world, vm)
        assert (vm.host, vm.gpus[0].assigned_id) == (other, gpu_ids(other)[0])
        assert events(world) == ["VmStartingEvent", "DrsVmPoweredOnEvent"]
        bindings = world.managed(other).read("config.assignableHardwareBinding")
        assert [(binding.vm._moId, binding.pciId) for binding in bindings] == [(vm.moid, gpu_ids(other)[0])]
        await until(lambda: vm.booted)


async def test_a_dynamic_vm_without_a_matching_device_lacks_resources() -> None:
    async with world_of(vms=3) as world:
        make_passthrough(first(world), label="Inference")
        vm = give(a_vm(world), dynamic_gpu("Training"))
        with pytest.raises(vim.fault.InsufficientResourcesFault):
            await power.power_on(world, vm)


async def test_each_device_serves_one_vm() -> None:
    async with world_of(vms=9, hosts=3) as world:
        host = first(world)
        make_passthrough(host)
        one, other, late = host.vms.values()
        for vm in (one, other):
            await power.power_on(world, give(vm, dynamic_gpu()))
        assert {one.gpus[0].assigned_id, other.gpus[0].assigned_id} == set(gpu_ids(host))
        give(late, dynamic_gpu())
        with pytest.raises(vim.fault.InsufficientResourcesFault):
            await power.power_on(world, late)
        await power.power_off(world, one)
        await power.power_on(world, late)


async def test_two_vms_that_start_at_once_do_not_share_the_last_device() -> None:
    async with world_of(vms=6) as world:
        host = first(world)
        make_passthrough(host, gpu_ids(host)[0])
        vms = [give(vm, dynamic_gpu()) for vm in host.vms.values()]
        results = await asyncio.gather(*(power.power_on(world, vm) for vm in vms), return_exceptions=True)
        assert [type(result) for result in results].count(vim.fault.InsufficientResourcesFault) == 1
        assert sorted(vm.power_state for vm in vms) == ["poweredOff", "poweredOn"]


async def test_a_static_gpu_in_use_or_twice_in_a_vm_fails() -> None:
    async with world_of(vms=6) as world:
        host = first(world)
        make_passthrough(host)
        holder, late = host.vms.values()
        gpu = gpu_ids(host)[0]
        give(holder, static_gpu(gpu), static_gpu(gpu, key=13001))
        with pytest.raises(vim.fault.GenericVmConfigFault, match="DevicePowerOn"):
            await power.power_on(world, holder)
        await power.power_on(world, give(holder, static_gpu(gpu)))
        with pytest.raises(vim.fault.GenericVmConfigFault, match="already in use"):
            await power.power_on(world, give(late, static_gpu(gpu)))


async def test_a_static_gpu_works_on_its_own_host_only() -> None:
    async with world_of(vms=3) as world:
        host, other, _ = world.hosts.values()
        make_passthrough(other)
        vm = give(next(iter(host.vms.values())), static_gpu(gpu_ids(host)[0]))
        with pytest.raises(vim.fault.GenericVmConfigFault):
            await power.power_on(world, vm)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": "64"},
        {"pciPassthru.use64bitMMIO": "FALSE", "pciPassthru.64bitMMIOSizeGB": "128"},
    ],
)
async def test_too_little_mmio_space_powers_on_but_never_boots(settings: dict[str, str]) -> None:
    async with world_of(vms=3) as world:
        make_passthrough(first(world))
        vm = give(a_vm(world), dynamic_gpu())
        vm.extra_config = settings
        await power.power_on(world, vm)
        assert vm.power_state == "poweredOn"
        await off_for_a_while(world, vm)
        assert vm.question is None


async def test_bios_firmware_and_a_32_bit_guest_never_boot_with_a_gpu() -> None:
    for setting, value in (("firmware", "bios"), ("guest_id", "otherGuest")):
        async with world_of(vms=3) as world:
            make_passthrough(first(world))
            vm = give(a_vm(world), dynamic_gpu())
            setattr(vm, setting, value)
            await power.power_on(world, vm)
            await off_for_a_while(world, vm)


async def test_a_gpu_takes_a_full_memory_reservation() -> None:
    async with world_of(vms=3) as world:
        make_passthrough(first(world))
        vm = give(a_vm(world), dynamic_gpu())
        vm.memory_reserved_all = False
        with pytest.raises(vim.fault.GenericVmConfigFault, match="memory reservation"):
            await power.power_on(world, vm)
        vm.memory_reservation_mib = vm.memory_mib
        await power.power_on(world, vm)


async def test_passthrough_and_vgpu_never_meet_in_a_vm() -> None:
    async with world_of(vms=3) as world:
        make_passthrough(first(world))
        vm = give(a_vm(world), dynamic_gpu(), VmGpu(13001, "vgpu", profile="grid_a100-20c"))
        with pytest.raises(vim.fault.GenericVmConfigFault):
            await power.power_on(world, vm)


async def test_vgpus_share_a_card_as_the_policy_says_until_it_is_full() -> None:
    for policy, cards in (("consolidation", 1), ("performance", 2)):
        async with world_of(vms=5, hosts=1) as world:
            host = first(world)
            host.vibs.append(Vib("NVD-AIE", "550.54", "NVD", provides_vgpu=True))
            graphics.set_host_default(world, host, "sharedDirect", policy)
            await boot(world, host)
            vms = [give(vm, VmGpu(13000, "vgpu", profile="grid_a100-20c")) for vm in host.vms.values()]
            for vm in vms[:2]:
                await power.power_on(world, vm)
            assert len({vm.gpus[0].assigned_id for vm in vms[:2]}) == cards
            for vm in vms[2:4]:
                await power.power_on(world, vm)
            with pytest.raises(vim.fault.InsufficientGraphicsResourcesFault):
                await power.power_on(world, vms[4])


async def test_a_passthrough_vm_is_not_suspended() -> None:
    async with world_of(vms=6) as world:
        make_passthrough(first(world))
        vm, plain = first(world).vms.values()
        await power.power_on(world, give(vm, dynamic_gpu()))
        with pytest.raises(vmodl.fault.NotSupported):
            await power.suspend(world, vm)
        await power.suspend(world, plain)
        assert plain.power_state == "suspended"
        await power.power_on(world, plain)


async def test_reset_keeps_the_device_and_boots_again() -> None:
    async with world_of(vms=3) as world:
        make_passthrough(first(world))
        vm = give(a_vm(world), dynamic_gpu())
        await power.power_on(world, vm)
        await until(lambda: vm.booted)
        held = vm.gpus[0].assigned_id
        await power.reset(world, vm)
        assert (vm.booted, vm.gpus[0].assigned_id) == (False, held)
        await until(lambda: vm.booted)


async def test_powering_on_many_tells_which_were_not_attempted() -> None:
    async with world_of(vms=6) as world:
        make_passthrough(first(world), gpu_ids(first(world))[0])
        good, bad = (
            give(vm, dynamic_gpu(label)) for vm, label in zip(first(world).vms.values(), ("", "X"), strict=True)
        )
        result = await drs.power_on_many(world, [good, bad])
        assert [info.vm._moId for info in result.attempted] == [good.moid]
        assert [info.vm._moId for info in result.notAttempted] == [bad.moid]
        await until(lambda: good.power_state == "poweredOn")
        assert bad.power_state == "poweredOff"


async def test_no_vm_starts_on_a_host_in_maintenance() -> None:
    async with world_of(vms=1, hosts=1) as world:
        vm = a_vm(world)
        await power.power_off(world, vm)
        first(world).in_maintenance = True
        with pytest.raises(vim.fault.InvalidState):
            await power.power_on(world, vm)
