"""A worker process that forwards events, for tests that kill one: `python -m tests.support.forward_worker ORDER`.

ORDER is JSON: `address`, `queue`, `vcenter` (settings of the gateway) and `webhook`. It runs no workflows: Temporal
waits ten seconds for the answer to a workflow task that died with its worker, which is not what is tested.
"""

import asyncio
import json
import sys
from typing import Any

from activities.webhooks import Webhooks
from contracts.names import TaskQueues
from contracts.watch import UNREACHABLE_AFTER_S
from contracts.webhooks import WebhookSettings
from listeners.forward_events import Forwarder
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.assembly import Parts, build_workers
from workers.client import connect
from workers.settings import TemporalSettings

__all__ = ["forwarding_parts"]


def forwarding_parts(
    pool: SessionPool, webhook: WebhookSettings, sender: Webhooks, unreachable_after_s: float = UNREACHABLE_AFTER_S
) -> Parts:
    """The activity that forwards events of one vCenter to one webhook."""
    forwarder = Forwarder({pool.name: pool}, [webhook], sender, unreachable_after_s)
    return Parts(forward=[forwarder.forward_events], webhooks=[webhook.name], vcenters=[pool.name])


async def _main(order: dict[str, Any]) -> None:
    queues = TaskQueues(order["queue"])
    client = await connect(TemporalSettings(address=order["address"], task_queue=order["queue"]))
    pool = SessionPool(VCenterSettings.model_validate(order["vcenter"]))
    webhook = WebhookSettings.model_validate(order["webhook"])
    async with Webhooks([webhook]) as sender:
        workers = build_workers(client, queues, forwarding_parts(pool, webhook, sender))
        print("ready", flush=True)
        await asyncio.gather(*(worker.run() for worker in workers))


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
