"""A workflow that runs one activity by name: for tests of workers, which need something to work on."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

__all__ = ["OneActivity"]


@workflow.defn(name="OneActivity")
class OneActivity:
    """Runs the activity named `name` on `task_queue`, once."""

    @workflow.run
    async def run(self, name: str, task_queue: str) -> None:
        """Ends with the activity."""
        await workflow.execute_activity(
            name,
            task_queue=task_queue,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
