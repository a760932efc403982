"""What every workflow that asks people about its plans has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.activities import HostActivities
    from contracts.approvals import Approval, ApprovalState, ApprovalTerms, Decision
    from contracts.plan import Plan
    from contracts.prepare import GrantOrder

from workflows import policies
from workflows.approval_desk import ApprovalDesk

__all__ = ["AskingWorkflow", "cause"]


class AskingWorkflow(ABC):
    """Base class: the update `decide`, the query `approval`, and asking. Its workflow makes `_desk` when it starts."""

    _desk: ApprovalDesk

    @abstractmethod
    def _end(self, kind: str, text: str) -> ApplicationError:
        """The error to end the run with."""

    @workflow.query(name=names.QUERY_APPROVAL)
    def approval(self) -> Approval | None:
        """The question that waits for an answer, or the last one answered."""
        return self._desk.current

    @workflow.update(name=names.DECIDE)
    def decide(self, decision: Decision) -> Approval:
        """Approve or deny the plan. The validator has checked everything; here it is only written down."""
        return self._desk.decide(decision.token)

    @decide.validator
    def _check_decision(self, decision: Decision) -> None:
        self._desk.check(decision)

    async def _answer_to(
        self, plan: Plan, plan_hash: str, terms: ApprovalTerms, tell: Callable[[], None]
    ) -> ApprovalState:
        """Open an approval bound to the plan's hash and wait for the answer; `tell` says that a person is waited for.

        Where policy approves, no person is asked.
        """
        self._desk.open(plan, plan_hash, terms)
        if terms.automatic:
            self._desk.decide(await self._automatic_grant(plan_hash))
        else:
            self._say_approval(ApprovalState.PENDING)
            tell()
        answer = await self._desk.answer()
        self._say_approval(answer)
        return answer

    async def _automatic_grant(self, plan_hash: str) -> str:
        try:
            return await workflow.execute_activity_method(
                HostActivities.grant_automatically,
                GrantOrder(plan_hash=plan_hash),
                **policies.change(),
                summary="approve by policy",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise self._end(*cause(error)) from error

    def _say_approval(self, state: ApprovalState) -> None:
        workflow.upsert_search_attributes([search_attributes.GPU_APPROVAL.value_set(state)])


def cause(error: ActivityError) -> tuple[str, str]:
    """The name and words of what made an activity fail."""
    found = error.cause
    if isinstance(found, ApplicationError):
        return found.type or "ApplicationError", found.message
    return "Unreachable", f"{error.activity_type} did not finish: {found or error}"
