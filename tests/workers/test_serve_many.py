"""Several vCenters in one service: each is followed, each fails and is taken over by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyVmomi import vim

from tests.listeners.conftest import until
from tests.listeners.posting import PostingVcsim
from tests.listeners.proxy import proxy_to
from tests.support.service import ServiceProcess
from tests.workers.conftest import PATIENCE_S, Service, alive, dead, new_name

HostAdded = vim.event.HostAddedEvent
TAKE_OVER_S = 15


async def test_ten_vcenters_are_followed_and_one_that_is_down_delays_only_its_own_events(
    service: Service, vcsim: PostingVcsim
) -> None:
    """A vcsim under nine names, one of which loses its network, and a vCenter that never was there."""
    well, cut, never = [new_name() for _ in range(8)], new_name(), new_name()
    first, second = vcsim.hosts()[:2]
    async with proxy_to(vcsim.port) as proxy:
        behind = alive(vcsim, cut) | {"url": f"https://127.0.0.1:{proxy.port}"}
        settings = service.write(*(alive(vcsim, name) for name in well), behind, dead(never))
        async with service.running(settings):
            for name in (*well, cut):
                await service.followed(name)
            await asyncio.to_thread(vcsim.post, HostAdded, first)
            for name in (*well, cut):
                await until(lambda name=name: service.prepares(name, first), bool, PATIENCE_S)  # type: ignore[misc]
            await proxy.down()
            await until(lambda: service.status(cut), lambda status: bool(status.trouble), PATIENCE_S)
            await asyncio.to_thread(vcsim.post, HostAdded, second)
            for name in well:
                await until(lambda name=name: service.prepares(name, second), bool, PATIENCE_S)  # type: ignore[misc]
                assert (await service.status(name)).trouble == ""
            assert not await service.prepares(cut, second)
            await proxy.up()
            await until(lambda: service.prepares(cut, second), bool, PATIENCE_S)
            status = await until(lambda: service.status(cut), lambda status: not status.trouble, PATIENCE_S)
            assert status.gaps == ()
            assert (await service.status(never)).trouble


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
async def test_another_service_takes_over_all_vcenters_within_fifteen_seconds(
    service: Service, vcsim: PostingVcsim, tmp_path: Path, how: signal.Signals
) -> None:
    vcenters, host = [new_name() for _ in range(3)], vcsim.hosts()[0]
    settings = [alive(vcsim, name) for name in vcenters]
    with ExitStack() as running:
        first = running.enter_context(ServiceProcess(service.write(*settings)))
        await asyncio.to_thread(first.wait_for, "serving", PATIENCE_S)
        for name in vcenters:
            await until(lambda name=name: service.reader_of(name), lambda pid: pid == first.pid, PATIENCE_S)  # type: ignore[misc]
            await service.followed(name)
        other = Service(service.client, service.temporal, tmp_path / "other")
        second = running.enter_context(ServiceProcess(other.write(*settings)))
        await asyncio.to_thread(second.wait_for, "serving", PATIENCE_S)
        assert [await service.reader_of(name) for name in vcenters] == [first.pid] * 3
        os.kill(first.pid, how)
        failed_at = time.monotonic()
        await asyncio.to_thread(vcsim.post, HostAdded, host)
        for name in vcenters:
            await until(lambda name=name: service.prepares(name, host), bool, PATIENCE_S)  # type: ignore[misc]
            await until(lambda name=name: service.reader_of(name), lambda pid: pid == second.pid, PATIENCE_S)  # type: ignore[misc]
        took_s = time.monotonic() - failed_at
        assert took_s < TAKE_OVER_S
