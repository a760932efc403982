from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncssh
import pytest

from simulator.laws import hosts, services
from simulator.laws.hosts import boot
from simulator.world import Host, World
from tests.simulator.sites import running
from tests.simulator.small_world import PASSWORD
from tests.simulator.test_law_packages import NEW


@asynccontextmanager
async def reachable() -> AsyncIterator[tuple[World, Host, dict[str, Any]]]:
    """A world, its first host, and what the control API says of that host's SSH."""
    async with running() as vcenter:
        host = next(iter(vcenter.world.hosts.values()))
        _, where = await vcenter.call("GET", f"/simulator/hosts/{host.name}/ssh")
        yield vcenter.world, host, where


@asynccontextmanager
async def login(where: dict[str, Any], user: str = "root", password: str = PASSWORD) -> AsyncIterator[Any]:
    key = asyncssh.import_public_key(where["host_key"])
    async with asyncssh.connect(
        where["address"],
        where["port"],
        username=user,
        password=password,
        known_hosts=([key], [], []),
        config=None,
        client_keys=None,
        agent_path=None,
    ) as connection:
        yield connection


async def test_the_port_is_closed_until_the_service_runs_and_again_when_it_stops() -> None:
    async with reachable() as (world, host, where):
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                async with login(where):
                    pass
            services.start(world, host, "TSM-SSH")
            async with login(where) as connection:
                assert (await connection.run("nvidia-smi")).exit_status == 127
            services.stop(world, host, "TSM-SSH")


async def test_nvidia_smi_is_there_once_the_driver_runs_and_changes_the_card() -> None:
    async with reachable() as (world, host, where):
        world.actions["set_package"](host.name, NEW)
        services.start(world, host, "TSM-SSH")
        async with login(where) as connection:
            enabled = await connection.run("nvidia-smi -i 0 -mig 1")
            assert (enabled.exit_status, "Enabled MIG Mode" in enabled.stdout) == (0, True)
            refused = await connection.run("rm -rf /")
            assert (refused.exit_status, refused.stderr) == (127, "sh: rm: not found\n")
        assert [card.mig_pending for card in host.gpus.values()] == [True]


async def test_lockdown_mode_lets_exception_users_in_only() -> None:
    async with reachable() as (world, host, where):
        services.start(world, host, "TSM-SSH")
        with pytest.raises(asyncssh.PermissionDenied):
            async with login(where, password="wrong"):
                pass
        services.set_lockdown(world, host, "lockdownNormal")
        with pytest.raises(asyncssh.PermissionDenied):
            async with login(where):
                pass
        host.lockdown_exceptions = ["root"]
        async with login(where):
            pass


async def test_a_boot_cuts_connections_and_closes_the_port_unless_the_policy_says_on() -> None:
    async with reachable() as (world, host, where):
        services.start(world, host, "TSM-SSH")
        async with login(where) as connection:
            hosts.fail(world, host)
            await connection.wait_closed()
        await boot(world, host)
        with pytest.raises(ConnectionRefusedError):
            async with login(where):
                pass
        services.set_policy(world, host, "TSM-SSH", "on")
        await boot(world, host)
        async with login(where):
            pass
