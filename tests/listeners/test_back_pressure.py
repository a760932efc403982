"""A Temporal that is slow slows the reader down: nothing is lost, little is kept in memory, and people see why."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from pyVmomi import vim
from temporalio.client import Client

from contracts.names import TaskQueues
from tests.listeners.conftest import rules, until, watch_of
from tests.listeners.posting import PostingSimulator
from tests.listeners.proxy import proxy_to
from tests.listeners.test_metrics import Endpoint
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import DevServer

HOSTS = 160


@pytest.fixture(scope="module")
def crowd() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=1, hosts=HOSTS, gpus=1, vms=0, time_scale=300, seed=7) as running:
        yield running


async def test_a_slow_temporal_is_waited_for_and_told_and_costs_no_event(
    temporal_client: Client, temporal_server: DevServer, crowd: PostingSimulator, queues: TaskQueues
) -> None:
    async with (
        proxy_to(int(temporal_server.address.rpartition(":")[2])) as proxy,
        watch_of(temporal_client, temporal_server.address, crowd, queues) as watched,
    ):
        endpoint = Endpoint(watched.vcenter)
        slow = await connect(TemporalSettings(address=f"127.0.0.1:{proxy.port}"), runtime=endpoint.runtime)
        async with (
            watched.workers(rules("quick"), only="workflows"),
            watched.workers(rules("quick"), client=slow, only="listen"),
        ):
            await watched.start()
            await watched.begun()
            proxy.delay_s = 0.5
            posted = await asyncio.to_thread(crowd.act, "post_backlog", count=4000, matching=0)
            await asyncio.to_thread(watched.server.post, vim.event.HostAddedEvent, *watched.hosts)
            status = await until(watched.status, lambda status: status.waiting_s >= 5, 90)
            assert status.trouble == ""
            await endpoint.scraped(lambda seen: (seen("waiting_for_temporal_seconds") or 0) >= 1)
            proxy.delay_s = 0
            status = await until(watched.status, lambda status: status.counters.started == HOSTS, 60)
            assert status.waiting_s == 0
            assert status.counters.matched == HOSTS
            assert status.counters.events >= 4000 + HOSTS
            assert status.cursor is not None
            assert status.cursor.key >= posted["last"] + HOSTS
            await endpoint.scraped(lambda seen: seen("waiting_for_temporal_seconds") == 0)
            for host in watched.hosts[:: HOSTS // 4]:
                assert [len(keys) for keys in await watched.runs(host)] == [1]
