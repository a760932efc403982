"""What is asked of people and what they answer."""

from datetime import datetime
from enum import StrEnum

from contracts.base import Message
from contracts.plan import Plan

__all__ = [
    "Approval",
    "ApprovalState",
    "ApprovalTerms",
    "Decision",
    "DecisionClaims",
    "Resolution",
    "Resolve",
    "Verdict",
]


class ApprovalState(StrEnum):
    """Values of the search attribute `GpuApproval`."""

    NONE = "none"
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


class Verdict(StrEnum):
    """What a person decides about a plan."""

    APPROVE = "approve"
    DENY = "deny"


class ApprovalTerms(Message):
    """The worker's approval policy, recorded with each plan; never taken from a workflow's input."""

    deadline_s: int = 72 * 3600
    requester_may_approve: bool = False
    automatic: bool = False
    """Plans need no person. For labs: the service signs its own grants."""


class DecisionClaims(Message):
    """What a signed decision says. An approving one is the grant that disruptive activities verify."""

    workflow_id: str
    run_id: str
    plan_hash: str
    verdict: Verdict
    approver: str
    """Who, with where from, e.g. `cli:alice`."""
    comment: str = ""
    nonce: str
    """Unique; it is the update ID too, so that a repeated call counts once."""
    decided_at: datetime
    expires_at: datetime
    """Until when steps may start on this decision."""


class Decision(Message):
    """The input of the update `decide`: a `DecisionClaims` as signed token (JWT, EdDSA)."""

    token: str


class Approval(Message):
    """One question to people and its answer so far."""

    workflow_id: str
    run_id: str
    subject: str
    requester: str
    reason: str
    plan: Plan
    plan_hash: str
    asked_at: datetime
    deadline: datetime
    state: ApprovalState = ApprovalState.PENDING
    approver: str = ""
    comment: str = ""
    decided_at: datetime | None = None


class Resolution(StrEnum):
    """What to do about a failed step."""

    RETRY = "retry"
    SKIP = "skip"
    """Go on without this step."""
    RESTORE = "restore"
    """Put back what this run changed; its plan is asked for like any other."""
    GIVE_UP = "give-up"
    """End now, and leave the host as it is."""


class Resolve(Message):
    """The input of the update `resolve`."""

    resolution: Resolution
    by: str
    comment: str = ""
