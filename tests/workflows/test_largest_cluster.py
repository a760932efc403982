"""What a rollout says stays within Temporal's limits for 64 hosts of eight GPUs, whatever is to be done on each."""

from datetime import UTC, datetime

import pytest
from pydantic import BaseModel
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.permits import plan_subject
from contracts.approvals import Approval
from contracts.cluster import (
    ClusterHost,
    ClusterPlan,
    ClusterStage,
    Fit,
    HostProgress,
    HostState,
    PrepareGpuClusterReport,
)
from contracts.cluster_grant import cluster_plan_hash
from contracts.host import HostRef, HostVm
from contracts.plan import plan_hash
from contracts.prepare import PrepareGpuHostInput, StepOrder
from contracts.profiles import GpuMode, GpuWanted, Profile
from planning.host import plan_host
from tests.support.hosts import a100, host
from workflows.cluster_story import tell_cluster

HOSTS, GPUS, VMS = 64, 8, 40
LONGEST_PAYLOAD = 2 * 2**20
LONGEST_DETAILS = 16_384
TOKEN = "t" * 900
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PASSTHROUGH = Profile(
    name="training", gpus=(GpuWanted(match="10de:20f1", mode=GpuMode.PASSTHROUGH, label="Training whole A100"),)
)
MIG = Profile(name="inference", gpus=(GpuWanted(match="10de:20f1", mode=GpuMode.VGPU_MIG),), vgpu_manager="absent")


def cluster_plan(profile: Profile) -> ClusterPlan:
    """Every host lacks everything, and is full of VMs with long names."""
    hosts = tuple(one_host(number, profile) for number in range(HOSTS))
    hashes = tuple((each.host.key, each.plan_hash) for each in hosts)
    return ClusterPlan(cluster_name="gpu", hosts=hosts, plan_hash=cluster_plan_hash("vc", "domain-c1", hashes))


def one_host(number: int, profile: Profile) -> ClusterHost:
    ref = HostRef(
        vcenter="vcenter-frankfurt-01",
        key=f"4c4c4544-0044-4b10-8034-{number:012d}",
        moid=f"host-{1000 + number}",
        name=f"esx-gpu-rack12-{number:03d}.frankfurt.datacenter.example.com",
    )
    gpus = [a100(f"0000:{0x81 + gpu:02x}:00.0") for gpu in range(GPUS)]
    vms = tuple(
        HostVm(moid=f"vm-{vm}", name=f"customer-project-{number:03d}-worker-{vm:03d}", powered_on=True)
        for vm in range(VMS)
    )
    plan = plan_host(host(*gpus, ref=ref, vms=vms), profile)
    assert len(plan.steps) >= GPUS
    return ClusterHost(host=ref, fit=Fit.LACKS, plan=plan, plan_hash=plan_hash(plan_subject(ref), plan))


@pytest.mark.parametrize("profile", [PASSTHROUGH, MIG], ids=lambda profile: profile.name)
async def test_every_message_of_the_largest_cluster_fits(profile: Profile) -> None:
    plan = cluster_plan(profile)
    approval = Approval(
        workflow_id="prepare-gpu-cluster/vc/domain-c1",
        run_id="r" * 36,
        subject="prepare gpu",
        requester="cli:alice",
        reason="why " * 50,
        plan=plan.shown,
        plan_hash=plan.plan_hash,
        asked_at=NOW,
        deadline=NOW,
    )
    report = PrepareGpuClusterReport(
        vcenter="vc",
        cluster_moid="domain-c1",
        cluster_name="gpu",
        profile=profile.name,
        requester="cli:alice",
        stage=ClusterStage.AWAITING_APPROVAL,
        hosts=tuple(
            HostProgress(host=each.host, fit=each.fit, state=HostState.FAILED, text="NeedsHuman: " + "word " * 400)
            for each in plan.hosts
        ),
        approvals=(approval,),
    )
    one = plan.hosts[0]
    grant = plan.grant(TOKEN)
    child = PrepareGpuHostInput(
        host=one.host, profile=profile.name, requester="cli:alice", cluster_grant=grant, approved_plan=one.plan
    )
    order = StepOrder(
        host=one.host,
        step=one.plan.steps[0],
        plan=one.plan,
        plan_hash=one.plan_hash,
        grant=TOKEN,
        cluster_grant=grant,
    )
    sizes = {type(each).__name__: await size(each) for each in (plan, approval, report, child, order)}
    assert max(sizes.values()) <= LONGEST_PAYLOAD, sizes
    assert len(tell_cluster(report).encode()) <= LONGEST_DETAILS


async def size(message: BaseModel) -> int:
    """Bytes of the message as Temporal keeps it."""
    (payload,) = await pydantic_data_converter.encode([message])
    return payload.ByteSize()
