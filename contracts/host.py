"""The true state of an ESXi host, as one read of vCenter plus a few esxcli answers give it.

Sources: vSphere API `HostSystem` property paths named in each docstring. PCI addresses (SBDF) are lower case,
e.g. `0000:81:00.0`; vendor:device pairs are lower case hex, e.g. `10de:20f1`.
"""

from datetime import datetime

from contracts.base import Message

__all__ = ["BootDevice", "ClusterRef", "GraphicsDevice", "HostRef", "HostState", "HostVm", "PciFunction"]


class HostRef(Message):
    """Who a host is. `key` is what workflow IDs use."""

    vcenter: str
    """The vCenter's name in the configuration."""
    key: str
    """Hardware UUID (`summary.hardware.uuid`); `uuid.moid` where several hosts report the same UUID."""
    moid: str
    name: str


class ClusterRef(Message):
    """The cluster a host is in, and who owns its configuration."""

    moid: str
    name: str
    lifecycle_managed: bool = False
    """`ClusterComputeResource.lifecycleManaged`: a vLCM image is the desired state."""
    config_manager_enabled: bool = False
    """`ClusterComputeResource.configManagerEnabled` (8.0): a configuration profile owns host settings."""
    drs_enabled: bool = False
    drs_fully_automated: bool = False
    ha_enabled: bool = False


class PciFunction(Message):
    """One PCI function: `hardware.pciDevice` joined with `config.pciPassthruInfo`."""

    sbdf: str
    vendor_device: str
    class_id: int
    """PCI class code, e.g. 0x0300 VGA, 0x0302 3D, 0x0604 bridge, 0x0200 Ethernet."""
    name: str
    parent_bridge: str | None = None
    passthru_capable: bool = False
    passthru_enabled: bool = False
    """What was requested (`passthruEnabled`)."""
    passthru_active: bool = False
    """What is in force (`passthruActive`); differs from enabled while a reboot is pending."""
    dependent_device: str | None = None
    """The device that passthrough is switched on for (`dependentDevice`); may be a bridge."""
    hardware_label: str | None = None
    used_by_esxi: str | None = None
    """Why ESXi needs this function itself, e.g. `uplink vmnic0`; None when it does not."""


class GraphicsDevice(Message):
    """`config.graphicsInfo` (active) joined with `config.graphicsConfig.deviceType` (configured)."""

    sbdf: str
    name: str
    active_type: str
    """`basic`, `shared`, `direct` or `sharedDirect`."""
    configured_type: str | None = None
    framebuffer_mib: int = 0
    vm_moids: tuple[str, ...] = ()


class HostVm(Message):
    """A VM registered on the host, as far as maintenance and GPU changes are concerned."""

    moid: str
    name: str
    powered_on: bool
    passthrough: tuple[str, ...] = ()
    """SBDFs of host devices bound to it (`config.assignableHardwareBinding`)."""


class BootDevice(Message):
    """From `esxcli storage core device list`: the device ESXi booted from."""

    name: str
    is_usb: bool


class HostState(Message):
    """Everything the host planners look at."""

    ref: HostRef
    cluster: ClusterRef | None
    connection_state: str
    """`connected`, `disconnected` or `notResponding`."""
    power_state: str
    in_maintenance: bool
    boot_time: datetime | None
    version: str
    """ESXi version, e.g. `8.0.2`."""
    api_version: str
    """The version negotiated with vCenter; fields newer than it vanish silently on write."""
    lockdown_mode: str = "lockdownDisabled"
    reboot_required: bool = False
    passthrough_supported: bool = True
    rebind_without_reboot: bool = False
    """`capability.deviceRebindWithoutRebootSupported`."""
    default_graphics_type: str | None = None
    """`config.graphicsConfig.hostDefaultGraphicsType`, as configured."""
    shared_passthru_assignment_policy: str | None = None
    pci: tuple[PciFunction, ...] = ()
    graphics: tuple[GraphicsDevice, ...] = ()
    vms: tuple[HostVm, ...] = ()
    kernel_no_iommu: bool | None = None
    """Running value of the VMkernel setting `noIOMMU`; None when it could not be read."""
    boot_device: BootDevice | None = None
    unread: tuple[str, ...] = ()
    """What could not be read and why, in words; planners must not take absence for evidence."""
