"""From properties to `HostState`: pure, so that every oddity of the wire can be tested without a server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from contracts.host import (
    BootDevice,
    ClusterRef,
    GraphicsDevice,
    HostRef,
    HostService,
    HostState,
    PciFunction,
    VgpuProfile,
)
from contracts.packages import InstalledVib, acceptance_level
from vsphere.host_vms import affinity_rules, drs_overrides, host_vms

__all__ = [
    "CLUSTER_PATHS",
    "HOST_PATHS",
    "Asked",
    "cluster_ref",
    "graphics_devices",
    "host_state",
    "pci_functions",
    "used_by_esxi",
]

HOST_PATHS = (
    "name",
    "parent",
    "runtime.connectionState",
    "runtime.powerState",
    "runtime.inMaintenanceMode",
    "runtime.bootTime",
    "runtime.standbyMode",
    "config.product",
    "config.lockdownMode",
    "config.service",
    "config.pciPassthruInfo",
    "config.graphicsInfo",
    "config.graphicsConfig",
    "config.sharedPassthruGpuTypes",
    "config.sharedGpuCapabilities",
    "config.assignableHardwareBinding",
    "config.vsanHostConfig.enabled",
    "config.network.pnic",
    "config.network.vswitch",
    "config.network.proxySwitch",
    "config.storageDevice.hostBusAdapter",
    "config.storageDevice.scsiLun",
    "config.storageDevice.scsiTopology",
    "config.storageDevice.nvmeTopology",
    "configManager.pciPassthruSystem",
    "configManager.graphicsManager",
    "configManager.hostAccessManager",
    "configManager.imageConfigManager",
    "hardware.pciDevice",
    "summary.rebootRequired",
    "capability.deviceRebindWithoutRebootSupported",
    "capability.uefiSecureBoot",
)
CLUSTER_PATHS = ("name", "host", "lifecycleManaged", "configManagerEnabled", "configurationEx", "summary")

Values = Mapping[str, Any]
Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Asked:
    """Answers of calls besides the property read; None or empty where not asked or not answered."""

    kernel_rows: Rows | None = None
    """`esxcli system settings kernel list`."""
    device_rows: Rows | None = None
    """`esxcli storage core device list`."""
    resync_rows: Rows | None = None
    """`esxcli vsan debug resync summary get`."""
    packages: Sequence[Any] | None = None
    """`vim.host.SoftwarePackage`s of the host."""
    acceptance_level: str | None = None
    lockdown_exceptions: Sequence[str] = ()
    profiles: Sequence[Any] | None = None
    """`vim.vm.VgpuProfileInfo`s of the host's cards."""
    vgpu_hot_migrate: bool | None = None


def host_state(
    ref: HostRef,
    api_version: str,
    host: Values,
    cluster: tuple[str, Values] | None = None,
    vms: Mapping[str, Values] | None = None,
    asked: Asked | None = None,
    unread: Sequence[str] = (),
) -> HostState:
    """The state of a host from its properties by path, its cluster's with moid, its VMs' by moid, and other answers."""
    asked, vms = asked or Asked(), vms or {}
    boot = next((row for row in asked.device_rows or () if row.get("IsBootDevice", "").lower() == "true"), None)
    config = host.get("config.graphicsConfig")
    product = host.get("config.product")
    cluster_config = cluster[1].get("configurationEx") if cluster else None
    cluster_hosts = [member._moId for member in cluster[1].get("host") or ()] if cluster else []
    rules = affinity_rules(cluster_config, cluster_hosts, vms) if _is_cluster_config(cluster_config) else ()
    profiles = _profiles(host)
    return HostState(
        ref=ref,
        cluster=cluster_ref(*cluster, vgpu_hot_migrate=asked.vgpu_hot_migrate) if cluster else None,
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
        pci=pci_functions(host, used_by_esxi(host, boot)),
        graphics=graphics_devices(host, asked.profiles),
        vms=host_vms(
            vms,
            host.get("config.assignableHardwareBinding") or (),
            host_moid=ref.moid,
            rules=rules,
            overrides=drs_overrides(cluster_config) if _is_cluster_config(cluster_config) else {},
            profiles=profiles,
            hot_migrate=asked.vgpu_hot_migrate,
        ),
        kernel_no_iommu=_no_iommu(asked.kernel_rows),
        boot_device=_boot_device(boot),
        unread=tuple(unread),
        vibs=_vibs(asked.packages),
        acceptance_level=acceptance_level(asked.acceptance_level) if asked.acceptance_level else None,
        secure_boot=host.get("capability.uefiSecureBoot"),
        services=_services(host),
        lockdown_exceptions=tuple(asked.lockdown_exceptions),
        shared_passthru_profiles=tuple(host.get("config.sharedPassthruGpuTypes") or ()),
        vgpu_profiles=profiles,
        vsan_enabled=bool(host.get("config.vsanHostConfig.enabled")),
        vsan_resyncing_objects=_resyncing(asked.resync_rows),
        standby_mode=str(host.get("runtime.standbyMode") or "none"),
        affinity_rules=rules,
    )


def _failover_level(summary: Any) -> int | None:
    """The host failures that HA can make up for now; None under a policy that does not count hosts.

    `summary.currentFailoverLevel` is deprecated and says nothing under such a policy (vSphere API).
    """
    info = getattr(summary, "admissionControlInfo", None)
    if info is None or isinstance(info, vim.cluster.FailoverLevelAdmissionControlInfo):
        level = getattr(info or summary, "currentFailoverLevel", None)
        return None if level is None else int(level)
    return None


def cluster_ref(moid: str, cluster: Values, *, vgpu_hot_migrate: bool | None = None) -> ClusterRef:
    """A cluster's reference, who owns its configuration, and what DRS, DPM and HA do there."""
    config = cluster.get("configurationEx")
    config = config if _is_cluster_config(config) else None
    drs, das = (config.drsConfig, config.dasConfig) if config is not None else (None, None)
    dpm = config.dpmConfigInfo if config is not None else None
    policy = das.admissionControlPolicy if das is not None else None
    summary = cluster.get("summary")
    drs_enabled = bool(drs is not None and drs.enabled)
    options = {option.key: option.value for option in (drs.option if drs is not None else None) or ()}
    timeout = str(options.get("VgpuMMAutomationTimeoutSecs", ""))
    return ClusterRef(
        moid=moid,
        name=str(cluster.get("name", moid)),
        lifecycle_managed=bool(cluster.get("lifecycleManaged")),
        config_manager_enabled=bool(cluster.get("configManagerEnabled")),
        drs_enabled=drs_enabled,
        drs_fully_automated=drs is not None and drs_enabled and str(drs.defaultVmBehavior) == "fullyAutomated",
        ha_enabled=bool(das is not None and das.enabled),
        ha_admission_control=bool(das is not None and das.admissionControlEnabled),
        ha_failover_level=getattr(policy, "failoverLevel", None),
        ha_current_failover_level=_failover_level(summary),
        hosts=getattr(summary, "numHosts", None) or 0,
        effective_hosts=getattr(summary, "numEffectiveHosts", None) or 0,
        dpm_enabled=bool(dpm is not None and dpm.enabled),
        vgpu_evacuation_timeout_s=int(timeout) if timeout.lstrip("-").isdigit() else None,
        vgpu_hot_migrate=vgpu_hot_migrate,
    )


def _is_cluster_config(config: Any) -> bool:
    return isinstance(config, vim.cluster.ConfigInfoEx)


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


def pci_functions(host: Values, used: Mapping[str, str]) -> tuple[PciFunction, ...]:
    """The PCI functions of a host; `used` is what `used_by_esxi` found."""
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
                sriov_capable=getattr(entry, "sriovCapable", None),
                sriov_enabled=getattr(entry, "sriovEnabled", None),
                sriov_active=getattr(entry, "sriovActive", None),
            )
        )
    return tuple(functions)


def graphics_devices(host: Values, profiles: Sequence[Any] | None) -> tuple[GraphicsDevice, ...]:
    """The GPUs of a host; `profiles` are the `VgpuProfileInfo`s of its cards, None where they were not asked for."""
    config = host.get("config.graphicsConfig")
    configured = {entry.deviceId.lower(): entry for entry in (config.deviceType if config else ())}
    ids = {
        device.id.lower(): (device.deviceId & 0xFFFF) << 16 | device.vendorId & 0xFFFF
        for device in host.get("hardware.pciDevice") or ()
    }
    shared = {info.pciId.lower() for info in host.get("config.graphicsInfo") or () if _is_shared(info)}
    offered: dict[int | None, list[str]] = {}
    for profile in profiles or ():
        offered.setdefault(profile.deviceVendorId, []).append(profile.profileName or profile.name)
    if profiles is None and len({ids.get(sbdf) for sbdf in shared}) == 1:
        # One kind of card shares: whatever the host offers is that card's.
        offered = {ids.get(next(iter(shared))): list(host.get("config.sharedPassthruGpuTypes") or ())}
    return tuple(
        GraphicsDevice(
            sbdf=info.pciId.lower(),
            name=info.deviceName or "",
            active_type=info.graphicsType,
            configured_type=getattr(configured.get(info.pciId.lower()), "graphicsType", None),
            framebuffer_mib=(info.memorySizeInKB or 0) // 1024,
            vm_moids=tuple(vm._moId for vm in info.vm or ()),
            vgpu_mode=info.vgpuMode,
            configured_vgpu_mode=getattr(configured.get(info.pciId.lower()), "vgpuMode", None),
            profiles=tuple(offered.get(ids.get(info.pciId.lower()), ())) if _is_shared(info) else (),
        )
        for info in host.get("config.graphicsInfo") or ()
    )


def several_share(host: Values) -> bool:
    """Cards of several kinds share, so that the host's profiles are not one card's."""
    shared = {info.pciId.lower() for info in host.get("config.graphicsInfo") or () if _is_shared(info)}
    kinds = {
        (device.vendorId, device.deviceId)
        for device in host.get("hardware.pciDevice") or ()
        if device.id.lower() in shared
    }
    return len(kinds) > 1


def _is_shared(info: Any) -> bool:
    return bool(info.graphicsType == "sharedDirect")


def _profiles(host: Values) -> tuple[VgpuProfile, ...]:
    return tuple(
        VgpuProfile(
            name=entry.vgpu,
            migrate_supported=bool(entry.migrateSupported),
            suspend_supported=bool(entry.suspendSupported),
        )
        for entry in host.get("config.sharedGpuCapabilities") or ()
    )


def _services(host: Values) -> tuple[HostService, ...]:
    info = host.get("config.service")
    return tuple(
        HostService(key=entry.key, running=bool(entry.running), policy=entry.policy or "")
        for entry in (info.service if info is not None else ())
    )


def _vibs(packages: Sequence[Any] | None) -> tuple[InstalledVib, ...] | None:
    if packages is None:
        return None
    return tuple(
        InstalledVib(
            name=package.name,
            version=package.version,
            vendor=package.vendor,
            acceptance_level=acceptance_level(package.acceptanceLevel or ""),
        )
        for package in packages
        if package.vendor.casefold() in ("nvd", "nvidia", "nvidia corporation")
    )


def _resyncing(rows: Rows | None) -> int | None:
    for row in rows or ():
        for field, value in row.items():
            if "resyncingobjects" in field.lower() and value.isdigit():
                return int(value)
    return None


def _no_iommu(rows: Rows | None) -> bool | None:
    for row in rows or ():
        if row.get("Name") == "noIOMMU":
            return {"true": True, "false": False}.get(row.get("Runtime", "").lower())
    return None


def _boot_device(row: Mapping[str, str] | None) -> BootDevice | None:
    if row is None:
        return None
    return BootDevice(name=row.get("Device", ""), is_usb=row.get("IsUSB", "").lower() == "true")
