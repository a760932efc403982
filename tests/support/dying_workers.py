"""Workers that kill themselves at a chosen activity and are started again: `python -m tests.support.dying_workers`.

Reads one JSON order from standard input and runs until standard input closes:
`{"address", "vcenter": {…}, "public_key": PEM, "deaths": [{"queue", "at", "when"}]}`. Each death gets a worker process
with queues of its own; at its `at`-th activity (0 is the first) it sends itself SIGKILL, `before` the activity acts or
`after` it acted and before anybody knows; then a second process takes over. All are forks of this one, which has
imported everything and started nothing, so that thirty of them cost little.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from contextlib import AsyncExitStack
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from contracts import names
from contracts.names import TaskQueues
from contracts.signing import Keyring
from tests.support.lab import host_parts
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.assembly import build_workers
from workers.client import connect
from workers.settings import TemporalSettings


class Death(Interceptor):
    """Kills this process at the n-th activity it runs."""

    def __init__(self, at: int, when: str) -> None:
        self.left = at
        self.when = when

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        death = self

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                if activity.info().workflow_type != names.PREPARE_GPU_HOST:
                    return await super().execute_activity(input)
                mine, death.left = death.left == 0, death.left - 1
                if mine and death.when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                result = await super().execute_activity(input)
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

        return Inbound(next)


async def work(order: dict[str, Any], queue: str, interceptors: list[Interceptor]) -> None:
    client = await connect(TemporalSettings(address=order["address"]))
    key = load_pem_public_key(order["public_key"].encode())
    assert isinstance(key, Ed25519PublicKey)
    with SessionPool(VCenterSettings.model_validate(order["vcenter"])) as pool:
        parts = host_parts(pool, Keyring.of(key))
        async with AsyncExitStack() as stack:
            for worker in build_workers(client, TaskQueues(queue), parts, interceptors=interceptors):
                await stack.enter_async_context(worker)
            await asyncio.Event().wait()


def fork(order: dict[str, Any], queue: str, interceptors: list[Interceptor]) -> int:
    pid = os.fork()
    if pid == 0:
        asyncio.run(work(order, queue, interceptors))
        os._exit(0)
    return pid


def main() -> None:
    order = json.loads(sys.stdin.readline())
    first = {fork(order, d["queue"], [Death(d["at"], d["when"])]): d["queue"] for d in order["deaths"]}
    alive = set(first)

    def end() -> None:
        sys.stdin.read()
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    while alive:
        pid, _ = os.wait()
        alive.discard(pid)
        if pid in first:
            print(first[pid], flush=True)
            alive.add(fork(order, first[pid], []))


if __name__ == "__main__":
    main()
