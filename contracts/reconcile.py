"""Messages of `ReconcileFleet` and its activities: who was prepared with what, and what differs from that now."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import Field

from contracts import names
from contracts.base import Message
from contracts.host import HostRef
from contracts.packing import unpacked
from contracts.plan import Step

__all__ = [
    "ANSWERS",
    "LONGEST",
    "MOST_TOLD",
    "REQUESTER",
    "DriftFound",
    "Finding",
    "FindingKind",
    "FleetLook",
    "FleetMemory",
    "FleetStage",
    "HostDrift",
    "HostGroup",
    "HostLeft",
    "LivePreparation",
    "LookAfterGap",
    "LookAtFleet",
    "LookForDrift",
    "Preparation",
    "Proposal",
    "RecallPreparations",
    "Recalled",
    "ReconcileFleetInput",
    "ReconcileFleetReport",
    "RememberedHost",
    "Standing",
    "recollect",
]

REQUESTER = "schedule:reconcile-fleet"
"""Who asks for the preparations that drift is proposed with."""
LONGEST = timedelta(hours=6)
"""A run that takes longer, because nobody serves it, ends, so that the next one may start."""
MOST_TOLD = 100
"""Hosts told one by one in a report; the schedule carries the report to its next run, in one payload of 2 MiB."""


class ReconcileFleetInput(Message):
    """Look for drift in one vCenter."""

    vcenter: str
    propose: bool = True
    """Start a preparation, which asks for approval, for each host that drifted."""
    max_open: int = Field(default=20, ge=1)
    """Propose nothing more while so many preparations of this vCenter run."""
    memory: str = ""
    """Of the run before (`packed`), where no schedule carries it on."""


class RememberedHost(Message):
    """A host that was prepared, and with which profile."""

    host: HostRef
    cluster_moid: str = ""
    cluster_name: str = ""
    profile: str
    prepared_at: datetime
    """When its last good preparation closed."""
    skip: tuple[str, ...] = ()
    """IDs of the steps that a person skipped then: without them the host is right."""
    proposed: str = ""
    """The drift (`planning.drift.drift_key`) that was proposed last; it is not proposed again while it stays so."""
    proposed_run: str = ""
    left: bool = False
    """It was told once that the host or its profile is gone. Kept for as long as its preparation may be read again."""

    def after(self, found: "HostDrift | None") -> "RememberedHost":
        """What is remembered once the host was looked at; None found it right."""
        if found is not None:
            if found.proposal is Proposal.STARTED:
                return self.model_copy(update={"proposed": found.key, "proposed_run": found.run_id})
            if found.standing is not Standing.DRIFTED or found.key == self.proposed:
                return self
        return self.model_copy(update={"proposed": "", "proposed_run": ""})

    def stands(self, standing: "Standing", why: str, **found: Any) -> "HostDrift":
        """This host as not simply right; `found` are further fields of `HostDrift`."""
        return HostDrift(
            host=self.host,
            cluster_name=self.cluster_name,
            profile=self.profile,
            prepared_at=self.prepared_at,
            standing=standing,
            why=why,
            **found,
        )


class FleetMemory(Message):
    """What the runs of a schedule know of a vCenter, each from the one before."""

    hosts: tuple[RememberedHost, ...] = ()
    read_at: datetime | None = None
    """Up to when closed preparations were read; None: never."""
    acted: tuple[str, ...] = ()
    """Keys of the findings that a rule acted on and that are still there; it does not act on them again."""


def recollect(text: str) -> FleetMemory:
    """A `packed` memory (2,500 hosts are about 150 KiB); empty text is an empty one."""
    return unpacked(FleetMemory, text) if text else FleetMemory()


class RecallPreparations(Message):
    """Input of `recall_preparations`."""

    vcenter: str
    memory: str = ""
    """Of the run before (`packed`)."""


class Preparation(Message):
    """A run of `PrepareGpuHost` that brought its host to a profile."""

    host: HostRef
    profile: str
    closed_at: datetime
    skip: tuple[str, ...] = ()


class LivePreparation(Message):
    """A run of `PrepareGpuHost` that has not ended."""

    host_key: str
    workflow_id: str
    run_id: str
    asks: bool = False
    """It waits for a decision, so it does not touch the host now."""


class HostGroup(Message):
    """Hosts to look at together: of one cluster, a few dozen at most."""

    name: str
    hosts: tuple[str, ...]
    """Keys."""


class HostLeft(Message):
    """A host that is no longer looked at; told once."""

    host: HostRef
    profile: str
    why: str


class Recalled(Message):
    """What `recall_preparations` found: whom to look at."""

    memory: str
    """Brought up to date (`packed`)."""
    groups: tuple[HostGroup, ...] = ()
    live: tuple[LivePreparation, ...] = ()
    """Every preparation of the vCenter that runs."""
    left: tuple[HostLeft, ...] = ()


class LookForDrift(Message):
    """Input of `look_for_drift`: one group."""

    vcenter: str
    name: str
    hosts: tuple[RememberedHost, ...]
    live: tuple[LivePreparation, ...] = ()
    """Of these hosts."""


class Standing(StrEnum):
    """How a remembered host stands, where it is not simply right."""

    DRIFTED = "drifted"
    UNKNOWN = "unknown"
    """It could not be looked at."""
    BUSY = "busy"
    """A preparation works on it."""


class Proposal(StrEnum):
    """What becomes of a drift."""

    NONE = "none"
    """Nothing to propose, or proposing is switched off."""
    WANTED = "wanted"
    """To be proposed now; in a report, more preparations run than `max_open` allows, so it waits its turn."""
    STARTED = "started"
    OPEN = "open"
    """A preparation asks for approval already."""
    DECLINED = "declined"
    """This very drift was proposed before and is still there: it was denied, not answered in time, or it failed."""
    BLOCKED = "blocked"
    """Something stands in the way."""


class HostDrift(Message):
    """A remembered host that is not simply right."""

    host: HostRef
    cluster_name: str = ""
    profile: str
    prepared_at: datetime
    standing: Standing
    why: str = ""
    """Why it is unknown or busy, or what stands in the way."""
    steps: tuple[Step, ...] = ()
    """What would put it right."""
    key: str = ""
    """Identity of the drift (`planning.drift.drift_key`)."""
    proposal: Proposal = Proposal.NONE
    run_id: str = ""
    """Of the preparation that was proposed, or that runs."""

    @property
    def words(self) -> str:
        """What differs, or why that is not known."""
        steps = [f"{step.kind} {step.target} ({step.reason})" for step in self.steps]
        return "; ".join([*steps, *([self.why] if self.why else [])])


class DriftFound(Message):
    """What `look_for_drift` found; hosts of the group that are not named are right."""

    hosts: tuple[HostDrift, ...] = ()


class FindingKind(StrEnum):
    """What a look at the whole fleet may find. Rules match these like event types (`on: [gpuwright.HostDown]`)."""

    HOST_DOWN = "gpuwright.HostDown"
    """A GPU host is down that nobody took down: neither maintenance nor standby nor a run of ours."""
    HOST_NEVER_PREPARED = "gpuwright.HostNeverPrepared"
    """A GPU host that no run of gpuwright brought to a profile."""
    VM_ON_UNEXPECTED_GPU = "gpuwright.VmOnUnexpectedGpu"
    """A running VM holds another GPU than its device asks for: another model or label."""
    VM_NOT_SAVED_BY_HA = "gpuwright.VmNotSavedByHa"
    """A running GPU VM in a cluster with HA would stay off if its host failed: static passthrough, or unprotected."""
    UNKNOWN_LABEL = "gpuwright.UnknownLabel"
    """A GPU has a hardware label that no profile of the rules file sets."""


ANSWERS = {
    FindingKind.HOST_DOWN: names.HA_RECOVERY_AUDIT,
    FindingKind.HOST_NEVER_PREPARED: names.PREPARE_GPU_HOST,
}
"""What a rule may start for a finding. All others are told only: a person has to judge them."""


class Finding(Message):
    """Something that is not as expected."""

    kind: FindingKind
    cluster_moid: str = ""
    cluster_name: str = ""
    host: HostRef | None = None
    vm_moid: str = ""
    vm_name: str = ""
    text: str
    """What, with its evidence."""
    fix: str
    rule: str = ""
    """The rule that acts on it; empty: none does, it is told only."""
    profile: str = ""
    """Of a rule that prepares the host."""
    run_id: str = ""
    """What was started for it, or ran already."""
    action: Proposal = Proposal.NONE
    """What came of the rule. `open`: a run that answers it runs already; `declined`: it was acted on before, and is not
    again while it stays."""

    @property
    def key(self) -> str:
        """Identity: what is found of whom. That a host is down may show otherwise at each look, and is one thing."""
        host = self.host.key if self.host else ""
        text = "" if self.kind in (FindingKind.HOST_DOWN, FindingKind.HOST_NEVER_PREPARED) else self.text
        return "|".join([self.kind, self.cluster_moid, host, self.vm_moid, text])


class LookAtFleet(Message):
    """Input of `look_at_fleet`."""

    vcenter: str
    prepared: tuple[str, ...] = ()
    """Keys of the hosts that were prepared."""
    live: tuple[LivePreparation, ...] = ()
    acted: tuple[str, ...] = ()
    """Keys of the findings that were acted on before."""
    since: datetime | None = None
    """When the look before this one began; None: this is the first."""


class FleetLook(Message):
    """Result of `look_at_fleet`."""

    at: datetime
    """vCenter's clock."""
    hosts: int
    """With GPUs."""
    gpus: int
    vms: int
    """With GPU devices."""
    snapshots: int
    """Clusters, and hosts in none, whose snapshot was kept."""
    findings: tuple[Finding, ...] = ()
    """At most `MOST_TOLD` of each kind, those that were not acted on before first."""
    counts: dict[str, int] = Field(default_factory=dict)
    """`FindingKind` → how many."""
    acted: tuple[str, ...] = ()
    """Those of the given keys whose finding is still there."""
    calls: int = 0
    """vCenter calls that the look took."""
    unread: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What was seen, and how much of it is not as expected, in a line."""
        text = f"{self.hosts} GPU hosts, {self.gpus} GPUs, {self.vms} GPU VMs"
        found = ", ".join(f"{count} {kind.removeprefix('gpuwright.')}" for kind, count in self.counts.items())
        return f"{text}: {found}" if found else f"{text}, as expected"


class LookAfterGap(Message):
    """Input of `look_after_gap`."""

    vcenter: str
    reason: str


class FleetStage(StrEnum):
    """Values of the search attribute `GpuStage`."""

    LOOKING = "looking"
    PROPOSING = "proposing"
    FINISHED = "finished"


class ReconcileFleetReport(Message):
    """The result, which is the memory of the next run too, and the answer to the query `report` meanwhile."""

    vcenter: str
    stage: FleetStage = FleetStage.LOOKING
    remembered: int = 0
    """Hosts that were prepared and are looked at."""
    right: int = 0
    drifted: int = 0
    unknown: int = 0
    busy: int = 0
    hosts: tuple[HostDrift, ...] = ()
    """Those that are not right, drifted ones first; at most `MOST_TOLD`."""
    left: tuple[HostLeft, ...] = ()
    proposed: tuple[str, ...] = ()
    """Run IDs of the preparations that this run started."""
    fleet: FleetLook | None = None
    """The look at the whole fleet."""
    audits: tuple[str, ...] = ()
    """Run IDs of the audits that a rule had started for hosts found down."""
    fleet_trouble: str = ""
    """Why the whole fleet could not be looked at."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    memory: str = ""
    """`packed`."""

    @property
    def summary(self) -> str:
        """How the fleet stands, in a line."""
        counts = {"right": self.right, "drifted": self.drifted, "unknown": self.unknown, "being worked on": self.busy}
        told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        return f"{self.remembered} prepared hosts" + (f": {told}" if told else "")
