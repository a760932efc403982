"""Clusters of a simulated vCenter for the tests of `ClusterGate`: each test takes one of its own."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.gate import GateInput, GateLimits, GateStatus, LeaseRelease, LeaseRequest
from contracts.host import ClusterRef, HostRef
from contracts.names import TaskQueues
from tests.support.gate_worker import gate_parts
from tests.support.lab import vcenter_settings
from tests.support.lease_holder import Holder, HolderOrder
from tests.support.simulator import SimulatorProcess
from vsphere.cluster import read_cluster
from vsphere.inventory import host_index
from vsphere.sessions import SessionPool
from workers.assembly import build_workers
from workflows.cluster_gate import ClusterGate

__all__ = ["LIMITS", "GateLab", "open_gates"]

_T = TypeVar("_T")
LIMITS = GateLimits(hosts_down=1, sweep_s=0.4, holder_grace_s=1.5)
HolderHandle = WorkflowHandle[Holder, str]
_PATIENCE = timedelta(seconds=10)
_ASK_AGAIN = {
    # Nobody has asked for a lease yet, or nobody since a gate was ended that never worked.
    RPCStatusCode.NOT_FOUND,
    RPCStatusCode.FAILED_PRECONDITION,
    # A question can get lost while the gate begins a new run.
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
}


@dataclass
class GateLab:
    """One cluster, its hosts and its gate."""

    simulator: SimulatorProcess
    client: Client
    queues: TaskQueues
    pool: SessionPool
    cluster: ClusterRef
    hosts: tuple[HostRef, ...]

    @property
    def gate(self) -> WorkflowHandle[ClusterGate, GateStatus]:
        """The gate, by ID: whichever run it is."""
        return self.client.get_workflow_handle_for(ClusterGate.run, ids.cluster_gate(self.pool.name, self.cluster.moid))

    async def open_gate(self, task_queue: str = "", **fields: Any) -> None:
        """Start the gate before somebody asks, with other inputs than `request_lease` gives."""
        order = GateInput(vcenter=self.pool.name, cluster_moid=self.cluster.moid, cluster_name=self.cluster.name)
        await self.client.start_workflow(
            ClusterGate.run,
            order.model_copy(update={"limits": LIMITS, **fields}),
            id=self.gate.id,
            task_queue=task_queue or self.queues.main,
        )

    async def hold(self, host: HostRef, workflow_id: str = "", **order: Any) -> HolderHandle:
        """Start a holder."""
        run_id = workflow_id or f"holder-{host.name}-{uuid.uuid4().hex[:6]}"
        return await _answered(
            lambda: self.client.start_workflow(
                Holder.run,
                HolderOrder(host=host, cluster=self.cluster, **order),
                id=run_id,
                task_queue=self.queues.main,
                # An answer that got lost is asked for again, and the holder may have ended by then.
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                rpc_timeout=_PATIENCE,
            )
        )

    def request(self, host: HostRef, workflow_id: str, first_run_id: str) -> LeaseRequest:
        """A request as some holder would make it."""
        return LeaseRequest(
            token=uuid.uuid4().hex,
            workflow_id=workflow_id,
            first_run_id=first_run_id,
            host=host,
            cluster_moid=self.cluster.moid,
            cluster_name=self.cluster.name,
            requested_at=datetime.now(UTC),
        )

    async def signal(self, message: LeaseRequest | LeaseRelease) -> None:
        """Give the gate a message past all that usually gives it."""
        name = names.LEASE_REQUESTED if isinstance(message, LeaseRequest) else names.LEASE_RELEASED
        # The gate knows a token that it has heard before.
        await _answered(lambda: self.gate.signal(name, message, rpc_timeout=_PATIENCE))

    async def status(self) -> GateStatus:
        """What the gate says."""
        return await self.gate.query(ClusterGate.status, rpc_timeout=_PATIENCE)

    async def until(self, holds: Callable[[GateStatus], bool], timeout_s: float = 20) -> GateStatus:
        """The gate's status, as soon as `holds(status)`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        status: GateStatus | None = None
        while True:
            try:
                status = await self.status()
            except RPCError as error:
                if error.status not in _ASK_AGAIN:
                    raise
            if status and holds(status):
                return status
            assert asyncio.get_running_loop().time() < deadline, f"not within {timeout_s} s: {status!r}"
            await asyncio.sleep(0.05)

    async def stage(self, holder: HolderHandle, wanted: str, timeout_s: float = 20) -> None:
        """Wait for a holder's stage."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (seen := await holder.query(Holder.stage)) != wanted:
            assert asyncio.get_running_loop().time() < deadline, f"the holder is {seen}, not {wanted}"
            await asyncio.sleep(0.05)

    async def down(self) -> set[str]:
        """Names of the hosts that vCenter shows in maintenance mode."""

        def look() -> set[str]:
            with self.pool.session() as si:
                return {host.name for host in read_cluster(si, self.cluster.moid).hosts if host.in_maintenance}

        return await asyncio.to_thread(look)

    async def maintain(self, host: HostRef, on: bool) -> None:
        """Somebody else's maintenance mode."""
        await asyncio.to_thread(self.simulator.act, "set_maintenance", host=host.name, on=on)


@asynccontextmanager
async def open_gates(
    simulator: SimulatorProcess, client: Client, queues: TaskQueues, folder: Path, limits: GateLimits = LIMITS
) -> AsyncIterator[list[GateLab]]:
    """A lab for each cluster, and workers in this process."""
    # Workflow IDs hold the vCenter's name, and the Temporal server is shared.
    pool = SessionPool(vcenter_settings(simulator, folder, name=f"vc-{uuid.uuid4().hex[:8]}"))
    try:
        async with AsyncExitStack() as stack:
            for worker in build_workers(client, queues, gate_parts(pool, limits)):
                await stack.enter_async_context(worker)
            yield await asyncio.to_thread(_labs, simulator, client, queues, pool)
    finally:
        await asyncio.to_thread(pool.close)


def _labs(simulator: SimulatorProcess, client: Client, queues: TaskQueues, pool: SessionPool) -> list[GateLab]:
    with pool.session() as si:
        found = host_index(si, pool.name).hosts
    clusters = sorted({(host.cluster_moid, host.cluster_name) for host in found})
    return [
        GateLab(
            simulator,
            client,
            queues,
            pool,
            ClusterRef(moid=moid, name=name),
            tuple(host.ref for host in found if host.cluster_moid == moid),
        )
        for moid, name in clusters
    ]


async def _answered(call: Callable[[], Awaitable[_T]]) -> _T:
    """The answer to a call that may be repeated: without a time-out one that gets lost is waited for forever."""
    for _ in range(3):
        try:
            return await call()
        except RPCError as error:
            if error.status not in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
                raise
    return await call()
