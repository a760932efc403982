"""Messages of `PrepareGpuCluster` and its activities."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from contracts.approvals import Approval, ApprovalTerms
from contracts.base import Message
from contracts.cluster_grant import ClusterGrant
from contracts.host import HostRef
from contracts.plan import Plan, Step
from contracts.prepare import Outcome

__all__ = [
    "MOST_AT_ONCE",
    "ApprovalMode",
    "AwaitPreparation",
    "ClusterHost",
    "ClusterOutcome",
    "ClusterPlan",
    "ClusterStage",
    "Fit",
    "HostProgress",
    "HostState",
    "LookAtCluster",
    "Pause",
    "PreparationEnd",
    "PrepareGpuClusterInput",
    "PrepareGpuClusterReport",
]

MOST_AT_ONCE = 64
"""Children of one run at a time; Temporal refuses more than 2,000, and each costs a dozen events."""


class ApprovalMode(StrEnum):
    """How often a person is asked."""

    WHOLE = "whole"
    """Once, about the plan of all hosts. A host that needs more at its turn asks for itself."""
    EACH = "each"
    """Every host's run asks for itself."""


class PrepareGpuClusterInput(Message):
    """Bring the GPUs of every host of a cluster to what a profile says, a few hosts at a time."""

    vcenter: str
    cluster_moid: str
    cluster_name: str
    profile: str
    requester: str
    reason: str = ""
    approval: ApprovalMode = ApprovalMode.WHOLE
    canary: int = Field(default=1, ge=0)
    """So many hosts go first; the others follow only once all of these are proven."""
    max_failures: int = Field(default=1, ge=1)
    """After so many failed hosts no other one is started."""
    at_once: int = Field(default=1, ge=1, le=MOST_AT_ONCE)
    """Runs of hosts at a time. How many hosts are down is the business of the cluster's gate."""


class Fit(StrEnum):
    """How a host stands to the profile."""

    RIGHT = "right"
    LACKS = "lacks"
    NO_GPU = "no-gpu"
    """None of its GPUs is one that the profile names."""
    BLOCKED = "blocked"
    """Something has to change before anything can be done."""


class ClusterHost(Message):
    """One host of a cluster's plan."""

    host: HostRef
    fit: Fit
    plan: Plan = Plan()
    plan_hash: str = ""
    why: str = ""
    """Why it is not part of the work: what is in the way, and its fix."""


class LookAtCluster(Message):
    """Input of `look_and_plan_cluster`."""

    vcenter: str
    cluster_moid: str
    profile: str


class ClusterPlan(Message):
    """What `look_and_plan_cluster` saw and decided, recorded in history as data. Hosts are sorted by name."""

    cluster_name: str
    hosts: tuple[ClusterHost, ...]
    plan_hash: str
    """Over the hosts that lack something (`cluster_plan_hash`)."""
    terms: ApprovalTerms = ApprovalTerms()

    @property
    def lacking(self) -> tuple[ClusterHost, ...]:
        """The hosts to work on."""
        return tuple(host for host in self.hosts if host.fit is Fit.LACKS)

    @property
    def shown(self) -> Plan:
        """All steps and notes as one plan, for people to read: each names its host."""
        steps = tuple(_named(step, each.host.name) for each in self.lacking for step in each.plan.steps)
        notes = [f"{each.host.name}: {note}" for each in self.lacking for note in each.plan.notes]
        left_out = [f"{each.host.name} is left out: {each.why}" for each in self.hosts if each.why]
        return Plan(steps=steps, notes=(*notes, *left_out))

    def grant(self, token: str) -> ClusterGrant:
        """What the runs of these hosts carry once `token` approved this plan."""
        hosts = tuple((each.host.key, each.plan_hash) for each in self.lacking)
        return ClusterGrant(token=token, plan_hash=self.plan_hash, hosts=hosts)


def _named(step: Step, host: str) -> Step:
    return step if host in step.target else step.model_copy(update={"target": f"{host} {step.target}"})


class AwaitPreparation(Message):
    """Input of `await_preparation`: follow a run of `PrepareGpuHost` that somebody else started."""

    workflow_id: str


class PreparationEnd(Message):
    """How that run ended."""

    profile: str = ""
    outcome: Outcome | None = None
    """None where it failed, was cancelled or was terminated."""
    text: str = ""


class Pause(Message):
    """The signals `pause` and `resume`."""

    by: str = ""


class ClusterStage(StrEnum):
    """Values of the search attribute `GpuStage` for a cluster's run; waiting for approval is named as in a host's."""

    LOOKING = "looking"
    AWAITING_APPROVAL = "awaiting-approval"
    CANARY = "canary"
    ROLLING = "rolling"
    PAUSED = "paused"
    STOPPING = "stopping"
    FINISHED = "finished"


class HostState(StrEnum):
    """How far a host of the cluster is."""

    SKIPPED = "skipped"
    WAITING = "waiting"
    RUNNING = "running"
    JOINED = "joined"
    """A preparation that was running already is waited for."""
    DONE = "done"
    FAILED = "failed"
    NOT_STARTED = "not-started"


class HostProgress(Message):
    """One host's line in the report."""

    host: HostRef
    fit: Fit
    canary: bool = False
    state: HostState
    outcome: Outcome | None = None
    text: str = ""
    workflow_id: str = ""
    """Of its own run, once there is one."""


class ClusterOutcome(StrEnum):
    """How a cluster's preparation ended."""

    ALREADY_RIGHT = "already-right"
    PREPARED = "prepared"
    PREPARED_IN_PART = "prepared-in-part"
    """Every host had its turn, or was left out by name; some are not as the profile wants them."""
    STOPPED = "stopped"
    """A canary was not proven, or too many hosts failed: the others were not started."""
    DENIED = "denied"
    EXPIRED = "expired"


class PrepareGpuClusterReport(Message):
    """The result, and the answer to the query `report` while the run goes on."""

    vcenter: str
    cluster_moid: str
    cluster_name: str
    profile: str
    requester: str
    stage: ClusterStage
    outcome: ClusterOutcome | None = None
    detail: str = ""
    plan_hash: str = ""
    hosts: tuple[HostProgress, ...] = ()
    approvals: tuple[Approval, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
