"""Asking about the remedies of an audit without waiting for the answer, and carrying them out beside its looks."""

import asyncio
from abc import abstractmethod

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from contracts.approvals import Approval, ApprovalState
    from contracts.audit import AuditStage, HaRecoveryAuditInput, IncidentLook
    from contracts.plan import Plan
    from contracts.verdicts import TimelineEntry

from workflows.approval_desk import ApprovalDesk
from workflows.asking import AskingWorkflow
from workflows.audit_remedies import Remedies

__all__ = ["AskingAudit"]

_WHOLE_PLANS = 2


class AskingAudit(AskingWorkflow):
    """Base class of `HaRecoveryAudit`, which calls `_begin` when it is made."""

    def _begin(self, order: HaRecoveryAuditInput) -> None:
        self._desk = ApprovalDesk(
            f"bring back the GPU VMs of {order.name}", order.requester, order.reason, ask_always=True
        )
        self._remedies = Remedies(order.vcenter, self._say_working)
        self._declined: set[str] = set()
        """Hashes of plans that somebody denied, or that nobody answered: not asked again."""
        self._subject = ""
        self._told_approval = ApprovalState.NONE
        self._work: asyncio.Task[None] | None = None
        self._notes: dict[str, None] = {}
        self._own: list[TimelineEntry] = []
        """What this run did."""

    @abstractmethod
    def _tell(self, stage: AuditStage, detail: str) -> None:
        """Keep the stage, the search attribute and the current details in step."""

    @property
    def _open_question(self) -> Approval | None:
        asked = self._desk.current
        return asked if asked is not None and asked.state is ApprovalState.PENDING else None

    @property
    def _answered(self) -> bool:
        """There is an answer that was not looked at yet."""
        return self._desk.current is not None and self._desk.current.state is not self._told_approval

    @property
    def _working(self) -> bool:
        return self._work is not None

    @property
    def _work_ended(self) -> bool:
        return self._work is not None and self._work.done()

    async def _end_work(self) -> None:
        """Take note that the steps which were approved are done."""
        if self._work is not None and self._work.done():
            work, self._work = self._work, None
            await work

    def _close_question(self, look: IncidentLook) -> None:
        """Say what became of the open question: answered, out of time, or no longer to be asked."""
        asked = self._desk.current
        if asked is None:
            return
        if asked.state is ApprovalState.PENDING:
            if workflow.now() >= asked.deadline:
                self._desk.withdraw("nobody answered in time")
                self._declined.add(asked.plan_hash)
            elif not self._remedies.left(look.plan).steps:
                self._desk.withdraw("withdrawn: there is nothing left to do")
            elif look.plan_hash != asked.plan_hash:
                self._desk.withdraw("withdrawn: the situation changed, so another plan is asked for")
        elif asked.state is ApprovalState.DENIED:
            self._declined.add(asked.plan_hash)
        self._say_answer()

    async def _remedy(self, look: IncidentLook) -> None:
        """Start what was approved; ask about what was not."""
        left = self._remedies.left(look.plan)
        if self._working or not left.steps or self._open_question is not None:
            return
        if not self._desk.covers(left):
            if look.plan_hash in self._declined:
                return
            self._subject = look.plan_subject
            self._note_own(f"asked for approval of {_steps(look.plan)}")
            self._desk.open(look.plan, look.plan_hash, look.terms)
            if look.terms.automatic:
                await self._approve_by_policy(look)
            self._say_answer()
        if self._desk.grant and self._desk.current is not None:
            self._work = asyncio.create_task(
                self._remedies.carry_out(
                    left.steps, self._desk.current, self._subject, self._desk.grant, look.limits.task_timeout_s
                )
            )

    async def _approve_by_policy(self, look: IncidentLook) -> None:
        try:
            self._desk.decide(await self._automatic_grant(look.plan_hash))
        except ApplicationError as error:
            # A person can still answer.
            self._notes[f"policy approves, yet no grant was made: {error.message}"] = None

    def _say_answer(self) -> None:
        asked = self._desk.current
        if asked is None or asked.state is self._told_approval:
            return
        self._told_approval = asked.state
        self._say_approval(asked.state)
        if asked.state is not ApprovalState.PENDING:
            who = f" by {asked.approver}" if asked.approver else ""
            self._note_own(
                f"plan {asked.plan_hash} {asked.state}{who}" + (f": {asked.comment}" if asked.comment else "")
            )

    def _approvals(self) -> tuple[Approval, ...]:
        """Every question. Only the newest ones tell their whole plan: a report is one payload of 2 MiB."""
        questions = self._desk.all
        old, new = questions[:-_WHOLE_PLANS], questions[-_WHOLE_PLANS:]
        return (*(each.model_copy(update={"plan": Plan(notes=(_steps(each.plan),))}) for each in old), *new)

    async def _stop(self, why: str) -> None:
        """End what goes on beside the looks."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        if self._desk.current is not None:
            self._desk.withdraw(why)
            self._say_answer()

    def _say_working(self, text: str) -> None:
        self._tell(AuditStage.RECOVERING, text)

    def _note_own(self, text: str) -> None:
        self._own.append(TimelineEntry(at=workflow.now(), what=text))

    def _end(self, kind: str, text: str) -> ApplicationError:
        return ApplicationError(text, type=kind, non_retryable=True)


def _steps(plan: Plan) -> str:
    return f"{len(plan.steps)} step" + ("" if len(plan.steps) == 1 else "s")
