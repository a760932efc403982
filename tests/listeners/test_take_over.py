"""A reader that is killed or frozen is replaced by another process, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from pyVmomi import vim

from tests.listeners.conftest import Watched, rules, until

HostAdded = vim.event.HostAddedEvent
TAKE_OVER_S = 10


async def reader_of(watched: Watched) -> int:
    """The process ID of the worker that runs the activity now, from the worker's identity."""

    async def look() -> str:
        pending = (await watched.watch.describe()).raw_description.pending_activities
        return str(pending[0].last_worker_identity) if pending else ""

    identity = await until(look, bool)
    return int(identity.split()[1].split("@")[0])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_process_takes_over_within_ten_seconds(watched: Watched, how: signal.Signals) -> None:
    first, second = watched.hosts[:2]
    for _ in range(2):
        await watched.worker_process(rules())
    await watched.start()
    await watched.begun()
    await watched.post(HostAdded, first)
    before = await until(lambda: watched.keys(first), bool)
    reader = await reader_of(watched)
    assert reader in [process.pid for process in watched.processes]
    os.kill(reader, how)
    failed_at = time.monotonic()
    await watched.post(HostAdded, second, first)
    await until(lambda: watched.exists(second), bool, TAKE_OVER_S)
    assert time.monotonic() - failed_at < TAKE_OVER_S
    if how is signal.SIGSTOP:
        # Thawed, the old reader meets its successor: the two overlap and nothing happens twice.
        os.kill(reader, signal.SIGCONT)
    keys = await until(lambda: watched.keys(first), lambda keys: len(keys) >= 2)
    await asyncio.sleep(2)
    assert sorted(set(await watched.keys(first))) == sorted(keys)
    assert before[0] in keys
    assert len(await watched.runs(first)) == len(await watched.runs(second)) == 1


@pytest.mark.parametrize("profile", ["quick", "open"])
async def test_a_reader_killed_between_hand_over_and_cursor_leaves_one_run(watched: Watched, profile: str) -> None:
    """`quick` runs are closed by the time the successor reads the event again, `open` ones are live."""
    host, other = watched.hosts[:2]
    async with watched.workers(rules(profile), only="workflows"):
        doomed = await watched.worker_process(rules(profile), die=True)
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, host)
        await asyncio.to_thread(doomed.wait, 20)
        assert doomed.returncode == -signal.SIGKILL
        [keys] = await until(lambda: watched.runs(host), lambda runs: len(runs) > 0)
        assert len(keys) == 1
        async with watched.workers(rules(profile), only="listen"):
            await watched.post(HostAdded, other)
            await until(lambda: watched.keys(other), bool)
            # It was read a second time, and recognised.
            await until(watched.status, lambda status: status.counters.repeated == 1)
            assert await watched.runs(host) == [keys]


async def test_a_frozen_process_is_replaced_in_time_for_each_of_its_vcenters(watched: Watched) -> None:
    """One vcsim under two names stands for two vCenters."""
    twin = Watched(watched.client, watched.address, watched.server, watched.queues)
    both, host = (watched, twin), watched.hosts[0]
    frozen = await watched.worker_process(rules(), also=[twin])
    for each in both:
        await each.start()
    for each in both:
        await each.begun()
        assert await reader_of(each) == frozen.pid
    await watched.worker_process(rules(), also=[twin])
    os.kill(frozen.pid, signal.SIGSTOP)
    failed_at = time.monotonic()
    await watched.post(HostAdded, host)
    for each in both:
        await until(lambda each=each: each.exists(host), bool, TAKE_OVER_S)  # type: ignore[misc]
    assert time.monotonic() - failed_at < TAKE_OVER_S
