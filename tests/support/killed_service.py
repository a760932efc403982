"""A service of two processes that are killed again and again: `python -m tests.support.killed_service FOLDER`.

FOLDER has `order.json`: `{"address", "queue", "vcenter": {…}, "rules": {…}}`. One process listens to the vCenter, the
other runs the workflows and their activities; each is started again whenever it ends. Both are forks of this one, which
has imported everything and started nothing. What they work on is in FOLDER's journal, and orders to kill are taken from
there (`tests.support.journal`); so are births and deaths, by the process that sees them. It ends with its standard
input, or by SIGTERM.

The texts of pieces of work begin with: `read` (a page of events), `page` (from a page's arrival until a heartbeat says
that its events are handed over), `hand-over`, `call` (to Temporal, for a hand-over); `task` (a workflow task) and
`activity`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import signal
import sys
import threading
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.service import WorkflowService
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    WorkflowRunner,
)

from contracts.approvals import ApprovalTerms
from contracts.errors import Unreachable
from contracts.gate import GateLimits
from contracts.names import TaskQueues
from contracts.rules import RulesFile
from contracts.signing import Keyring
from listeners.hand_over import HandOver
from tests.support.dying_workers import Deadly
from tests.support.journal import Journal
from tests.support.lab import KEY, host_parts
from tests.support.listen_worker import listening_parts
from vsphere.events import EventReader
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.assembly import Parts, build_workers, workflow_runner
from workers.client import connect
from workers.settings import TemporalSettings
from workflows.cluster_gate import ClusterGate
from workflows.prepare_gpu_host import PrepareGpuHost
from workflows.watch_vcenter import WatchVCenter

CALLS = ("start_workflow_execution", "signal_with_start_workflow_execution")


class Pages:
    """The pages that a listener has in hand: read, and their events not all handed over."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: dict[int, tuple[int, str]] = {}
        self._cursor = 0
        # They are read on another thread than the one that hands them over.
        self._lock = threading.Lock()

    @property
    def cursor(self) -> int:
        """Where the last heartbeat was."""
        return self._cursor

    def begin_again(self) -> None:
        """The activity was started anew: it reads them again."""
        with self._lock:
            for number in self._open:
                self._journal.end(number, "read again")
            self._open.clear()

    def arrived(self, keys: list[int]) -> None:
        """A page was read."""
        if keys and max(keys) > self._cursor:
            text = f"page {min(keys)} to {max(keys)}"
            number = self._journal.begin(text)
            with self._lock:
                self._open[number] = max(keys), text

    def moved(self, cursor: int) -> None:
        """Everything up to this key is handed over."""
        self._cursor = cursor
        with self._lock:
            done = [(number, text) for number, (last, text) in self._open.items() if last <= cursor]
            for number, text in done:
                del self._open[number]
                self._journal.done(number, text)


class ToldActivities(Interceptor):
    """Tells of activities, and of the cursor in the heartbeats of `follow_events`."""

    def __init__(self, journal: Journal, pages: Pages) -> None:
        self.journal, self.pages = journal, pages

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        journal, pages = self.journal, self.pages

        class Outbound(ActivityOutboundInterceptor):
            def heartbeat(self, *details: Any) -> None:
                super().heartbeat(*details)
                if details and hasattr(details[0], "cursor"):
                    pages.moved(details[0].cursor.key)

        class Inbound(ActivityInboundInterceptor):
            def init(self, outbound: ActivityOutboundInterceptor) -> None:
                super().init(Outbound(outbound) if journal.who == "listener" else outbound)

            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                info = activity.info()
                if journal.who == "listener":
                    pages.begin_again()
                    journal.tell("follows", f"attempt {info.attempt}")
                    return await super().execute_activity(input)
                with journal.work(f"activity {info.activity_type} of {info.workflow_id}, attempt {info.attempt}"):
                    return await super().execute_activity(input)

        return Inbound(next)


def tell_of_listening(journal: Journal, pages: Pages) -> None:
    """Put wrappers that tell around what a listener does."""
    read_page, deliver = EventReader.read_page, HandOver.deliver

    @functools.wraps(read_page)
    def told_read(self: EventReader, *args: Any, **kwargs: Any) -> Any:
        with journal.work(f"read after {pages.cursor}"):
            page = read_page(self, *args, **kwargs)
        pages.arrived([event.key for event in page if event.key > 0])
        return page

    @functools.wraps(deliver)
    async def told_deliver(self: HandOver, group: Any, *args: Any, **kwargs: Any) -> Any:
        with journal.work(f"hand-over of {[event.key for event in group.events]} to {group.workflow_id}"):
            return await deliver(self, group, *args, **kwargs)

    def told_call(name: str) -> None:
        call = getattr(WorkflowService, name)

        @functools.wraps(call)
        async def told(self: WorkflowService, req: Any, *args: Any, **kwargs: Any) -> Any:
            with journal.work(f"call {name} {req.request_id}"):
                return await call(self, req, *args, **kwargs)

        setattr(WorkflowService, name, told)

    EventReader.read_page = told_read  # type: ignore[method-assign]
    HandOver.deliver = told_deliver  # type: ignore[method-assign]
    for name in CALLS:
        told_call(name)


def tell_of_tasks(journal: Journal) -> None:
    """Put wrappers that tell around the workflow tasks of this process, until the answer is on its way."""
    runner = type(workflow_runner())
    create = runner.create_instance

    @functools.wraps(create)
    def told_create(self: WorkflowRunner, det: Any) -> Any:
        instance = create(self, det)
        activate = instance.activate

        def told(activation: Any) -> Any:
            if activation.is_replaying or any(job.HasField("remove_from_cache") for job in activation.jobs):
                return activate(activation)
            with journal.work(f"task {det.info.workflow_type} of {det.info.workflow_id}"):
                return activate(activation)

        instance.activate = told  # type: ignore[method-assign]
        return instance

    runner.create_instance = told_create  # type: ignore[method-assign]


def listener_parts(pool: SessionPool, rules: RulesFile, names: TaskQueues) -> Parts:
    parts = listening_parts({pool.name: pool}, rules, names)
    # It serves no queue but its own: a worker that knows only some of a queue's activities refuses the others.
    return Parts(listen=parts.listen, vcenters=parts.vcenters)


def worker_parts(pool: SessionPool, rules: RulesFile, names: TaskQueues) -> Parts:
    parts = host_parts(
        pool,
        # The forks share a key of their own, with which they approve what policy approves.
        Keyring.of(KEY.public_key()),
        tuple(rules.profiles.values()),
        terms=ApprovalTerms(automatic=True),
        # Nobody waits for another's lease, and the gates' sweeps would cost more than the runs.
        gate_limits=GateLimits(hosts_down=64, sweep_s=30, holder_grace_s=2),
        queue=names.main,
    )
    # The sandbox loads each anew, in every process.
    return replace(parts, workflows=[WatchVCenter, PrepareGpuHost, ClusterGate])


async def connected(address: str) -> Client:
    while True:
        try:
            return await connect(TemporalSettings(address=address))
        except Unreachable:
            # It was killed, too, and is on its way back.
            await asyncio.sleep(0.2)


async def serve(order: dict[str, Any], journal: Journal) -> None:
    names, pages = TaskQueues(order["queue"]), Pages(journal)
    listens = journal.who == "listener"
    if listens:
        tell_of_listening(journal, pages)
    else:
        tell_of_tasks(journal)
    rules = RulesFile.model_validate(order["rules"])
    client = await connected(order["address"])
    with SessionPool(VCenterSettings.model_validate(order["vcenter"])) as pool:
        parts = (listener_parts if listens else worker_parts)(pool, rules, names)
        async with AsyncExitStack() as stack:
            # `Deadly` shortens the time-outs for lost workers; where to die is the journal's business here.
            for worker in build_workers(
                client, names, parts, interceptors=[Deadly(None), ToldActivities(journal, pages)]
            ):
                await stack.enter_async_context(worker)
            journal.tell("serves")
            await asyncio.Event().wait()


def fork(order: dict[str, Any], folder: Path, who: str) -> int:
    pid = os.fork()
    if pid == 0:
        journal = Journal(folder, who)
        journal.tell("born")
        asyncio.run(serve(order, journal))
        os._exit(0)
    return pid


def main() -> None:
    folder = Path(sys.argv[1])
    order = json.loads((folder / "order.json").read_text())
    # What was imported is never garbage, and collecting it would copy its pages in each fork.
    gc.freeze()
    journals = {who: Journal(folder, who) for who in ("listener", "worker")}
    alive = {fork(order, folder, who): who for who in journals}

    def end(*_: object) -> None:
        for pid in tuple(alive):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=lambda: (sys.stdin.read(), end()), daemon=True).start()
    while True:
        pid, status = os.wait()
        who = alive.pop(pid)
        journals[who].tell("died", str(os.waitstatus_to_exitcode(status)), pid=pid)
        if os.WIFEXITED(status):
            time.sleep(1)
        alive[fork(order, folder, who)] = who


if __name__ == "__main__":
    main()
