"""A Temporal dev server for the tests: one a test process, with a task queue of its own for each test."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from contracts.names import TaskQueues
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_binary import obtain
from workers.temporal_server import DevServer

__all__ = ["queues", "temporal_client", "temporal_program", "temporal_server", "temporal_settings"]


@pytest.fixture(scope="session")
def temporal_program() -> Path:
    """The `temporal` program."""
    return obtain(print)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal_server(temporal_program: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DevServer]:
    """The dev server that all tests of this process share."""
    async with DevServer(temporal_program, tmp_path_factory.mktemp("temporal") / "temporal.log") as server:
        yield server


@pytest.fixture
def queues() -> TaskQueues:
    """Task queues that no other test uses."""
    return TaskQueues(f"test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def temporal_settings(temporal_server: DevServer, queues: TaskQueues) -> TemporalSettings:
    """Settings that lead to the shared server and this test's queues."""
    return TemporalSettings(address=temporal_server.address, task_queue=queues.base)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal_client(temporal_server: DevServer) -> Client:
    """A client of the shared server, made as the service makes its own."""
    return await connect(TemporalSettings(address=temporal_server.address))
