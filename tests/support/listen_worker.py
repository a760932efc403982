"""A worker process that listens, for tests that kill or freeze one: `python -m tests.support.listen_worker ORDER`.

ORDER is JSON: `address`, `queue`, `vcenters` (settings of the gateway), `rules`, and `die` for a process that kills
itself after so many hand-overs, before the cursor moves behind the last one. Such a one runs no workflows: Temporal
waits ten seconds for the answer to a workflow task that died with its worker, which is not what is tested. With
`only: listen` it runs none either.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from dataclasses import replace
from typing import Any

import structlog

from contracts.names import TaskQueues
from contracts.rules import RulesFile
from contracts.watch import UNREACHABLE_AFTER_S
from listeners.follow_events import Listener
from listeners.hand_over import Delivery, HandOver
from listeners.releasing import Releaser
from tests.support.recording import RecordingHaRecoveryAudit, RecordingPrepareGpuHost, RecordingProvisionGpuVm
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.assembly import Parts, build_workers
from workers.client import connect
from workers.settings import TemporalSettings
from workflows.cluster_gate import ClusterGate
from workflows.deliver_notice import DeliverNotice
from workflows.rule_throttle import RuleThrottle
from workflows.watch_vcenter import WatchVCenter

__all__ = ["listening_parts"]


def listening_parts(
    pools: dict[str, SessionPool],
    rules: RulesFile,
    queues: TaskQueues,
    unreachable_after_s: float = UNREACHABLE_AFTER_S,
) -> Parts:
    """The watch, its activity, its gates and throttles, and the recording stand-ins for what it starts.

    Notices are started and wait to be told: who tells them is not here.
    """
    listener = Listener(pools, rules, queues.main, unreachable_after_s)
    recording = [RecordingPrepareGpuHost, RecordingProvisionGpuVm, RecordingHaRecoveryAudit]
    return Parts(
        workflows=[WatchVCenter, DeliverNotice, ClusterGate, RuleThrottle, *recording],
        main=[Releaser(rules, queues.main).release_throttled],
        listen=[listener.follow_events],
        vcenters=tuple(pools),
    )


def _die_after_hand_over(number: int) -> None:
    deliver, numbers = HandOver.deliver, itertools.count(1)

    async def deliver_and_die(*arguments: Any, **named: Any) -> Delivery:
        delivery = await deliver(*arguments, **named)
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return delivery

    HandOver.deliver = deliver_and_die  # type: ignore[method-assign]


async def _main(order: dict[str, Any]) -> None:
    # Standard output is a pipe that nobody reads any more after the first line: full, it would stop the process.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if order.get("die"):
        _die_after_hand_over(order["die"])
    queues = TaskQueues(order["queue"])
    client = await connect(TemporalSettings(address=order["address"], task_queue=order["queue"]))
    vcenters = [VCenterSettings.model_validate(each) for each in order["vcenters"]]
    pools = {settings.name: SessionPool(settings) for settings in vcenters}
    parts = listening_parts(pools, RulesFile.model_validate(order["rules"]), queues)
    if order.get("die") or order.get("only") == "listen":
        parts = replace(parts, workflows=(), main=())
    print("ready", flush=True)
    await asyncio.gather(*(worker.run() for worker in build_workers(client, queues, parts)))


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
