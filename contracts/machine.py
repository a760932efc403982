"""The true state of one VM, the names of a request as vCenter resolves them, and where the VM could run."""

from datetime import datetime

from pydantic import Field

from contracts.base import Message
from contracts.fleet import VmGpu
from contracts.host import HostRef

__all__ = ["RUN_KEY", "GuestEvidence", "GuestGpu", "HostFit", "Placement", "VmRef", "VmState", "VmTarget"]

RUN_KEY = "gpuwright.run"
"""Extra configuration that says which run made a VM: a lost answer is found again, and only its maker removes it."""


class VmRef(Message):
    """Who a VM is. `instance_uuid` is what workflow IDs use; moids change when a VM is registered anew."""

    vcenter: str
    instance_uuid: str
    """`config.instanceUuid`."""
    moid: str
    name: str


class VmTarget(Message):
    """The names of a request as moids, resolved by one read. Empty where the request leaves the choice to vCenter."""

    datacenter: str
    cluster: str
    cluster_name: str
    folder: str
    pool: str
    datastore: str = ""
    network: str = ""
    template: str = ""
    """The template's moid."""
    library_item: str = ""
    """The content-library item's ID."""
    library_item_type: str = ""
    """`ovf` or `vm-template`."""
    source_firmware: str = ""
    """`bios` or `efi`, of a template; empty for other sources."""
    source_hardware: int = 0
    """Hardware version of a template; 0 for other sources."""
    source_guest_id: str = ""
    source_gpu_keys: tuple[int, ...] = ()
    """Device keys of a template's own GPU devices: left out of the copy."""
    newest_hardware: int = 0
    """The newest hardware version that the cluster can create (`QueryConfigOptionDescriptor`)."""
    gpu_limits: dict[int, int] = Field(default_factory=dict)
    """Hardware version → the most passthrough devices that a VM may have
    (`VirtualPCIControllerOption.numPCIPassthroughDevices`)."""


class HostFit(Message):
    """Whether one host could take the VM, and why not."""

    host: HostRef
    fits: bool
    sbdfs: tuple[str, ...] = ()
    """The GPUs that it would get there, by address; DRS and the host have the last word."""
    why: str = ""
    """Why it could not: every reason, with its evidence."""
    code: str = ""
    """Stable word of the first reason, e.g. `in-use`, `label-differs`, `wrong-mode`, `profile-not-offered`."""


class Placement(Message):
    """Which hosts could take the VM now, the best first, and why the others could not."""

    hosts: tuple[HostFit, ...] = ()
    room: int = 0
    """How many VMs of this shape the cluster could take now."""
    drs_places: bool = True
    """DRS finds the host at power-on; without DRS it has to be named."""

    @property
    def fitting(self) -> tuple[HostFit, ...]:
        """The hosts that could take it."""
        return tuple(fit for fit in self.hosts if fit.fits)


class GuestGpu(Message):
    """One line of `nvidia-smi` in the guest."""

    name: str
    uuid: str = ""
    driver_version: str = ""
    memory_mib: int = 0


class GuestEvidence(Message):
    """What was seen inside the guest, by guest operations."""

    gpus: tuple[GuestGpu, ...] = ()
    error: str = ""
    """What `nvidia-smi` said instead, e.g. that it could not communicate with the driver; empty when it answered."""
    driver_installed: bool | None = None
    """`nvidia-smi` exists in the guest."""
    gpu_operator: bool = False
    """Signs of the GPU Operator: a Kubernetes node whose driver container installs the driver itself."""
    boot_time: datetime | None = None
    """`runtime.bootTime` of the VM when this was seen: evidence of an earlier boot is stale."""
    unreadable: str = ""
    """Why the guest could not be asked, e.g. a wrong password; empty when it could."""


class VmState(Message):
    """Everything the VM planners look at."""

    ref: VmRef
    made_by: str = ""
    """The run that created it: `gpuwright.run` in its extra configuration, or in its annotation while half made."""
    half_made: bool = False
    """Deployed from a content library and not yet given what the request says: `create_vm` again goes on with it."""
    power_state: str
    connection_state: str = "connected"
    template: bool = False
    managed_by: str = ""
    host_moid: str = ""
    host_name: str = ""
    cluster_moid: str = ""
    firmware: str = "bios"
    hardware_version: int = 0
    guest_id: str = ""
    cpus: int = 0
    memory_mib: int = 0
    memory_reserved_all: bool = False
    """`memoryReservationLockedToMax`, or a reservation as large as the memory."""
    extra_config: dict[str, str] = Field(default_factory=dict)
    """Only keys that begin with `pciPassthru.` or `gpuwright.`, as written."""
    gpus: tuple[VmGpu, ...] = ()
    change_version: str = ""
    boot_time: datetime | None = None
    question: str = ""
    """`runtime.question.text`: it waits for somebody's answer."""
    tools_running: bool = False
    guest_operations_ready: bool = False
    guest_family: str = ""
    """`linuxGuest`, `windowsGuest`; empty until the guest says."""
    ip_address: str = ""
    host_name_in_guest: str = ""
    assigned_gpus: dict[str, str] = Field(default_factory=dict)
    """SBDF → vendor:device of the physical GPUs that its host has bound to it (`config.assignableHardwareBinding`,
    `graphicsInfo.vm`, or `esxcli graphics vm list`)."""
    assigned_labels: dict[str, str] = Field(default_factory=dict)
    """SBDF → hardware label of those in passthrough."""
    host_vgpu_manager: str = ""
    """Version of the vGPU Manager on its host; empty where there is none."""
    unread: tuple[str, ...] = ()

    @property
    def powered_on(self) -> bool:
        """It runs."""
        return self.power_state == "poweredOn"
