"""A rollout of a vGPU profile: the manager goes onto every host, one host fails, and hosts may have both modes."""

import uuid
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from contracts.approvals import Resolution, Resolve
from contracts.cluster import ClusterOutcome, HostState
from contracts.gate import GateLimits
from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport, Stage
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from tests.support.lab import Lab, open_lab
from tests.support.rollouts import asked, decide, in_state, of, site, states
from tests.support.simulator import SimulatorProcess
from workflows.prepare_gpu_host import PrepareGpuHost

A40 = "10de:2235"
BUNDLE = "NVD-VGPU-800_550.54.16-1OEM.800.1.0.20613240"
VGPU = GpuWanted(match=A40, mode=GpuMode.VGPU)
WHOLE = GpuWanted(match=A40, mode=GpuMode.PASSTHROUGH, label="Whole", count=1)


@pytest.fixture(scope="module")
def clusters() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=2, hosts=0, vms=0, time_scale=600) as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(
    clusters: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    depot = clusters.control("GET", "/simulator/depots")["depots"][BUNDLE]
    manager = VgpuManager(
        name="NVD-VGPU_ESXi_8.0.0_Driver",
        version=">=550",
        depot=f"https://{clusters.host}:{clusters.port}{depot['url']}",
        sha256=depot["sha256"],
    )
    profiles = (
        Profile(name="inference", gpus=(VGPU,), vgpu_manager=manager),
        Profile(name="mixed", gpus=(WHOLE, VGPU), vgpu_manager=manager),
    )
    queues = TaskQueues(f"cluster-vgpu-{uuid.uuid4().hex[:8]}")
    limits = GateLimits(hosts_down=1, sweep_s=1, holder_grace_s=2)
    folder: Path = tmp_path_factory.mktemp("cluster-vgpu")
    async with open_lab(clusters, temporal_client, queues, folder, profiles=profiles, gate_limits=limits) as made:
        yield made


def kinds(report: PrepareGpuHostReport) -> list[str]:
    return [record.step.kind for record in report.steps]


async def test_a_host_that_does_not_take_the_manager_is_restored_and_the_others_offer_profiles(lab: Lab) -> None:
    cluster = site(lab, number=1, gpus_each=[A40])
    canary, broken, last = cluster.hosts
    patching = f"ha-host-patch-manager-{broken.moid.removeprefix('host-')}"
    lab.simulator.add_fault(method="InstallHostPatchV2_Task", object=patching, error="PlatformConfigFault")
    run = await cluster.start(profile="inference", at_once=2, max_failures=2)
    approval = await asked(run)
    assert [step.kind for step in approval.plan.steps].count("install-vgpu-manager") == 3
    await decide(run, approval)
    own = cluster.child(broken)
    await in_state(run, broken, HostState.RUNNING)
    report = await lab.until(own, lambda report: report.stage is Stage.AWAITING_RESOLUTION, timeout_s=60)
    assert "install-vgpu-manager" in report.detail
    await own.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.RESTORE, by="cli:test"))
    # Nothing was changed yet but the maintenance mode, and leaving that was approved.
    rollout = await run.result()
    assert rollout.outcome is ClusterOutcome.PREPARED_IN_PART
    assert [of(rollout, host).outcome for host in cluster.hosts] == [
        Outcome.PREPARED,
        Outcome.RESTORED,
        Outcome.PREPARED,
    ]
    assert states(rollout) == [HostState.DONE, HostState.FAILED, HostState.DONE]
    for host in (canary, last):
        done = await cluster.child(host).query(PrepareGpuHost.report)
        assert kinds(done).count("install-vgpu-manager") == 1
        assert [(gpu.mode, gpu.right) for gpu in done.gpus] == [("vgpu", True)]
        assert any(profile.startswith("nvidia_a40-") for profile in done.gpus[0].profiles)
        assert lab.reboots(host) == 1
    assert not lab.witness(broken)["maintenance"]
    spans = cluster.down_times()
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans


async def test_every_host_gets_one_card_in_passthrough_and_one_as_vgpu(lab: Lab) -> None:
    cluster = site(lab, hosts=2, number=2, gpus_each=[A40, A40])
    run = await cluster.start(profile="mixed", at_once=2)
    await decide(run, await asked(run))
    assert (await run.result()).outcome is ClusterOutcome.PREPARED
    for host in cluster.hosts:
        done = await cluster.child(host).query(PrepareGpuHost.report)
        assert [(gpu.mode, gpu.label, gpu.right) for gpu in done.gpus] == [
            ("passthrough", "Whole", True),
            ("vgpu", None, True),
        ]
        assert lab.reboots(host) == 1
