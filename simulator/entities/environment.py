"""The environment browser: what hosts offer to VMs."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, method
from simulator.entities.base import resolve
from simulator.entities.host_graphics import offered_profiles
from simulator.entities.host_hardware import pci_device
from simulator.laws.devices import gpu_limit
from simulator.world import Cluster, Host, World

__all__ = ["EnvironmentBrowser"]

_VERSIONS = (21, 20, 19, 18, 17, 15, 14, 13)
_DEFAULT_VERSION = 20


class EnvironmentBrowser(Managed):
    vim_type = vim.EnvironmentBrowser

    def __init__(self, world: World, cluster: Cluster, moid: str) -> None:
        super().__init__(world.registry, moid)
        self.world = world
        self.cluster = cluster

    @method("QueryConfigTarget")
    def query_config_target(self, call: Call, host: Any = None) -> Any:
        """Devices that VMs can use now: of one host, or of all hosts of the cluster."""
        hosts = [resolve(self.world, host, vim.HostSystem)] if host is not None else list(self.cluster.hosts.values())
        hosts = [found for found in hosts if found.up]
        return vim.vm.ConfigTarget(
            numCpus=max((found.cpu_cores * 2 for found in hosts), default=0),
            numCpuCores=max((found.cpu_cores for found in hosts), default=0),
            numNumaNodes=max((found.cpu_packages for found in hosts), default=0),
            smcPresent=False,
            maxMemMBOptimalPerf=max((found.memory_bytes // 2**20 for found in hosts), default=0),
            autoVmotion=False,
            pciPassthrough=[info for found in hosts for info in _passthrough_devices(found)],
            dynamicPassthrough=_dynamic_devices(hosts),
            sharedGpuPassthroughTypes=[
                vim.vm.PciSharedGpuPassthroughInfo(name=profile, vgpu=profile)
                for profile in sorted({profile for found in hosts for profile in offered_profiles(found)})
            ],
        )

    @method("QueryConfigOptionDescriptor")
    def query_config_option_descriptor(self, call: Call) -> list[Any]:
        return [
            vim.vm.ConfigOptionDescriptor(
                key=f"vmx-{version}",
                description=f"ESXi virtual machine, hardware version {version}",
                createSupported=True,
                defaultConfigOption=version == _DEFAULT_VERSION,
                runSupported=True,
                upgradeSupported=True,
            )
            for version in _VERSIONS
        ]

    @method("QueryConfigOption")
    def query_config_option(self, call: Call, key: str | None = None, host: Any = None) -> Any:
        return _config_option(key)

    @method("QueryConfigOptionEx")
    def query_config_option_ex(self, call: Call, spec: Any = None) -> Any:
        return _config_option(spec.key if spec is not None else None)


def _passthrough_devices(host: Host) -> list[Any]:
    return [
        vim.vm.PciPassthroughInfo(
            name=f"{function.device_name} | {function.id}", pciDevice=pci_device(function), systemId=host.uuid
        )
        for function in host.pci.values()
        if function.passthru_active
    ]


def _dynamic_devices(hosts: list[Host]) -> list[Any]:
    kinds = {
        (function.vendor_id, function.device_id, function.hardware_label): function
        for host in hosts
        for function in host.pci.values()
        if function.passthru_active
    }
    return [
        vim.vm.DynamicPassthroughInfo(
            name=f"{function.vendor_name} {function.device_name}",
            vendorName=function.vendor_name,
            deviceName=function.device_name,
            customLabel=label or None,
            vendorId=vendor_id,
            deviceId=device_id,
        )
        for (vendor_id, device_id, label), function in sorted(kinds.items(), key=lambda kind: kind[0])
    ]


def _range(low: int, high: int) -> Any:
    return vim.option.IntOption(min=low, max=high, defaultValue=low)


def _config_option(key: str | None) -> Any:
    """The parts of a hardware version's options that bear on GPUs, in an otherwise plain `ConfigOption`."""
    version = int(key.removeprefix("vmx-")) if key else _DEFAULT_VERSION
    if version not in _VERSIONS:
        raise vmodl.fault.InvalidArgument(invalidProperty="key", msg=f"There is no hardware version {key}.")
    controller = vim.vm.device.VirtualPCIControllerOption(
        type=vim.vm.device.VirtualPCIController,
        deprecated=False,
        plugAndPlay=True,
        hotRemoveSupported=False,
        devices=_range(0, 32),
        numSCSIControllers=_range(0, 4),
        numEthernetCards=_range(0, 10),
        numVideoCards=_range(1, 1),
        numSoundCards=_range(0, 1),
        numVmiRoms=_range(0, 0),
        numVmciDevices=_range(0, 1),
        numPCIPassthroughDevices=_range(0, gpu_limit(version)),
        numSasSCSIControllers=_range(0, 4),
        numVmxnet3EthernetCards=_range(0, 10),
        numParaVirtualSCSIControllers=_range(0, 4),
        numSATAControllers=_range(0, 4),
    )
    return vim.vm.ConfigOption(
        version=f"vmx-{version}",
        description=f"ESXi virtual machine, hardware version {version}",
        guestOSDescriptor=[
            _guest_os("ubuntu64Guest", "Ubuntu Linux (64-bit)"),
            _guest_os("otherGuest64", "Other (64-bit)"),
        ],
        guestOSDefaultIndex=0,
        hardwareOptions=vim.vm.VirtualHardwareOption(
            hwVersion=version,
            virtualDeviceOption=[controller],
            deviceListReadonly=False,
            numCPU=[1, 2, 4, 8, 16, 32, 64, 128],
            numCoresPerSocket=_range(1, 64),
            numCpuReadonly=False,
            memoryMB=vim.option.LongOption(min=4, max=24 * 2**20, defaultValue=4096),
            numPCIControllers=_range(1, 1),
            numIDEControllers=_range(2, 2),
            numUSBControllers=_range(0, 1),
            numUSBXHCIControllers=_range(0, 1),
            numSIOControllers=_range(1, 1),
            numPS2Controllers=_range(1, 1),
            resourceConfigOption=_resource_options(),
        ),
        capabilities=_capability(),
        datastore=vim.vm.DatastoreOption(),
        supportedMonitorType=["release"],
    )


def _guest_os(key: str, name: str) -> Any:
    device = vim.vm.device
    return vim.vm.GuestOsDescriptor(
        id=key,
        family="linuxGuest" if "ubuntu" in key else "otherGuestFamily",
        fullName=name,
        supportedMaxCPUs=768,
        numSupportedPhysicalSockets=64,
        numSupportedCoresPerSocket=64,
        supportedMinMemMB=32,
        supportedMaxMemMB=24 * 2**20,
        recommendedMemMB=4096,
        recommendedColorDepth=16,
        supportedDiskControllerList=[device.ParaVirtualSCSIController, device.VirtualAHCIController],
        recommendedDiskController=device.ParaVirtualSCSIController,
        supportedNumDisks=64,
        recommendedDiskSizeMB=16384,
        recommendedCdromController=device.VirtualAHCIController,
        supportedEthernetCard=[device.VirtualVmxnet3, device.VirtualE1000e],
        smcRequired=False,
        supportsWakeOnLan=True,
        supportsVMI=False,
        supportsMemoryHotAdd=True,
        supportsCpuHotAdd=True,
        supportsCpuHotRemove=False,
        supportedFirmware=["bios", "efi"],
        recommendedFirmware="efi",
        supports3D=True,
        recommended3D=False,
        smcRecommended=False,
        ich7mRecommended=False,
        usbRecommended=False,
        supportLevel="supported",
        supportedForCreate=True,
        vRAMSizeInKB=_range(1024, 131072),
        numSupportedFloppyDevices=2,
        supportsPvscsiControllerForBoot=True,
        diskUuidEnabled=False,
        supportsHotPlugPCI=True,
    )


def _resource_options() -> Any:
    allocation = vim.ResourceAllocationOption(
        sharesOption=vim.SharesOption(sharesOption=_range(0, 1_000_000), defaultLevel="normal")
    )
    return vim.ResourceConfigOption(cpuAllocationOption=allocation, memoryAllocationOption=allocation)


def _capability() -> Any:
    found = vim.vm.Capability()
    for field in found._GetPropertyList():
        if field.type is bool:
            setattr(found, field.name, False)
    return found
