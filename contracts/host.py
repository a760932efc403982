"""The true state of an ESXi host, as one read of vCenter plus a few esxcli answers give it.

Sources: vSphere API `HostSystem` property paths named in each docstring. PCI addresses (SBDF) are lower case,
e.g. `0000:81:00.0`; vendor:device pairs are lower case hex, e.g. `10de:20f1`.
"""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from contracts.base import Message
from contracts.evacuation import Neighbour, StoppedVm, WantedDevice
from contracts.packages import InstalledVib

__all__ = [
    "AffinityRule",
    "BiosEvidence",
    "BiosFeature",
    "BootDevice",
    "ClusterRef",
    "GraphicsDevice",
    "HostRef",
    "HostService",
    "HostState",
    "HostVm",
    "PciFunction",
    "VgpuProfile",
    "VmKind",
]


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
    ha_admission_control: bool = False
    """`dasConfig.admissionControlEnabled`: HA refuses what would use up its reserve, maintenance mode included."""
    ha_failover_level: int | None = None
    """Host failures that admission control reserves for (`dasConfig.admissionControlPolicy.failoverLevel`)."""
    ha_current_failover_level: int | None = None
    """Host failures that the cluster survives now (`summary.currentFailoverLevel`)."""
    hosts: int = 0
    """`summary.numHosts`."""
    effective_hosts: int = 0
    """`summary.numEffectiveHosts`: connected, on and not in maintenance."""
    dpm_enabled: bool = False
    """`configurationEx.dpmConfigInfo.enabled`: DRS may put idle hosts into standby."""
    vgpu_evacuation_timeout_s: int | None = None
    """The DRS option `VgpuMMAutomationTimeoutSecs`; -1 lets maintenance mode move vGPU VMs, None is not set."""
    vgpu_hot_migrate: bool | None = None
    """vCenter's `vgpu.hotmigrate.enabled`; read only where a powered-on VM here has a vGPU, else None."""


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
    sriov_capable: bool | None = None
    """`SriovInfo.sriovCapable`; None where the host lists the function without SR-IOV evidence."""
    sriov_enabled: bool | None = None
    """`SriovInfo.sriovEnabled`: virtual functions were requested."""
    sriov_active: bool | None = None
    """`SriovInfo.sriovActive`: virtual functions are in force."""


class GraphicsDevice(Message):
    """`config.graphicsInfo` (active) joined with `config.graphicsConfig.deviceType` (configured)."""

    sbdf: str
    name: str
    active_type: str
    """`basic`, `shared`, `direct` or `sharedDirect`."""
    configured_type: str | None = None
    framebuffer_mib: int = 0
    vm_moids: tuple[str, ...] = ()
    vgpu_mode: str | None = None
    """In force (8.0.3): `sameSize`, `mixedSize` or `multiInstanceGpu`; None where the release does not say."""
    configured_vgpu_mode: str | None = None
    """`GraphicsConfig.DeviceType.vgpuMode` (8.0.3), as configured."""
    profiles: tuple[str, ...] = ()
    """vGPU profiles on offer on cards like this one: equal cards cannot be told apart. Empty while it is not
    `sharedDirect`, and where the host has several kinds of card and their profiles could not be read."""


class VgpuProfile(Message):
    """`config.sharedGpuCapabilities`: what VMs with this profile can do on this host."""

    name: str
    migrate_supported: bool = False
    suspend_supported: bool = False


class HostService(Message):
    """One entry of `config.service`: `TSM-SSH` is SSH, `xorg` the X server."""

    key: str
    running: bool
    policy: str = ""
    """When it starts: `on`, `off` or `automatic`."""


class AffinityRule(Message):
    """A DRS rule that keeps VMs on the hosts of a group (`cluster.VmHostRuleInfo`), as stretched clusters have them."""

    name: str
    mandatory: bool
    """DRS, HA and maintenance mode never break it; a rule that is not mandatory is a preference."""
    vm_moids: tuple[str, ...] = ()
    host_moids: tuple[str, ...] = ()
    """Where those VMs run; for an anti-affine rule, every host of the cluster that is not in its group."""


class VmKind(StrEnum):
    """What a VM is for. Only workloads count in an evacuation; the others look after themselves or cannot run."""

    WORKLOAD = "workload"
    VCLS = "vcls"
    """Keeps cluster services going; vCenter moves and replaces it."""
    AGENT = "agent"
    """Belongs to a solution of the ESX Agent Manager, and leaves last."""
    TEMPLATE = "template"


class HostVm(Message):
    """A VM registered on the host, as far as maintenance and GPU changes are concerned."""

    moid: str
    name: str
    powered_on: bool
    passthrough: tuple[str, ...] = ()
    """SBDFs of host devices bound to it (`config.assignableHardwareBinding`)."""
    kind: VmKind = VmKind.WORKLOAD
    managed_by: str = ""
    """Key of the vCenter extension that owns it (`config.managedBy.extensionKey`)."""
    fault_tolerant: bool = False
    """`runtime.faultToleranceState` is something else than `notConfigured`."""
    memory_mib: int = 0
    static_passthrough: bool = False
    """It has a DirectPath I/O device by address, bound or not."""
    dynamic_passthrough: bool = False
    """It has a Dynamic DirectPath I/O device."""
    vgpu_profiles: tuple[str, ...] = ()
    drs_override: str | None = None
    """DRS treats it otherwise than its cluster: `disabled`, `manual` or `partiallyAutomated`."""
    can_move: bool = True
    """vMotion can take it to another host while it is on, as far as devices, FT and mandatory rules go."""
    stays_because: str = ""
    """Why it cannot move, in words."""
    tools_running: bool = False
    """VMware Tools run in it, so that its guest can be asked to shut down (`guest.toolsRunningStatus`)."""
    question: str = ""
    """What it waits for an answer to (`runtime.question`); nothing can be done with it before."""
    wants: tuple[WantedDevice, ...] = ()
    """Its Dynamic DirectPath I/O devices."""
    datastores: tuple[str, ...] = ()
    """Moids of the datastores that it is on."""


class BootDevice(Message):
    """From `esxcli storage core device list`: the device ESXi booted from."""

    name: str
    is_usb: bool


class BiosFeature(StrEnum):
    """What GPUs need of a BIOS."""

    IOMMU = "iommu"
    """Intel VT-d, AMD-Vi."""
    SRIOV = "sr-iov"
    ABOVE_4G = "above-4g"
    """Above 4G decoding, for cards with large BARs."""


class BiosEvidence(Message):
    """What the host's BMC says about its BIOS. Features that it does not name are absent: unknown."""

    on: tuple[BiosFeature, ...] = ()
    """In force since the last boot."""
    off: tuple[BiosFeature, ...] = ()
    ordered: tuple[BiosFeature, ...] = ()
    """Off, and on from the next boot."""
    off_by: dict[BiosFeature, tuple[str, ...]] = Field(default_factory=dict)
    """The BIOS attributes that keep a feature off."""
    switches: dict[str, str] = Field(default_factory=dict)
    """Every attribute of these features, with its value in force."""
    pending: dict[str, str] = Field(default_factory=dict)
    """Those of them that the next boot changes, with their new values."""


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
    vibs: tuple[InstalledVib, ...] | None = None
    """NVIDIA's installed packages (`imageConfigManager.FetchSoftwarePackages`); None when they could not be read.
    What is installed need not run before the next boot: `reboot_required`."""
    acceptance_level: str | None = None
    """The least trusted packages the host takes: a value of `contracts.packages.AcceptanceLevel`."""
    secure_boot: bool | None = None
    """`capability.uefiSecureBoot` (8.0.3); None where nothing says."""
    services: tuple[HostService, ...] = ()
    lockdown_exceptions: tuple[str, ...] = ()
    """Users that lockdown mode lets in (`hostAccessManager`); read only in lockdown mode."""
    shared_passthru_profiles: tuple[str, ...] = ()
    """`config.sharedPassthruGpuTypes`: the vGPU profiles that the host offers now."""
    vgpu_profiles: tuple[VgpuProfile, ...] = ()
    vsan_enabled: bool = False
    vsan_resyncing_objects: int | None = None
    """Objects that vSAN rebuilds now (`esxcli vsan debug resync summary get`); None without vSAN or when unread."""
    standby_mode: str = "none"
    """`runtime.standbyMode`: `none`, `entering`, `in` or `exiting` (DPM)."""
    bios: BiosEvidence | None = None
    """Read only where vSphere's evidence leaves a doubt and a BMC is configured; None: not read, or unreadable."""
    bios_unread: str = ""
    """Why the BMC could not be asked."""
    image_components: dict[str, str] | None = None
    """Component → version of the cluster's image (vLCM); read only where a package on the host may be drift from it."""
    image_unread: str = ""
    """Why the image could not be read."""
    affinity_rules: tuple[AffinityRule, ...] = ()
    """Enabled VM-host rules about VMs on this host."""
    neighbours: tuple[Neighbour, ...] | None = None
    """Hosts of the cluster that VMs could be moved to cold; read only where the profile asks for it."""
    stopped: tuple[StoppedVm, ...] = ()
    """VMs that this run shut down, as they are now, wherever they are."""

    @property
    def major_version(self) -> int:
        """ESXi's major version, e.g. 8; 0 where unknown."""
        first = self.version.partition(".")[0]
        return int(first) if first.isdigit() else 0

    def service(self, key: str) -> HostService | None:
        """The service with that key."""
        return next((service for service in self.services if service.key == key), None)
