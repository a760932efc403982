"""The listener against the simulator, which can do what vcsim cannot: real clusters, broken events, dying sessions."""

from __future__ import annotations

import asyncio
from typing import Any

from pyVmomi import vim
from temporalio.client import Client

from tests.listeners.conftest import Watched, rules, until
from tests.listeners.posting import PostingSimulator
from tests.listeners.proxy import proxy_to
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import DevServer

HostAdded = vim.event.HostAddedEvent


def act(watched: Watched, action: str, **arguments: Any) -> Any:
    assert isinstance(watched.server, PostingSimulator)
    return watched.server.act(action, **arguments)


def post_raw(watched: Watched, kind: str, *fields: str, count: int = 1) -> list[int]:
    """Events whose fields came over the wire so; the keys of `count` of them, all created at the same time."""
    keys: list[int] = act(watched, "post_raw_events", wsdl_type=kind, fields="".join(fields), count=count)
    return keys


def about(host: Any) -> str:
    return f'<host><name>{host.name}</name><host type="HostSystem">{host._moId}</host></host>'


KEY, CREATED, USER = "<key>{key}</key><chainId>{key}</chainId>", "<createdTime>{created}</createdTime>", "<userName/>"


async def test_a_host_that_joins_a_cluster_is_prepared(simulated: Watched) -> None:
    cluster = str(simulated.hosts[0].parent.name)
    async with simulated.workers(rules(cluster=cluster[:3] + "*")):
        await simulated.start()
        await simulated.begun()
        moid = await asyncio.to_thread(act, simulated, "add_host", cluster=cluster, name="esx-joins")
        [host] = [host for host in simulated.server.hosts() if host._moId == moid]
        assert len(await until(lambda: simulated.keys(host), bool)) == 1
        assert (await simulated.status()).quarantined == ()


async def test_an_event_id_matches_in_any_letter_case(simulated: Watched) -> None:
    host, other = simulated.hosts[:2]
    async with simulated.workers(rules()):
        await simulated.start()
        await simulated.begun()
        await simulated.post(vim.event.EventEx, other, eventTypeId="esx.test.gpu.lost")
        await simulated.post(vim.event.EventEx, host, eventTypeId="ESX.Test.GPU.Found")
        assert len(await until(lambda: simulated.keys(host), bool)) == 1
        assert not await simulated.exists(other)


async def test_pages_that_end_amid_events_of_one_time_lose_and_repeat_none(simulated: Watched) -> None:
    host = simulated.hosts[0]
    async with simulated.workers(rules(), only="workflows"):
        async with simulated.workers(rules(), only="listen"):
            await simulated.start()
            await simulated.begun()
        # More than two pages of 1,000, for a reader that has to begin in the past.
        fields = "".join((KEY, CREATED, USER, about(host)))
        posted = await asyncio.to_thread(post_raw, simulated, "HostAddedEvent", fields, count=2500)
        async with simulated.workers(rules(), only="listen"):
            await until(lambda: simulated.keys(host), lambda keys: len(keys) >= len(posted))
        status = await until(simulated.status, lambda status: status.counters.matched == len(posted))
        assert status.counters.pages >= 3
        async with simulated.workers(rules(), only="listen"):
            # The next reader's collector shows the same events again, as they are all within its overlap.
            await simulated.post(HostAdded, host)
            keys = await until(lambda: simulated.keys(host), lambda keys: len(keys) > len(posted))
            assert keys[:-1] == posted
            assert keys[-1] not in posted


async def test_a_collector_that_died_with_its_session_is_made_again(simulated: Watched) -> None:
    host = simulated.hosts[0]
    async with simulated.workers(rules()):
        await simulated.start()
        await simulated.begun()
        await simulated.post(HostAdded, host)
        await until(lambda: simulated.keys(host), bool)
        assert isinstance(simulated.server, PostingSimulator)
        simulated.server.hang_up()
        assert await asyncio.to_thread(simulated.server.kill_sessions) >= 1
        [joined] = [host for host in simulated.server.hosts() if host._moId == simulated.hosts[0]._moId]
        await simulated.post(HostAdded, joined)
        keys = await until(lambda: simulated.keys(host), lambda keys: len(keys) > 1)
        assert len(keys) == len(set(keys)) == 2


async def test_broken_events_are_quarantined_and_their_neighbours_handed_over(simulated: Watched) -> None:
    first, second = simulated.hosts[:2]
    async with simulated.workers(rules(), only="workflows"):
        async with simulated.workers(rules(), only="listen"):
            await simulated.start()
            await simulated.begun()
        before, timeless, unknown, after = await asyncio.to_thread(_post_one_page, simulated, first, second)
        async with simulated.workers(rules(), only="listen"):
            # Whose time is broken and whose host is not is handed over all the same.
            assert await until(lambda: simulated.keys(first), bool) == [before, timeless]
            assert await until(lambda: simulated.keys(second), bool) == [after]
        status = await until(simulated.status, lambda status: status.counters.quarantined == 2)
        found = {event.key: event for event in status.quarantined}
        assert set(found) == {timeless, -1}
        assert "createdTime 'yesterday' is not a time" in found[timeless].reason
        assert "key 'none' is not a number" in found[-1].reason
        assert "esx-broken" in found[-1].raw
        assert status.cursor is not None
        assert status.cursor.key >= after > unknown


def _post_one_page(watched: Watched, first: Any, second: Any) -> list[int]:
    """Keys of a sound event, one without a time, one of an unknown type, and a sound one; amid them one without key."""
    keyless = "<host><name>esx-broken\x01</name></host>"
    before = post_raw(watched, "HostAddedEvent", KEY, CREATED, USER, about(first))
    timeless = post_raw(watched, "HostAddedEvent", KEY, "<createdTime>yesterday</createdTime>", USER, about(first))
    post_raw(watched, "HostAddedEvent", "<key>none</key>", CREATED, USER, keyless)
    unknown = post_raw(watched, "HostSangEvent", KEY, CREATED, "<song><verses>3</verses></song>")
    after = post_raw(watched, "HostAddedEvent", KEY, CREATED, USER, about(second))
    return [*before, *timeless, *unknown, *after]


async def test_the_cursor_waits_for_a_temporal_that_is_away(simulated: Watched, temporal_server: DevServer) -> None:
    host, other = simulated.hosts[:2]
    async with proxy_to(int(temporal_server.address.rpartition(":")[2])) as proxy:
        client: Client = await connect(TemporalSettings(address=f"127.0.0.1:{proxy.port}"))
        async with simulated.workers(rules(), client=client):
            await simulated.start()
            await simulated.begun()
            await simulated.post(HostAdded, host)
            [before] = await until(lambda: simulated.keys(host), bool)
            await proxy.down()
            await simulated.post(HostAdded, other, host)
            # Longer than the heartbeat time-out: the reader is given up meanwhile, and begins again where it was.
            await asyncio.sleep(7)
            assert not await simulated.exists(other)
            await proxy.up()
            assert len(await until(lambda: simulated.keys(other), bool)) == 1
            keys = await until(lambda: simulated.keys(host), lambda keys: len(keys) > 1)
            assert keys[0] == before
            assert len(keys) == len(set(keys)) == 2
            assert len(await simulated.runs(host)) == len(await simulated.runs(other)) == 1
