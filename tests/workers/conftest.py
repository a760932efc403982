"""Services, which are processes, whose vCenters are a vcsim under several names or do not answer."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.watch import WatchStatus
from tests.listeners.conftest import until
from tests.listeners.posting import PostingVcsim
from tests.support.service import ServiceProcess, write_configuration
from workers.settings import TemporalSettings

PATIENCE_S = 60


@pytest.fixture(scope="module")
def vcsim() -> Iterator[PostingVcsim]:
    with PostingVcsim() as running:
        yield running


def new_name() -> str:
    return f"vc-{uuid.uuid4().hex[:8]}"


def dead(name: str) -> dict[str, Any]:
    """A vCenter that does not answer."""
    return {"name": name, "url": "https://127.0.0.1:9"}


def alive(vcsim: PostingVcsim, name: str, **more: Any) -> dict[str, Any]:
    """The vcsim under this name."""
    settings = vcsim.settings(name, **more)
    return settings.model_dump(mode="json", exclude_none=True)


def _uuid(host: Any) -> str:
    return str(host.summary.hardware.uuid).lower()


class Service:
    """A service whose settings file the test writes again and again."""

    def __init__(self, client: Client, temporal: dict[str, Any], folder: Path) -> None:
        self.client, self.temporal, self._folder = client, temporal, folder
        self.process: ServiceProcess

    def write(self, *vcenters: dict[str, Any], **sections: Any) -> Path:
        return write_configuration(self._folder, temporal=self.temporal, vcenters=list(vcenters), **sections)

    @asynccontextmanager
    async def running(self, path: Path) -> AsyncIterator[None]:
        with ServiceProcess(path) as self.process:
            await self.logged("serving")
            yield
            assert await asyncio.to_thread(self.process.stop) == 0

    def hang_up(self) -> None:
        os.kill(self.process.pid, signal.SIGHUP)

    async def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """The newest log line with this event and these fields, once there is one."""

        async def look() -> list[dict[str, Any]]:
            lines = await asyncio.to_thread(self.process.logged)
            return [line for line in lines if line["event"] == event and line.items() >= fields.items()]

        return (await until(look, bool, PATIENCE_S))[-1]

    def watch(self, vcenter: str) -> WorkflowHandle[Any, WatchStatus]:
        return self.client.get_workflow_handle(ids.watch(vcenter), result_type=WatchStatus)

    async def status(self, vcenter: str) -> WatchStatus:
        return await self.watch(vcenter).query(names.QUERY_STATUS, result_type=WatchStatus)

    async def prepares(self, vcenter: str, host: Any) -> bool:
        """Whether an event of this host was handed over, asked without the service."""
        workflow_id = ids.prepare_gpu_host(vcenter, await asyncio.to_thread(_uuid, host))
        try:
            await self.client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def reader_of(self, vcenter: str) -> int:
        """The process that reads the events of this vCenter; 0 while nobody does."""
        pending = (await self.watch(vcenter).describe()).raw_description.pending_activities
        reading = [each for each in pending if each.activity_type.name == "follow_events"]
        identity = reading[0].last_worker_identity if reading else ""
        return int(identity.split()[1].split("@")[0]) if identity else 0

    async def followed(self, vcenter: str) -> WatchStatus:
        return await until(lambda: self.status(vcenter), lambda s: s.cursor is not None and s.round >= 2, PATIENCE_S)


@pytest.fixture
async def service(
    temporal_client: Client, temporal_settings: TemporalSettings, tmp_path: Path
) -> AsyncIterator[Service]:
    temporal = {"address": temporal_settings.address, "task_queue": temporal_settings.task_queue}
    yield Service(temporal_client, temporal, tmp_path)
    query = f"TaskQueue = '{temporal_settings.task_queue}' AND ExecutionStatus = 'Running'"
    async for run in temporal_client.list_workflows(query):
        await temporal_client.get_workflow_handle(run.id).terminate("the test is over")
