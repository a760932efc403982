"""Rollouts through clusters of a simulated vCenter: each test takes an empty cluster and fills it."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyVmomi import vim
from temporalio.client import WorkflowHandle

from contracts import ids
from contracts.approvals import Approval
from contracts.cluster import (
    ClusterStage,
    HostProgress,
    HostState,
    PrepareGpuClusterInput,
    PrepareGpuClusterReport,
)
from contracts.host import HostRef
from tests.support.lab import A100, Handle, Lab, signed
from vsphere.inventory import host_index
from workflows.prepare_gpu_cluster import PrepareGpuCluster
from workflows.prepare_gpu_host import PrepareGpuHost

__all__ = ["Run", "Site", "asked", "decide", "in_state", "of", "site", "states", "until"]

Run = WorkflowHandle[PrepareGpuCluster, PrepareGpuClusterReport]
_taken = itertools.count(1)


@dataclass
class Site:
    """One cluster of its own."""

    lab: Lab
    name: str
    moid: str
    hosts: list[HostRef]

    async def start(self, **options: Any) -> Run:
        """Start a preparation of the cluster."""
        fields = {
            "vcenter": self.lab.vcenter,
            "cluster_moid": self.moid,
            "cluster_name": self.name,
            "profile": "training",
            "requester": "cli:alice",
        }
        order = PrepareGpuClusterInput.model_validate(fields | options)
        return await self.lab.client.start_workflow(
            PrepareGpuCluster.run,
            order,
            id=ids.prepare_gpu_cluster(self.lab.vcenter, self.moid),
            task_queue=self.lab.queues.main,
        )

    def child(self, host: HostRef) -> Handle:
        """The run of one of its hosts."""
        return self.lab.client.get_workflow_handle_for(PrepareGpuHost.run, ids.prepare_gpu_host(host.vcenter, host.key))

    def down_times(self) -> list[tuple[datetime, datetime]]:
        """From entering maintenance mode to leaving it, of each host, as vCenter's events tell, in order of time."""
        spans = []
        for host in self.hosts:
            entering = self.lab.vcenter_events(host, vim.event.EnteringMaintenanceModeEvent)
            left = self.lab.vcenter_events(host, vim.event.ExitMaintenanceModeEvent)
            assert len(entering) == len(left)
            spans += [(a.createdTime, b.createdTime) for a, b in zip(entering, left, strict=True)]
        return sorted(spans)


def site(
    lab: Lab, hosts: int = 3, *, gpus_each: Sequence[str] = (A100,), number: int | None = None, **options: Any
) -> Site:
    """The next empty cluster (or that of the number), with hosts of these GPUs; `options` are the first host's."""
    name = f"gpu-{next(_taken) if number is None else number:02d}"
    for nth in range(hosts):
        lab.add_host(cluster=name, **({"gpus": list(gpus_each)} | (options if nth == 0 else {})))
    with lab.pool.session() as si:
        found = [each for each in host_index(si, lab.vcenter).hosts if each.cluster_name == name]
    return Site(lab, name, found[0].cluster_moid, sorted((each.ref for each in found), key=lambda ref: ref.name))


async def until(
    run: Run, holds: Callable[[PrepareGpuClusterReport], bool], timeout_s: float = 40
) -> PrepareGpuClusterReport:
    """The report, as soon as `holds(report)`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        report = await run.query(PrepareGpuCluster.report)
        if holds(report):
            return report
        assert asyncio.get_running_loop().time() < deadline, f"the run says {report.stage}: {report.detail}"
        await asyncio.sleep(0.1)


async def decide(run: Run, approval: Approval, **changes: Any) -> Approval:
    """Give a signed decision; `changes` are other claims."""
    decision, nonce = signed(approval, **changes)
    return await run.execute_update(PrepareGpuCluster.decide, decision, id=nonce)


async def asked(run: Run) -> Approval:
    """The approval that the run waits for."""
    report = await until(run, lambda report: report.stage is ClusterStage.AWAITING_APPROVAL)
    return report.approvals[-1]


def states(report: PrepareGpuClusterReport) -> list[HostState]:
    """How far each host is, in the order of their names."""
    return [host.state for host in report.hosts]


def of(report: PrepareGpuClusterReport, host: HostRef) -> HostProgress:
    """One host's line."""
    return next(each for each in report.hosts if each.host.key == host.key)


async def in_state(run: Run, host: HostRef, state: HostState) -> None:
    """Wait until a host is that far."""
    await until(run, lambda report: any(each.host.key == host.key and each.state is state for each in report.hosts))
