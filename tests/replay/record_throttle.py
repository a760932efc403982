"""Record histories of throttles for the replay test: `python -m tests.replay.record_throttle FOLDER`, one a release."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from contracts.names import TaskQueues
from contracts.rules import RulesFile
from tests.replay.record import save
from tests.support.throttled import Throttled, quiet_for, throttled_rules
from workers.temporal_server import temporal_server

__all__ = ["SCENES"]


async def open_waiting_for_room(throttled: Throttled) -> None:
    await throttled.give(*(throttled.target(host, host, group="c1") for host in (1, 2)))
    await throttled.until(lambda status: any(each.waited for each in status.waiting))
    await throttled.give(throttled.target(2, 3, group="c1"), throttled.target(1, 4, group="c1"))
    await throttled.until(lambda status: status.told.counters.joined == 1)


async def open_quiet(throttled: Throttled) -> None:
    await throttled.give(throttled.target(1, 1))
    await throttled.until(lambda status: any(each.waited for each in status.waiting))


async def open_suppressed(throttled: Throttled) -> None:
    await throttled.give(throttled.target(1, 1, group="c1"), throttled.target(2, 2, group="c1"))
    await throttled.until(lambda status: status.told.counters.suppressed == 1)


async def open_continued(throttled: Throttled) -> None:
    """Continued as new with a target that waits."""
    await throttled.give(*(throttled.target(host, host, group="c1") for host in (1, 2)), longest_history=30)
    first_run = (await throttled.throttle.describe()).raw_info.first_run_id
    async with asyncio.timeout(60):
        while True:
            if (await throttled.throttle.describe()).run_id != first_run:
                break
            await asyncio.sleep(0.1)
    await throttled.until(lambda status: len(status.waiting) == 1)


async def ended(throttled: Throttled) -> None:
    await throttled.give(throttled.target(1, 1, group="c1"), linger_s=1)
    await throttled.until(lambda status: status.told.counters.started == 1)
    await throttled.finish(1)
    await throttled.throttle.result()


SCENES: tuple[tuple[Callable[[Throttled], Awaitable[None]], RulesFile], ...] = (
    (open_waiting_for_room, throttled_rules(max_concurrent=1, group_by="cluster")),
    (open_quiet, throttled_rules(quiet=quiet_for(7200))),
    (open_suppressed, throttled_rules(once_within="1h", group_by="cluster")),
    (open_continued, throttled_rules(max_concurrent=1, group_by="cluster")),
    (ended, throttled_rules(max_concurrent=1, group_by="cluster")),
)


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        async with temporal_server(Path(scratch), print) as (address, _):
            client = await Client.connect(address, identity="recorder", data_converter=pydantic_data_converter)
            for scene, rules in SCENES:
                throttled = Throttled(client, TaskQueues(f"record-{scene.__name__}"))
                throttled.vcenter = f"recorded-{scene.__name__}"
                async with throttled.workers(rules):
                    await scene(throttled)
                    history = await throttled.throttle.fetch_history()
                save(folder / f"rule_throttle.{scene.__name__}.json", history)
                print(scene.__name__, len(history.events), "events")
                await throttled.close()


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
