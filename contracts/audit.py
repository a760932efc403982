"""Messages of `HaRecoveryAudit` and its activities: after a failure, every GPU VM accounted for."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, field_serializer, field_validator

from contracts.approvals import Approval, ApprovalTerms
from contracts.base import Message
from contracts.events import EventKey
from contracts.forecast import HostForecast
from contracts.host import HostRef
from contracts.incidents import HostDown, IncidentEvent
from contracts.packing import packed, unpacked
from contracts.plan import Plan, Step
from contracts.prepare import StepRecord
from contracts.verdicts import IncidentHost, Recovery, TimelineEntry, VmVerdict

__all__ = [
    "MOST_TOLD",
    "AuditLimits",
    "AuditOutcome",
    "AuditStage",
    "HaRecoveryAuditInput",
    "HaRecoveryAuditReport",
    "HostOffer",
    "IdentifyVictims",
    "IncidentEvents",
    "IncidentLook",
    "LookAtIncident",
    "RecallProfiles",
    "RecalledProfile",
    "RecalledProfiles",
    "RemedyOrder",
    "RemedyPolicy",
    "VictimsFound",
]

MOST_TOLD = 100
"""Verdicts and lines of the timeline told one by one in a report; all of them are in its packed part."""


class HaRecoveryAuditInput(Message):
    """Account for the GPU VMs of one incident in a cluster, or on one host that is in none."""

    vcenter: str
    cluster_moid: str = ""
    """Empty for a host that is in no cluster."""
    cluster_name: str = ""
    host: HostRef | None = None
    """The host, where it is in no cluster."""
    requester: str
    reason: str = ""
    incident: tuple[IncidentEvent, ...] = ()
    """The events that started it; none where somebody found a host down by looking."""

    @property
    def events(self) -> tuple[EventKey, ...]:
        """Their keys, by which repeated events are recognised."""
        return tuple(event.key for event in self.incident)

    @property
    def subject(self) -> str:
        """What its workflow ID names."""
        return self.cluster_moid or (self.host.key if self.host else "")

    @property
    def name(self) -> str:
        """What it is about, as people call it."""
        return self.cluster_name or (self.host.name if self.host else self.cluster_moid)


class IncidentEvents(Message):
    """The signal `incident_events`: more events of the incident, in any order, doubled or late."""

    incident: tuple[IncidentEvent, ...]

    @property
    def events(self) -> tuple[EventKey, ...]:
        """Their keys."""
        return tuple(event.key for event in self.incident)


class AuditLimits(Message):
    """How long an audit waits for what, in seconds, from the worker's configuration; recorded with each look."""

    quiet_s: int = Field(default=90, ge=1)
    """The cluster has settled when no event of HA or DRS about the incident came for so long."""
    settle_s: int = Field(default=1800, ge=1)
    """Judged after so long even when it has not."""
    linger_s: int = Field(default=600, ge=1)
    """Open at least so long after its last event: late, repeated and flapping ones join."""
    host_wait_s: int = Field(default=4 * 3600, ge=0)
    """Open so long while a failed host is not back, and VMs wait for it or it is to be offered to `PrepareGpuHost`."""
    look_s: int = Field(default=10, ge=1)
    """Between looks while the cluster settles; six times as long after that."""
    task_timeout_s: int = Field(default=600, ge=1)
    """For each vCenter task of a remedy."""
    guest_timeout_s: int = Field(default=900, ge=1)
    """A restarted VM whose guest is not up by then counts as not booting."""


class RemedyPolicy(Message):
    """Which remedies are proposed, from the worker's configuration. All of them are asked for."""

    power_on: bool = True
    """Power on what HA left off, where there is room."""
    convert_static: bool = True
    """Give a VM whose static device died with its host a Dynamic DirectPath I/O device of the same kind and label."""
    make_room: Literal["never", "move", "suspend"] = "never"
    """For a VM of higher restart priority: move lower ones to where they fit, or suspend those that can be (vGPU)."""
    offer_preparation: bool = True
    """Propose a preparation of a failed host that came back, where gpuwright prepared it before."""


class IdentifyVictims(Message):
    """Input of `identify_victims`: who ran on these hosts when they were lost?"""

    vcenter: str
    cluster_moid: str = ""
    subject: str
    hosts: tuple[HostDown, ...]
    """With the earliest time that an event told; refined by the activity."""


class VictimsFound(Message):
    """Result of `identify_victims`."""

    victims: str
    """`packed` `Victims`."""
    count: int
    hosts: tuple[HostDown, ...]
    """Those that were really lost, with the times that vCenter's events tell."""
    planned: tuple[str, ...] = ()
    """Hosts that were not lost but taken down on purpose, each with its evidence in words: maintenance, standby, a
    reboot of our own."""
    snapshot_at: datetime | None = None
    """When the snapshot was taken that tells who was there; None: there was none."""
    notes: tuple[str, ...] = ()


class LookAtIncident(Message):
    """Input of `look_at_incident`."""

    vcenter: str
    cluster_moid: str = ""
    subject: str
    hosts: tuple[HostDown, ...]
    victims: str
    """`packed` `Victims`."""
    known: str = ""
    """`IncidentLook.digest` of the look before: what is still so need not be told again."""
    unregistered: tuple[str, ...] = ()
    """Instance UUIDs of VMs that the audit's own steps took, or tried to take, out of the inventory."""


class IncidentLook(Message):
    """What `look_at_incident` saw and decided, recorded in history as data."""

    at: datetime
    """vCenter's clock."""
    findings: str
    """`packed` `Findings`."""
    counts: dict[str, int] = Field(default_factory=dict)
    """`Recovery` → VMs."""
    hosts: tuple[IncidentHost, ...] = ()
    also_down: tuple[HostDown, ...] = ()
    """Hosts of the cluster that are down too, and that nobody told of: their events were lost."""
    last_event_at: datetime | None = None
    """Of HA or DRS, about the hosts and VMs of the incident."""
    capacity_summary: str = ""
    """What a second failure would do, in a line."""
    plan: Plan = Plan()
    """The remedies. Empty: there is nothing to do, or nothing that can be done."""
    plan_hash: str = ""
    plan_subject: str = ""
    """What `plan_hash` is bound to."""
    digest: str = ""
    """Of findings and plan."""
    same: bool = False
    """They are as `LookAtIncident.known` says, and left out: an audit that waits for days looks hundreds of times."""
    terms: ApprovalTerms = ApprovalTerms()
    limits: AuditLimits = AuditLimits()
    offers: bool = True
    """`RemedyPolicy.offer_preparation`."""

    def count(self, *kinds: Recovery) -> int:
        """VMs of these verdicts."""
        return sum(self.counts.get(kind, 0) for kind in kinds)


class RecallProfiles(Message):
    """Input of `recall_profiles`: what were these hosts prepared for?"""

    vcenter: str
    hosts: tuple[HostRef, ...]


class RecalledProfile(Message):
    """A host that gpuwright prepared, with the profile of its newest good preparation."""

    host: HostRef
    cluster_name: str = ""
    profile: str


class RecalledProfiles(Message):
    """Result of `recall_profiles`; hosts that were never prepared are absent."""

    hosts: tuple[RecalledProfile, ...] = ()


class RemedyOrder(Message):
    """Input of every activity that carries out a step of a remedy, with the proof that it was approved.

    The step's parameters: `vm` (instance UUID) and `moid` of the VM that it changes; `for` is the instance UUID of the
    VM that it is done for, so that the steps of one VM run one after another; further ones by kind of step.
    """

    vcenter: str
    step: Step
    plan: Plan
    plan_hash: str
    subject: str
    """What the hash is bound to: `vcenter/cluster moid` (or host key)."""
    grant: str = ""
    timeout_s: int = 600

    @field_serializer("plan", when_used="json")
    def _packed(self, plan: Plan) -> str:
        # It travels with every step: 300 steps of 150 KiB each are what Temporal takes for a whole history.
        return packed(plan)

    @field_validator("plan", mode="before")
    @classmethod
    def _unpacked(cls, plan: object) -> object:
        return unpacked(Plan, plan) if isinstance(plan, str) else plan


class HostOffer(Message):
    """A host that came back and was offered to `PrepareGpuHost`."""

    host: HostRef
    profile: str
    run_id: str = ""
    """Empty where a preparation ran already."""


class AuditStage(StrEnum):
    """Values of the search attribute `GpuStage` for audits."""

    IDENTIFYING = "identifying"
    SETTLING = "settling"
    AWAITING_APPROVAL = "awaiting-approval"
    RECOVERING = "recovering"
    WATCHING = "watching"
    """Judged; open for late events and for hosts to come back."""
    FINISHED = "finished"


class AuditOutcome(StrEnum):
    """How it ended."""

    ALL_RECOVERED = "all-recovered"
    NOT_ALL_RECOVERED = "not-all-recovered"
    NOBODY_THERE = "nobody-there"
    """No GPU VM ran on the hosts that were lost."""
    NOT_A_FAILURE = "not-a-failure"
    """The hosts were taken down on purpose."""


class HaRecoveryAuditReport(Message):
    """The result, and the answer to the query `report` while the run goes on."""

    vcenter: str
    subject: str
    name: str
    requester: str
    reason: str = ""
    stage: AuditStage
    outcome: AuditOutcome | None = None
    detail: str = ""
    """What a person should know now."""
    hosts: tuple[IncidentHost, ...] = ()
    planned: tuple[str, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    verdicts: tuple[VmVerdict, ...] = ()
    """The worst first, at most `MOST_TOLD`."""
    timeline: tuple[TimelineEntry, ...] = ()
    """The newest `MOST_TOLD`, oldest first."""
    capacity_summary: str = ""
    capacity: tuple[HostForecast, ...] = ()
    """The worst ten."""
    plan: Plan | None = None
    """Remedies that are left."""
    steps: tuple[StepRecord, ...] = ()
    approvals: tuple[Approval, ...] = ()
    offered: tuple[HostOffer, ...] = ()
    snapshot_at: datetime | None = None
    notes: tuple[str, ...] = ()
    events: int = 0
    """Events that reached this run, each once."""
    findings: str = ""
    """`packed` `Findings`: everything."""
    started_at: datetime | None = None
    settled_at: datetime | None = None
    finished_at: datetime | None = None
