"""PrepareGpuCluster rolls through a cluster's hosts with one approval or one each, and stops when it should."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyVmomi import vim
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from activities.permits import plan_subject
from contracts.approvals import ApprovalState, ApprovalTerms, DecisionClaims, Resolution, Resolve, Verdict
from contracts.cluster import (
    ClusterOutcome,
    ClusterPlan,
    ClusterStage,
    Fit,
    HostProgress,
    HostState,
    Pause,
    PrepareGpuClusterReport,
)
from contracts.cluster_grant import ClusterGrant
from contracts.gate import GateLimits
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.plan import Plan, Step, plan_hash
from contracts.prepare import Outcome, PrepareGpuHostInput, Stage
from contracts.signing import sign
from tests.support.lab import Lab, open_lab
from tests.support.rollouts import asked, decide, in_state, of, site, states, until
from tests.support.simulator import SimulatorProcess
from workflows.cluster_story import tell_cluster
from workflows.prepare_gpu_cluster import PrepareGpuCluster
from workflows.prepare_gpu_host import PrepareGpuHost


@pytest.fixture(scope="module")
def clusters() -> Iterator[SimulatorProcess]:
    """A vCenter with empty clusters: each test fills one."""
    with SimulatorProcess(clusters=20, hosts=0, vms=0, time_scale=120) as simulator:
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


async def test_where_policy_approves_nobody_is_asked(
    clusters: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with open_lab(clusters, temporal_client, queues, tmp_path, terms=ApprovalTerms(automatic=True)) as lab:
        cluster = site(lab, hosts=2)
        report = await (await cluster.start(at_once=2)).result()
        assert report.outcome is ClusterOutcome.PREPARED
        (approval,) = report.approvals
        assert approval.approver == "policy:auto_approve"
        for host in cluster.hosts:
            (own,) = (await cluster.child(host).query(PrepareGpuHost.report)).approvals
            assert own.workflow_id == approval.workflow_id


async def test_a_cluster_without_such_gpus_is_refused_with_its_hosts(shared: Lab) -> None:
    cluster = site(shared, hosts=1, gpus=["10de:2235"])
    with pytest.raises(WorkflowFailureError) as raised:
        await (await cluster.start()).result()
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "NotSupported"
    assert cluster.hosts[0].name in cause.message


async def test_a_host_with_something_in_the_way_is_left_out_by_name(shared: Lab) -> None:
    cluster = site(shared, hosts=2, iommu=False)
    run = await cluster.start()
    approval = await asked(run)
    (blocked,) = [each for each in (await run.query(PrepareGpuCluster.report)).hosts if each.fit is Fit.BLOCKED]
    assert any(f"{blocked.host.name} is left out" in note and "VT-d" in note for note in approval.plan.notes)
    await decide(run, approval)
    report = await run.result()
    assert report.outcome is ClusterOutcome.PREPARED_IN_PART
    assert sorted(states(report)) == [HostState.DONE, HostState.SKIPPED]
    assert not shared.witness(blocked.host)["maintenance"]


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


async def test_a_forged_approval_of_a_cluster_changes_nothing(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    run = await cluster.start()
    approval = await asked(run)
    now = datetime.now(UTC)
    claims = DecisionClaims(
        workflow_id=run.id,
        run_id=approval.run_id,
        plan_hash=approval.plan_hash,
        verdict=Verdict.APPROVE,
        approver="cli:mallory",
        nonce="n",
        decided_at=now,
        expires_at=now + timedelta(hours=1),
    )
    host = cluster.hosts[0]
    plan = Plan(steps=tuple(step for step in approval.plan.steps if step.target.startswith(host.name)))
    for number, token in enumerate((sign(claims, Ed25519PrivateKey.generate()), "not a token")):
        plain = plan.model_copy(update={"steps": tuple(_unnamed(step, host) for step in plan.steps)})
        grant = ClusterGrant(
            token=token, plan_hash=approval.plan_hash, hosts=((host.key, plan_hash(plan_subject(host), plain)),)
        )
        order = PrepareGpuHostInput(
            host=host, profile="training", requester="raw", cluster_grant=grant, approved_plan=plain
        )
        own = await shared.client.start_workflow(
            PrepareGpuHost.run, order, id=cluster.child(host).id, task_queue=shared.queues.main
        )
        if number == 0:
            report = await shared.until(own, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
            assert "not trusted" in report.detail
        else:
            await shared.asked(own)
        assert not shared.witness(host)["maintenance"]
        assert not shared.vcenter_events(host, vim.event.EnteringMaintenanceModeEvent)
        await own.terminate()
    await decide(run, approval, verdict="deny")
    await run.result()


def _unnamed(step: Step, host: HostRef) -> Step:
    target = step.target.removeprefix(host.name).strip() or host.name
    return step.model_copy(update={"target": target})


_COMPLETED = "activity_task_completed_event_attributes"


async def test_a_grant_copied_out_of_a_history_reboots_nothing(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    first, second = cluster.hosts
    run = await cluster.start()
    approval = await asked(run)
    await decide(run, approval)
    await in_state(run, first, HostState.RUNNING)
    await run.signal(PrepareGpuCluster.pause, Pause(by="cli:alice"))
    await in_state(run, first, HostState.DONE)
    converter = shared.client.data_converter
    began = (await anext(cluster.child(first).fetch_history_events())).workflow_execution_started_event_attributes
    (theirs,) = await converter.decode(began.input.payloads, [PrepareGpuHostInput])
    looked = [event async for event in run.fetch_history_events() if event.HasField(_COMPLETED)]
    (plan,) = await converter.decode(getattr(looked[0], _COMPLETED).result.payloads, [ClusterPlan])
    own = await shared.client.start_workflow(
        PrepareGpuHost.run,
        theirs.model_copy(update={"host": second, "approved_plan": plan.lacking[1].plan}),
        id=cluster.child(second).id,
        task_queue=shared.queues.main,
    )
    report = await shared.until(own, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    assert f"{own.id} was started by no workflow" in report.detail
    assert "Conflict: enter-maintenance" in report.detail
    assert not shared.vcenter_events(second, vim.event.EnteringMaintenanceModeEvent)
    assert shared.reboots(second) == 0
    await own.terminate()
    await run.signal(PrepareGpuCluster.resume, Pause(by="cli:alice"))
    assert (await run.result()).outcome is ClusterOutcome.PREPARED, "the same grant serves the run's own children"


async def test_a_live_preparation_is_waited_for_and_counts(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    first, second = cluster.hosts
    own = await shared.start(first)
    waiting = await shared.asked(own)
    run = await cluster.start()
    await decide(run, await asked(run))
    await in_state(run, first, HostState.JOINED)
    await shared.decide(own, waiting)
    report = await run.result()
    assert report.outcome is ClusterOutcome.PREPARED
    assert [shared.reboots(host) for host in (first, second)] == [1, 1]


async def test_what_a_joined_preparation_leaves_undone_is_done_after_it(shared: Lab) -> None:
    cluster = site(shared, hosts=1)
    (host,) = cluster.hosts
    own = await shared.start(host)
    waiting = await shared.asked(own)
    run = await cluster.start()
    await decide(run, await asked(run))
    await in_state(run, host, HostState.JOINED)
    await shared.decide(own, waiting, verdict="deny")
    report = await run.result()
    assert report.outcome is ClusterOutcome.PREPARED
    assert shared.reboots(host) == 1


async def test_cancel_ends_the_runs_of_its_hosts_and_starts_no_other(shared: Lab) -> None:
    cluster = site(shared, hosts=3)
    run = await cluster.start(approval="each", canary=0, at_once=2)
    for host in cluster.hosts[:2]:
        await in_state(run, host, HostState.RUNNING)
        await shared.asked(cluster.child(host))
    await run.cancel()
    with pytest.raises(WorkflowFailureError) as raised:
        await run.result()
    assert isinstance(raised.value.cause, CancelledError)
    for host in cluster.hosts[:2]:
        assert (await cluster.child(host).describe()).status is WorkflowExecutionStatus.CANCELED
    report = await run.query(PrepareGpuCluster.report)
    assert report.stage is ClusterStage.FINISHED
    assert states(report) == [HostState.FAILED, HostState.FAILED, HostState.NOT_STARTED]


async def test_after_too_many_failures_no_other_host_is_started_and_running_ones_end(shared: Lab) -> None:
    cluster = site(shared, hosts=4)
    run = await cluster.start(approval="each", canary=0, at_once=2, max_failures=2)
    one, two, three, four = cluster.hosts
    for host in (one, two):
        await in_state(run, host, HostState.RUNNING)
    await cluster.child(one).cancel()
    await in_state(run, three, HostState.RUNNING)
    await cluster.child(two).terminate()
    report = await until(run, lambda report: report.stage is ClusterStage.STOPPING)
    assert "2 failed" in report.detail
    assert [of(report, host).state for host in (three, four)] == [HostState.RUNNING, HostState.WAITING]
    await shared.decide(cluster.child(three), await shared.asked(cluster.child(three)))
    report = await run.result()
    assert report.outcome is ClusterOutcome.STOPPED
    assert [of(report, host).state for host in cluster.hosts] == [
        HostState.FAILED,
        HostState.FAILED,
        HostState.DONE,
        HostState.NOT_STARTED,
    ]
    assert "cancelled" in of(report, one).text


async def test_the_temporal_ui_finds_and_shows_the_rollout(shared: Lab) -> None:
    cluster = site(shared, hosts=2)
    run = await cluster.start()
    approval = await asked(run)
    details = (await run.query("__temporal_workflow_metadata")).current_details
    assert f"gpuwright approvals approve {run.id}" in details
    assert all(f"| {host.name} | · waiting" in details for host in cluster.hosts)
    await decide(run, approval)
    await run.result()
    found = {pair.key.name: pair.value for pair in (await run.describe()).typed_search_attributes}
    assert (found["GpuCluster"], found["GpuStage"], found["GpuApproval"]) == (cluster.name, "finished", "approved")
    details = (await run.query("__temporal_workflow_metadata")).current_details
    assert "✔ done (canary) | prepared" in details


def test_the_largest_cluster_fits_into_the_details() -> None:
    hosts = tuple(
        HostProgress(
            host=HostRef(vcenter="vc", key=f"k{n}", moid=f"host-{n}", name=f"esx-{n:03d}.gpu.example.com"),
            fit=Fit.LACKS,
            state=HostState.FAILED,
            text="NeedsHuman: " + "every word counts " * 40,
        )
        for n in range(96)
    )
    report = PrepareGpuClusterReport(
        vcenter="vc",
        cluster_moid="domain-c1",
        cluster_name="gpu",
        profile="training",
        requester="cli:alice",
        stage=ClusterStage.ROLLING,
        hosts=hosts,
    )
    told = tell_cluster(report)
    assert len(told.encode()) <= 16_384
    assert "esx-095" in told
