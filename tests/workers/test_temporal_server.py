import asyncio
import os
import signal
import urllib.request
from pathlib import Path

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from contracts import search_attributes
from contracts.errors import Unreachable
from workers.temporal_server import DevServer, temporal_server


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_server_has_a_ui_and_our_search_attributes_and_ends(temporal_program: Path, tmp_path: Path) -> None:
    async with DevServer(temporal_program, tmp_path / "temporal.log") as server:
        pid = server.pid
        assert pid is not None
        with urllib.request.urlopen(server.ui_url) as page:  # noqa: S310, ASYNC210 - our own address, at once
            assert b"<html" in page.read()
        client = await Client.connect(server.address)
        listed = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
        assert {key.name for key in search_attributes.ALL} <= set(listed.custom_attributes)
    assert not alive(pid)
    assert server.pid is None
    server.stop()


async def test_database_outlives_the_server(temporal_program: Path, tmp_path: Path) -> None:
    database = tmp_path / "temporal.db"
    async with DevServer(temporal_program, tmp_path / "1.log", database) as server:
        client = await Client.connect(server.address)
        await client.start_workflow("Nobody", id="kept", task_queue="nobody")
    async with DevServer(temporal_program, tmp_path / "2.log", database) as server:
        client = await Client.connect(server.address)
        assert (await client.get_workflow_handle("kept").describe()).workflow_type == "Nobody"


async def test_killed_and_started_again_it_is_where_its_clients_look_for_it(
    temporal_program: Path, tmp_path: Path
) -> None:
    async with DevServer(temporal_program, tmp_path / "temporal.log", tmp_path / "temporal.db") as server:
        client, address = await Client.connect(server.address), server.address
        await client.start_workflow("Nobody", id="kept", task_queue="nobody")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await asyncio.to_thread(server.stop)
        await server.start()
        assert server.address == address
        assert (await client.get_workflow_handle("kept").describe()).workflow_type == "Nobody"


async def test_server_that_does_not_start_is_shown_with_its_log(tmp_path: Path) -> None:
    broken = tmp_path / "temporal"
    broken.write_text("#!/bin/sh\necho 'database is locked' >&2\nexit 1\n")
    broken.chmod(0o700)
    with pytest.raises(Unreachable, match=r"(?s)did not answer.*temporal\.log ends with:\ndatabase is locked"):
        await DevServer(broken, tmp_path / "temporal.log").start()


async def test_server_does_not_hear_the_terminals_interrupt(temporal_program: Path, tmp_path: Path) -> None:
    async with DevServer(temporal_program, tmp_path / "temporal.log") as server:
        assert server.pid is not None
        assert os.getpgid(server.pid) != os.getpgid(0)
        os.kill(server.pid, signal.SIGTERM)  # a server that is gone already is no trouble for stop


async def test_address_in_the_environment_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example.com:7233")
    async with temporal_server(tmp_path, print) as (address, ui_url):
        assert (address, ui_url) == ("temporal.example.com:7233", None)
    assert list(tmp_path.iterdir()) == []
