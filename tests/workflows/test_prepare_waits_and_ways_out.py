"""Windows, leases, and what a person can do about a failed step."""

import asyncio
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyVmomi import vim
from temporalio.client import Client

from contracts.approvals import Resolution, Resolve
from contracts.gate import GateLimits
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import Outcome, Stage, StepStatus
from contracts.windows import Window
from tests.support.lab import Handle, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.passthrough import set_label
from workflows.prepare_gpu_host import PrepareGpuHost


@pytest.fixture(scope="module")
def own_vcenter() -> Iterator[SimulatorProcess]:
    """A cluster of its own, because its gate counts every host that is down."""
    with SimulatorProcess(clusters=1, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        yield simulator


async def stuck_after_reboot(lab: Lab, label: str = "") -> tuple[HostRef, Handle]:
    """A run whose device, with that label before, stays inactive after its reboot, waiting for a person."""
    host = lab.add_host()
    with lab.pool.session() as si:
        set_label(si, host, lab.witness(host)["gpu"], label)
    lab.simulator.act("break_passthrough", host=host.name, device=lab.witness(host)["gpu"])
    handle = await lab.start(host)
    await lab.decide(handle, await lab.asked(handle))
    await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    return host, handle


async def test_a_skipped_step_is_left_out_and_the_host_given_back(lab: Lab) -> None:
    host, handle = await stuck_after_reboot(lab)
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.SKIP, by="cli:test"))
    report = await handle.result()
    assert report.outcome is Outcome.PREPARED_IN_PART
    skipped = [record for record in report.steps if record.status is StepStatus.SKIPPED]
    assert [(record.step.kind, record.text) for record in skipped] == [("reboot", "skipped by cli:test")]
    seen = lab.witness(host)
    assert (seen["maintenance"], seen["enabled"], seen["active"]) == (False, True, False)
    assert lab.reboots(host) == 1


async def test_restoring_puts_back_what_the_run_changed_after_asking(lab: Lab) -> None:
    host, handle = await stuck_after_reboot(lab, label="Before")
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.RESTORE, by="cli:test"))
    report = await lab.until(handle, lambda report: len(report.approvals) == 2)
    assert "disable-passthrough" in [step.kind for step in report.approvals[-1].plan.steps]
    await lab.decide(handle, report.approvals[-1])
    report = await handle.result()
    assert report.outcome is Outcome.RESTORED
    seen = lab.witness(host)
    assert (seen["enabled"], seen["active"], seen["maintenance"]) == (False, False, False)
    assert seen["label"] == "Before"


async def test_an_approved_run_waits_for_its_window(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    opens = datetime.now(UTC) + timedelta(seconds=12)
    window = Window.model_validate({"from": opens.time(), "to": (opens + timedelta(hours=1)).time()})
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, windows=(window,)) as lab:
        host = lab.add_host()
        handle = await lab.start(host)
        await lab.decide(handle, await lab.asked(handle))
        report = await lab.until(handle, lambda report: report.stage is Stage.AWAITING_WINDOW)
        assert f"{opens:%H:%M}" in report.detail
        assert (await handle.result()).outcome is Outcome.PREPARED
        (entered,) = lab.vcenter_events(host, vim.event.EnteredMaintenanceModeEvent)
        assert entered.createdTime >= opens


async def test_no_more_hosts_of_a_cluster_are_down_at_once_than_allowed(
    own_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    limits = GateLimits(hosts_down=1, sweep_s=1, holder_grace_s=2)
    async with open_lab(own_vcenter, temporal_client, queues, tmp_path, gate_limits=limits) as lab:
        hosts = [lab.add_host() for _ in range(3)]
        handles = [await lab.start(host) for host in hosts]
        for handle in handles:
            await lab.decide(handle, await lab.asked(handle))
        waiting = await asyncio.gather(
            *(lab.until(handle, lambda report: report.stage is not Stage.AWAITING_APPROVAL) for handle in handles)
        )
        assert waiting
        reports = await asyncio.gather(*(handle.result() for handle in handles))
        assert [report.outcome for report in reports] == [Outcome.PREPARED] * 3
        spans = []
        for host in hosts:
            (entered,) = lab.vcenter_events(host, vim.event.EnteringMaintenanceModeEvent)
            (left,) = lab.vcenter_events(host, vim.event.ExitMaintenanceModeEvent)
            spans.append((entered.createdTime, left.createdTime))
        spans.sort()
        for (_, end), (begin, _) in itertools.pairwise(spans):
            assert end <= begin, f"two hosts were down at once: {spans}"
