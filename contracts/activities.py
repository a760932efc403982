"""The activities as workflows see them: names, inputs and outputs, without what they import.

`activities/` and `listeners/` implement these classes; `mypy` holds the signatures together, and explicit names keep
running workflows independent of where the code lives.
"""

from abc import ABC, abstractmethod

from temporalio import activity

from contracts.audit import (
    IdentifyVictims,
    IncidentLook,
    LookAtIncident,
    RecalledProfiles,
    RecallProfiles,
    RemedyOrder,
    VictimsFound,
)
from contracts.cluster import AwaitPreparation, ClusterPlan, LookAtCluster, PreparationEnd
from contracts.gate import DescribeHolders, GateDecision, GateLook, HoldersGone, LeaseRequest, Legacy, TakeOver
from contracts.machine import GuestEvidence
from contracts.packages import DepotContent
from contracts.prepare import (
    AwaitHostBack,
    AwaitTask,
    AwaitVmOff,
    GrantOrder,
    HostBack,
    HostPlan,
    LookAtHost,
    StepOrder,
    StepOutcome,
    TaskEnd,
)
from contracts.provision import (
    AwaitPowerOn,
    GuestOrder,
    GuestWait,
    LookAtVm,
    PowerOnEnd,
    VmPlan,
    VmStepOrder,
    VmStepOutcome,
)
from contracts.reconcile import (
    DriftFound,
    FleetLook,
    LookAfterGap,
    LookAtFleet,
    LookForDrift,
    Recalled,
    RecallPreparations,
)
from contracts.vm_fleet import LookForRoom, RoomFound

__all__ = [
    "AuditActivities",
    "ClusterActivities",
    "FleetActivities",
    "GateActivities",
    "GuestActivities",
    "HostActivities",
    "PackageActivities",
    "ReconcileActivities",
    "RemedyActivities",
    "VmActivities",
]


class HostActivities(ABC):
    """What can be seen and done on one ESXi host."""

    @activity.defn(name="look_and_plan_host")
    @abstractmethod
    def look_and_plan_host(self, order: LookAtHost) -> HostPlan:
        """Read the host's true state and plan what is missing."""

    @activity.defn(name="grant_automatically")
    @abstractmethod
    def grant_automatically(self, order: GrantOrder) -> str:
        """A signed grant without a person, where the worker's policy allows it; raises `Conflict` elsewhere."""

    @activity.defn(name="enter_maintenance")
    @abstractmethod
    def enter_maintenance(self, order: StepOrder) -> StepOutcome:
        """Submit `EnterMaintenanceMode_Task`."""

    @activity.defn(name="exit_maintenance")
    @abstractmethod
    def exit_maintenance(self, order: StepOrder) -> StepOutcome:
        """Submit `ExitMaintenanceMode_Task`."""

    @activity.defn(name="reboot")
    @abstractmethod
    def reboot(self, order: StepOrder) -> StepOutcome:
        """Submit `RebootHost_Task`, unless the host rebooted or is rebooting since `boot_time_before`."""

    @activity.defn(name="set_graphics_type")
    @abstractmethod
    def set_graphics_type(self, order: StepOrder) -> StepOutcome:
        """Write one device's graphics type within the full `GraphicsConfig`."""

    @activity.defn(name="set_host_graphics")
    @abstractmethod
    def set_host_graphics(self, order: StepOrder) -> StepOutcome:
        """Write the host default graphics type and the assignment policy, and keep every device's type."""

    @activity.defn(name="restart_xorg")
    @abstractmethod
    def restart_xorg(self, order: StepOrder) -> StepOutcome:
        """Restart the host's X server, which puts graphics types into force below ESXi 7.0 U1."""

    @activity.defn(name="disable_passthrough")
    @abstractmethod
    def disable_passthrough(self, order: StepOrder) -> StepOutcome:
        """Switch passthrough off for a device, at once where the host can."""

    @activity.defn(name="enable_passthrough")
    @abstractmethod
    def enable_passthrough(self, order: StepOrder) -> StepOutcome:
        """Switch passthrough on for a device, at once where the host can, and set its label."""

    @activity.defn(name="set_hardware_label")
    @abstractmethod
    def set_hardware_label(self, order: StepOrder) -> StepOutcome:
        """Write a device's hardware label and keep everything else."""

    @activity.defn(name="shut_down_guest")
    @abstractmethod
    def shut_down_guest(self, order: StepOrder) -> StepOutcome:
        """Ask the guest of a VM that cannot move to shut down; it takes its time."""

    @activity.defn(name="migrate_cold")
    @abstractmethod
    def migrate_cold(self, order: StepOrder) -> StepOutcome:
        """Submit the move of a VM that is off to another host (`RelocateVM_Task`)."""

    @activity.defn(name="power_on_vm")
    @abstractmethod
    def power_on_vm(self, order: StepOrder) -> StepOutcome:
        """Submit `PowerOnVM_Task` for a VM that this run shut down."""

    @activity.defn(name="await_vm_off")
    @abstractmethod
    def await_vm_off(self, order: AwaitVmOff) -> None:
        """Wait until a VM is off; raises `NeedsHuman` when it is not in time."""

    @activity.defn(name="await_task")
    @abstractmethod
    def await_task(self, order: AwaitTask) -> TaskEnd:
        """Follow a vCenter task to its end."""

    @activity.defn(name="await_host_back")
    @abstractmethod
    def await_host_back(self, order: AwaitHostBack) -> HostBack:
        """Wait for a rebooting host to be connected with a new boot time."""


class PackageActivities(ABC):
    """The vGPU Manager on a host, MIG, and the BIOS. Slow: these run on the queue for waits and heartbeat."""

    @activity.defn(name="inspect_depot")
    @abstractmethod
    def inspect_depot(self, order: LookAtHost) -> DepotContent:
        """Fetch the profile's depot, check its checksum and read what it holds."""

    @activity.defn(name="install_vgpu_manager")
    @abstractmethod
    def install_vgpu_manager(self, order: StepOrder) -> StepOutcome:
        """Install or upgrade the VIB from its depot, checked first, on a host that no image manages."""

    @activity.defn(name="remove_vgpu_manager")
    @abstractmethod
    def remove_vgpu_manager(self, order: StepOrder) -> StepOutcome:
        """Remove the VIB from a host that no image manages."""

    @activity.defn(name="remediate_image")
    @abstractmethod
    def remediate_image(self, order: StepOrder) -> StepOutcome:
        """Put the component into the cluster's image and remediate this host (vSphere Lifecycle Manager)."""

    @activity.defn(name="set_bios")
    @abstractmethod
    def set_bios(self, order: StepOrder) -> StepOutcome:
        """Order BIOS switches on through the host's BMC (Redfish); the next boot brings them into force."""

    @activity.defn(name="set_mig")
    @abstractmethod
    def set_mig(self, order: StepOrder) -> StepOutcome:
        """Switch MIG of a card by nvidia-smi, over SSH that is opened for it and closed again."""


class GateActivities(ABC):
    """What the gate of a cluster, and those who ask it for a lease, need done."""

    @activity.defn(name="request_lease")
    @abstractmethod
    async def request_lease(self, request: LeaseRequest) -> None:
        """Hand a request to the cluster's gate, which is started if there is none."""

    @activity.defn(name="describe_holders")
    @abstractmethod
    async def describe_holders(self, order: DescribeHolders) -> HoldersGone:
        """Find the holders that are gone."""

    @activity.defn(name="look_and_decide_leases")
    @abstractmethod
    def look_and_decide_leases(self, order: GateLook) -> GateDecision:
        """Read the cluster and decide which leases to grant and which to free."""

    @activity.defn(name="read_legacy")
    @abstractmethod
    async def read_legacy(self, order: TakeOver) -> Legacy:
        """Read the leases and the queue of a gate's run that was ended by hand."""


class ClusterActivities(ABC):
    """What the preparation of a whole cluster needs done. Slow: these run on the queue for waits and heartbeat."""

    @activity.defn(name="look_and_plan_cluster")
    @abstractmethod
    def look_and_plan_cluster(self, order: LookAtCluster) -> ClusterPlan:
        """Look at every host of the cluster and plan what each lacks."""

    @activity.defn(name="await_preparation")
    @abstractmethod
    async def await_preparation(self, order: AwaitPreparation) -> PreparationEnd:
        """Wait for the end of a host's preparation that was running already."""


class ReconcileActivities(ABC):
    """What looking for drift needs done. Slow: these run on the queue for waits and heartbeat."""

    @activity.defn(name="recall_preparations")
    @abstractmethod
    async def recall_preparations(self, order: RecallPreparations) -> Recalled:
        """Bring what is known of prepared hosts up to date, from closed preparations and the inventory."""

    @activity.defn(name="look_for_drift")
    @abstractmethod
    def look_for_drift(self, order: LookForDrift) -> DriftFound:
        """Look at hosts that were prepared, and plan what would put them right."""


class FleetActivities(ABC):
    """What looking at a whole vCenter needs done. Slow: these run on the queue for waits and heartbeat."""

    @activity.defn(name="look_at_fleet")
    @abstractmethod
    async def look_at_fleet(self, order: LookAtFleet) -> FleetLook:
        """One look at every GPU of the vCenter: keep a snapshot of each cluster, and find what is not as expected."""

    @activity.defn(name="look_after_gap")
    @abstractmethod
    async def look_after_gap(self, order: LookAfterGap) -> str:
        """Let the vCenter's `ReconcileFleet` run now, because events were missed; what was done, in words."""


class AuditActivities(ABC):
    """What accounting for the VMs of a failed host needs done. Reads only; on the queue for waits."""

    @activity.defn(name="identify_victims")
    @abstractmethod
    async def identify_victims(self, order: IdentifyVictims) -> VictimsFound:
        """Who ran on these hosts when they were lost: the last snapshot before it, and the events since."""

    @activity.defn(name="look_at_incident")
    @abstractmethod
    def look_at_incident(self, order: LookAtIncident) -> IncidentLook:
        """Look at the cluster and its events, judge every VM, and plan remedies."""

    @activity.defn(name="recall_profiles")
    @abstractmethod
    async def recall_profiles(self, order: RecallProfiles) -> RecalledProfiles:
        """With which profiles hosts were prepared last."""


class RemedyActivities(ABC):
    """What brings a lost GPU VM back. Every step verifies the grant, then the VM, then acts once. On the queue for
    waits; tasks are followed by `await_task` and `await_power_on`."""

    @activity.defn(name="register_lost_vm")
    @abstractmethod
    def register_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """Register a VM of a dead host on a host that runs (`UnregisterVM`, `RegisterVM_Task`)."""

    @activity.defn(name="configure_lost_vm")
    @abstractmethod
    def configure_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """Reserve all of its memory."""

    @activity.defn(name="convert_lost_vm")
    @abstractmethod
    def convert_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """Replace its static devices by Dynamic DirectPath I/O."""

    @activity.defn(name="power_on_lost_vm")
    @abstractmethod
    def power_on_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """Power it on where there is room for it."""

    @activity.defn(name="apply_recommendation")
    @abstractmethod
    def apply_recommendation(self, order: RemedyOrder) -> VmStepOutcome:
        """Apply the recommendation of DRS to power it on."""

    @activity.defn(name="move_vm")
    @abstractmethod
    def move_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """Move a running VM of lower priority to another host (vMotion)."""

    @activity.defn(name="suspend_vm")
    @abstractmethod
    def suspend_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """Suspend a VM of lower priority."""


class VmActivities(ABC):
    """What can be seen and done on one GPU VM. Every change checks that it may, then the state, then acts once."""

    @activity.defn(name="look_and_plan_vm")
    @abstractmethod
    def look_and_plan_vm(self, order: LookAtVm) -> VmPlan:
        """Read the VM and where it could run, and plan what is missing."""

    @activity.defn(name="look_for_room")
    @abstractmethod
    def look_for_room(self, order: LookForRoom) -> RoomFound:
        """Look how many VMs of one shape could be had now, and where."""

    @activity.defn(name="create_vm")
    @abstractmethod
    def create_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """Make the VM from its source, off, marked as this run's and with no GPU of the source."""

    @activity.defn(name="configure_vm")
    @abstractmethod
    def configure_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """Write the memory reservation and the MMIO settings."""

    @activity.defn(name="set_vm_gpus")
    @abstractmethod
    def set_vm_gpus(self, order: VmStepOrder) -> VmStepOutcome:
        """Replace the GPU devices of a VM that is off."""

    @activity.defn(name="upgrade_hardware")
    @abstractmethod
    def upgrade_hardware(self, order: VmStepOrder) -> VmStepOutcome:
        """Upgrade the hardware version, which has no way back."""

    @activity.defn(name="power_on_gpu_vm")
    @abstractmethod
    def power_on_gpu_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """Power on where DRS places it, or on the host of its static devices."""

    @activity.defn(name="await_power_on")
    @abstractmethod
    def await_power_on(self, order: AwaitPowerOn) -> PowerOnEnd:
        """Follow a power-on to its end, or until the VM waits for an answer."""

    @activity.defn(name="shut_down_gpu_vm")
    @abstractmethod
    def shut_down_gpu_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """Ask the guest to shut down; it takes its time."""

    @activity.defn(name="delete_vm")
    @abstractmethod
    def delete_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """Delete the VM and its disks."""


class GuestActivities(ABC):
    """What happens inside a guest. Slow: these run on the queue for waits and heartbeat."""

    @activity.defn(name="await_guest")
    @abstractmethod
    def await_guest(self, order: GuestOrder) -> GuestWait:
        """Wait until VMware Tools answer; why they may not, once the deadline has passed."""

    @activity.defn(name="inspect_guest")
    @abstractmethod
    def inspect_guest(self, order: GuestOrder) -> GuestEvidence:
        """Ask `nvidia-smi` in the guest."""

    @activity.defn(name="install_guest_driver")
    @abstractmethod
    def install_guest_driver(self, order: VmStepOrder) -> VmStepOutcome:
        """Install the NVIDIA driver, checksum first."""
