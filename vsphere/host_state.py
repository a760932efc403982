"""From properties to `HostState`: pure, so that every oddity of the wire can be tested without a server."""

from collections.abc import Mapping, Sequence
from typing import Any

from contracts.host import BootDevice, ClusterRef, GraphicsDevice, HostRef, HostState, HostVm, PciFunction

__all__ = ["CLUSTER_PATHS", "HOST_PATHS", "VM_PATHS", "cluster_ref", "host_state", "used_by_esxi"]

HOST_PATHS = (
    "name",
    "parent",
    "runtime.connectionState",
    "runtime.powerState",
    "runtime.inMaintenanceMode",
    "runtime.bootTime",
    "config.product",
    "config.lockdownMode",
    "config.pciPassthruInfo",
    "config.graphicsInfo",
    "config.graphicsConfig",
    "config.assignableHardwareBinding",
    "config.network.pnic",
    "config.network.vswitch",
    "config.network.proxySwitch",
    "config.storageDevice.hostBusAdapter",
    "config.storageDevice.scsiLun",
    "config.storageDevice.scsiTopology",
    "config.storageDevice.nvmeTopology",
    "configManager.pciPassthruSystem",
    "hardware.pciDevice",
    "summary.rebootRequired",
    "capability.deviceRebindWithoutRebootSupported",
)
VM_PATHS = ("name", "runtime.powerState")
CLUSTER_PATHS = (
    "name",
    "lifecycleManaged",
    "configManagerEnabled",
    "configuration.drsConfig",
    "configuration.dasConfig",
)

Values = Mapping[str, Any]


def host_state(
    ref: HostRef,
    api_version: str,
    host: Values,
    cluster: ClusterRef | None,
    vms: Mapping[str, Values],
    kernel_rows: Sequence[Mapping[str, str]] | None,
    device_rows: Sequence[Mapping[str, str]] | None,
    unread: Sequence[str] = (),
) -> HostState:
    """The state of a host from its properties by path, its VMs' by moid, and two esxcli answers (None: not read).

    `kernel_rows` come from `esxcli system settings kernel list`, `device_rows` from `esxcli storage core device list`.
    """
    boot = next((row for row in device_rows or () if row.get("IsBootDevice", "").lower() == "true"), None)
    config = host.get("config.graphicsConfig")
    product = host.get("config.product")
    return HostState(
        ref=ref,
        cluster=cluster,
        connection_state=str(host.get("runtime.connectionState", "disconnected")),
        power_state=str(host.get("runtime.powerState", "unknown")),
        in_maintenance=bool(host.get("runtime.inMaintenanceMode")),
        boot_time=host.get("runtime.bootTime"),
        version=product.version if product is not None else "",
        api_version=api_version,
        lockdown_mode=host.get("config.lockdownMode") or "lockdownDisabled",
        reboot_required=bool(host.get("summary.rebootRequired")),
        passthrough_supported=host.get("configManager.pciPassthruSystem") is not None,
        rebind_without_reboot=bool(host.get("capability.deviceRebindWithoutRebootSupported")),
        default_graphics_type=config.hostDefaultGraphicsType if config is not None else None,
        shared_passthru_assignment_policy=config.sharedPassthruAssignmentPolicy if config is not None else None,
        pci=_pci(host, used_by_esxi(host, boot)),
        graphics=_graphics(host),
        vms=_vms(host, vms),
        kernel_no_iommu=_no_iommu(kernel_rows),
        boot_device=_boot_device(boot),
        unread=tuple(unread),
    )


def cluster_ref(moid: str, cluster: Values) -> ClusterRef:
    """A cluster's reference and who owns its configuration."""
    drs, das = cluster.get("configuration.drsConfig"), cluster.get("configuration.dasConfig")
    drs_enabled = bool(drs is not None and drs.enabled)
    return ClusterRef(
        moid=moid,
        name=str(cluster.get("name", moid)),
        lifecycle_managed=bool(cluster.get("lifecycleManaged")),
        config_manager_enabled=bool(cluster.get("configManagerEnabled")),
        drs_enabled=drs_enabled,
        drs_fully_automated=drs is not None and drs_enabled and str(drs.defaultVmBehavior) == "fullyAutomated",
        ha_enabled=bool(das is not None and das.enabled),
    )


def used_by_esxi(host: Values, boot: Mapping[str, str] | None) -> dict[str, str]:
    """SBDF → why ESXi needs the function, by evidence: uplinks, adapters with disks, the boot device's adapter."""
    used: dict[str, str] = {}
    pnics = {nic.key: nic for nic in host.get("config.network.pnic") or ()}
    switches = [(switch, switch.name) for switch in host.get("config.network.vswitch") or ()]
    switches += [(switch, switch.dvsName) for switch in host.get("config.network.proxySwitch") or ()]
    for switch, name in switches:
        for key in switch.pnic or ():
            if (nic := pnics.get(key)) is not None:
                used[nic.pci.lower()] = f"uplink {nic.device} of {name}"
    adapters = {adapter.key: adapter for adapter in host.get("config.storageDevice.hostBusAdapter") or ()}
    luns = {lun.key: lun.canonicalName for lun in host.get("config.storageDevice.scsiLun") or ()}
    scsi = host.get("config.storageDevice.scsiTopology")
    for interface in scsi.adapter if scsi is not None else ():
        disks = [luns.get(lun.scsiLun, lun.scsiLun) for target in interface.target for lun in target.lun]
        if disks and (adapter := adapters.get(interface.adapter)) is not None and adapter.pci:
            booted = boot is not None and boot.get("Device") in disks
            used[adapter.pci.lower()] = f"storage adapter {adapter.device} of " + (
                f"boot device {boot.get('Device')}" if boot is not None and booted else f"{len(disks)} disk(s)"
            )
    nvme = host.get("config.storageDevice.nvmeTopology")
    for interface in nvme.adapter if nvme is not None else ():
        connected = interface.connectedController or ()
        if connected and (adapter := adapters.get(interface.adapter)) is not None and adapter.pci:
            used.setdefault(adapter.pci.lower(), f"storage adapter {adapter.device} of an NVMe controller")
    return used


def _pci(host: Values, used: Mapping[str, str]) -> tuple[PciFunction, ...]:
    passthru = {entry.id.lower(): entry for entry in host.get("config.pciPassthruInfo") or ()}
    functions = []
    for device in host.get("hardware.pciDevice") or ():
        sbdf = device.id.lower()
        entry = passthru.get(sbdf)
        functions.append(
            PciFunction(
                sbdf=sbdf,
                # XML Schema's short is signed: 0x8086 arrives as -32634.
                vendor_device=f"{device.vendorId & 0xFFFF:04x}:{device.deviceId & 0xFFFF:04x}",
                class_id=device.classId & 0xFFFF,
                name=device.deviceName or "",
                parent_bridge=device.parentBridge.lower() if device.parentBridge else None,
                passthru_capable=bool(entry is not None and entry.passthruCapable),
                passthru_enabled=bool(entry is not None and entry.passthruEnabled),
                passthru_active=bool(entry is not None and entry.passthruActive),
                dependent_device=entry.dependentDevice.lower() if entry is not None and entry.dependentDevice else None,
                hardware_label=(entry.hardwareLabel or None) if entry is not None else None,
                used_by_esxi=used.get(sbdf),
            )
        )
    return tuple(functions)


def _graphics(host: Values) -> tuple[GraphicsDevice, ...]:
    config = host.get("config.graphicsConfig")
    configured = {entry.deviceId.lower(): entry.graphicsType for entry in (config.deviceType if config else ())}
    return tuple(
        GraphicsDevice(
            sbdf=info.pciId.lower(),
            name=info.deviceName or "",
            active_type=info.graphicsType,
            configured_type=configured.get(info.pciId.lower()),
            framebuffer_mib=(info.memorySizeInKB or 0) // 1024,
            vm_moids=tuple(vm._moId for vm in info.vm or ()),
        )
        for info in host.get("config.graphicsInfo") or ()
    )


def _vms(host: Values, vms: Mapping[str, Values]) -> tuple[HostVm, ...]:
    bound: dict[str, list[str]] = {}
    for binding in host.get("config.assignableHardwareBinding") or ():
        if binding.vm is not None and binding.pciId:
            bound.setdefault(binding.vm._moId, []).append(binding.pciId.lower())
    return tuple(
        HostVm(
            moid=moid,
            name=str(vm.get("name", moid)),
            powered_on=str(vm.get("runtime.powerState")) == "poweredOn",
            passthrough=tuple(sorted(bound.get(moid, ()))),
        )
        for moid, vm in sorted(vms.items())
    )


def _no_iommu(rows: Sequence[Mapping[str, str]] | None) -> bool | None:
    for row in rows or ():
        if row.get("Name") == "noIOMMU":
            return {"true": True, "false": False}.get(row.get("Runtime", "").lower())
    return None


def _boot_device(row: Mapping[str, str] | None) -> BootDevice | None:
    if row is None:
        return None
    return BootDevice(name=row.get("Device", ""), is_usb=row.get("IsUSB", "").lower() == "true")
