"""Many hosts at once on one worker: those that wait keep back nobody who could go on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from contracts.approvals import ApprovalTerms
from contracts.names import TaskQueues
from contracts.plan import StepKind
from contracts.prepare import HostLimits, Outcome, PrepareGpuHostReport, StepStatus
from tests.support.lab import Lab, open_lab
from tests.support.simulator import SimulatorProcess
from workers import assembly

SHORT, WAITING, SPARE = 4, 12, 2
"""Slots for short activities, hosts that hang in their reboots, and slots for waits that these leave free."""
PATIENCE_S = 60


@pytest_asyncio.fixture(loop_scope="session")
async def lab(
    fast_vcenter: SimulatorProcess, temporal_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    """Few slots and patient limits; policy approves."""
    monkeypatch.setattr(assembly, "MAIN_SLOTS", SHORT)
    monkeypatch.setattr(assembly, "WAIT_SLOTS", WAITING + SPARE)
    terms = ApprovalTerms(automatic=True)
    limits = HostLimits(reboot_timeout_s=600, maintenance_timeout_s=600)
    queues = TaskQueues("side-by-side")
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, terms=terms, limits=limits) as made:
        yield made


def reboots_now(report: PrepareGpuHostReport) -> bool:
    return any(record.step.kind is StepKind.REBOOT and record.status is StepStatus.RUNNING for record in report.steps)


async def test_more_hosts_that_wait_for_their_reboot_than_slots_do_not_hold_up_a_new_one(lab: Lab) -> None:
    slow = [lab.add_host() for _ in range(WAITING)]
    for host in slow:
        lab.simulator.act("hang_reboot", host=host.name)
    handles = await asyncio.gather(*(lab.start(host) for host in slow))
    await asyncio.gather(*(lab.until(handle, reboots_now, PATIENCE_S) for handle in handles))

    fresh = lab.add_host()
    report = await asyncio.wait_for((await lab.start(fresh)).result(), PATIENCE_S)
    assert report.outcome is Outcome.PREPARED
    assert lab.reboots(fresh) == 1
    assert all(map(reboots_now, await asyncio.gather(*(lab.until(handle, lambda _: True) for handle in handles))))

    for host in slow:
        lab.simulator.act("restore_host", host=host.name)
    reports = await asyncio.wait_for(asyncio.gather(*(handle.result() for handle in handles)), PATIENCE_S)
    assert [report.outcome for report in reports] == [Outcome.PREPARED] * WAITING
    assert [lab.reboots(host) for host in slow] == [1] * WAITING
