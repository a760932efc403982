"""Two vCenters in one process: a storm of events on one does not keep the other's events waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from temporalio.client import Client

from contracts.names import TaskQueues
from tests.listeners.conftest import rules, until, watch_of
from tests.listeners.posting import PostingSimulator
from tests.listeners.scenes import LONG_S, Scene
from workers.temporal_server import DevServer

STORM_PER_S, STORM_S, MATCHING = 3000, 12, 0.015
PROMPT_S, LONGEST_S = 2.0, 10.0
QUIET_HOSTS = 20
BACKLOG = 60_000


@pytest_asyncio.fixture
async def stormy_and_quiet(
    temporal_client: Client, temporal_server: DevServer, queues: TaskQueues
) -> AsyncIterator[tuple[Scene, Scene]]:
    """Both are followed by the same process, each by a simulator of its own."""
    async with AsyncExitStack() as stack:
        watches = []
        for hosts in (3, QUIET_HOSTS):
            simulator = stack.enter_context(PostingSimulator(clusters=1, hosts=hosts, gpus=1, vms=0, seed=7))
            watched = watch_of(temporal_client, temporal_server.address, simulator, queues)
            watches.append(await stack.enter_async_context(watched))
        stormy, quiet = watches
        await stormy.worker_process(rules("open"), also=[quiet])
        yield await Scene.begin(stormy), await Scene.begin(quiet)


async def started(scene: Scene, workflow_id: str) -> datetime:
    """When the run began; waits for it."""
    host = next(each for each in scene.watched.hosts if scene.watched.workflow_id(each) == workflow_id)
    await until(lambda: scene.watched.exists(host), bool, LONG_S)
    return (await scene.watched.client.get_workflow_handle(workflow_id).describe()).start_time


async def lags_of(quiet: Scene, pause_s: float) -> list[float]:
    """How long each of the quiet vCenter's hosts waited for its run, in seconds, in order of length."""
    posted: dict[str, datetime] = {}
    for host, workflow_id in quiet.hosts.items():
        posted[workflow_id] = datetime.now(UTC)
        await quiet.act("post_backlog", count=1, matching=1.0, about=[host])
        await asyncio.sleep(pause_s)
    return sorted([(await started(quiet, each) - at).total_seconds() for each, at in posted.items()])


def assert_prompt(lags: list[float]) -> None:
    assert lags[int(len(lags) * 0.95) - 1] < PROMPT_S, lags
    assert lags[-1] < LONGEST_S, lags


@pytest.mark.timeout(300)
async def test_a_storm_on_one_vcenter_leaves_the_events_of_another_prompt(
    stormy_and_quiet: tuple[Scene, Scene],
) -> None:
    stormy, quiet = stormy_and_quiet
    about = list(stormy.hosts)
    await stormy.act("storm", rate_per_s=STORM_PER_S, seconds=STORM_S, matching=MATCHING, about=about)
    lags = await lags_of(quiet, STORM_S / QUIET_HOSTS / 2)

    async def left() -> int:
        [storm] = await stormy.act("storms_so_far")
        return int(storm["count"] - storm["posted"])

    assert await left(), "the storm was over too early to be in the way"
    assert_prompt(lags)
    await until(left, lambda events: events == 0, LONG_S)
    said, _ = await stormy.end()
    assert len(said.given) == round(STORM_PER_S * STORM_S * MATCHING)
    await quiet.end()


@pytest.mark.timeout(300)
async def test_a_backlog_of_one_vcenter_leaves_the_events_of_another_prompt(
    stormy_and_quiet: tuple[Scene, Scene],
) -> None:
    """As after an outage: everything is there at once, and read as fast as can be."""
    stormy, quiet = stormy_and_quiet
    await stormy.backlog(BACKLOG, MATCHING)
    lags = await lags_of(quiet, 0.05)
    assert (await stormy.account()).lost, "the backlog was handed over too early to be in the way"
    assert_prompt(lags)
    said, _ = await stormy.end()
    assert len(said.given) == round(BACKLOG * MATCHING)
    await quiet.end()
