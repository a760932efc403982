import asyncio
import signal
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus

from contracts import ids
from contracts.names import TaskQueues
from tests.support.one_activity import OneActivity
from tests.support.service import ServiceProcess, write_configuration
from workers import assembly, serve
from workers.assembly import Parts, build_workers
from workers.serve import run_workers
from workers.settings import TemporalSettings
from workers.temporal_server import DevServer
from workers.vcenters import LOGOUT_TIMEOUT_S
from workers.watches import ensure_watches


@pytest.fixture
def vcenter() -> dict[str, str]:
    """A vCenter that nobody else in these tests has, and that does not answer."""
    return {"name": f"vc-{uuid.uuid4().hex[:8]}", "url": "https://127.0.0.1:9"}


@pytest.fixture
def temporal(temporal_settings: TemporalSettings) -> dict[str, str]:
    return {"address": temporal_settings.address, "task_queue": temporal_settings.task_queue}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_service_keeps_on_while_vcenter_is_down_and_stops_when_told(
    temporal_client: Client, temporal: dict[str, str], vcenter: dict[str, str], tmp_path: Path, number: int
) -> None:
    with ServiceProcess(write_configuration(tmp_path, temporal=temporal, vcenters=[vcenter])) as service:
        serving = await asyncio.to_thread(service.wait_for, "serving")
        assert serving["vcenters"] == [vcenter["name"]]
        watch = await temporal_client.get_workflow_handle(ids.watch(vcenter["name"])).describe()
        assert watch.status is WorkflowExecutionStatus.RUNNING
        await asyncio.sleep(1)
        began = time.monotonic()
        assert await asyncio.to_thread(service.stop, number) == 0
        assert time.monotonic() - began < serve.STOP_TIMEOUT_S + LOGOUT_TIMEOUT_S
        assert service.logged()[-1]["event"] == "stopped"
    await temporal_client.get_workflow_handle(ids.watch(vcenter["name"])).terminate()


@asynccontextmanager
async def late_door(address: str, port: int) -> AsyncIterator[None]:
    """From now on, connections to `port` lead to `address`."""
    host, _, target = address.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(target))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(connected, "127.0.0.1", port):
        yield


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


async def test_service_waits_for_temporal_and_says_so(
    temporal_server: DevServer, temporal_client: Client, queues: TaskQueues, vcenter: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    temporal = {"address": f"127.0.0.1:{port}", "task_queue": queues.base}
    with ServiceProcess(write_configuration(tmp_path, temporal=temporal, vcenters=[vcenter])) as service:
        waiting = await asyncio.to_thread(service.wait_for, "waiting for Temporal")
        assert f"127.0.0.1:{port} does not answer" in waiting["error"]
        async with late_door(temporal_server.address, port):
            await asyncio.to_thread(service.wait_for, "serving")
            assert await asyncio.to_thread(service.stop) == 0
    await temporal_client.get_workflow_handle(ids.watch(vcenter["name"])).terminate()


async def test_service_that_waits_for_temporal_can_be_stopped(vcenter: dict[str, str], tmp_path: Path) -> None:
    temporal = {"address": f"127.0.0.1:{free_port()}"}
    with ServiceProcess(write_configuration(tmp_path, temporal=temporal, vcenters=[vcenter])) as service:
        await asyncio.to_thread(service.wait_for, "waiting for Temporal")
        assert await asyncio.to_thread(service.stop, signal.SIGTERM, 5) == 0
        assert service.logged()[-1]["event"] == "stopped before Temporal answered"


async def test_watch_that_runs_already_is_left_alone(
    temporal_client: Client, queues: TaskQueues, vcenter: dict[str, str]
) -> None:
    await ensure_watches(temporal_client, queues, [vcenter["name"]])
    handle = temporal_client.get_workflow_handle(ids.watch(vcenter["name"]))
    first = (await handle.describe()).run_id
    await ensure_watches(temporal_client, queues, [vcenter["name"]])
    assert (await handle.describe()).run_id == first
    await handle.terminate()


async def test_stop_is_over_in_time_although_an_activity_does_not_end(
    temporal_client: Client, queues: TaskQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "GRACE", timedelta(seconds=0.1))
    monkeypatch.setattr(serve, "STOP_TIMEOUT_S", 1.0)
    begun, released = threading.Event(), threading.Event()

    @activity.defn(name="stuck")
    def stuck() -> None:
        begun.set()
        released.wait()

    stop = asyncio.Event()
    workers = build_workers(temporal_client, queues, Parts(workflows=[OneActivity], wait=[stuck]))
    running = asyncio.create_task(run_workers(workers, stop))
    handle = await temporal_client.start_workflow(
        OneActivity.run, args=["stuck", queues.wait], id=queues.base, task_queue=queues.main
    )
    assert await asyncio.to_thread(begun.wait, 10)
    began = time.monotonic()
    stop.set()
    await asyncio.wait_for(running, 5)
    assert time.monotonic() - began < 3
    released.set()
    await handle.terminate()


async def test_worker_that_fails_ends_the_service_with_its_error(
    temporal_server: DevServer, queues: TaskQueues
) -> None:
    @activity.defn(name="idle")
    async def idle() -> None:
        """Never called."""

    client = await Client.connect(temporal_server.address, namespace="nowhere")
    workers = build_workers(client, queues, Parts(wait=[idle], listen=[idle], vcenters=["vc"]))
    with pytest.raises(RuntimeError, match="nowhere"):
        await asyncio.wait_for(run_workers(workers, asyncio.Event()), 30)


def test_each_queue_has_its_worker(temporal_client: Client) -> None:
    @activity.defn(name="idle")
    async def idle() -> None:
        """Never called."""

    parts = Parts(main=[idle], wait=[idle], listen=[idle], vcenters=["one", "two"])
    workers = build_workers(temporal_client, TaskQueues("base"), parts)
    assert [worker.task_queue for worker in workers] == ["base", "base-wait", "base-listen-one", "base-listen-two"]
    assert build_workers(temporal_client, TaskQueues("base"), Parts()) == []
