"""Messages of `ProvisionGpuVm`, `RetireGpuVm` and their activities."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from contracts.approvals import Approval, ApprovalTerms
from contracts.base import Message
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.machine import GuestEvidence, Placement, VmRef, VmState, VmTarget
from contracts.plan import Plan, Step
from contracts.prepare import StepRecord
from contracts.vms import VmRequest

__all__ = [
    "AwaitPowerOn",
    "GpuVmReport",
    "GuestOrder",
    "GuestWait",
    "LookAtVm",
    "PowerOnEnd",
    "ProvisionGpuVmInput",
    "RetireGpuVmInput",
    "VmLimits",
    "VmOutcome",
    "VmPlan",
    "VmStage",
    "VmStepOrder",
    "VmStepOutcome",
    "VmWork",
]


class VmWork(StrEnum):
    """What is to become of the VM."""

    PROVISION = "provision"
    """There is no such VM yet; it is made."""
    CHANGE = "change"
    """It is there and gets other GPUs; everything else stays."""
    RETIRE = "retire"
    """It is shut down, its GPUs are freed and it is deleted."""
    UNDO = "undo"
    """Remove what this run has made, and only that."""


class ProvisionGpuVmInput(Message):
    """Make one GPU VM, or give one that is there other GPUs."""

    request: VmRequest
    requester: str
    """Who asked, e.g. `cli:alice`."""
    reason: str = ""
    work: VmWork = VmWork.PROVISION
    prefer_host: HostRef | None = None
    """Where it is to run if that host still has room; DRS, where it is on, has the last word."""
    events: tuple[EventKey, ...] = ()
    """The vCenter events that a rule started this run for; they are recognised when they are read again."""


class RetireGpuVmInput(Message):
    """Shut down a VM, free its GPUs and delete it."""

    vm: VmRef
    requester: str
    reason: str = ""


class VmLimits(Message):
    """How long the parts of a provisioning may take, from the worker's configuration; recorded with each plan."""

    task_timeout_s: int = Field(default=3600, ge=1)
    """For vCenter tasks that copy disks."""
    power_on_timeout_s: int = Field(default=600, ge=1)
    """For the power-on task: longer means that it waits on a question or a recommendation."""
    guest_timeout_s: int = Field(default=900, ge=1)
    """From power-on until VMware Tools answer; a VM with too little MMIO space never does."""
    driver_timeout_s: int = Field(default=1800, ge=1)
    """For installing the guest driver."""
    shutdown_timeout_s: int = Field(default=600, ge=1)
    """For a guest to shut down; power is never cut."""
    resolve_deadline_s: int = Field(default=24 * 3600, ge=1)


class LookAtVm(Message):
    """Input of `look_and_plan_vm`."""

    work: VmWork
    request: VmRequest | None = None
    """For provision, change and undo."""
    vm: VmRef | None = None
    """The VM once it is known; None at the first look of a provisioning."""
    folder: str = ""
    """The target's folder, once it is known: where a VM that this run may have made is looked for."""
    template: str = ""
    """The target's template, once it is known: where a copy that still runs is looked for."""
    run: str = ""
    """This run's mark, `workflow ID/run ID`, written into what it creates. The activity knows its own run and
    overrides this."""
    guest: GuestEvidence | None = None
    """What was last seen inside the guest."""
    shut_down: bool = False
    """This run shut the VM down, so it powers it on again."""


class VmPlan(Message):
    """What `look_and_plan_vm` saw and decided, recorded in history as data."""

    state: VmState | None
    """None: there is no such VM."""
    target: VmTarget | None = None
    placement: Placement = Placement()
    """At most 64 hosts: those that fit first."""
    plan: Plan
    plan_hash: str
    subject: str = ""
    """What `plan_hash` is bound to: see `VmStepOrder.subject`."""
    ask_always: bool = False
    """The worker's policy: a person is asked about safe steps too."""
    guest_unread: bool = False
    """The plan needs to know what the guest sees: `inspect_guest`, then look again."""
    copies: tuple[str, ...] = ()
    """While undoing, with no VM to see: tasks that make one from the run's source, and may be this run's."""
    cannot: tuple[str, ...] = ()
    """What a VM of this mode cannot do (vMotion, snapshots, HA, suspend), in words: domain.md's table."""
    proof: tuple[str, ...] = ()
    """What was read back of the finished VM: devices, labels, driver."""
    terms: ApprovalTerms = ApprovalTerms()
    limits: VmLimits = VmLimits()


class VmStepOrder(Message):
    """Input of every activity that changes a VM: what to do and the proof that it was allowed."""

    vcenter: str
    step: Step
    plan: Plan
    plan_hash: str
    subject: str
    """What the plan's hash is bound to: `vcenter/VM name` before it exists, `vcenter/instance UUID` after."""
    work: VmWork
    request: VmRequest | None = None
    target: VmTarget | None = None
    vm: VmRef | None = None
    run: str = ""
    change_version: str = ""
    """`config.changeVersion` as looked at: vCenter refuses a change made on older news."""
    grant: str = ""
    timeout_s: int = 3600
    host_moid: str = ""
    """The host that is named to vCenter when it is made and powered on; empty: vCenter chooses. Static devices name
    their own."""


class VmStepOutcome(Message):
    """What a step did. A step never claims success for the VM: the next look does."""

    changed: bool
    text: str
    task: str | None = None
    """Reference (moid) of the vCenter task to follow; None where the change is made already."""


class AwaitPowerOn(Message):
    """Input of `await_power_on`: follow a power-on's task until it ends, or the VM waits for an answer."""

    vm: VmRef
    task: str
    timeout_s: int


class PowerOnEnd(Message):
    """How a power-on ended: `on`, `failed`, `question`, or `expired` (vCenter forgot its task: look at the VM)."""

    state: str
    error: str = ""
    """Class of the error (`contracts.errors`)."""
    text: str = ""


class GuestOrder(Message):
    """Input of `await_guest` and `inspect_guest`."""

    vm: VmRef
    request: VmRequest | None = None
    boot_time: datetime | None = None
    timeout_s: int


class GuestWait(Message):
    """How the wait for a guest ended: `up`, `question`, `off` or `silent` (the deadline passed)."""

    state: str
    text: str = ""


class VmStage(StrEnum):
    """Values of the search attribute `GpuStage` for VMs."""

    LOOKING = "looking"
    AWAITING_APPROVAL = "awaiting-approval"
    WORKING = "working"
    PROVING = "proving"
    AWAITING_RESOLUTION = "awaiting-resolution"
    UNDOING = "undoing"
    FINISHED = "finished"


class VmOutcome(StrEnum):
    """How the run ended."""

    PROVISIONED = "provisioned"
    CHANGED = "changed"
    RETIRED = "retired"
    ALREADY_RIGHT = "already-right"
    REFUSED = "refused"
    """It cannot be had now; nothing was made."""
    UNDONE = "undone"
    """It could not be made right, and what this run made is removed."""
    KEPT = "kept"
    """It could not be made right, and the VM is left for inspection."""
    DENIED = "denied"
    EXPIRED = "expired"


class GpuVmReport(Message):
    """The result, and the answer to the query `report` while the run goes on."""

    work: VmWork
    name: str
    vcenter: str
    requester: str
    stage: VmStage
    outcome: VmOutcome | None = None
    detail: str = ""
    """What a person should know now: what is waited for, what failed with its likely cause and fix, what is left."""
    error: str = ""
    """The class of what went wrong (`contracts.errors`), for `refused`, `undone` and `kept`."""
    request: VmRequest | None = None
    vm: VmRef | None = None
    host: str = ""
    ip_address: str = ""
    placement: Placement = Placement()
    plan: Plan | None = None
    steps: tuple[StepRecord, ...] = ()
    cannot: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()
    freed: tuple[str, ...] = ()
    """GPUs that retiring gave back: `host sbdf name`."""
    approvals: tuple[Approval, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
