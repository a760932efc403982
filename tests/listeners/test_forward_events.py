"""A webhook gets every event that it wants at least once, whatever becomes of it, of the reader or of vCenter."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from pyVmomi import vim
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.webhooks import Webhooks
from contracts import ids, names
from contracts.forward import ForwardStatus
from contracts.names import TaskQueues
from contracts.watch import UNREACHABLE_AFTER_S
from listeners import forward_events
from tests.listeners.conftest import Watched, rules, until, watch_of
from tests.listeners.posting import PostingSimulator
from tests.listeners.test_metrics import Endpoint
from tests.support.forward_worker import forwarding_parts
from tests.support.webhook_receiver import TOKEN, Behaviour, Receiver, Request, dropped, hanging
from vsphere.sessions import SessionPool
from workers.assembly import build_workers, workflow_runner
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import DevServer
from workers.watches import ensure_forwards, forwards
from workflows.deliver_notice import DeliverNotice
from workflows.forward_events import ForwardEvents

LONG_S = 60.0


class Forwarding:
    """Events of one simulated vCenter on their way to one receiver, with names and queues of their own."""

    def __init__(self, watched: Watched, receiver: Receiver) -> None:
        self.watched, self.receiver = watched, receiver
        # The watch has a worker of its own workflows, which would not know this one.
        self.client, self.queues = watched.client, TaskQueues(f"{watched.queues.base}-forwards")
        self.vcenter = watched.vcenter
        self.begun_at = 0
        self.unreachable_after_s = UNREACHABLE_AFTER_S
        self.settings = self.set()

    async def close(self) -> None:
        # Notices, too: they are started and wait to be told, and who tells them is not here.
        async for run in self.client.list_workflows(
            f"TaskQueue = '{self.queues.main}' AND ExecutionStatus = 'Running'"
        ):
            await self.client.get_workflow_handle(run.id).terminate("the test is over")

    def set(self, **more: Any) -> Any:
        """Of the webhook."""
        self.settings = self.receiver.settings(**{"timeout_s": 2, "events": {"on": ["*"]}, **more})
        return self.settings

    @property
    def handle(self) -> WorkflowHandle[Any, ForwardStatus]:
        workflow_id = ids.forward(self.vcenter, self.settings.name)
        return self.client.get_workflow_handle(workflow_id, result_type=ForwardStatus)

    async def act(self, action: str, **arguments: Any) -> Any:
        assert isinstance(self.watched.server, PostingSimulator)
        return await asyncio.to_thread(self.watched.server.act, action, **arguments)

    async def status(self) -> ForwardStatus:
        return await self.handle.query(names.QUERY_STATUS, result_type=ForwardStatus)

    async def shown(self) -> str:
        return str(await self.handle.query("__temporal_workflow_metadata", result_type=dict)).replace("\\n", "\n")

    async def posted(self, **which: Any) -> set[int]:
        """The keys that this was to get, from the simulator's own ledger."""
        return {key for key in await self.act("posted_events", **which) if key > self.begun_at}

    def taken(self) -> set[int]:
        return {event["data"]["Key"] for event in self.receiver.taken}

    async def all_taken(self, **which: Any) -> set[int]:
        """Wait until the webhook has everything that was posted."""
        posted = await self.posted(**which)

        async def missing() -> set[int]:
            return posted - self.taken()

        await until(missing, lambda missing: not missing, LONG_S)
        return posted

    @asynccontextmanager
    async def workflows(self) -> AsyncIterator[None]:
        """A worker of the workflow alone."""
        async with Worker(
            self.client,
            task_queue=self.queues.main,
            workflows=[ForwardEvents, DeliverNotice],
            workflow_runner=workflow_runner(),
        ):
            yield

    @asynccontextmanager
    async def sending(self, client: Client | None = None, *, begin: bool = True) -> AsyncIterator[None]:
        """Workers of workflow and activity, and a start; returns when a reader is at work."""
        pool = SessionPool(self.watched.server.settings(self.vcenter))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, pool.close)
            sender = await stack.enter_async_context(Webhooks([self.settings]))
            parts = replace(
                forwarding_parts(pool, self.settings, sender, self.unreachable_after_s),
                workflows=[ForwardEvents, DeliverNotice],
            )
            for worker in build_workers(client or self.client, self.queues, parts):
                await stack.enter_async_context(worker)
            if begin:
                await self.begin()
            yield

    async def begin(self) -> None:
        await ensure_forwards(self.client, self.queues, self.vcenter, [self.settings.name])
        status = await until(self.status, lambda status: status.cursor is not None and status.round >= 2, LONG_S)
        assert status.cursor is not None
        self.begun_at = self.begun_at or status.cursor.key

    async def process(self, address: str) -> subprocess.Popen[str]:
        """A worker of the activity in a process of its own, ready."""
        order = {
            "address": address,
            "queue": self.queues.base,
            "vcenter": json.loads(self.watched.server.settings(self.vcenter).model_dump_json()),
            "webhook": json.loads(self.settings.model_dump_json()),
        }
        process = await asyncio.to_thread(
            subprocess.Popen[str],
            [sys.executable, "-m", "tests.support.forward_worker", json.dumps(order)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.watched.processes.append(process)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        return process


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that is in trouble again and again is asked again soon."""
    monkeypatch.setattr(forward_events, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(forward_events, "_LONGEST_PAUSE_S", 0.5)


@pytest.fixture(scope="module")
def logging() -> Iterator[PostingSimulator]:
    with PostingSimulator(clusters=2, hosts=2, gpus=1, vms=2, time_scale=300, seed=21) as running:
        yield running


@pytest_asyncio.fixture
async def forwarding(
    temporal_client: Client, temporal_server: DevServer, logging: PostingSimulator, queues: TaskQueues, tmp_path: Path
) -> AsyncIterator[Forwarding]:
    async with (
        watch_of(temporal_client, temporal_server.address, logging, queues) as watched,
        Receiver(tmp_path) as receiver,
    ):
        forwarding = Forwarding(watched, receiver)
        yield forwarding
        await forwarding.close()


def moody(seed: int) -> Behaviour:
    """Every third request meets a webhook in some trouble."""
    dice = random.Random(seed)

    def behave(request: Request) -> Any:
        match dice.choice(["ok", "ok", "ok", "ok", "503", "429", "drop", "hang"]):
            case "ok":
                return None
            case "drop":
                return dropped(request)
            case "hang":
                return hanging(request)
            case status:
                return web.Response(status=int(status), headers={"Retry-After": "0"})

    return behave


@pytest.mark.parametrize(
    "how", [{"mode": "structured", "in_flight": 8}, {"mode": "binary", "in_flight": 8}, {"mode": "batch"}]
)
async def test_every_event_of_a_storm_arrives_at_a_webhook_that_is_in_trouble(
    forwarding: Forwarding, how: dict[str, Any]
) -> None:
    forwarding.set(timeout_s=0.3, batch_size=20, **how)
    async with forwarding.sending():
        forwarding.receiver.behaviour = moody(7)
        await forwarding.act("storm", rate_per_s=60, seconds=5, matching=0.2, seed=1)

        async def over() -> bool:
            return all(storm["posted"] == storm["count"] for storm in await forwarding.act("storms_so_far"))

        await asyncio.sleep(1)
        await forwarding.receiver.stop()
        await asyncio.sleep(1.5)
        await forwarding.receiver.start()
        await until(over, bool, LONG_S)
        posted = await forwarding.all_taken()
        assert len(posted) >= 300
        status = await until(forwarding.status, lambda status: not status.trouble, LONG_S)
    assert (status.quarantined, status.gaps) == ((), ())
    # Sent again is the same: whoever gets it knows it by its ID.
    by_id: dict[str, Any] = {}
    for event in forwarding.receiver.taken:
        assert by_id.setdefault(event["id"], event) == event
    assert len(by_id) == len(forwarding.taken())


async def test_a_reader_that_is_killed_loses_nothing(forwarding: Forwarding, temporal_server: DevServer) -> None:
    async with forwarding.workflows():
        first = await forwarding.process(temporal_server.address)
        await forwarding.process(temporal_server.address)
        await forwarding.begin()

        async def slowly(_: Request) -> None:
            await asyncio.sleep(0.01)

        forwarding.receiver.behaviour = slowly
        await forwarding.act("post_backlog", count=600, matching=0.1)
        for _ in range(2):
            before = len(forwarding.receiver.taken)
            await until(lambda: _length(forwarding.receiver.taken), lambda count: count > before + 60, LONG_S)  # noqa: B023
            doomed = await _reader(forwarding)
            os.kill(doomed, signal.SIGKILL)
            if doomed == first.pid:
                await forwarding.process(temporal_server.address)
        posted = await forwarding.all_taken()
        assert len(posted) >= 600
        # The cursor is a second old at most: that is what is sent again.
        assert len(forwarding.receiver.taken) < 2 * len(posted)
        assert (await forwarding.status()).gaps == ()


async def _length(some: list[Any]) -> int:
    return len(some)


async def _reader(forwarding: Forwarding) -> int:
    """The process ID of the worker that runs the activity now, from the worker's identity."""

    async def look() -> str:
        pending = (await forwarding.handle.describe()).raw_description.pending_activities
        return str(pending[0].last_worker_identity) if pending else ""

    return int((await until(look, bool, LONG_S)).split()[1].split("@")[0])


async def test_one_request_at_a_time_keeps_the_order(forwarding: Forwarding) -> None:
    forwarding.set(timeout_s=0.3)
    async with forwarding.sending():
        forwarding.receiver.behaviour = moody(3)
        await forwarding.act("post_backlog", count=60, matching=0.1)
        await forwarding.all_taken()
    keys = [event["data"]["Key"] for event in forwarding.receiver.taken]
    assert keys == sorted(keys)
    assert forwarding.receiver.most_at_once <= 2  # one may still hang when the next comes


async def test_a_webhook_that_is_down_holds_up_nobody_else_and_gets_everything_later(
    forwarding: Forwarding, temporal_server: DevServer
) -> None:
    watched, receiver = forwarding.watched, forwarding.receiver
    endpoint = Endpoint(forwarding.vcenter)
    client = await connect(TemporalSettings(address=temporal_server.address), runtime=endpoint.runtime)
    async with watched.workers(rules()), forwarding.sending(client):
        await watched.start()
        await watched.begun()
        await receiver.stop()
        first, second = watched.hosts[:2]
        await watched.post(vim.event.HostAddedEvent, first)
        await until(lambda: watched.keys(first), bool, LONG_S)
        status = await until(forwarding.status, lambda status: bool(status.trouble), LONG_S)
        assert f"webhook hook (https://127.0.0.1:{receiver.port})" in status.trouble
        # What was sent before it died counts.
        assert status.cursor is not None
        assert status.cursor.key == max({forwarding.begun_at, *forwarding.taken()})
        assert "in trouble" in await forwarding.shown()
        await endpoint.scraped(lambda seen: seen("forward_stuck", webhook="hook") == 1)
        # The rules go on.
        await watched.post(vim.event.HostAddedEvent, second)
        await until(lambda: watched.keys(second), bool, LONG_S)
        taken = forwarding.taken()
        await receiver.start()
        posted = await forwarding.all_taken()
        assert len(posted - taken) >= 2
        status = await until(forwarding.status, lambda status: not status.trouble, LONG_S)
        assert status.lag_s is not None
        assert "sending events" in await forwarding.shown()
        seen = await endpoint.scraped(
            lambda seen: seen("forward_stuck") == 0 and (seen("events_forwarded_total") or 0) >= len(posted)
        )
        assert seen("events_refused_total") == seen("forward_gaps_total") == 0
        assert seen("forward_cursor_key") == max(forwarding.taken())
        assert TOKEN not in seen.text


@pytest.mark.parametrize("mode", ["structured", "batch"])
async def test_what_a_webhook_refuses_is_quarantined_and_its_neighbours_arrive(
    forwarding: Forwarding, mode: str
) -> None:
    forwarding.set(mode=mode)

    def choosy(request: Request) -> Any:
        if any(event["subject"] == "HostAddedEvent" for event in request.events):
            return web.Response(status=422, text="no hosts here, please")
        return None

    async with forwarding.sending():
        forwarding.receiver.behaviour = choosy
        told = await forwarding.act("post_backlog", count=50, matching=0.1)
        status = await until(forwarding.status, lambda status: len(status.quarantined) >= 5, LONG_S)
        posted = await forwarding.posted()
        assert len(told["matching"]) == 5
        await until(lambda: _length(list(posted - forwarding.taken())), lambda count: count == 5, LONG_S)
        assert posted - forwarding.taken() == set(told["matching"])
        assert sorted(event.key for event in status.quarantined) == told["matching"]
        assert {event.type_name for event in status.quarantined} == {"HostAddedEvent"}
        assert all("answered 422" in e.reason and "no hosts here, please" in e.reason for e in status.quarantined)
        shown = await forwarding.shown()
        assert "Quarantined events (5 kept" in shown
        assert not status.trouble
        await until(forwarding.status, lambda status: status.counters.quarantined == 5, LONG_S)


async def test_whatever_is_wrong_with_events_their_neighbours_arrive(forwarding: Forwarding) -> None:
    async with forwarding.sending():
        host = await asyncio.to_thread(lambda: str(forwarding.watched.hosts[0].name))
        poison = await forwarding.act("post_poison", host=host)
        await forwarding.act("post_backlog", count=20)
        # Of three the key cannot be read, and one has no time.
        unreadable = {poison[kind] for kind in ("empty_key", "key_beyond_int", "no_key", "bad_time")}
        good = await forwarding.posted() - unreadable
        await until(lambda: _length(list(good - forwarding.taken())), lambda count: count == 0, LONG_S)
        status = await until(forwarding.status, lambda status: len(status.quarantined) >= 4, LONG_S)
    assert all("the event is broken" in event.reason for event in status.quarantined)
    [song] = [event for event in forwarding.receiver.taken if event["data"]["Key"] == poison["unknown_type"]]
    assert (song["type"], song["data"]["Song"]) == ("com.vmware.vsphere.HostSangEvent.v0", {"Verses": "3"})


async def test_only_what_is_wanted_is_sent(forwarding: Forwarding) -> None:
    hosts = await asyncio.to_thread(
        lambda: [(str(host.name), str(host.parent.name)) for host in forwarding.watched.hosts]
    )
    wanted_host, cluster = hosts[0]
    where = {"cluster": cluster, "host": wanted_host[:-1] + "*", "vcenter": "vc-*"}
    forwarding.set(events={"on": ["hostadded*", "esx.test.*"], "where": where, "type": "com.example/{class}"})
    async with forwarding.sending():
        await forwarding.act("post_backlog", count=200, matching=0.5)
        keys = set()
        for host, its_cluster in hosts:
            if its_cluster == cluster and host.startswith(wanted_host[:-1]):
                keys |= await forwarding.posted(kind="HostAddedEvent", about=host)
        assert 0 < len(keys) < 100
        await until(lambda: _length(list(keys - forwarding.taken())), lambda count: count == 0, LONG_S)
        last = max(await forwarding.posted())
        await until(forwarding.status, lambda status: bool(status.cursor and status.cursor.key >= last), LONG_S)
    assert forwarding.taken() == keys
    [event, *_] = forwarding.receiver.taken
    assert (event["type"], event["subject"], event["eventclass"]) == ("com.example/event", "HostAddedEvent", "event")


async def test_an_event_is_what_functions_of_event_routers_know(forwarding: Forwarding) -> None:
    async with forwarding.sending():
        host = forwarding.watched.hosts[0]
        name = await asyncio.to_thread(lambda: str(host.name))
        await forwarding.watched.post(vim.event.HostConnectedEvent, host)
        [key] = await until(lambda: forwarding.posted(kind="HostConnectedEvent"), bool, LONG_S)
        await forwarding.all_taken()
        cursor = (await forwarding.status()).cursor
    [event] = [event for event in forwarding.receiver.taken if event["data"]["Key"] == key]
    assert cursor is not None
    assert event["id"] == f"{cursor.epoch}/{key}"
    assert event["source"] == f"{forwarding.watched.server.settings('x').url}/sdk"
    assert event["type"] == "com.vmware.vsphere.HostConnectedEvent.v0"
    assert (event["subject"], event["eventclass"]) == ("HostConnectedEvent", "event")
    assert event["vsphereapiversion"][0].isdigit()
    assert event["time"].rstrip("Z").rstrip("0") == event["data"]["CreatedTime"].rstrip("Z").rstrip("0")
    assert event["data"]["Host"] == {"Name": name, "Host": {"Type": "HostSystem", "Value": host._moId}}
    assert event["data"]["Vm"] is None


async def test_events_that_are_gone_are_told_as_a_gap(forwarding: Forwarding) -> None:
    async with forwarding.sending():
        await forwarding.act("post_backlog", count=10)
        await forwarding.all_taken()
    await forwarding.act("post_backlog", count=50)
    await forwarding.act("purge_events", keep=20)
    async with forwarding.sending():
        status = await until(forwarding.status, lambda status: bool(status.gaps), LONG_S)
        [gap] = status.gaps
        assert "no longer kept by vCenter" in gap.reason
        kept = {key for key in await forwarding.posted() if key >= gap.before_key}
        assert len(kept) >= 20
        await until(lambda: _length(list(kept - forwarding.taken())), lambda count: count == 0, LONG_S)
        assert "Gaps (1" in await forwarding.shown()


async def test_a_wrong_token_is_waited_for_and_told_and_is_in_no_history_or_log(
    forwarding: Forwarding, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver = forwarding.receiver

    def guarded(request: Request) -> Any:
        said = request.headers["Authorization"]
        return None if said == f"Bearer {TOKEN}" else web.Response(status=401, text=f"what is {said}?")

    receiver.behaviour = guarded
    receiver.token_file.write_text("an-old-token")
    forwarding.unreachable_after_s = 1
    async with forwarding.sending():
        await forwarding.act("post_backlog", count=5)
        status = await until(forwarding.status, lambda status: bool(status.trouble), LONG_S)
        assert "answered 401" in status.trouble
        assert "correct 'url', or the token" in status.trouble
        await until(forwarding.status, lambda status: bool(status.outage and status.outage.notice_id), LONG_S)
        receiver.token_file.write_text(TOKEN)
        await forwarding.all_taken()
        await until(forwarding.status, lambda status: not status.trouble, LONG_S)
        posted = await forwarding.posted()
        await forwarding.handle.signal(names.STOP)
        ended = await asyncio.wait_for(forwarding.handle.result(), LONG_S)
        history = (await forwarding.handle.fetch_history()).to_json()
    assert ended.cursor is not None
    assert ended.cursor.key >= max(posted) - 2  # somebody may just have logged in
    out, err = capfd.readouterr()
    for secret in (TOKEN, "an-old-token"):
        assert secret not in history + out + err


async def test_a_webhook_that_is_not_configured_any_more_gets_nothing(forwarding: Forwarding) -> None:
    client, queues, vcenter = forwarding.client, forwarding.queues, forwarding.vcenter
    both = [(vcenter, "hook"), (vcenter, "other")]
    async with forwarding.sending():
        await ensure_forwards(client, queues, vcenter, ["hook", "other"])
        await until(lambda: forwards(client, queues.main), lambda found: found == both, LONG_S)
        await ensure_forwards(client, queues, vcenter, ["hook"])
        await until(lambda: forwards(client, queues.main), lambda found: found == both[:1], LONG_S)
        await ensure_forwards(client, queues, vcenter, [])
        await until(lambda: forwards(client, queues.main), lambda found: found == [], LONG_S)


async def test_a_webhook_without_events_is_told(forwarding: Forwarding) -> None:
    forwarding.set(events=None)
    async with forwarding.sending(begin=False):
        await ensure_forwards(forwarding.client, forwarding.queues, forwarding.vcenter, ["hook"])
        # First the reader tells it, then its call fails with the same words.
        status = await until(forwarding.status, lambda status: "tried again in 60 s" in status.trouble, LONG_S)
    assert "gets no events by this worker's configuration; give it 'events'" in status.trouble
