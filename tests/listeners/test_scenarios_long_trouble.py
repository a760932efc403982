"""Trouble that lasts minutes while events are posted, side by side: each event is handed over once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from temporalio.client import Client

from contracts.names import TaskQueues
from contracts.notices import Severity
from tests.listeners.conftest import Watched, rules, until, watch_of
from tests.listeners.posting import PostingSimulator
from tests.listeners.scenes import LONG_S, Scene
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import DevServer

_LIMIT_S = 60.0


@asynccontextmanager
async def watched_simulator(client: Client, address: str, seed: int) -> AsyncIterator[Watched]:
    """A watch, which is not started yet, of a simulator that nobody else uses."""
    simulator = PostingSimulator(clusters=1, hosts=3, gpus=1, vms=2, time_scale=300, seed=seed)
    await asyncio.to_thread(simulator.start)
    try:
        async with watch_of(client, address, simulator, TaskQueues(f"test-{uuid.uuid4().hex[:8]}")) as watched:
            yield watched
    finally:
        await asyncio.to_thread(simulator.stop)


async def three_minutes_without_vcenter(client: Client, address: str) -> None:
    async with (
        watched_simulator(client, address, 21) as watched,
        watched.workers(rules(), unreachable_after_s=_LIMIT_S),
    ):
        scene = await Scene.begin(watched)
        async with scene.storm(rate_per_s=20):
            async with scene.trouble():
                away = asyncio.create_task(scene.outage(180))
                # People are told when it lasts, and that it is over.
                [raised] = await until(scene.notices, bool, 150)
                assert (raised.kind, raised.severity) == ("vcenter_unreachable", Severity.CRITICAL)
                assert not away.done()
                await away
            _, over = await until(scene.notices, lambda notices: len(notices) == 2, LONG_S)
            assert over.clears == raised.id
            assert "no event was missed" in over.means
        _, status = await scene.end()
        assert status.gaps == ()


async def half_a_minute_without_temporal(program: Path, folder: Path) -> None:
    async with DevServer(program, folder / "temporal.log", folder / "temporal.db") as server:
        client = await connect(TemporalSettings(address=server.address))
        async with watched_simulator(client, server.address, 22) as watched, watched.workers(rules()):
            scene = await Scene.begin(watched)
            async with scene.storm(rate_per_s=20), scene.trouble():
                await asyncio.to_thread(server.stop)
                before = await scene.posted()
                await asyncio.sleep(30)
                assert await scene.posted() > before
                await server.start()
            _, status = await scene.end()
            assert status.gaps == ()


@pytest.mark.timeout(600)
async def test_minutes_without_vcenter_and_half_a_minute_without_temporal_lose_nothing(
    temporal_client: Client, temporal_server: DevServer, temporal_program: Path, tmp_path: Path
) -> None:
    async with asyncio.TaskGroup() as scenes:
        scenes.create_task(three_minutes_without_vcenter(temporal_client, temporal_server.address))
        scenes.create_task(half_a_minute_without_temporal(temporal_program, tmp_path))
