"""esxcli on a host: the commands' names, parameters and answers, in ESXi's words.

Field names are those of `esxcli --formatter=keyvalue`: the labels of the plain output without blanks.
"""

from __future__ import annotations

from typing import Any

from pyVmomi import vmodl

from simulator.laws import graphics, vsan
from simulator.laws.cli import CliFault, Command, Parameter, Row
from simulator.laws.esxcli_software import SOFTWARE_COMMANDS
from simulator.laws.passthrough import capable
from simulator.world import Host, PciFunction, World

__all__ = ["COMMANDS"]

GRAPHICS_NAMES = {"basic": "Basic", "shared": "Shared", "sharedDirect": "SharedPassthru", "direct": "Direct"}
CLASS_NAMES = {
    0x0600: "Host bridge", 0x0604: "PCI bridge", 0x0302: "3D controller", 0x0200: "Ethernet controller",
    0x0104: "RAID bus controller", 0x0C03: "USB controller",
}  # fmt: skip


def _graphics_device_list(world: World, host: Host, arguments: dict[str, str]) -> list[Row]:
    return [
        {
            "Address": card.pci_id,
            "DeviceName": card.name,
            "GraphicsType": GRAPHICS_NAMES[card.active_type],
            "MemorySizeinKB": card.framebuffer_mib * 1024,
            "ModuleName": _module(host, host.pci[card.pci_id]),
            "NumberofVMs": sum(_holds(vm, card.pci_id) for vm in host.vms.values()),
            "VendorName": "NVIDIA Corporation",
        }
        for card in host.gpus.values()
    ]


def _holds(vm: Any, pci_id: str) -> bool:
    return vm.power_state == "poweredOn" and any(gpu.assigned_id == pci_id for gpu in vm.gpus)


def _module(host: Host, function: PciFunction) -> str:
    if function.passthru_active:
        return "pciPassthru"
    if function.id in host.gpus:
        return "nvidia" if host.vgpu_manager_runs else "None"
    return function.driver or "None"


def _graphics_host_get(world: World, host: Host, arguments: dict[str, str]) -> Row:
    return {
        "DefaultGraphicsType": GRAPHICS_NAMES[host.default_graphics_type],
        "SharedPassthruAssignmentPolicy": host.assignment_policy.capitalize(),
    }


def _graphics_host_set(world: World, host: Host, arguments: dict[str, str]) -> None:
    types = {shown.lower(): api for api, shown in GRAPHICS_NAMES.items() if api in ("shared", "sharedDirect")}
    default, policy = arguments.get("defaulttype"), arguments.get("sharedpassthruassignmentpolicy")
    if default is None and policy is None:
        raise CliFault("Must specify at least one of --default-type and --shared-passthru-assignment-policy")
    if default is not None and default.lower() not in types:
        raise CliFault("Invalid default graphics type: must be Shared or SharedPassthru")
    try:
        graphics.set_host_default(
            world, host, types[default.lower()] if default else None, policy.lower() if policy else None
        )
    except vmodl.fault.InvalidArgument as wrong:
        raise CliFault(str(wrong.msg)) from wrong


def _graphics_vm_list(world: World, host: Host, arguments: dict[str, str]) -> list[Row]:
    rows: list[Row] = []
    for vm in host.vms.values():
        held = [gpu.assigned_id for gpu in vm.gpus if gpu.assigned_id]
        if vm.power_state == "poweredOn" and held:
            rows.append(
                {
                    "AddressofDevice": ", ".join(held),
                    "GraphicsType": "SharedPassthru" if any(gpu.kind == "vgpu" for gpu in vm.gpus) else "Direct",
                    "VMName": vm.name,
                    "WorldID": 2_100_000 + int(vm.moid.removeprefix("vm-")),
                }
            )
    return rows


def _hardware_pci_list(world: World, host: Host, arguments: dict[str, str]) -> list[Row]:
    wanted = arguments.get("class")
    if wanted is not None:
        wanted_class = int(wanted, 0)
    rows = []
    for function in host.pci.values():
        if wanted is not None and wanted_class not in (function.class_id, function.class_id >> 8):
            continue
        segment, bus, rest = function.id.split(":")
        slot, number = rest.split(".")
        rows.append(
            {
                "Address": function.id,
                "Bus": f"0x{bus}",
                "ConfiguredOwner": "VM Passthru" if function.passthru_enabled else "VMkernel",
                "CurrentOwner": "VM Passthru" if function.passthru_active else "VMkernel",
                "DependentDevice": "PCI " + _decimal(function.dependent_device),
                "DeviceClass": f"0x{function.class_id:04x}",
                "DeviceClassName": CLASS_NAMES[function.class_id],
                "DeviceID": f"0x{function.device_id:04x}",
                "DeviceName": function.device_name,
                "Function": f"0x{number}",
                "HardwareLabel": function.hardware_label,
                "ModuleName": _module(host, function),
                "ParentDevice": "PCI " + _decimal(function.parent_bridge or "0000:00:00.0"),
                "PassthruCapable": capable(host, function),
                "Segment": f"0x{segment}",
                "Slot": f"0x{slot}",
                "SubDeviceID": f"0x{function.sub_device_id:04x}",
                "SubVendorID": f"0x{function.sub_vendor_id:04x}",
                "VMkernelName": "" if function.passthru_active else function.used_by,
                "VendorID": f"0x{function.vendor_id:04x}",
                "VendorName": function.vendor_name,
            }
        )
    return rows


def _decimal(pci_id: str) -> str:
    segment, bus, rest = pci_id.split(":")
    slot, number = rest.split(".")
    return f"{int(segment, 16)}:{int(bus, 16)}:{int(slot, 16)}:{int(number, 16)}"


def _kernel_list(world: World, host: Host, arguments: dict[str, str]) -> list[Row]:
    no_iommu = "FALSE" if host.kernel_iommu else "TRUE"
    rows = [
        _setting("hyperthreading", "TRUE", "TRUE", "Enable hyperthreading if available."),
        _setting("noIOMMU", no_iommu, "FALSE", "Disable use of IOMMU."),
        _setting("vga", "TRUE", "TRUE", "Use VGA device if available."),
    ]
    wanted = arguments.get("option")
    found = [row for row in rows if wanted is None or row["Name"] == wanted]
    if not found:
        raise CliFault(f"Unable to find kernel option: {wanted}")
    return found


def _setting(name: str, value: str, default: str, description: str) -> Row:
    return {
        "Configured": value,
        "Default": default,
        "Description": description,
        "Name": name,
        "Runtime": value,
        "Type": "Bool",
    }


def _storage_device_list(world: World, host: Host, arguments: dict[str, str]) -> list[Row]:
    disks = [(f"naa.6d0946606f{host.uuid.replace('-', '')[:22]}", False, 480 * 1024)]
    if host.usb_boot:
        disks.append(("mpx.vmhba32:C0:T0:L0", True, 32 * 1024))
    return [
        {
            "DevfsPath": f"/vmfs/devices/disks/{name}",
            "Device": name,
            "DeviceType": "Direct-Access",
            "DisplayName": f"Local {'USB Direct-Access' if usb else 'DELL Disk'} ({name})",
            "IsBootDevice": usb == host.usb_boot,
            "IsLocal": True,
            "IsOffline": False,
            "IsRemovable": usb,
            "IsSSD": not usb,
            "IsUSB": usb,
            "Model": "Flash Disk" if usb else "PERC H755 Front",
            "Size": size,
            "Status": "on",
            "Vendor": "USB" if usb else "DELL",
        }
        for name, usb, size in disks
        if arguments.get("device") in (None, name)
    ]


def _resync_summary(world: World, host: Host, arguments: dict[str, str]) -> Row:
    objects, left = vsan.resyncing(host.compute)
    return {
        "TotalNumberOfResyncingObjects": objects,
        "TotalBytesLeftToResync": left,
    }


def _version_get(world: World, host: Host, arguments: dict[str, str]) -> Row:
    return {
        "Build": f"Releasebuild-{host.build}",
        "Patch": "0",
        "Product": "VMware ESXi",
        "Update": host.version.rpartition(".")[2],
        "Version": host.version,
    }


def _hostname_get(world: World, host: Host, arguments: dict[str, str]) -> Row:
    short, _, domain = host.name.partition(".")
    return {"DomainName": domain, "FullyQualifiedDomainName": host.name, "HostName": short}


COMMANDS: dict[str, Command] = {
    command.path: command
    for command in (
        Command("graphics.device.list", "List graphics devices.", "GraphicsDevice", _graphics_device_list),
        Command("graphics.host.get", "Get host graphics properties.", "HostGraphics", _graphics_host_get),
        Command(
            "graphics.host.set", "Set host graphics properties.", "boolean", _graphics_host_set,
            (
                Parameter("defaulttype", ("--default-type", "-d"), "Host default graphics type."),
                Parameter(
                    "sharedpassthruassignmentpolicy", ("--shared-passthru-assignment-policy", "-p"),
                    "Assignment policy for shared passthru graphics.",
                ),
            ),
        ),
        Command("graphics.vm.list", "List VMs that use graphics devices.", "GraphicsVM", _graphics_vm_list),
        Command(
            "hardware.pci.list", "List all PCI devices on the system.", "PciDevice", _hardware_pci_list,
            (
                Parameter("class", ("--class", "-c"), "Only devices of this class."),
                Parameter("mask", ("--mask", "-m"), "Mask for the class."),
            ),
        ),
        *SOFTWARE_COMMANDS,
        Command(
            "system.settings.kernel.list", "List VMkernel kernel settings.", "KernelSetting", _kernel_list,
            (Parameter("option", ("--option", "-o"), "Only this setting."),),
        ),
        Command(
            "storage.core.device.list", "List storage devices.", "ScsiDevice", _storage_device_list,
            (Parameter("device", ("--device", "-d"), "Only this device."),),
        ),
        Command("vsan.debug.resync.summary.get", "Summary of resyncing objects.", "Resync", _resync_summary),
        Command("system.version.get", "Show version information.", "SystemVersion", _version_get),
        Command("system.hostname.get", "Get the host's names.", "HostnameConfig", _hostname_get),
    )
}  # fmt: skip
