import socket
from pathlib import Path

import pytest
from temporalio.client import Client

from contracts.errors import BadRequest, Unreachable
from workers.client import connect
from workers.settings import TemporalSettings, TlsSettings
from workers.temporal_server import DevServer


async def test_nobody_who_answers_is_named_with_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unreachable, match=rf"Temporal at {address} does not answer .*correct temporal\.address"):
            await connect(TemporalSettings(address=address))


async def test_namespace_that_is_not_there_is_named_with_the_command(temporal_server: DevServer) -> None:
    with pytest.raises(BadRequest, match="namespace create --namespace nowhere"):
        await connect(TemporalSettings(address=temporal_server.address, namespace="nowhere"))


async def test_unreadable_files_are_named(temporal_server: DevServer, tmp_path: Path) -> None:
    missing = tmp_path / "key"
    with pytest.raises(BadRequest, match=r"temporal\.api_key_file: .*/key cannot be read"):
        await connect(TemporalSettings(address=temporal_server.address, api_key_file=missing))
    with pytest.raises(BadRequest, match=r"temporal\.tls\.ca_file: .*/key cannot be read"):
        await connect(TemporalSettings(address=temporal_server.address, tls=TlsSettings(ca_file=missing)))


async def test_tls_towards_a_server_without_it_fails_clearly(temporal_server: DevServer) -> None:
    with pytest.raises(Unreachable, match=r"temporal\.tls"):
        await connect(TemporalSettings(address=temporal_server.address, tls=TlsSettings()))


async def test_client_says_who_it_is(temporal_client: Client) -> None:
    assert temporal_client.identity.startswith("gpuwright ")
