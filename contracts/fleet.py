"""The GPUs of a vCenter and the VMs that use them, as one read of the inventory gives them.

Whole fleets are 2,500 hosts and 40,000 VMs, so only hosts with GPUs and VMs with GPU devices are in here.
"""

from datetime import datetime

from contracts.base import Message
from contracts.host import HostRef

__all__ = [
    "FleetCluster",
    "FleetGpu",
    "FleetHost",
    "FleetRecommendation",
    "FleetVm",
    "GpuFleet",
    "VgpuKind",
    "VmGpu",
]


class VmGpu(Message):
    """One GPU device of a VM, by the backing of its `VirtualPCIPassthrough`."""

    key: int
    """`VirtualDevice.key`."""
    kind: str
    """`dynamic`, `static` or `vgpu`; `other` for backings that gpuwright does not touch (`DvxBackingInfo`)."""
    allowed: tuple[str, ...] = ()
    """Dynamic: the vendor:device pairs that fit."""
    label: str = ""
    """Dynamic: `customLabel`."""
    sbdf: str = ""
    """Static: the device's address."""
    profile: str = ""
    """vGPU: the profile's name."""
    assigned: str = ""
    """Where it is bound now: `DynamicBackingInfo.assignedId`, or what the host's bindings and graphics say; empty
    while the VM is off, and where nothing says."""


class FleetVm(Message):
    """A VM with GPU devices, on or off."""

    moid: str
    instance_uuid: str
    name: str
    host_moid: str
    powered_on: bool
    memory_mib: int = 0
    gpus: tuple[VmGpu, ...] = ()
    template: bool = False
    managed_by: str = ""
    """Key of the vCenter extension that owns it."""
    ha_protected: bool | None = None
    """`runtime.dasVmProtection.dasProtected`; None where HA is off or does not say."""
    connection_state: str = "connected"
    """`runtime.connectionState`: also `disconnected`, `orphaned`, `inaccessible`, `invalid`."""
    power_state: str = ""
    """`runtime.powerState`: `poweredOn`, `poweredOff` or `suspended`; empty in what was written before 0.1 told it."""
    restart_priority: str = "medium"
    """HA's for this VM, its cluster's where it has none of its own: `disabled`, `lowest`, `low`, `medium`, `high`,
    `highest` (`DasVmSettings.restartPriority`)."""
    isolation_response: str = "none"
    """HA's for this VM, likewise: `none`, `powerOff` or `shutdown`."""
    drs_automation: str = ""
    """DRS's automation level for this VM, its cluster's where it has none of its own, or `disabled`; empty where DRS
    is off or the cluster's configuration was not read."""
    memory_reserved: bool = True
    """All of its memory is reserved, without which a VM with GPUs does not power on."""
    mmio_gib: int | None = None
    """`pciPassthru.64bitMMIOSizeGB` where `pciPassthru.use64bitMMIO` is TRUE, 0 where it is not; None: not read."""
    barred: tuple[str, ...] = ()
    """Moids of hosts that mandatory VM-host rules keep it off."""
    question: str = ""
    """`runtime.question.text`: it waits for somebody's answer."""
    tools_running: bool = False
    """`guest.toolsRunningStatus`: its guest is up."""
    boot_time: datetime | None = None
    """`runtime.bootTime` (vCenter's clock)."""
    path: str = ""
    """`config.files.vmPathName`: what it is registered by."""
    folder_moid: str = ""
    """`parent`; empty for a VM of a vApp."""
    pool_moid: str = ""
    """`resourcePool`; empty for a template."""


class VgpuKind(Message):
    """A vGPU profile that a host knows (`RetrieveVgpuProfileInfo`, `config.sharedGpuCapabilities`)."""

    name: str
    framebuffer_mib: int = 0
    """0 where the host does not say; the number in the name tells GiB then."""
    slices: int = 0
    """GPU instance slices of a MIG-backed profile; 0 for time-sliced ones."""
    migrate_supported: bool = False


class FleetGpu(Message):
    """One physical GPU."""

    sbdf: str
    vendor_device: str
    name: str
    framebuffer_mib: int = 0
    passthru_active: bool = False
    label: str = ""
    """Hardware label."""
    active_type: str = ""
    """`basic`, `shared`, `direct` or `sharedDirect`."""
    vgpu_mode: str | None = None
    """In force: `sameSize`, `mixedSize` or `multiInstanceGpu` (8.0.3); None where the release does not say."""
    pending: bool = False
    """What is configured is not in force: a reboot is to come."""
    profiles: tuple[str, ...] = ()
    """vGPU profiles on offer on cards like this one."""
    vm_moids: tuple[str, ...] = ()
    """Powered-on VMs that hold it or a share of it."""


class FleetHost(Message):
    """A host with GPUs."""

    ref: HostRef
    cluster_moid: str = ""
    connection_state: str = "connected"
    power_state: str = ""
    """`runtime.powerState`: `poweredOn`, `poweredOff`, `standBy`, `unknown`."""
    ha_state: str = ""
    """`runtime.dasHostState.state`: `connectedToMaster`, `master`, `networkIsolated`, `hostDown` and the like."""
    in_maintenance: bool = False
    standby: bool = False
    version: str = ""
    cpus: int = 0
    """Logical processors (`summary.hardware.numCpuThreads`)."""
    memory_mib: int = 0
    reserved_mib: int = 0
    """Memory that powered-on VMs have reserved here; a GPU VM reserves all of its own."""
    assignment_policy: str | None = None
    """`performance` or `consolidation`."""
    gpus: tuple[FleetGpu, ...] = ()
    vgpu_kinds: tuple[VgpuKind, ...] = ()


class FleetRecommendation(Message):
    """What DRS would do with a VM and waits for somebody to apply (`ClusterComputeResource.recommendation`)."""

    key: str
    vm_moid: str
    host_moid: str
    reason: str = ""


class FleetCluster(Message):
    """A cluster with GPU hosts."""

    moid: str
    name: str
    drs_enabled: bool = False
    drs_automation: str = ""
    """`manual`, `partiallyAutomated` or `fullyAutomated`."""
    ha_enabled: bool = False
    ha_host_monitoring: bool = True
    """`dasConfig.hostMonitoring`: off, HA restarts nothing."""
    ha_admission_control: bool = False
    recommendations: tuple[FleetRecommendation, ...] = ()
    """About powering VMs on."""


class GpuFleet(Message):
    """The GPUs of a vCenter, or of one of its clusters."""

    vcenter: str
    clusters: tuple[FleetCluster, ...] = ()
    hosts: tuple[FleetHost, ...] = ()
    vms: tuple[FleetVm, ...] = ()
    unread: tuple[str, ...] = ()
    """What could not be read and why, in words."""
    read_at: datetime | None = None
    """vCenter's clock when the read began."""

    @property
    def seen_at(self) -> datetime:
        """`read_at` of a fleet that was read; raises `ValueError` where nobody knows of when it is."""
        if self.read_at is None:
            raise ValueError(f"the fleet of {self.vcenter} does not say when it was read")
        return self.read_at

    def cluster(self, name: str) -> FleetCluster | None:
        """The cluster of that name or moid."""
        return next((found for found in self.clusters if name in (found.name, found.moid)), None)

    def vm(self, moid: str) -> FleetVm | None:
        """The VM with that moid, if it has GPU devices."""
        return next((found for found in self.vms if found.moid == moid), None)
