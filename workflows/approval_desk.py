"""The ask of look → plan → ask → converge → prove: one question at a time, bound to a plan's hash."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts.approvals import Approval, ApprovalState, ApprovalTerms, Decision, DecisionClaims, Verdict
    from contracts.cluster_grant import ClusterGrant
    from contracts.errors import Conflict
    from contracts.plan import Plan
    from contracts.signing import read_unverified, trusted

__all__ = ["ApprovalDesk"]


class ApprovalDesk:
    """What a workflow asks people about its plans, and what they answered.

    The workflow's update `decide` calls `check` in its validator, where refusals belong, and `decide` in its handler,
    which must not refuse: keys and clocks may differ when the history is replayed.
    """

    def __init__(self, subject: str, requester: str, reason: str, *, ask_always: bool = False) -> None:
        self._subject, self._requester, self._reason, self._ask_always = subject, requester, reason, ask_always
        self._terms = ApprovalTerms()
        self._past: list[Approval] = []
        self._claims: DecisionClaims | None = None
        self.current: Approval | None = None
        self.grant = ""
        """The signed decision that approved `current.plan`; empty without one."""
        self.cluster_grant: ClusterGrant | None = None
        """Set where `grant` is about a cluster's plan that `current.plan` is part of."""

    @property
    def all(self) -> tuple[Approval, ...]:
        """Every question so far, oldest first."""
        return (*self._past, *([self.current] if self.current else []))

    def covers(self, plan: Plan) -> bool:
        """Every step of a plan that has to be asked for is part of the approved one, and the grant still holds."""
        if not plan.needs_approval and not self._ask_always:
            return True
        if self.current is None or self._claims is None:
            return False
        if plan.needs_approval and workflow.now() >= self._claims.expires_at:
            return False
        allowed = {step.id for step in self.current.plan.steps}
        return all(step.id in allowed for step in plan.steps)

    def accept(self, host_key: str, grant: ClusterGrant, approved: Plan, wanted: Plan) -> bool:
        """Take over a cluster's approval if it covers `wanted`; whether it did.

        `approved` is this host's part of it. Signature and hashes are verified by the activities, not here.
        """
        try:
            claims, now = read_unverified(grant.token), workflow.now()
        except Conflict:
            # Whoever started the run gave it something else: then this run asks, as any other does.
            return False
        plan_hash, allowed = grant.hash_of(host_key), {step.id for step in approved.steps}
        if plan_hash is None or now >= claims.expires_at or any(step.id not in allowed for step in wanted.steps):
            return False
        if self.current:
            self._past.append(self.current)
        self.current = Approval(
            workflow_id=claims.workflow_id,
            run_id=claims.run_id,
            subject=self._subject,
            requester=self._requester,
            reason=self._reason,
            plan=approved,
            plan_hash=plan_hash,
            asked_at=now,
            deadline=claims.expires_at,
            state=ApprovalState.APPROVED,
            approver=claims.approver,
            comment=claims.comment,
            decided_at=claims.decided_at,
        )
        self.grant, self.cluster_grant, self._claims = grant.token, grant, claims
        return True

    def open(self, plan: Plan, plan_hash: str, terms: ApprovalTerms) -> Approval:
        """Ask about a plan; an earlier answer no longer counts."""
        info, now = workflow.info(), workflow.now()
        if self.current:
            self._past.append(self.current)
        self.grant, self.cluster_grant, self._claims, self._terms = "", None, None, terms
        self.current = Approval(
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            subject=self._subject,
            requester=self._requester,
            reason=self._reason,
            plan=plan,
            plan_hash=plan_hash,
            asked_at=now,
            deadline=now + timedelta(seconds=terms.deadline_s),
        )
        return self.current

    async def answer(self) -> ApprovalState:
        """Wait until the open question is answered or its deadline passes."""
        approval = self._open_question()
        try:
            await workflow.wait_condition(
                lambda: self._open_question().state is not ApprovalState.PENDING,
                timeout=approval.deadline - workflow.now(),
                timeout_summary="deadline of the approval",
            )
        except TimeoutError:
            self.current = approval.model_copy(update={"state": ApprovalState.EXPIRED})
        return self._open_question().state

    def withdraw(self, comment: str) -> None:
        """Close the open question, which nobody answered, because its deadline passed or nobody needs the answer."""
        approval = self._open_question()
        if approval.state is ApprovalState.PENDING:
            self.current = approval.model_copy(update={"state": ApprovalState.EXPIRED, "comment": comment})

    def check(self, decision: Decision) -> None:
        """Refuse, by raising `Conflict`, a decision that does not count for the open question."""
        claims = trusted().verify(decision.token)
        info = workflow.info()
        if (claims.workflow_id, claims.run_id) != (info.workflow_id, info.run_id):
            raise Conflict(f"the decision is for run {claims.run_id} of {claims.workflow_id}, not for this run")
        approval = self._open_question()
        if approval.state is not ApprovalState.PENDING:
            raise Conflict(f"plan {approval.plan_hash} is {approval.state} already ({approval.approver or 'deadline'})")
        if claims.plan_hash != approval.plan_hash:
            raise Conflict(
                f"the plan changed: the decision is for plan {claims.plan_hash}, asked is {approval.plan_hash}; "
                "look at the new plan and decide again"
            )
        if workflow.now() >= approval.deadline:
            raise Conflict(f"the deadline of this approval passed at {approval.deadline:%Y-%m-%d %H:%M:%S} UTC")
        if claims.approver == approval.requester and not self._terms.requester_may_approve:
            raise Conflict(f"{claims.approver} asked for this run, so another person has to decide")

    def decide(self, token: str) -> Approval:
        """Write a checked decision down."""
        claims = read_unverified(token)
        approved = claims.verdict is Verdict.APPROVE
        self.current = self._open_question().model_copy(
            update={
                "state": ApprovalState.APPROVED if approved else ApprovalState.DENIED,
                "approver": claims.approver,
                "comment": claims.comment,
                "decided_at": claims.decided_at,
            }
        )
        if approved:
            self.grant, self._claims = token, claims
        return self.current

    def _open_question(self) -> Approval:
        if self.current is None:
            raise Conflict("nothing waits for a decision in this run")
        return self.current
