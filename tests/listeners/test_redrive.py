"""Quarantined events that are handed over after all, against the simulator, vcsim and a Temporal server."""

from __future__ import annotations

import asyncio
from typing import Any

from pyVmomi import vim

from contracts import names
from contracts.watch import Redrive, RedriveResult
from tests.listeners.conftest import Watched, rules, until
from tests.listeners.test_simulated_vcenter import CREATED, KEY, USER, about, act, post_raw

HostAdded = vim.event.HostAddedEvent


async def redrive(watched: Watched, *keys: int) -> list[tuple[int, bool, str]]:
    """What becomes of these events, or of all that are kept: key, whether it is settled, text."""
    result: RedriveResult = await watched.watch.execute_update(
        names.REDRIVE, Redrive(keys=keys), result_type=RedriveResult
    )
    return [(each.key, each.settled, each.text) for each in result.events]


async def test_events_of_a_host_that_came_late_are_handed_over_when_it_is_there(simulated: Watched) -> None:
    cluster = str(simulated.hosts[0].parent.name)
    async with simulated.workers(rules()), simulated.redriver(rules()):
        await simulated.start()
        await simulated.begun()
        # A host that is in the events before it is in the inventory: its moid is the next that vCenter gives.
        moid = await asyncio.to_thread(act, simulated, "add_host", cluster=cluster, name="esx-first")
        later = f"host-{int(moid.rpartition('-')[2]) + 1}"
        fields = f'<host><name>esx-late</name><host type="HostSystem">{later}</host></host>'
        [key] = await asyncio.to_thread(post_raw, simulated, "HostAddedEvent", KEY, CREATED, USER, fields)
        status = await until(simulated.status, lambda status: bool(status.quarantined))
        assert [event.key for event in status.quarantined] == [key]
        # Asked too early it fails again, and is kept.
        [(failed, settled, text)] = await redrive(simulated, key)
        assert (failed, settled) == (key, False)
        assert f"esx-late ({later}) is not in the inventory" in text
        assert len((await simulated.status()).quarantined) == 1

        for number in range(20):
            added = await asyncio.to_thread(act, simulated, "add_host", cluster=cluster, name=f"esx-late-{number}")
            if added == later:
                break
        assert added == later
        [host] = [host for host in simulated.server.hosts() if host._moId == later]
        # Its own event starts the run, which the quarantined one then joins.
        own = await until(lambda: simulated.keys(host), bool)
        [(_, settled, text)] = await redrive(simulated, key)
        assert (settled, text) == (True, f"joined {simulated.workflow_id(host)}")
        assert await simulated.keys(host) == [*own, key]
        status = await simulated.status()
        assert (status.quarantined, status.counters.redriven) == ((), 1)


async def test_broken_events_are_told_apart_when_they_are_handed_over_after_all(simulated: Watched) -> None:
    host, other = simulated.hosts[:2]
    async with simulated.workers(rules()), simulated.redriver(rules()):
        await simulated.start()
        await simulated.begun()
        [keyed] = await asyncio.to_thread(
            post_raw, simulated, "HostAddedEvent", KEY, "<createdTime>yesterday</createdTime>", USER, about(host)
        )
        [unruled] = await asyncio.to_thread(
            post_raw, simulated, "HostSangEvent", KEY, "<createdTime>once</createdTime>", USER, about(other)
        )
        await asyncio.to_thread(post_raw, simulated, "HostAddedEvent", "<key>none</key>", CREATED, USER, about(other))
        await until(simulated.status, lambda status: len(status.quarantined) == 3)
        assert await until(lambda: simulated.keys(host), bool) == [keyed]
        became = {key: (settled, text) for key, settled, text in await redrive(simulated)}
        # Its key and host are sound, so it was handed over when it came.
        assert became[keyed] == (True, f"{simulated.workflow_id(host)} was given it before")
        assert became[unruled][0] is False
        assert "createdTime 'once' is not a time" in became[unruled][1]
        # Without a key it cannot be found in vCenter: it is read from what was kept.
        assert became[-1][0] is False
        assert became[-1][1].startswith("the event is broken: its key 'none' is not a number")
        assert {event.key for event in (await simulated.status()).quarantined} == {unruled, -1}
        assert await simulated.keys(host) == [keyed]
        assert not await simulated.exists(other)


async def test_an_event_that_vcenter_shows_no_longer_is_kept_and_told(watched: Watched) -> None:
    gone: Any = vim.HostSystem("host-9999")
    async with watched.workers(rules()), watched.redriver(rules()):
        await watched.start()
        await watched.begun()
        await watched.post_about(HostAdded, gone, "esx-gone")
        status = await until(watched.status, lambda status: bool(status.quarantined))
        # vcsim keeps 1,000 events.
        await watched.post(HostAdded, *([watched.hosts[0]] * 1100))
        [(_, settled, text)] = await redrive(watched)
        assert not settled
        assert text.startswith("vCenter does not show it any more, and too little of it was kept; esx-gone")
        assert [event.key for event in (await watched.status()).quarantined] == [status.quarantined[0].key]
