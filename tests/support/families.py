"""Workflows that start one another, for the tests of who started whom."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from contracts.prepare import StepOrder

__all__ = ["Child", "Parent"]


@workflow.defn
class Child:
    """Asks an activity who started it; with detours it fails, is retried and continues as new before that."""

    @workflow.run
    async def run(self, order: StepOrder, detours: bool) -> str:
        info = workflow.info()
        if detours and info.attempt == 1 and not info.continued_run_id:
            raise ApplicationError("as ordered")
        if detours and info.attempt == 2:
            workflow.continue_as_new(args=[order, detours])
        return await workflow.execute_activity(
            "who_started_this", order, result_type=str, start_to_close_timeout=timedelta(seconds=30)
        )


@workflow.defn
class Parent:
    """Has one child, with detours or, as a host's preparation, without."""

    @workflow.run
    async def run(self, order: StepOrder, detours: bool) -> str:
        retries = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3)
        return await workflow.execute_child_workflow(
            Child.run,
            args=[order, detours],
            id=f"{workflow.info().workflow_id}-child",
            retry_policy=retries if detours else None,
        )
