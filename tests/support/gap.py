"""A workflow that has the fleet looked at after a gap, as a watch does."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts.activities import FleetActivities
    from contracts.reconcile import LookAfterGap

from workflows import policies

__all__ = ["AfterGap"]


@workflow.defn(name="AfterGap")
class AfterGap:
    """Ends when somebody looks."""

    @workflow.run
    async def run(self, gap: LookAfterGap) -> str:
        """Who looks, in words."""
        return await workflow.execute_activity_method(
            FleetActivities.look_after_gap, gap, task_queue=policies.wait_queue(), **policies.look()
        )
