"""The schedule that looks for drift follows the configuration, and stays paused where somebody paused it."""

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow, ScheduleHandle, ScheduleOverlapPolicy
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids
from contracts.names import TaskQueues
from contracts.reconcile import ReconcileFleetInput
from tests.support.service import ServiceProcess, write_configuration
from workers.schedules import ensure_drift_schedules
from workers.settings import DriftSettings, TemporalSettings

SELDOM = 7 * 24 * 3600


@pytest.fixture
def vcenter() -> str:
    return f"vc-{uuid.uuid4().hex[:8]}"


async def arguments(client: Client, schedule: ScheduleHandle) -> ReconcileFleetInput:
    action = (await schedule.describe()).schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    (found,) = await client.data_converter.decode(action.args, [ReconcileFleetInput])
    assert isinstance(found, ReconcileFleetInput)
    return found


async def test_the_schedule_follows_the_configuration(
    temporal_client: Client, queues: TaskQueues, vcenter: str
) -> None:
    schedule = temporal_client.get_schedule_handle(ids.reconcile_fleet(vcenter))
    await ensure_drift_schedules(temporal_client, queues, [vcenter], DriftSettings(every_s=SELDOM))
    found = (await schedule.describe()).schedule
    assert [each.every for each in found.spec.intervals] == [timedelta(seconds=SELDOM)]
    assert found.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert not found.state.paused
    assert await arguments(temporal_client, schedule) == ReconcileFleetInput(vcenter=vcenter)
    await ensure_drift_schedules(
        temporal_client, queues, [vcenter], DriftSettings(every_s=SELDOM // 2, propose=False, max_open=3)
    )
    assert [each.every for each in (await schedule.describe()).schedule.spec.intervals] == [
        timedelta(seconds=SELDOM // 2)
    ]
    assert await arguments(temporal_client, schedule) == ReconcileFleetInput(vcenter=vcenter, propose=False, max_open=3)
    for _ in range(2):
        await ensure_drift_schedules(temporal_client, queues, [vcenter], DriftSettings(enabled=False))
        with pytest.raises(RPCError) as gone:
            await schedule.describe()
        assert gone.value.status is RPCStatusCode.NOT_FOUND


async def test_a_paused_schedule_stays_paused_when_the_service_starts_again(
    temporal_client: Client, temporal_settings: TemporalSettings, vcenter: str, tmp_path: Path
) -> None:
    configuration = write_configuration(
        tmp_path,
        temporal={"address": temporal_settings.address, "task_queue": temporal_settings.task_queue},
        vcenters=[{"name": vcenter, "url": "https://127.0.0.1:9"}],
    )
    schedule = temporal_client.get_schedule_handle(ids.reconcile_fleet(vcenter))
    for start in range(2):
        with ServiceProcess(configuration) as service:
            await asyncio.to_thread(service.wait_for, "serving")
            state = (await schedule.describe()).schedule.state
            assert (state.paused, state.note) == ((False, None) if start == 0 else (True, "while we move hosts"))
            await schedule.pause(note="while we move hosts")
            assert await asyncio.to_thread(service.stop) == 0
    await schedule.delete()
    await temporal_client.get_workflow_handle(ids.watch(vcenter)).terminate()
