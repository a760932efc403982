"""PrepareGpuCluster rolls through a cluster's hosts with one approval or one each, and stops when it should."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pyVmomi import vim
from temporalio.client import Client, WorkflowHandle

from contracts import ids
from contracts.approvals import Approval, ApprovalState, Decision, DecisionClaims, Resolution, Resolve, Verdict
from contracts.cluster import (
    ClusterOutcome,
    ClusterStage,
    Fit,
    HostProgress,
    HostState,
    Pause,
    PrepareGpuClusterInput,
    PrepareGpuClusterReport,
)
from contracts.gate import GateLimits
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport, Stage
from contracts.signing import sign
from tests.support.lab import KEY, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.inventory import host_index
from workflows.prepare_gpu_cluster import PrepareGpuCluster
from workflows.prepare_gpu_host import PrepareGpuHost

Run = WorkflowHandle[PrepareGpuCluster, PrepareGpuClusterReport]


@pytest.fixture(scope="module")
def clusters() -> Iterator[SimulatorProcess]:
    """A vCenter with empty clusters: each test fills one."""
    with SimulatorProcess(clusters=14, hosts=0, vms=0, time_scale=120) as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    clusters: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    limits = GateLimits(hosts_down=1, sweep_s=1, holder_grace_s=2)
    queues = TaskQueues(f"cluster-{uuid.uuid4().hex[:8]}")
    folder: Path = tmp_path_factory.mktemp("cluster")
    async with open_lab(clusters, temporal_client, queues, folder, gate_limits=limits) as lab:
        yield lab


_taken = iter(range(1, 15))


@dataclass
class Site:
    """One cluster of its own."""

    lab: Lab
    name: str
    moid: str
    hosts: list[HostRef]

    async def start(self, **options: Any) -> Run:
        order = PrepareGpuClusterInput(
            vcenter=self.lab.vcenter,
            cluster_moid=self.moid,
            cluster_name=self.name,
            profile="training",
            requester="cli:alice",
            **options,
        )
        return await self.lab.client.start_workflow(
            PrepareGpuCluster.run,
            order,
            id=ids.prepare_gpu_cluster(self.lab.vcenter, self.moid),
            task_queue=self.lab.queues.main,
        )

    def child(self, host: HostRef) -> WorkflowHandle[PrepareGpuHost, PrepareGpuHostReport]:
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


def site(lab: Lab, hosts: int = 3, **options: Any) -> Site:
    """The next empty cluster, with hosts of one A100 each; `options` are the first host's."""
    name = f"gpu-{next(_taken):02d}"
    for number in range(hosts):
        lab.add_host(cluster=name, **(options if number == 0 else {}))
    with lab.pool.session() as si:
        found = [each for each in host_index(si, lab.vcenter).hosts if each.cluster_name == name]
    return Site(lab, name, found[0].cluster_moid, sorted((each.ref for each in found), key=lambda ref: ref.name))


async def until(
    run: Run, holds: Callable[[PrepareGpuClusterReport], bool], timeout_s: float = 40
) -> PrepareGpuClusterReport:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        report = await run.query(PrepareGpuCluster.report)
        if holds(report):
            return report
        assert asyncio.get_running_loop().time() < deadline, f"the run says {report.stage}: {report.detail}"
        await asyncio.sleep(0.1)


async def decide(run: Run, approval: Approval, **changes: Any) -> Approval:
    now = datetime.now(UTC)
    claims: dict[str, Any] = {
        "workflow_id": approval.workflow_id,
        "run_id": approval.run_id,
        "plan_hash": approval.plan_hash,
        "verdict": Verdict.APPROVE,
        "approver": "cli:approver",
        "nonce": uuid.uuid4().hex,
        "decided_at": now,
        "expires_at": now + timedelta(hours=1),
    }
    decision = DecisionClaims.model_validate(claims | changes)
    return await run.execute_update(PrepareGpuCluster.decide, Decision(token=sign(decision, KEY)), id=decision.nonce)


async def asked(run: Run) -> Approval:
    report = await until(run, lambda report: report.stage is ClusterStage.AWAITING_APPROVAL)
    return report.approvals[-1]


def states(report: PrepareGpuClusterReport) -> list[HostState]:
    return [host.state for host in report.hosts]


def of(report: PrepareGpuClusterReport, host: HostRef) -> HostProgress:
    return next(each for each in report.hosts if each.host.key == host.key)


async def in_state(run: Run, host: HostRef, state: HostState) -> None:
    await until(run, lambda report: any(each.host.key == host.key and each.state is state for each in report.hosts))


async def test_one_approval_prepares_all_hosts_with_one_down_at_a_time(shared: Lab) -> None:
    cluster = site(shared)
    run = await cluster.start(at_once=3)
    approval = await asked(run)
    assert {step.target.split()[0] for step in approval.plan.steps} == {host.name for host in cluster.hosts}
    assert [shared.reboots(host) for host in cluster.hosts] == [0, 0, 0]
    await decide(run, approval)
    report = await run.result()
    assert report.outcome is ClusterOutcome.PREPARED
    assert states(report) == [HostState.DONE] * 3
    for host in cluster.hosts:
        seen = shared.witness(host)
        assert (seen["active"], seen["label"], seen["maintenance"]) == (True, "Training", False)
        assert shared.reboots(host) == 1
        (own,) = (await cluster.child(host).query(PrepareGpuHost.report)).approvals
        assert (own.state, own.workflow_id, own.approver) == (ApprovalState.APPROVED, run.id, "cli:approver")
    spans = cluster.down_times()
    assert len(spans) == 3
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans


async def test_a_canary_that_fails_stops_the_rest(shared: Lab) -> None:
    cluster = site(shared)
    canary = cluster.hosts[0]
    gpu = shared.witness(canary)["gpu"]
    shared.simulator.act("break_passthrough", host=canary.name, device=gpu)
    run = await cluster.start(at_once=3)
    await decide(run, await asked(run))
    await in_state(run, canary, HostState.RUNNING)
    await shared.until(cluster.child(canary), lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    report = await run.query(PrepareGpuCluster.report)
    assert states(report) == [HostState.RUNNING, HostState.WAITING, HostState.WAITING]
    await cluster.child(canary).execute_update(
        PrepareGpuHost.resolve, Resolve(resolution=Resolution.GIVE_UP, by="cli:test")
    )
    report = await run.result()
    assert report.outcome is ClusterOutcome.STOPPED
    assert states(report) == [HostState.FAILED, HostState.NOT_STARTED, HostState.NOT_STARTED]
    assert "gave up" in report.hosts[0].text
    assert canary.name in report.detail
    assert [shared.reboots(host) for host in cluster.hosts] == [1, 0, 0]


async def test_a_denied_plan_touches_nothing(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    run = await cluster.start()
    await decide(run, await asked(run), verdict="deny")
    report = await run.result()
    assert report.outcome is ClusterOutcome.DENIED
    assert states(report) == [HostState.NOT_STARTED] * 2
    assert [shared.reboots(host) for host in cluster.hosts] == [0, 0]


async def test_each_host_asks_for_itself(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    run = await cluster.start(approval="each", at_once=2)
    first, second = cluster.hosts
    await in_state(run, first, HostState.RUNNING)
    approval = await shared.asked(cluster.child(first))
    assert approval.workflow_id == cluster.child(first).id
    assert (await run.query(PrepareGpuCluster.approval)) is None
    await shared.decide(cluster.child(first), approval)
    await in_state(run, second, HostState.RUNNING)
    await shared.decide(cluster.child(second), await shared.asked(cluster.child(second)), verdict="deny")
    report = await run.result()
    assert report.outcome is ClusterOutcome.PREPARED_IN_PART
    assert [host.outcome for host in report.hosts] == [Outcome.PREPARED, Outcome.DENIED]


async def test_hosts_that_are_right_or_have_no_such_gpu_are_skipped_and_named(shared: Lab) -> None:
    cluster = site(shared, hosts=2, gpus=[])
    bare = next(host for host in cluster.hosts if not _has_gpu(shared, host))
    other = next(host for host in cluster.hosts if host != bare)
    await shared.prepare(other)
    report = await (await cluster.start()).result()
    assert report.outcome is ClusterOutcome.ALREADY_RIGHT
    assert (of(report, other).fit, of(report, bare).fit) == (Fit.RIGHT, Fit.NO_GPU)
    assert "no GPU" in of(report, bare).text
    assert not report.approvals
    assert shared.reboots(other) == 1


def _has_gpu(lab: Lab, host: HostRef) -> bool:
    si = lab.simulator.connect()
    try:
        return bool(lab.system(host, si).config.graphicsInfo)
    finally:
        lab.simulator.disconnect(si)


async def test_pause_starts_no_other_host_until_resume(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    run = await cluster.start()
    approval = await asked(run)
    await run.signal(PrepareGpuCluster.pause, Pause(by="cli:alice"))
    await decide(run, approval)
    report = await until(run, lambda report: report.stage is ClusterStage.PAUSED)
    assert "cli:alice" in report.detail
    await asyncio.sleep(2)
    assert states(await run.query(PrepareGpuCluster.report)) == [HostState.WAITING] * 2
    await run.signal(PrepareGpuCluster.resume, Pause(by="cli:alice"))
    assert (await run.result()).outcome is ClusterOutcome.PREPARED


async def test_a_host_that_changed_since_the_approval_asks_for_itself(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    canary, changed = cluster.hosts
    run = await cluster.start()
    approval = await asked(run)
    # Somebody gives the second host's GPU another label meanwhile: writing it anew was not approved.
    _enable_by_hand(shared, changed, label="Somebody else's")
    await decide(run, approval)
    await in_state(run, changed, HostState.RUNNING)
    own = await shared.asked(cluster.child(changed))
    assert own.workflow_id == cluster.child(changed).id
    assert "set-hardware-label" in {step.kind for step in own.plan.steps}
    assert shared.reboots(changed) == 0
    assert not shared.witness(changed)["maintenance"]
    await shared.decide(cluster.child(changed), own)
    report = await run.result()
    assert report.outcome is ClusterOutcome.PREPARED
    assert of(report, canary).outcome is Outcome.PREPARED
    assert shared.witness(changed)["label"] == "Training"


def _enable_by_hand(lab: Lab, host: HostRef, label: str) -> None:
    gpu = lab.witness(host)["gpu"]
    si = lab.simulator.connect()
    try:
        wanted = vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True, hardwareLabel=label)
        lab.system(host, si).configManager.pciPassthruSystem.UpdatePassthruConfig(config=[wanted])
    finally:
        lab.simulator.disconnect(si)
