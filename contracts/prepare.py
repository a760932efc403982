"""Messages of `PrepareGpuHost` and its activities."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from contracts.approvals import Approval, ApprovalTerms
from contracts.base import Message
from contracts.cluster_grant import ClusterGrant
from contracts.evacuation import ShutDownVm
from contracts.events import EventKey
from contracts.host import BiosFeature, HostRef, HostState
from contracts.packages import DepotContent
from contracts.plan import Plan, Step
from contracts.profiles import Profile

__all__ = [
    "AwaitHostBack",
    "AwaitTask",
    "AwaitVmOff",
    "GpuStatus",
    "GrantOrder",
    "HostBack",
    "HostEvents",
    "HostLimits",
    "HostPlan",
    "LookAtHost",
    "Outcome",
    "PrepareGpuHostInput",
    "PrepareGpuHostReport",
    "Restore",
    "Stage",
    "StepOrder",
    "StepOutcome",
    "StepRecord",
    "StepStatus",
    "TaskEnd",
]


class PrepareGpuHostInput(Message):
    """Bring a host's GPUs to what a profile says."""

    host: HostRef
    profile: str
    requester: str
    """Who asked, e.g. `rule:prepare-new-gpu-hosts` or `cli:alice`."""
    reason: str = ""
    events: tuple[EventKey, ...] = ()
    """The events that started this run."""
    cluster_grant: ClusterGrant | None = None
    """Set by `PrepareGpuCluster` where one approval covers the cluster."""
    approved_plan: Plan | None = None
    """This host's plan as that approval covers it."""
    ask_always: bool = False
    """Ask about safe steps too, because what they would put back may have been changed on purpose."""


class HostEvents(Message):
    """The signal `host_events`: more events of the same host joined a live run."""

    events: tuple[EventKey, ...]


class Restore(Message):
    """What a run that a person gave up puts back, besides the profile of before (`HostPlan.before`)."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Hardware labels, at the first look, of the profile's GPUs that were not in passthrough, by SBDF."""
    unsettled: tuple[str, ...] = ()
    """SBDFs of GPUs that were configured at the first look as they were not in force."""
    ran: tuple[Step, ...] = ()
    """The steps that the run tried; they hold what they replaced."""


class LookAtHost(Message):
    """Input of `look_and_plan_host`."""

    host: HostRef
    profile: str
    entered_maintenance: bool = False
    """This run put the host into maintenance mode, so it has to take it out again."""
    pinned: Profile | None = None
    """What this run works towards since its first look, each GPU named by its address; None at the first look."""
    depot: DepotContent | None = None
    """What the profile's depot holds, once `inspect_depot` has read it."""
    skip: tuple[str, ...] = ()
    """IDs of steps that a person skipped; they are left out of the plan."""
    shut_down: tuple[ShutDownVm, ...] = ()
    """VMs that this run shut down, so it has to see to it that they run again."""
    restore: Restore | None = None
    """Set once a person gave up: `pinned` is what was before then."""
    bios_ordered: tuple[BiosFeature, ...] = ()
    """What this run has ordered of the BIOS and the host has not booted with yet."""


class GpuStatus(Message):
    """One GPU of the profile as vCenter shows it now: active values, not requested ones."""

    sbdf: str
    name: str
    vendor_device: str
    wanted: str = "passthrough"
    """The mode that the profile wants."""
    mode: str
    """The mode in force: a `GpuMode`, or the active graphics type where it is none of them."""
    label: str | None
    profiles: tuple[str, ...] = ()
    """vGPU profiles on offer on this kind of card."""
    right: bool
    """It is what the profile wants."""


class HostLimits(Message):
    """How long a preparation waits, from the worker's configuration; recorded with each plan."""

    maintenance_timeout_s: int = 3600
    """For entering maintenance mode: the time DRS has for moving VMs."""
    reboot_timeout_s: int = 2700
    """From the reboot's submission until the host is connected again; large servers take their time."""
    guest_shutdown_timeout_s: int = 900
    """For a guest that was asked to shut down, until its VM is off."""
    package_timeout_s: int = 3600
    """For fetching and installing packages, and for remediating one host."""
    blocked_recheck_s: int = 60
    """First pause before looking again at something that a person has to change; doubles up to 16 times this."""
    blocked_deadline_s: int = 7 * 24 * 3600
    """After this long in a blocked state the run ends."""
    resolve_deadline_s: int = 72 * 3600
    """How long a failed step waits for `resolve`."""


class HostPlan(Message):
    """What `look_and_plan_host` saw and decided, recorded in history as data."""

    state: HostState
    """Trimmed to the PCI functions that matter to the plan."""
    plan: Plan
    plan_hash: str
    gpus: tuple[GpuStatus, ...] = ()
    iommu: str = ""
    """The IOMMU verdict with its evidence, in words."""
    pinned: Profile | None = None
    """The profile with each GPU named by its address, as chosen at this look."""
    before: Profile | None = None
    """How the profile's GPUs are configured at this look: what giving up and restoring goes back to."""
    restore: Restore = Restore()
    """More of what restoring goes back to."""
    not_restored: tuple[str, ...] = ()
    """While restoring: what the run changed and cannot, or must not, put back, and why."""
    depot_unread: bool = False
    """The plan installs from a depot that nobody has looked into yet: `inspect_depot`, then look again."""
    window_opens_at: datetime | None = None
    """When disruption is allowed next; None: now."""
    terms: ApprovalTerms = ApprovalTerms()
    limits: HostLimits = HostLimits()


class GrantOrder(Message):
    """Input of `grant_automatically`."""

    plan_hash: str


class StepOrder(Message):
    """Input of every activity that changes a host: what to do and the proof that it was allowed."""

    host: HostRef
    step: Step
    plan: Plan
    plan_hash: str
    grant: str = ""
    """The signed decision that approved `plan`; empty only where the step is safe."""
    cluster_grant: ClusterGrant | None = None
    """Where the decision is about the cluster's plan, the proof that `plan` is part of it."""
    timeout_s: int = 3600
    """Given to vCenter tasks that take one (`EnterMaintenanceMode_Task`)."""
    boot_time_before: datetime | None = None
    """`runtime.bootTime` as recorded before a reboot is submitted."""
    ssh_ran_before: bool | None = None
    """SSH was open at every look of this run, so it stays open; None where no look could tell."""


class StepOutcome(Message):
    """What a step did. A step never claims success for the host: the next look does."""

    changed: bool
    text: str
    task: str | None = None
    """Reference (moid) of the vCenter task to follow; None where the change is made already."""


class AwaitTask(Message):
    """Input of `await_task`."""

    vcenter: str
    task: str
    what: str
    timeout_s: int


class TaskEnd(Message):
    """How a vCenter task ended: `success`, `error` or `expired` (vCenter forgot it: look at the state)."""

    state: str
    error: str = ""
    kind: str = ""
    """Class of the error (`contracts.errors`)."""


class AwaitVmOff(Message):
    """Input of `await_vm_off`."""

    vcenter: str
    vm_moid: str
    name: str
    timeout_s: int


class AwaitHostBack(Message):
    """Input of `await_host_back`: wait until the boot time changed and the host is connected."""

    host: HostRef
    boot_time_before: datetime | None
    timeout_s: int


class HostBack(Message):
    """The host answered again."""

    boot_time: datetime | None


class Stage(StrEnum):
    """Values of the search attribute `GpuStage`."""

    LOOKING = "looking"
    BLOCKED = "blocked"
    AWAITING_APPROVAL = "awaiting-approval"
    AWAITING_WINDOW = "awaiting-window"
    AWAITING_LEASE = "awaiting-lease"
    WORKING = "working"
    AWAITING_RESOLUTION = "awaiting-resolution"
    FINISHED = "finished"


class StepStatus(StrEnum):
    """How far a step is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class StepRecord(Message):
    """What happened to one step."""

    step: Step
    status: StepStatus
    text: str = ""
    started_at: datetime
    finished_at: datetime | None = None


class Outcome(StrEnum):
    """How a preparation ended."""

    ALREADY_RIGHT = "already-right"
    PREPARED = "prepared"
    PREPARED_IN_PART = "prepared-in-part"
    """A person skipped steps; everything else is as wanted."""
    RESTORED = "restored"
    """A person gave up; what the run had changed is as it was before."""
    RESTORED_IN_PART = "restored-in-part"
    """A person gave up; what could be put back is as it was before, and the report says what is not."""
    DENIED = "denied"
    EXPIRED = "expired"


class PrepareGpuHostReport(Message):
    """The result, and the answer to the query `report` while the run goes on."""

    host: HostRef
    profile: str
    requester: str
    stage: Stage
    outcome: Outcome | None = None
    detail: str = ""
    """What a person should know now: what is waited for, what failed, how the host was left."""
    plan: Plan | None = None
    steps: tuple[StepRecord, ...] = ()
    gpus: tuple[GpuStatus, ...] = ()
    iommu: str = ""
    host_in_maintenance: bool | None = None
    vms_left_off: tuple[str, ...] = ()
    """VMs that this run shut down and has not seen running again."""
    approvals: tuple[Approval, ...] = ()
    events: tuple[EventKey, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
