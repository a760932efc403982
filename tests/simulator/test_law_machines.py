from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.laws import cloning, machines, power
from simulator.world import Host, VirtualMachine, World
from tests.simulator.law_world import dynamic_gpu, events, give, gpu_ids, make_passthrough, static_gpu, world_of

Passthrough = vim.vm.device.VirtualPCIPassthrough
A100 = Passthrough.AllowedDevice(vendorId=0x10DE, deviceId=0x20F1)


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


def add(backing: Any, key: int = -1) -> Any:
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=Passthrough(key=key, backing=backing))


def dynamic(label: str = "Training") -> Any:
    return Passthrough.DynamicBackingInfo(deviceName="", allowedDevice=[A100], customLabel=label)


async def off(world: World, host: Host | None = None) -> VirtualMachine:
    vm = next(iter((host or first(world)).vms.values()))
    await power.power_off(world, vm)
    return vm


async def test_a_created_vm_has_bare_controllers_and_what_was_asked_for() -> None:
    async with world_of() as world:
        folder = next(iter(world.datacenters.values())).vm_folder
        pool = next(iter(world.pools.values()))
        device = vim.vm.device
        spec = vim.vm.ConfigSpec(
            name="new",
            memoryMB=2048,
            numCPUs=2,
            firmware="efi",
            version="vmx-19",
            deviceChange=[
                vim.vm.device.VirtualDeviceSpec(
                    operation="add", device=device.ParaVirtualSCSIController(key=-7, busNumber=0, sharedBus="noSharing")
                ),
                vim.vm.device.VirtualDeviceSpec(
                    operation="add",
                    device=device.VirtualDisk(key=-8, controllerKey=-7, unitNumber=0, capacityInKB=1024),
                ),
            ],
        )
        entity = await machines.create(world, folder, spec, pool, None)
        devices = entity.read("config.hardware.device")
        controller = next(found for found in devices if isinstance(found, device.ParaVirtualSCSIController))
        disk = next(found for found in devices if isinstance(found, device.VirtualDisk))
        assert disk.controllerKey == controller.key > 0
        assert (entity.read("config.firmware"), entity.read("config.version")) == ("efi", "vmx-19")
        assert events(world) == ["VmCreatedEvent"]
        with pytest.raises(vim.fault.DuplicateName):
            await machines.create(world, folder, vim.vm.ConfigSpec(name="new"), pool, None)


async def test_gpu_devices_and_settings_are_written_and_shown_as_vsphere_does() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        vm = await off(world)
        gpu = gpu_ids(host)[0]
        static = Passthrough.DeviceBackingInfo(
            deviceName="A100", id=gpu, deviceId="20f1", systemId=host.uuid, vendorId=0x10DE
        )
        spec = vim.vm.ConfigSpec(
            deviceChange=[add(dynamic(), -1), add(static, -2)],
            memoryReservationLockedToMax=True,
            extraConfig=[vim.option.OptionValue(key="pciPassthru.use64bitMMIO", value="TRUE")],
        )
        await machines.reconfigure(world, vm, spec)
        entity = world.managed(vm)
        shown = [found for found in entity.read("config.hardware.device") if isinstance(found, Passthrough)]
        assert [type(found.backing) for found in shown] == [
            Passthrough.DynamicBackingInfo,
            Passthrough.DeviceBackingInfo,
        ]
        assert (shown[0].backing.customLabel, shown[1].backing.id) == ("Training", gpu)
        extra = {option.key: option.value for option in entity.read("config.extraConfig")}
        assert extra["pciPassthru0.allowedDevices"] == "0x10de:0x20f1"
        assert extra["pciPassthru0.customLabel"] == "Training"
        assert extra["pciPassthru1.id"] == gpu
        assert entity.read("config.memoryReservationLockedToMax") is True
        removal = vim.vm.device.VirtualDeviceSpec(operation="remove", device=shown[0])
        clear = [vim.option.OptionValue(key="pciPassthru.use64bitMMIO", value="")]
        await machines.reconfigure(world, vm, vim.vm.ConfigSpec(deviceChange=[removal], extraConfig=clear))
        assert [found.kind for found in vm.gpus] == ["static"]
        assert "pciPassthru.use64bitMMIO" not in vm.extra_config


async def test_devices_firmware_and_memory_change_only_while_the_vm_is_off() -> None:
    async with world_of(vms=3) as world:
        vm = next(iter(first(world).vms.values()))
        for spec in (
            vim.vm.ConfigSpec(deviceChange=[add(dynamic())]),
            vim.vm.ConfigSpec(firmware="bios"),
            vim.vm.ConfigSpec(memoryMB=1024),
        ):
            with pytest.raises(vim.fault.InvalidPowerState):
                await machines.reconfigure(world, vm, spec)
        await machines.reconfigure(world, vm, vim.vm.ConfigSpec(annotation="runs"))
        assert vm.annotation == "runs"


async def test_dynamic_directpath_takes_hardware_version_17() -> None:
    async with world_of(vms=3) as world:
        vm = await off(world)
        vm.hardware_version = 15
        with pytest.raises(vim.fault.DeviceUnsupportedForVmVersion):
            await machines.reconfigure(world, vm, vim.vm.ConfigSpec(deviceChange=[add(dynamic())]))
        await machines.upgrade_hardware(world, vm, "vmx-17")
        await machines.reconfigure(world, vm, vim.vm.ConfigSpec(deviceChange=[add(dynamic())]))
        with pytest.raises(vim.fault.AlreadyUpgraded):
            await machines.upgrade_hardware(world, vm, "vmx-17")


async def test_more_devices_than_the_hardware_version_allows_are_refused() -> None:
    async with world_of(vms=3) as world:
        vm = await off(world)
        vm.hardware_version = 19
        await machines.reconfigure(world, vm, vim.vm.ConfigSpec(deviceChange=[add(dynamic()) for _ in range(16)]))
        with pytest.raises(vim.fault.InvalidDeviceSpec):
            await machines.reconfigure(world, vm, vim.vm.ConfigSpec(deviceChange=[add(dynamic())]))


async def test_a_change_made_on_older_news_is_refused() -> None:
    async with world_of(vms=3) as world:
        vm = await off(world)
        version = world.managed(vm).read("config.changeVersion")
        await machines.reconfigure(world, vm, vim.vm.ConfigSpec(changeVersion=version, annotation="1"))
        with pytest.raises(vim.fault.ConcurrentAccess):
            await machines.reconfigure(world, vm, vim.vm.ConfigSpec(changeVersion=version, annotation="2"))
        assert vm.annotation == "1"


async def test_a_running_passthrough_vm_does_not_move_and_one_that_is_off_does() -> None:
    async with world_of(vms=3) as world:
        host, other, _ = world.hosts.values()
        make_passthrough(host)
        vm = give(next(iter(host.vms.values())), dynamic_gpu())
        await power.power_on(world, vm)
        with pytest.raises(vim.fault.MigrationFault):
            await machines.relocate(world, vm, other)
        await power.power_off(world, vm)
        await machines.relocate(world, vm, other)
        assert vm.host is other
        assert (vm.moid in host.vms, vm.moid in other.vms) == (False, True)


async def test_a_plain_vm_moves_while_it_runs() -> None:
    async with world_of(vms=3) as world:
        host, other, _ = world.hosts.values()
        vm = next(iter(host.vms.values()))
        await machines.relocate(world, vm, other)
        assert (vm.host, vm.power_state, vm.booted) == (other, "poweredOn", True)
        assert events(world) == ["VmMigratedEvent"]


async def test_a_clone_brings_the_devices_of_its_template_along() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        source = give(next(iter(host.vms.values())), static_gpu(gpu_ids(host)[0]))
        machines.mark_as_template(world, source)
        with pytest.raises(vim.fault.InvalidState):
            await power.power_on(world, source)
        spec = vim.vm.CloneSpec(
            location=vim.vm.RelocateSpec(pool=world.ref(host.compute.pool)), template=False, powerOn=False
        )
        entity = await cloning.clone(world, source, source.folder, "copy", spec)
        copy = world.vms[entity.moid]
        assert [gpu.pci_id for gpu in copy.gpus] == [gpu_ids(host)[0]]
        assert (copy.uuid == source.uuid, copy.instance_uuid == source.instance_uuid) == (False, False)
        assert events(world)[-1] == "VmClonedEvent"


async def test_a_running_vm_is_neither_destroyed_nor_made_a_template() -> None:
    async with world_of(vms=3) as world:
        vm = next(iter(first(world).vms.values()))
        with pytest.raises(vim.fault.InvalidPowerState):
            await machines.destroy(world, vm)
        with pytest.raises(vim.fault.InvalidPowerState):
            machines.mark_as_template(world, vm)
        await power.power_off(world, vm)
        await machines.destroy(world, vm)
        assert vm.moid not in world.registry.objects
        assert vm.moid not in vm.folder.children
        assert events(world)[-1] == "VmRemovedEvent"


async def test_the_vm_may_not_get_a_static_device_its_host_lacks() -> None:
    async with world_of(vms=3) as world:
        vm = await off(world)
        backing = Passthrough.DeviceBackingInfo(deviceName="", id="0000:ff:00.0", deviceId="1", systemId="", vendorId=1)
        with pytest.raises(vim.fault.InvalidDeviceSpec):
            await machines.reconfigure(world, vm, vim.vm.ConfigSpec(deviceChange=[add(backing)]))
        with pytest.raises(vmodl.fault.InvalidArgument):
            await machines.reconfigure(
                world, vm, vim.vm.ConfigSpec(deviceChange=[add(vim.vm.device.VirtualDevice.BackingInfo())])
            )
