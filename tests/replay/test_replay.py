"""Runs that older releases started, and that may still wait for somebody, go on with today's code."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from workers.assembly import workflow_runner
from workflows.cluster_gate import ClusterGate
from workflows.cluster_snapshots import ClusterSnapshots
from workflows.deliver_notice import DeliverNotice
from workflows.forward_events import ForwardEvents
from workflows.ha_recovery_audit import HaRecoveryAudit
from workflows.prepare_gpu_cluster import PrepareGpuCluster
from workflows.prepare_gpu_host import PrepareGpuHost
from workflows.provision_gpu_vm import ProvisionGpuVm
from workflows.provision_gpu_vms import ProvisionGpuVms
from workflows.reconcile_fleet import ReconcileFleet
from workflows.retire_gpu_vm import RetireGpuVm
from workflows.rule_throttle import RuleThrottle
from workflows.watch_vcenter import WatchVCenter

HISTORIES = sorted(Path(__file__).parent.glob("*/*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_a_recorded_history_replays(path: Path) -> None:
    replayer = Replayer(
        workflows=[
            PrepareGpuHost,
            PrepareGpuCluster,
            ProvisionGpuVm,
            ProvisionGpuVms,
            RetireGpuVm,
            ReconcileFleet,
            WatchVCenter,
            ForwardEvents,
            DeliverNotice,
            ClusterGate,
            RuleThrottle,
            HaRecoveryAudit,
            ClusterSnapshots,
        ],
        data_converter=pydantic_data_converter,
        workflow_runner=workflow_runner(),
    )
    await replayer.replay_workflow(WorkflowHistory.from_json(f"replay-{path.stem}", path.read_text()))


def test_there_are_histories_of_every_wait() -> None:
    names = {path.stem for path in HISTORIES}
    for wait in ("awaiting_approval", "blocked", "rebooting", "awaiting_resolution"):
        assert f"prepare_gpu_host.open_{wait}" in names
    for wait in ("awaiting_approval", "rolling", "paused", "joined"):
        assert f"prepare_gpu_cluster.open_{wait}" in names
    for gate in ("idle", "open_leased", "open_swept", "freed", "open_continued", "open_taken_over"):
        assert f"cluster_gate.{gate}" in names
    for throttle in ("open_waiting_for_room", "open_quiet", "open_suppressed", "open_continued", "ended"):
        assert f"rule_throttle.{throttle}" in names
    for watch in ("open_following", "stopped", "open_continued", "open_after_gap", "open_redriven", "open_unreachable"):
        assert f"watch_vcenter.{watch}" in names
    for notice in ("told", "given_up", "open_channel_down"):
        assert f"deliver_notice.{notice}" in names
    for forward in ("open_forwarding", "open_waiting", "open_told", "open_after_gap", "open_continued", "stopped"):
        assert f"forward_events.{forward}" in names
    for look in ("open_looking", "proposed", "declined", "acted"):
        assert f"reconcile_fleet.{look}" in names
    assert {"cluster_snapshots.open_kept", "cluster_snapshots.ended"} <= names
    for wait in ("awaiting_approval", "awaiting_guest", "awaiting_an_answer"):
        assert f"provision_gpu_vm.open_{wait}" in names
    for end in ("provisioned", "refused", "undone", "cancelled"):
        assert f"provision_gpu_vm.{end}" in names
    assert {"retire_gpu_vm.retired", "retire_gpu_vm.open_awaiting_approval"} <= names
    for end in ("provisioned_in_part", "refused", "open_provisioning", "cancelled"):
        assert f"provision_gpu_vms.{end}" in names
    for audit in ("settling", "awaiting_approval", "awaiting_host", "host_back", "recovering"):
        assert f"ha_recovery_audit.open_{audit}" in names
    for end in ("recovered", "denied_and_cancelled"):
        assert f"ha_recovery_audit.{end}" in names
