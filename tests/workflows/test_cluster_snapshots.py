"""The memory of who ran on which GPUs: nothing that arrives late, twice or after its end spoils it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest_asyncio
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from activities.snapshots import keep, recall
from contracts import ids
from contracts.fleet import GpuFleet
from contracts.names import TaskQueues
from contracts.packing import packed
from contracts.snapshots import KEPT, ClusterSnapshot, ClusterSnapshotsInput, ClusterSnapshotsStatus
from planning.snapshots import before
from tests.support.drift import eventually
from workers.assembly import Parts, build_workers, workflow_runner
from workflows.cluster_snapshots import ClusterSnapshots

VCENTER = "memory"
QUEUES = TaskQueues("snapshots")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
EMPTY = packed(GpuFleet(vcenter=VCENTER))


@pytest_asyncio.fixture(scope="module", loop_scope="session", autouse=True)
async def worker(temporal_client: Client) -> AsyncIterator[None]:
    (served,) = build_workers(temporal_client, QUEUES, Parts(workflows=[ClusterSnapshots]))
    async with served:
        yield


def taken(subject: str, minutes: int, fleet: str = EMPTY) -> ClusterSnapshot:
    at = NOW + timedelta(minutes=minutes)
    return ClusterSnapshot(vcenter=VCENTER, subject=subject, name=f"gpu|{subject}", taken_at=at, vms=7, fleet=fleet)


def memory(client: Client, subject: str) -> WorkflowHandle[ClusterSnapshots, ClusterSnapshotsStatus]:
    return client.get_workflow_handle_for(ClusterSnapshots.run, ids.cluster_snapshots(VCENTER, subject))


async def minutes_kept(client: Client, subject: str) -> list[int]:
    found = await recall(client, VCENTER, subject)
    return [round((each.taken_at - NOW).total_seconds() / 60) for each in found]


async def test_the_newest_are_kept_in_whatever_order_and_however_often_they_come(temporal_client: Client) -> None:
    for number, order in enumerate(list(permutations(range(4)))[::7]):
        for minutes in (*order, order[0], 3):
            await keep(temporal_client, QUEUES.main, taken(f"shuffled-{number}", minutes))
        assert await minutes_kept(temporal_client, f"shuffled-{number}") == [1, 2, 3]


async def test_a_snapshot_from_before_a_failure_is_found_though_later_ones_look_the_same(
    temporal_client: Client,
) -> None:
    for minutes in (0, 60, 120):
        await keep(temporal_client, QUEUES.main, taken("same", minutes))
    found = before(await recall(temporal_client, VCENTER, "same"), NOW + timedelta(minutes=90))
    assert found == taken("same", 60)


async def test_of_what_nobody_looked_at_nothing_is_recalled(temporal_client: Client) -> None:
    assert await recall(temporal_client, VCENTER, "never-seen") == ()


async def test_the_temporal_ui_tells_what_is_kept_under_its_newest_name(temporal_client: Client) -> None:
    await keep(temporal_client, QUEUES.main, taken("told", 0))
    renamed = taken("told", 5, fleet="x" * 2048).model_copy(update={"name": "gpu-renamed"})
    await keep(temporal_client, QUEUES.main, renamed)
    assert len(await recall(temporal_client, VCENTER, "told")) == 2
    handle = memory(temporal_client, "told")
    details = (await handle.query("__temporal_workflow_metadata")).current_details
    assert "**gpu-renamed**" in details
    assert "| 2026-06-01 12:05:00 | 7 | 2.0 |" in details
    described = await handle.describe()
    values = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert (values["GpuVCenter"], values["GpuCluster"]) == (VCENTER, "gpu-renamed")
    assert (await described.static_summary()) == "Who ran on which GPUs of gpu|told"


async def test_a_long_history_is_left_behind_and_nothing_is_forgotten(temporal_client: Client) -> None:
    order = ClusterSnapshotsInput(vcenter=VCENTER, subject="long", longest_history=30)
    handle = memory(temporal_client, "long")
    first = await temporal_client.start_workflow(ClusterSnapshots.run, order, id=handle.id, task_queue=QUEUES.main)
    for minutes in range(20):
        await keep(temporal_client, QUEUES.main, taken("long", minutes))
        assert (await minutes_kept(temporal_client, "long"))[-1] == minutes
    assert await minutes_kept(temporal_client, "long") == [17, 18, 19]
    described = await handle.describe()
    assert described.run_id != first.result_run_id
    assert described.history_length < 60


async def test_it_ends_when_no_snapshot_comes_and_its_last_word_counts_until_the_next_look(
    temporal_client: Client,
) -> None:
    order = ClusterSnapshotsInput(
        vcenter=VCENTER, subject="gone", snapshots=(taken("gone", 0), taken("gone", 1)), idle_days=1 / 86400
    )
    handle = memory(temporal_client, "gone")
    await temporal_client.start_workflow(ClusterSnapshots.run, order, id=handle.id, task_queue=QUEUES.main)
    assert [each.taken_at for each in (await handle.result()).snapshots] == [NOW, NOW + timedelta(minutes=1)]
    assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED
    assert await minutes_kept(temporal_client, "gone") == [0, 1]
    await keep(temporal_client, QUEUES.main, taken("gone", 2))
    assert await minutes_kept(temporal_client, "gone") == [2]


async def test_one_that_was_ended_by_hand_still_answers(temporal_client: Client) -> None:
    await keep(temporal_client, QUEUES.main, taken("ended", 0))
    assert await minutes_kept(temporal_client, "ended") == [0]
    await memory(temporal_client, "ended").terminate()
    assert await minutes_kept(temporal_client, "ended") == [0]


async def test_its_history_replays(temporal_client: Client) -> None:
    for minutes in range(KEPT + 2):
        await keep(temporal_client, QUEUES.main, taken("replayed", minutes))

    async def heard() -> bool:
        return await minutes_kept(temporal_client, "replayed") == [2, 3, 4]

    await eventually(heard)
    replayer = Replayer(
        workflows=[ClusterSnapshots], data_converter=pydantic_data_converter, workflow_runner=workflow_runner()
    )
    await replayer.replay_workflow(await memory(temporal_client, "replayed").fetch_history())
