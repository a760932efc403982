"""The gate against a model, at random: holders come, end in every way, and their workers are killed."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from contracts.gate import GateLimits, GateStatus, LeaseRelease, LeaseRequest
from contracts.names import TaskQueues
from tests.support.gates import GateLab, HolderHandle, open_gates
from tests.support.lab import vcenter_settings
from tests.support.simulator import SimulatorProcess
from workers.temporal_server import DevServer

ROOT = Path(__file__).parents[2]
LIMITS = GateLimits(hosts_down=2, sweep_s=0.4, holder_grace_s=1.5)
STORM_S = 15


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=2, hosts=6, gpus=0, vms=0, time_scale=600) as simulator:
        yield simulator


class Model:
    """What must hold of a cluster whose hosts only holders take down."""

    def __init__(self, lab: GateLab, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.holders: list[HolderHandle] = []
        self.most_down = 0
        self.most_leased = 0
        self.heard: list[LeaseRequest] = []
        self.runs: set[str] = set()
        self.gates_ended = 0

    async def status(self) -> GateStatus:
        """What the gate says, or the one that was ended last; one that never got to work says nothing."""
        return await self.lab.until(lambda status: True)

    async def watch(self) -> None:
        """At every moment: no more hosts down, and no more leased, than allowed."""
        while True:
            down = await self.lab.down()
            self.most_down = max(self.most_down, len(down))
            assert len(down) <= LIMITS.hosts_down, f"down at once: {down}"
            status = await self.status()
            hosts = [lease.request.host.key for lease in status.leases]
            assert len(hosts) == len(set(hosts)) <= LIMITS.hosts_down, status.leases
            self.most_leased = max(self.most_leased, len(hosts))
            self.runs.add((await self.lab.gate.describe()).run_id)
            await asyncio.sleep(0.05)

    async def storm(self) -> None:
        """Random deeds for a while."""
        deeds = [self.come] * 5 + [self.terminate, self.cancel, self.repeat, self.mend]
        end = asyncio.get_running_loop().time() + STORM_S
        while (left := end - asyncio.get_running_loop().time()) > 0:
            # Not from the start: a gate that is let alone continues as new under fire.
            await self.random.choice(deeds if left > STORM_S / 2 else [*deeds, self.end_gate])()
            await asyncio.sleep(self.random.uniform(0, 0.25))

    async def come(self) -> None:
        """A holder for some host; an ID lives again once its run has ended."""
        host = self.random.choice(self.lab.hosts)
        order = {
            "workflow_id": f"storm-{self.lab.pool.name}-{host.name}-{self.random.randrange(2)}",
            "work_s": self.random.choice([0, 0.2, 0.6]),
            "patience_s": self.random.choice([2, 15]),
            "end": self.random.choice(["release", "release", "release", "forget", "fail"]),
        }
        with suppress(WorkflowAlreadyStartedError):
            self.holders.append(await self.lab.hold(host, **order))

    async def terminate(self) -> None:
        """Without a word to the gate, whatever it is doing."""
        if self.holders:
            await if_there(self.random.choice(self.holders[-6:]).terminate())

    async def cancel(self) -> None:
        """Waiting or working."""
        if self.holders:
            await if_there(self.random.choice(self.holders[-6:]).cancel())

    async def repeat(self) -> None:
        """Requests are heard again, some of them when they are over, and so are releases."""
        status = await self.status()
        self.heard += [*status.queue, *(lease.request for lease in status.leases)]
        held = {lease.request.token for lease in status.leases} | {asked.token for asked in status.queue}
        for asked in self.heard[-8:]:
            await if_there(self.lab.signal(asked))
            if asked.token not in held:
                await if_there(self.lab.signal(LeaseRelease(token=asked.token)))

    async def end_gate(self) -> None:
        """A person ends the gate itself, however."""
        await if_there(self.random.choice([self.lab.gate.terminate, self.lab.gate.cancel])())
        self.gates_ended += 1

    async def mend(self) -> None:
        """A person takes a host out of maintenance mode that a holder left there when it was gone."""
        for lease in (await self.status()).leases:
            if "maintenance mode" in lease.kept:
                await self.lab.maintain(lease.request.host, on=False)
                return

    async def calm(self) -> None:
        """Nobody new comes; persons mend; in the end every holder has ended and every lease is back."""
        # Whoever waits asks again after minutes; this one starts a gate now.
        self.holders.append(await self.lab.hold(self.lab.hosts[0], work_s=0))
        await self.lab.until(lambda status: not status.queue or bool(status.waiting))
        end = asyncio.get_running_loop().time() + 60
        while (status := await self.status()).leases or status.queue:
            assert asyncio.get_running_loop().time() < end, f"not returned: {status!r}"
            await self.mend()
            await asyncio.sleep(0.1)
        ends = await asyncio.wait_for(
            asyncio.gather(*(holder.result() for holder in self.holders), return_exceptions=True), 20
        )
        assert not [end for end in ends if not isinstance(end, (str, WorkflowFailureError))]


async def if_there(call: Awaitable[None]) -> None:
    """A call to a run that may have ended."""
    try:
        await call
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


async def weather(model: Model) -> None:
    """A storm under watch, and the calm after it; what breaks a law ends it at once."""

    async def all_of_it() -> None:
        await model.storm()
        await model.calm()

    watch, storm = asyncio.create_task(model.watch()), asyncio.create_task(all_of_it())
    try:
        await asyncio.wait([watch, storm], return_when=asyncio.FIRST_COMPLETED)
        await (watch if watch.done() else storm)
    finally:
        for task in (watch, storm):
            task.cancel()
        await asyncio.gather(watch, storm, return_exceptions=True)


@pytest.mark.parametrize("seed", [7])
async def test_whatever_becomes_of_holders_the_limit_holds_and_every_lease_returns(
    vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path, seed: int
) -> None:
    async with open_gates(vcenter, temporal_client, queues, tmp_path, LIMITS) as labs:
        model = Model(labs[0], seed)
        await labs[0].open_gate(limits=LIMITS, longest_history=150)
        await weather(model)
    assert len(model.holders) > 10
    assert (model.most_down, model.most_leased) == (2, 2), "the storm reached the limit"
    assert len(model.runs) > model.gates_ended + 1, "the gate continued as new during the storm"
    assert model.gates_ended > 0


@pytest.mark.timeout(240)
async def test_killed_workers_change_nothing_but_the_time_it_takes(
    vcenter: SimulatorProcess,
    temporal_server: DevServer,
    temporal_client: Client,
    queues: TaskQueues,
    tmp_path: Path,
) -> None:
    # The lab's own workers serve another queue: all work is done by the processes that die.
    async with open_gates(vcenter, temporal_client, TaskQueues(f"{queues.base}-unused"), tmp_path, LIMITS) as labs:
        lab = GateLab(vcenter, temporal_client, queues, labs[1].pool, labs[1].cluster, labs[1].hosts)
        order = {
            "address": temporal_server.address,
            "queue": queues.base,
            "vcenter": vcenter_settings(vcenter, tmp_path, name=lab.pool.name).model_dump(
                mode="json", exclude_none=True
            ),
            "limits": LIMITS.model_dump(),
        }
        async with worker(order) as process:
            holders = [await lab.hold(host, work_s=1.5, patience_s=300) for host in lab.hosts]
            await lab.until(lambda status: len(status.leases) == 2 and len(status.queue) == 4)
            process.kill()
        watch = asyncio.create_task(limit_holds(lab))
        try:
            async with worker(order) as process:
                running = [asyncio.create_task(holder.result()) for holder in holders]
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED, timeout=100)
                process.kill()
            async with worker(order):
                results = await asyncio.wait_for(asyncio.gather(*running), 100)
                await lab.until(lambda status: not status.leases and not status.queue)
            assert not watch.done(), watch.exception()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
    assert results == ["done"] * len(lab.hosts)


async def limit_holds(lab: GateLab) -> None:
    while True:
        down = await lab.down()
        assert len(down) <= LIMITS.hosts_down, down
        await asyncio.sleep(0.1)


@asynccontextmanager
async def worker(order: dict[str, object]) -> AsyncIterator[subprocess.Popen[str]]:
    """A worker process that works; killed at the latest when the block ends."""
    process = subprocess.Popen(  # noqa: ASYNC220 - one fork; its pipes are read in a thread
        [sys.executable, "-m", "tests.support.gate_worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == "working\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
