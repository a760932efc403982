"""Workers for gates and their holders, in a test's process or in one of their own that a test can kill.

`python -m tests.support.gate_worker` reads one JSON order from standard input (`{"address", "queue", "vcenter",
"limits"}`), prints a line when it works, and runs until it is ended.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

from temporalio import activity

from activities.gate import VCenterGateActivities
from contracts.gate import GateLimits
from contracts.names import TaskQueues
from tests.support.lease_holder import Holder, Maintenance
from vsphere import hosts, tasks
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.assembly import Parts, build_workers
from workers.client import connect
from workers.settings import TemporalSettings
from workflows.cluster_gate import ClusterGate

__all__ = ["gate_parts"]


def gate_parts(pool: SessionPool, limits: GateLimits) -> Parts:
    """The gate, its activities, and holders that put hosts into maintenance mode."""
    gate = VCenterGateActivities({pool.name: pool}, limits)

    @activity.defn(name="put_into_maintenance")
    def put_into_maintenance(order: Maintenance) -> None:
        change = hosts.enter_maintenance if order.on else hosts.exit_maintenance
        with pool.session() as si:
            task = change(si, order.host, timeout_s=3600)
            if task is not None:
                end = tasks.await_task(si, task, heartbeat=activity.heartbeat, timeout_s=9)
                assert end.state != "error", end.error

    return Parts(
        workflows=[ClusterGate, Holder],
        main=[
            gate.request_lease,
            gate.describe_holders,
            gate.read_legacy,
            gate.look_and_decide_leases,
            put_into_maintenance,
        ],
    )


async def work(order: dict[str, Any]) -> None:
    client = await connect(TemporalSettings(address=order["address"]))
    with SessionPool(VCenterSettings.model_validate(order["vcenter"])) as pool:
        async with AsyncExitStack() as stack:
            for worker in build_workers(
                client, TaskQueues(order["queue"]), gate_parts(pool, GateLimits.model_validate(order["limits"]))
            ):
                await stack.enter_async_context(worker)
            print("working", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.stdin.readline())))
