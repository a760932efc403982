"""A watch that services stop and start at about the same time, each when it learns of a change."""

import asyncio

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from contracts import ids, names
from contracts.errors import BadRequest
from contracts.names import TaskQueues
from contracts.watch import WatchStatus
from tests.support.directed_watch import Watch, at
from workers.watches import ensure_watches, stop_watch


async def test_a_stop_that_is_taken_back_in_time_costs_a_round_and_no_event(
    watch: Watch, temporal_client: Client, queues: TaskQueues
) -> None:
    call = await watch.following()
    first_run = (await watch.handle.describe()).run_id
    await stop_watch(temporal_client, watch.vcenter)
    await asyncio.wait_for(call.cancelled.wait(), 60)
    await ensure_watches(temporal_client, queues, [watch.vcenter])
    call.returns(at(12))
    again = await watch.reader.call()
    assert (again.order.cursor, again.order.round) == (at(12), 3)
    described = await watch.handle.describe()
    assert (described.run_id, described.status) == (first_run, WorkflowExecutionStatus.RUNNING)


async def test_a_watch_that_ended_is_started_anew_and_one_that_is_gone_needs_no_stop(
    watch: Watch, temporal_client: Client, queues: TaskQueues
) -> None:
    call = await watch.following()
    first_run = (await watch.handle.describe()).run_id
    await stop_watch(temporal_client, watch.vcenter)
    await asyncio.wait_for(call.cancelled.wait(), 60)
    call.returns(at(12))
    assert (await asyncio.wait_for(watch.handle.result(), 60)).cursor == at(12)
    await stop_watch(temporal_client, watch.vcenter)
    await ensure_watches(temporal_client, queues, [watch.vcenter])
    anew: WorkflowHandle[object, WatchStatus] = temporal_client.get_workflow_handle(ids.watch(watch.vcenter))
    assert (await anew.describe()).run_id != first_run
    # It begins at the newest event.
    assert (await watch.reader.call()).order.cursor is None
    await anew.terminate()


async def test_a_watch_that_waits_after_an_error_tries_again_when_a_service_starts_it(
    watch: Watch, temporal_client: Client, queues: TaskQueues
) -> None:
    (await watch.following()).fails(BadRequest("the certificate is another"))
    await watch.until(lambda status: status.trouble.startswith("BadRequest: the certificate is another"))
    await ensure_watches(temporal_client, queues, [watch.vcenter])
    assert (await watch.reader.call()).order.cursor == at(10)


@pytest.mark.parametrize("signals", [[names.STOP, names.RESUME], [names.RESUME, names.STOP]])
async def test_of_a_stop_and_a_start_the_last_one_counts(watch: Watch, signals: list[str]) -> None:
    call = await watch.following()
    for signal in signals:
        await watch.handle.signal(signal)
    if signals[-1] == names.STOP:
        await asyncio.wait_for(call.cancelled.wait(), 60)
        call.returns(at(11))
        assert (await asyncio.wait_for(watch.handle.result(), 60)).cursor == at(11)
    else:
        call.returns(at(11))
        assert (await watch.reader.call()).order.cursor == at(11)
