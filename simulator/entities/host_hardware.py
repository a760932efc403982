"""A host's hardware, storage and network as vSphere data objects, built when they are read."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.world import Host, PciFunction

__all__ = [
    "boot_device",
    "cpu_info",
    "hardware_info",
    "network_info",
    "nics",
    "pci_device",
    "product",
    "storage_device_info",
    "system_info",
]


def signed(value: int, bits: int) -> int:
    """The number as XML Schema's `short` and `byte` carry it: two's complement."""
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def pci_device(function: PciFunction) -> Any:
    _, bus, rest = function.id.split(":")
    slot, number = rest.split(".")
    return vim.host.PciDevice(
        id=function.id,
        classId=signed(function.class_id, 16),
        bus=signed(int(bus, 16), 8),
        slot=int(slot, 16),
        function=int(number, 16),
        vendorId=signed(function.vendor_id, 16),
        subVendorId=signed(function.sub_vendor_id, 16),
        vendorName=function.vendor_name,
        deviceId=signed(function.device_id, 16),
        subDeviceId=signed(function.sub_device_id, 16),
        parentBridge=function.parent_bridge,
        deviceName=function.device_name,
    )


def system_info(host: Host) -> Any:
    return vim.host.SystemInfo(vendor=host.vendor, model=host.model, uuid=host.uuid, serialNumber=host.uuid[:7].upper())


def cpu_info(host: Host) -> Any:
    return vim.host.CpuInfo(
        numCpuPackages=host.cpu_packages,
        numCpuCores=host.cpu_cores,
        numCpuThreads=host.cpu_cores * 2,
        hz=host.cpu_mhz * 1_000_000,
    )


def hardware_info(host: Host) -> Any:
    threads = host.cpu_cores * 2 // host.cpu_packages
    return vim.host.HardwareInfo(
        systemInfo=system_info(host),
        cpuInfo=cpu_info(host),
        cpuPkg=[
            vim.host.CpuPackage(
                index=index,
                vendor="intel",
                hz=host.cpu_mhz * 1_000_000,
                busHz=100_000_000,
                description=host.cpu_model,
                threadId=list(range(index * threads, (index + 1) * threads)),
            )
            for index in range(host.cpu_packages)
        ],
        memorySize=host.memory_bytes,
        numaInfo=vim.host.NumaInfo(type="NUMA", numNodes=host.cpu_packages),
        smcPresent=False,
        pciDevice=[pci_device(function) for function in host.pci.values()],
        biosInfo=vim.host.BIOSInfo(biosVersion="1.13.2", vendor=host.vendor, firmwareType="UEFI"),
    )


def product(host: Host) -> Any:
    return vim.AboutInfo(
        name="VMware ESXi",
        fullName=f"VMware ESXi {host.version} build-{host.build}",
        vendor="VMware, Inc.",
        version=host.version,
        patchLevel="0.00",
        build=host.build,
        localeVersion="INTL",
        localeBuild="000",
        osType="vmnix-x86",
        productLineId="embeddedEsx",
        apiType="HostAgent",
        apiVersion=f"{host.version}.0",
        licenseProductName="VMware ESX Server",
        licenseProductVersion=host.version[:1] + ".0",
    )


def boot_device(host: Host) -> tuple[str, str, PciFunction]:
    """Adapter name, canonical name of the boot disk, and the controller it hangs on."""
    adapter = "vmhba32" if host.usb_boot else "vmhba0"
    controller = next(function for function in host.pci.values() if function.used_by == adapter)
    if host.usb_boot:
        return adapter, "mpx.vmhba32:C0:T0:L0", controller
    return adapter, f"naa.6d0946606f{host.uuid.replace('-', '')[:22]}", controller


def storage_device_info(host: Host) -> Any:
    """Every host has the RAID adapter; one that boots from USB has the stick as its boot disk as well."""
    disks = [("vmhba0", f"naa.6d0946606f{host.uuid.replace('-', '')[:22]}", "Local DELL Disk", 480)]
    if host.usb_boot:
        disks.append(("vmhba32", "mpx.vmhba32:C0:T0:L0", "Local USB Direct-Access", 32))
    adapters, luns, topology = [], [], []
    for adapter, name, title, gib in disks:
        controller = next(function for function in host.pci.values() if function.used_by == adapter)
        adapter_key, lun_key = f"key-vim.host.BlockHba-{adapter}", f"key-vim.host.ScsiDisk-{name}"
        usb = adapter == "vmhba32"
        adapters.append(
            vim.host.BlockHba(
                key=adapter_key,
                device=adapter,
                bus=int(controller.id[5:7], 16),
                status="unknown",
                model=controller.device_name,
                driver=controller.driver,
                pci=controller.id,
                storageProtocol="scsi",
            )
        )
        luns.append(
            vim.host.ScsiDisk(
                deviceName=f"/vmfs/devices/disks/{name}",
                deviceType="disk",
                key=lun_key,
                uuid=f"0200000000{name.encode().hex()[:32]}",
                canonicalName=name,
                displayName=f"{title} ({name})",
                lunType="disk",
                vendor="USB" if usb else "DELL",
                model="Flash Disk" if usb else "PERC H755 Front",
                operationalState=["ok"],
                capacity=vim.host.DiskDimensions.Lba(blockSize=512, block=gib * 2**21),
                devicePath=f"/vmfs/devices/disks/{name}",
                ssd=not usb,
                localDisk=True,
            )
        )
        topology.append(
            vim.host.ScsiTopology.Interface(
                key=f"key-vim.host.ScsiTopology.Interface-{adapter}",
                adapter=adapter_key,
                target=[
                    vim.host.ScsiTopology.Target(
                        key=f"key-vim.host.ScsiTopology.Target-{adapter}:0:0",
                        target=0,
                        lun=[
                            vim.host.ScsiTopology.Lun(
                                key=f"key-vim.host.ScsiTopology.Lun-{name}", lun=0, scsiLun=lun_key
                            )
                        ],
                    )
                ],
            )
        )
    return vim.host.StorageDeviceInfo(
        hostBusAdapter=adapters,
        scsiLun=luns,
        scsiTopology=vim.host.ScsiTopology(adapter=topology),
        softwareInternetScsiEnabled=False,
    )


def nics(host: Host) -> list[tuple[str, PciFunction]]:
    """The host's NICs by device name: the management ports first, then the fast port that no switch uses."""
    found = [(function.used_by, function) for function in host.pci.values() if function.used_by.startswith("vmnic")]
    spare = [function for function in host.pci.values() if function.class_id >> 8 == 0x02 and not function.used_by]
    # A port in passthrough is no vmnic any more.
    return found + [
        (f"vmnic{index}", function) for index, function in enumerate(spare, len(found)) if not function.passthru_active
    ]


def network_info(host: Host) -> Any:
    pnics = []
    for name, function in nics(host):
        fast = function.vendor_id == 0x15B3
        speed = vim.host.PhysicalNic.LinkSpeedDuplex(speedMb=100_000 if fast else 10_000, duplex=True)
        tail = host.uuid.replace("-", "")[-8:]
        pnics.append(
            vim.host.PhysicalNic(
                key=f"key-vim.host.PhysicalNic-{name}",
                device=name,
                pci=function.id,
                driver=function.driver,
                linkSpeed=speed,
                validLinkSpecification=[speed],
                spec=vim.host.PhysicalNic.Specification(),
                wakeOnLanSupported=False,
                mac=":".join(["24", "6e", *(tail[at : at + 2] for at in (0, 2, 4)), f"{int(name[5:]):02x}"]),
                autoNegotiateSupported=True,
            )
        )
    uplinks = [name for name, function in nics(host) if function.used_by]
    switch = vim.host.VirtualSwitch(
        name="vSwitch0",
        key="key-vim.host.VirtualSwitch-vSwitch0",
        numPorts=9216,
        numPortsAvailable=9200,
        mtu=1500,
        portgroup=["key-vim.host.PortGroup-VM Network", "key-vim.host.PortGroup-Management Network"],
        pnic=[f"key-vim.host.PhysicalNic-{name}" for name in uplinks],
        spec=vim.host.VirtualSwitch.Specification(
            numPorts=128, bridge=vim.host.VirtualSwitch.BondBridge(nicDevice=uplinks), mtu=1500
        ),
    )
    vmk0 = vim.host.VirtualNic(
        device="vmk0",
        key="key-vim.host.VirtualNic-vmk0",
        portgroup="Management Network",
        spec=vim.host.VirtualNic.Specification(
            ip=vim.host.IpConfig(dhcp=False, ipAddress=management_ip(host), subnetMask="255.255.0.0"), mtu=1500
        ),
    )
    groups = [
        vim.host.PortGroup(
            key=f"key-vim.host.PortGroup-{name}",
            vswitch=switch.key,
            computedPolicy=vim.host.NetworkPolicy(),
            spec=vim.host.PortGroup.Specification(
                name=name, vlanId=0, vswitchName="vSwitch0", policy=vim.host.NetworkPolicy()
            ),
        )
        for name in ("VM Network", "Management Network")
    ]
    return vim.host.NetworkInfo(pnic=pnics, vswitch=[switch], proxySwitch=[], vnic=[vmk0], portgroup=groups)


def management_ip(host: Host) -> str:
    number = int(host.moid.removeprefix("host-"))
    return f"10.{20 + number // 65536}.{number // 256 % 256}.{number % 256}"
