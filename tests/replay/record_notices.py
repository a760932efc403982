"""Record histories of notices for the replay test: `python -m tests.replay.record_notices FOLDER` (one a release)."""

import asyncio
import functools
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.notify import Channel, LogChannel, Notifier
from contracts import ids
from contracts.errors import BadRequest, Unreachable
from contracts.names import TaskQueues
from contracts.notices import Notice, Severity
from tests.listeners.conftest import until
from tests.replay.record import save
from workers.assembly import Parts, build_workers
from workers.search_attributes import ensure_search_attributes
from workers.temporal_server import temporal_server
from workflows.deliver_notice import DeliverNotice

__all__ = ["SCENES"]


class _Down:
    async def send(self, notice: Notice) -> None:
        raise Unreachable("it is down")


class _Refusing:
    async def send(self, notice: Notice) -> None:
        raise BadRequest("it wants no such thing")


SCENES: dict[str, dict[str, Channel]] = {
    "told": {"log": LogChannel()},
    "given_up": {"log": LogChannel(), "webhook/alerts": _Refusing()},
    "open_channel_down": {"log": LogChannel(), "webhook/alerts": _Down()},
}


async def record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        async with temporal_server(Path(scratch), print) as (address, _):
            client = await Client.connect(address, identity="recorder", data_converter=pydantic_data_converter)
            await ensure_search_attributes(client)
            for scene, channels in SCENES.items():
                notifier, queues = Notifier(channels), TaskQueues(f"record-{scene}")
                parts = Parts(workflows=[DeliverNotice], wait=[notifier.notice_channels, notifier.send_notice])
                [workflows, waiting] = build_workers(client, queues, parts)
                async with workflows, waiting:
                    notice = Notice(
                        id=scene,
                        kind="vcenter_unreachable",
                        severity=Severity.CRITICAL,
                        vcenter="recorded",
                        subject="recorded",
                        happened="Events of recorded cannot be read.",
                        means="No rule acts.",
                        advice="Look at it.",
                        at=datetime(2026, 1, 2, tzinfo=UTC),
                        lasts=True,
                    )
                    handle = await client.start_workflow(
                        DeliverNotice.run, notice, id=ids.notice("recorded", scene), task_queue=queues.main
                    )
                    if scene.startswith("open"):
                        await until(
                            functools.partial(handle.query, DeliverNotice.report), lambda report: bool(report.channels)
                        )
                    else:
                        await handle.result()
                    history = await handle.fetch_history()
                    if scene.startswith("open"):
                        await handle.terminate()
                save(folder / f"deliver_notice.{scene}.json", history)
                print(scene, len(history.events), "events")


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
