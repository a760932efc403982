"""Listen workers of vCenters that come and go, in this process."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from contracts import ids
from contracts.names import TaskQueues
from tests.listeners.conftest import until
from tests.support.one_activity import OneActivity
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.assembly import Parts, build_workers
from workers.schedules import remove_drift_schedule
from workers.settings import DriftSettings
from workers.vcenters import VCenters


@activity.defn(name="idle")
async def idle() -> None:
    """Ends at once."""


def settings(name: str, port: int = 9) -> VCenterSettings:
    return VCenterSettings(name=name, url=f"https://127.0.0.1:{port}", user="me", password_env="NOBODY_ASKS")


async def served(client: Client, queues: TaskQueues, vcenter: str) -> None:
    """Returns when somebody served the vCenter's listen queue."""
    await asyncio.wait_for(
        client.execute_workflow(
            OneActivity.run,
            args=["idle", queues.listen(vcenter)],
            id=f"{queues.base}-{uuid.uuid4().hex[:8]}",
            task_queue=queues.main,
        ),
        60,
    )


async def test_a_listen_worker_that_fails_is_replaced_and_the_others_go_on(
    temporal_client: Client, queues: TaskQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, other = (f"vc-{uuid.uuid4().hex[:8]}" for _ in range(2))
    run, failed = Worker.run, asyncio.Event()

    async def run_and_fail_once(worker: Worker) -> None:
        if worker.task_queue != queues.listen(name) or failed.is_set():
            await run(worker)
            return
        running = asyncio.create_task(run(worker))
        await asyncio.sleep(0.5)
        await worker.shutdown()
        await running
        failed.set()
        raise RuntimeError("its polls are refused")

    monkeypatch.setattr(Worker, "run", run_and_fail_once)
    pools: dict[str, SessionPool] = {}
    vcenters = VCenters(temporal_client, queues, Parts(listen=[idle]), pools, DriftSettings(enabled=False))
    await vcenters.want([settings(name), settings(other)])
    async with build_workers(temporal_client, queues, Parts(workflows=[OneActivity]))[0]:
        tending = asyncio.create_task(vcenters.tend())
        await asyncio.wait_for(failed.wait(), 60)
        await served(temporal_client, queues, other)
        await served(temporal_client, queues, name)
        # Its sessions were not the ones to fail.
        pool = pools[name]
        await vcenters.want([settings(name), settings(other)])
        await served(temporal_client, queues, name)
        assert pools[name] is pool
        # Other settings mean other sessions, and another worker on the same queue.
        await vcenters.want([settings(name, port=19)])

        async def taken_over() -> bool:
            return other not in pools and pools[name] is not pool

        await until(taken_over, bool, 60)
        await served(temporal_client, queues, name)
        tending.cancel()
        await asyncio.wait([tending])
        await vcenters.shut_down()
        await vcenters.log_out()
    for each in (name, other):
        await remove_drift_schedule(temporal_client, each)
        await temporal_client.get_workflow_handle(ids.watch(each)).terminate()
