"""The schedules that a service keeps: one a vCenter, which looks for drift."""

from collections.abc import Iterable
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names, search_attributes
from contracts.reconcile import LONGEST, ReconcileFleetInput
from workers.settings import DriftSettings

__all__ = ["drift_schedule", "ensure_drift_schedules", "remove_drift_schedule"]

_CALL_TIMEOUT = timedelta(seconds=10)

_CATCH_UP = timedelta(minutes=5)
"""A look that was missed for longer is not made up for: the next one sees the same."""


def drift_schedule(vcenter: str, queues: names.TaskQueues, settings: DriftSettings) -> Schedule:
    """The schedule of `ReconcileFleet` for a vCenter, not paused."""
    return Schedule(
        action=ScheduleActionStartWorkflow(
            names.RECONCILE_FLEET,
            ReconcileFleetInput(vcenter=vcenter, propose=settings.propose, max_open=settings.max_open),
            id=ids.reconcile_fleet(vcenter),
            task_queue=queues.main,
            execution_timeout=LONGEST,
            static_summary=f"Look for drift in {vcenter}",
            typed_search_attributes=TypedSearchAttributes(
                [SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(vcenter))]
            ),
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=settings.every_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCH_UP),
    )


async def ensure_drift_schedules(
    client: Client, queues: names.TaskQueues, vcenters: Iterable[str], settings: DriftSettings
) -> None:
    """Create, correct or, where `settings` switch it off, remove the schedule of each vCenter.

    One that somebody paused stays paused.
    """
    for vcenter in vcenters:
        if settings.enabled:
            await _ensure(client, ids.reconcile_fleet(vcenter), drift_schedule(vcenter, queues, settings))
        else:
            await remove_drift_schedule(client, vcenter)


async def _ensure(client: Client, schedule_id: str, wanted: Schedule) -> None:
    def corrected(found: ScheduleUpdateInput) -> ScheduleUpdate:
        wanted.state = found.description.schedule.state
        return ScheduleUpdate(wanted)

    try:
        await client.create_schedule(schedule_id, wanted, rpc_timeout=_CALL_TIMEOUT)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(schedule_id).update(corrected, rpc_timeout=_CALL_TIMEOUT)


async def remove_drift_schedule(client: Client, vcenter: str) -> None:
    """Remove the schedule of a vCenter, if it has one, and with it what is known of its prepared hosts."""
    try:
        await client.get_schedule_handle(ids.reconcile_fleet(vcenter)).delete(rpc_timeout=_CALL_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
