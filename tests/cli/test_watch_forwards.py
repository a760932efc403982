"""`gpuwright watch status` tells how far each webhook has the events of a vCenter, and what is in its way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pyVmomi import vim

from activities.webhooks import Webhooks
from cli.watch_readers import reader_of
from contracts import ids, names
from contracts.forward import ForwardStatus
from contracts.rules import RulesFile
from contracts.webhooks import WebhookSettings
from listeners import forward_events, progress
from tests.cli.test_watch import Commands, quiet, watched
from tests.listeners.conftest import Watched, rules, until
from tests.support.forward_worker import forwarding_parts
from tests.support.listen_worker import listening_parts
from tests.support.webhook_receiver import Receiver, Request
from vsphere.sessions import SessionPool
from workers.assembly import build_workers
from workers.watches import ensure_forwards
from workflows.forward_events import ForwardEvents

__all__ = ["quiet", "watched"]

HostAdded, HostRemoved = vim.event.HostAddedEvent, vim.event.HostRemovedEvent


async def forward_status(watched: Watched) -> ForwardStatus:
    forward = watched.client.get_workflow_handle(ids.forward(watched.vcenter, "hook"))
    return await forward.query(names.QUERY_STATUS, result_type=ForwardStatus)


@asynccontextmanager
async def serving(watched: Watched, webhook: WebhookSettings) -> AsyncIterator[None]:
    """The watch and the forward to a webhook, both at work, with all their workers."""
    pool = SessionPool(watched.server.settings(watched.vcenter))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, pool.close)
        sender = await stack.enter_async_context(Webhooks([webhook]))
        forwarding = forwarding_parts(pool, webhook, sender)
        listening = listening_parts({pool.name: pool}, RulesFile.model_validate(rules()), watched.queues)
        parts = replace(
            listening,
            workflows=[*listening.workflows, ForwardEvents],
            forward=forwarding.forward,
            webhooks=forwarding.webhooks,
        )
        for worker in build_workers(watched.client, watched.queues, parts):
            await stack.enter_async_context(worker)
        await watched.start()
        await watched.begun()
        await ensure_forwards(watched.client, watched.queues, watched.vcenter, [webhook.name])
        await until(lambda: forward_status(watched), lambda status: status.round >= 2, 60)
        # A reader that is about to begin is one that nobody runs.
        forward = ids.forward(watched.vcenter, webhook.name)
        for workflow_id, reads in ((ids.watch(watched.vcenter), "follow_events"), (forward, "forward_events")):
            await until(
                lambda who=workflow_id, how=reads: reader_of(watched.client, who, how),
                lambda reader: reader is not None and reader.running,
                60,
            )
        yield


def as_written(webhook: WebhookSettings) -> Any:
    """The webhook in a configuration."""
    return json.loads(webhook.model_dump_json(exclude_none=True))


async def test_a_webhook_is_told_with_cursor_totals_what_it_refused_and_its_trouble(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_events, "_LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr(progress, "_TURN_S", 0.2)
    host = watched.hosts[0]

    def refusing(request: Request) -> web.StreamResponse | None:
        removed = request.events[0]["subject"] == "HostRemovedEvent"
        return web.Response(status=422, text="no such thing") if removed else None

    async with Receiver(tmp_path) as receiver:
        webhook = receiver.settings(events={"on": ["HostAddedEvent", "HostRemovedEvent"]})
        command = Commands(watched, tmp_path / "configuration", capsys)
        command.configure(watched.vcenter, webhooks=[as_written(webhook)])

        async def told(*options: str, status: int = 0) -> Any:
            [one] = await command.json("watch", "status", *options, status=status)
            [forward] = one["forwards"]
            return forward

        async with serving(watched, webhook):
            assert (await told())["behind_events"] is None
            receiver.behaviour = refusing
            await watched.post(HostAdded, host)
            await watched.post(HostRemoved, host)
            await watched.post(HostAdded, host)
            one = await until(lambda: told("--live"), lambda one: one["status"]["counters"]["matched"] == 2)
            assert (one["webhook"], one["state"], one["trouble"], one["configured"]) == ("hook", "forwarding", "", True)
            assert one["reader"]["running"] is True
            assert one["behind_events"] >= 0
            assert [event["type_name"] for event in one["status"]["quarantined"]] == ["HostRemovedEvent"]
            text = await command("watch", "status", "--live")
            assert "webhook\tstate\tcursor\tbehind vCenter\tsent\tlag\tquarantined\tgaps" in text
            assert "hook\tforwarding\t" in text
            assert f"- hook: quarantined {one['status']['quarantined'][0]['key']} HostRemovedEvent: " in text

            # The watch is well, and yet somebody has to look.
            receiver.behaviour = lambda _: web.Response(status=503)
            await watched.post(HostAdded, host)
            await until(lambda: forward_status(watched), lambda status: bool(status.trouble))
            one = await told("--live", status=2)
            assert one["state"] == "in trouble"
            assert "503" in one["trouble"]
            assert one["behind_events"] >= 1
            assert "- hook: " in await command("watch", "status", status=2)
            receiver.behaviour = lambda _: None
            await until(lambda: forward_status(watched), lambda status: not status.trouble)
            assert (await told())["state"] == "forwarding"


async def test_a_webhook_that_nobody_sends_to_and_one_that_is_not_configured_are_told(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Receiver(tmp_path) as receiver:
        webhook = receiver.settings(events={"on": ["*"]})
        command = Commands(watched, tmp_path / "configuration", capsys)
        another = as_written(webhook) | {"name": "another"}
        only_notices = {key: value for key, value in (another | {"name": "people"}).items() if key != "events"}
        command.configure(watched.vcenter, webhooks=[another, only_notices])
        async with serving(watched, webhook):
            [one] = await command.json("watch", "status", status=2)
            missing, unknown = one["forwards"]
            assert one["trouble"] == ""
            assert (missing["webhook"], missing["state"], missing["status"]) == ("another", "missing", None)
            assert "restart" in missing["trouble"]
            assert (unknown["webhook"], unknown["state"], unknown["configured"]) == ("hook", "in trouble", False)
            assert f"--workflow-id {ids.forward(watched.vcenter, 'hook')} --name stop" in unknown["trouble"]
            text = await command("watch", "status", status=2)
            assert "another\tmissing\t" in text
            # Stopped, it is no news any more.
            forward = watched.client.get_workflow_handle(ids.forward(watched.vcenter, "hook"))
            await forward.signal(names.STOP)
            await forward.result()
            [one] = await command.json("watch", "status", status=2)
            assert [each["webhook"] for each in one["forwards"]] == ["another"]
