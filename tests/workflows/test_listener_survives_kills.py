"""Listener, worker and Temporal are killed again and again while events come: none is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import pytest
from pyVmomi import vim
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError

from contracts import ids, names
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.prepare import HostEvents, Outcome, PrepareGpuHostInput, PrepareGpuHostReport
from contracts.watch import WatchInput, WatchStatus
from tests.support.killing import Hit, Killer, Point
from tests.support.lab import A100, TRAINING, VCENTER, vcenter_settings
from tests.support.process import ServerProcess
from tests.support.simulator import SimulatorProcess
from vsphere.inventory import host_index
from vsphere.sessions import SessionPool
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import DevServer

KILLS, EVENTS, HOSTS = 50, 20_000, 40
SLICES = 4
"""Around each kill events are posted in so many parts."""
PAGE = EVENTS // KILLS // SLICES
PAUSE_S = 0.4
CLUSTERS = 5
QUEUE = "kills"
KINDS = ("HostAddedEvent", "esx.test.gpu.found")
CHANGES = "enter_maintenance|exit_maintenance|enable_passthrough|set_hardware_label"


def in_listener(at: str, when: str, after_s: float = 0.0, victim: str = "listener") -> Point:
    return Point(victim, "listener", f"^{at}", when, after_s)


def in_worker(at: str, when: str, after_s: float = 0.0, victim: str = "worker") -> Point:
    return Point(victim, "worker", f"^{at}", when, after_s)


POINTS = {
    "listener": [
        # Read, and nothing handed over; Temporal is being told; it has been told; all is told and the cursor is not.
        in_listener("page", "before"),
        in_listener("call", "during", 0.005),
        in_listener("hand-over", "after"),
        in_listener("page", "after"),
        in_listener("hand-over", "during", 0.03),
        in_listener("call", "after"),
        in_listener("read", "during", 0.001),
        Point("listener", after_s=0.2),
    ],
    "worker": [
        in_worker("activity reboot", "after"),
        in_worker("task PrepareGpuHost", "after"),
        Point("worker", after_s=2),
        in_worker(f"activity ({CHANGES})", "after"),
        in_worker("activity await_host_back", "during", 0.1),
        in_worker("activity reboot", "during", 0.005),
        in_worker("activity look_and", "after"),
        in_worker("task PrepareGpuHost", "before"),
        in_worker("activity reboot", "before"),
        in_worker(f"activity ({CHANGES})", "during", 0.005),
        in_worker("activity request_lease", "after"),
    ],
    "temporal": [
        in_listener("call", "during", 0.001, "temporal"),
        in_worker("activity reboot", "after", victim="temporal"),
        in_listener("hand-over", "after", victim="temporal"),
        in_listener("call", "during", 0.0, "temporal"),
        in_worker("task PrepareGpuHost", "after", victim="temporal"),
        in_listener("call", "during", 0.01, "temporal"),
        in_worker(f"activity ({CHANGES})", "after", victim="temporal"),
        Point("temporal", after_s=2),
        in_worker("activity reboot", "during", 0.005, "temporal"),
        in_listener("page", "before", victim="temporal"),
    ],
}


def plan() -> list[Point]:
    """Who is killed where, one after the other.

    After Temporal died in the middle of a hand-over the listener dies, too, as it tries again.
    """
    points = {victim: cycle(found) for victim, found in POINTS.items()}
    planned: list[Point] = []
    for victim in islice(cycle(points), KILLS):
        tries_again = planned and planned[-1].victim == "temporal" and planned[-1].at == "^call"
        planned.append(in_listener("call", "before") if tries_again else next(points[victim]))
    return planned


@dataclass
class Posted:
    """What was posted: the simulator's own account is compared with it in the end."""

    matching: list[tuple[float, int]] = field(default_factory=list)
    """When, by the monotonic clock (an instant later at most), and the key."""

    def waiting(self, cursor: int, moment: float) -> bool:
        """Whether there was an event beyond the cursor that somebody had to be told of."""
        return any(key > cursor and posted <= moment for posted, key in self.matching)


@dataclass
class Site:
    """All that is killed, and all that is not."""

    folder: Path
    server: DevServer
    simulator: SimulatorProcess
    pool: SessionPool
    client: Client
    hosts: list[HostRef]
    posted: Posted = field(default_factory=Posted)

    async def post(self, number: int, dice: random.Random) -> None:
        """The events around one kill, some about the newest host, some about one of those before."""
        known = self.hosts[: (number - 1) * HOSTS // KILLS + 1]
        newest, before = known[-1].name, dice.choice(known).name
        for turn in range(SLICES):
            told = await asyncio.to_thread(
                self.simulator.act,
                "post_backlog",
                count=PAGE,
                matching=0.02 if turn == 0 else 0.01,
                matching_type=KINDS[turn % 2],
                about=[newest if turn == 0 else before],
                seed=number * SLICES + turn,
            )
            self.posted.matching += [(time.monotonic(), key) for key in told["matching"]]
            await asyncio.sleep(PAUSE_S)

    async def begin(self) -> None:
        """Start the watch, and wait until a reader is at work."""
        watch = ids.watch(VCENTER)
        await self.client.start_workflow(names.WATCH_VCENTER, WatchInput(vcenter=VCENTER), id=watch, task_queue=QUEUE)
        ends_at = time.monotonic() + 60
        while (status := await self.status()).cursor is None or status.round < 2:
            assert time.monotonic() < ends_at, f"no reader after 60 s: {status}"
            await asyncio.sleep(0.2)

    async def status(self) -> WatchStatus:
        """What the watch says; its worker may be on its way."""
        watch, ends_at = self.client.get_workflow_handle(ids.watch(VCENTER)), time.monotonic() + 60
        while True:
            try:
                return await watch.query(names.QUERY_STATUS, result_type=WatchStatus)
            except RPCError:
                if time.monotonic() > ends_at:
                    raise

    def due(self) -> dict[str, set[int]]:
        """For each preparation the keys of the events that it has to be told of, by the simulator's ledger."""
        begun = self.posted.matching[0][1]
        return {
            ids.prepare_gpu_host(VCENTER, host.key): {
                key
                for kind in KINDS
                for key in self.simulator.act("posted_events", kind=kind, about=host.moid)
                # Before them there are those of hosts that were added to vCenter.
                if key >= begun
            }
            for host in self.hosts
        }

    async def runs(self) -> list[WorkflowExecution]:
        """All preparations, whatever became of them."""
        query = f"WorkflowType = '{names.PREPARE_GPU_HOST}'"
        return [run async for run in self.client.list_workflows(query)]

    async def given(self, run: WorkflowExecution) -> set[int]:
        """The keys of the events that a run was started with or told of, by its history."""
        keys: set[EventKey] = set()
        converter = self.client.data_converter
        async for event in self.client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history_events():
            if event.HasField("workflow_execution_started_event_attributes"):
                payloads = event.workflow_execution_started_event_attributes.input.payloads
                [order] = await converter.decode(payloads, [PrepareGpuHostInput])
                keys.update(order.events)
            elif event.HasField("workflow_execution_signaled_event_attributes"):
                signal = event.workflow_execution_signaled_event_attributes
                if signal.signal_name == names.HOST_EVENTS:
                    [message] = await converter.decode(signal.input.payloads, [HostEvents])
                    keys.update(message.events)
        return {each.key for each in keys}

    async def settled(self, timeout_s: float) -> dict[str, list[set[int]]]:
        """The keys that each run of each preparation was given, once all is handed over and every run is closed."""
        ends_at, due = time.monotonic() + timeout_s, await asyncio.to_thread(self.due)
        while True:
            runs = await self.runs()
            live = [run.id for run in runs if run.status is WorkflowExecutionStatus.RUNNING]
            status = await self.status()
            if not live and status.cursor is not None and status.cursor.key >= self.posted.matching[-1][1]:
                break
            assert time.monotonic() < ends_at, f"after {timeout_s:g} s there still run {live}; the watch: {status}"
            await asyncio.sleep(1)
        given: dict[str, list[set[int]]] = {workflow_id: [] for workflow_id in due}
        for run in runs:
            given[run.id].append(await self.given(run))
        return given


def lost_and_doubled(due: dict[str, set[int]], given: dict[str, list[set[int]]]) -> list[str]:
    """What is wrong with what was handed over."""
    problems = []
    for workflow_id, keys in due.items():
        times = Counter(key for run in given[workflow_id] for key in run)
        if lost := keys - times.keys():
            problems.append(f"{workflow_id} was never told of {sorted(lost)}")
        if strange := times.keys() - keys:
            problems.append(f"{workflow_id} was told of {sorted(strange)}, which are not about it")
        if doubled := [key for key, count in times.items() if count > 1]:
            problems.append(f"{workflow_id}: more than one run was told of {sorted(doubled)}: {given[workflow_id]}")
    return problems


def done_otherwise_than_once(site: Site) -> list[str]:
    """What is wrong with the hosts, by the simulator's own account and as plain pyVmomi sees them."""
    problems = []
    si = site.simulator.connect()
    try:
        collector = si.content.taskManager.CreateCollectorForTasks(vim.TaskFilterSpec())
        ordered: Counter[tuple[str, str]] = Counter()
        while page := collector.ReadNextTasks(1000):
            ordered.update((info.entity._moId, info.descriptionId) for info in page)
        for host in site.hosts:
            system = vim.HostSystem(host.moid, si._stub)
            gpu = system.config.graphicsInfo[0].pciId
            [card] = [info for info in system.config.pciPassthruInfo if info.id == gpu]
            seen = {
                "done": site.simulator.act("ledger", host=host.name),
                "reboots ordered": ordered[host.moid, "HostSystem.reboot"],
                "maintenance ordered": ordered[host.moid, "HostSystem.enterMaintenanceMode"],
                "maintenance entered": events_of(site, host, "EnteredMaintenanceModeEvent"),
                "maintenance left": events_of(site, host, "ExitMaintenanceModeEvent"),
                "in maintenance": system.runtime.inMaintenanceMode,
                "connection": str(system.runtime.connectionState),
                "passthrough": card.passthruActive,
                "label": card.hardwareLabel,
            }
            if wrong := {name: value for name, value in seen.items() if value != AS_WANTED[name]}:
                problems.append(f"{host.name}: {wrong}")
    finally:
        site.simulator.disconnect(si)
    return problems


AS_WANTED = {
    "done": ["boot"],
    "reboots ordered": 1,
    "maintenance ordered": 1,
    "maintenance entered": 1,
    "maintenance left": 1,
    "in maintenance": False,
    "connection": "connected",
    "passthrough": True,
    "label": "Training",
}


def events_of(site: Site, host: HostRef, kind: str) -> int:
    return len(site.simulator.act("posted_events", kind=kind, about=host.moid))


@asynccontextmanager
async def open_site(program: Path, folder: Path) -> AsyncIterator[Site]:
    """Temporal with a database on disk, a vCenter with hosts to prepare, and a service of two processes."""
    rule = {"name": "prepare", "on": list(KINDS), "start": names.PREPARE_GPU_HOST, "with": {"profile": TRAINING.name}}
    rules = {"rules": [rule], "profiles": {TRAINING.name: TRAINING.model_dump(mode="json", exclude_none=True)}}
    vcenter = SimulatorProcess(clusters=CLUSTERS, hosts=0, gpus=0, vms=0, time_scale=120)
    async with DevServer(program, folder / "temporal.log", folder / "temporal.db") as server:
        with vcenter as simulator, SessionPool(vcenter_settings(simulator, folder)) as pool:
            for number in range(1, HOSTS + 1):
                cluster = f"gpu-{number % CLUSTERS + 1:02d}"
                simulator.act("add_host", cluster=cluster, name=f"esx-{number:02d}.gpu.test", gpus=[A100])
            with pool.session() as si:
                hosts = [host.ref for host in host_index(si, VCENTER).by_moid.values()]
            order = {
                "address": server.address,
                "queue": QUEUE,
                "vcenter": pool.settings.model_dump(mode="json", exclude_none=True),
                "rules": rules,
            }
            (folder / "order.json").write_text(json.dumps(order))
            arguments = [sys.executable, "-m", "tests.support.killed_service", str(folder)]
            with ServerProcess("the service", arguments, folder / "service.log") as service:
                service.start("")
                client = await connect(TemporalSettings(address=server.address))
                yield Site(folder, server, simulator, pool, client, sorted(hosts, key=lambda host: host.name))


def table(hits: Sequence[Hit], evidence: Sequence[list[str]]) -> str:
    """The kills, with what each hit."""
    rows = [
        f"{hit.number:2} {hit.begun - hits[0].begun:6.1f} s  {hit.point.victim:8} {hit.text[:70]:70} "
        f"{'; '.join(found) or 'NOTHING UNDER WAY'}"
        for hit, found in zip(hits, evidence, strict=True)
    ]
    return "\n".join(rows)


@pytest.mark.timeout(600)
async def test_fifty_kills_during_twenty_thousand_events_lose_and_double_nothing(
    temporal_program: Path, tmp_path: Path
) -> None:
    dice = random.Random(7)
    async with open_site(temporal_program, tmp_path) as site:
        await site.begin()
        killer = Killer(tmp_path, site.server, dice)
        for number, point in enumerate(plan(), 1):
            async with asyncio.TaskGroup() as both:
                both.create_task(site.post(number, dice))
                both.create_task(killer.kill(number, point))
        given = await site.settled(240)
        due = await asyncio.to_thread(site.due)
        problems = lost_and_doubled(due, given)
        problems += await asyncio.to_thread(done_otherwise_than_once, site)
        problems += await ends_otherwise_than_prepared_once(site)
        work = killer.reader.work()
        evidence = [hit.evidence(work, site.posted.waiting) for hit in killer.hits]
        kills = table(killer.hits, evidence)
        print(kills)
        assert not problems, "\n".join([*problems, kills])
        assert Counter(key for keys in due.values() for key in keys) == Counter(
            key for _, key in site.posted.matching
        ), "the ledger has what was posted"
        victims = Counter(hit.point.victim for hit in killer.hits)
        assert victims.total() == KILLS
        assert min(victims[victim] for victim in POINTS) >= 10
        assert sum(map(bool, evidence)) >= KILLS * 0.9, kills


async def ends_otherwise_than_prepared_once(site: Site) -> list[str]:
    """Preparations that did not complete, and hosts that not exactly one of them has prepared."""
    outcomes: dict[str, list[str]] = {}
    for run in await site.runs():
        outcome = run.status.name if run.status else "unknown"
        if run.status is WorkflowExecutionStatus.COMPLETED:
            handle = site.client.get_workflow_handle(run.id, run_id=run.run_id, result_type=PrepareGpuHostReport)
            outcome = str((await handle.result()).outcome)
        outcomes.setdefault(run.id, []).append(outcome)
    return [
        f"{workflow_id}: its runs ended {ends}"
        for workflow_id, ends in outcomes.items()
        if Counter(ends) - Counter({Outcome.ALREADY_RIGHT: len(ends)}) != Counter({Outcome.PREPARED: 1})
    ]
