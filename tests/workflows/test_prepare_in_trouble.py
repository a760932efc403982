"""Each thing that can be wrong ends in a named error or in a waiting state that says how the host stands."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from contracts.approvals import ApprovalState, ApprovalTerms, Resolution, Resolve
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import HostLimits, Outcome, Stage, StepStatus
from tests.support.lab import Handle, Lab, open_lab, vcenter_settings
from tests.support.simulator import SimulatorProcess
from workflows.prepare_gpu_host import PrepareGpuHost


async def failure(handle: Handle) -> ApplicationError:
    with pytest.raises(WorkflowFailureError) as raised:
        await asyncio.wait_for(handle.result(), 30)
    cause = raised.value.cause
    assert isinstance(cause, ApplicationError)
    return cause


@pytest.mark.parametrize(
    ("options", "profile", "kind", "words"),
    [
        ({"gpus": []}, "training", "NotSupported", "has no GPU"),
        ({"gpus": ["10de:2235"]}, "training", "BadRequest", "profile 'training' wants 10de:20f1"),
        ({}, "trainnig", "BadRequest", "there is no profile 'trainnig'"),
        ({"usb_boot": True}, "training", "NotSupported", "boots from USB"),
        ({"gpu_shares_bridge_with_nic": True}, "training", "NotSupported", "from ESXi, which uses it: uplink"),
    ],
)
async def test_what_can_never_work_fails_at_once_and_changes_nothing(
    lab: Lab, options: dict[str, object], profile: str, kind: str, words: str
) -> None:
    host = lab.add_host(**options)
    error = await failure(await lab.start(host, profile))
    assert error.type == kind
    assert words in error.message
    assert "Nothing was changed" in error.message or kind == "BadRequest"
    assert lab.reboots(host) == 0


async def test_a_host_that_is_not_in_the_inventory_is_named(lab: Lab) -> None:
    gone = HostRef(vcenter=lab.vcenter, key="00000000-0000-0000-0000-000000000000", moid="host-99999", name="esx-gone")
    error = await failure(await lab.start(gone))
    assert error.type == "BadRequest"
    assert "esx-gone" in error.message
    assert "no longer in the inventory" in error.message


async def test_iommu_off_is_waited_for_and_the_run_carries_on_by_itself(lab: Lab) -> None:
    host = lab.add_host(iommu=False)
    handle = await lab.start(host)
    report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
    assert "Host does not support passthrough configuration" in report.detail
    assert "VT-d" in report.detail
    lab.simulator.act("set_iommu", host=host.name, on=True)
    assert (await lab.asked(handle)).state is ApprovalState.PENDING
    await handle.cancel()


async def test_a_disconnected_host_is_waited_for(lab: Lab) -> None:
    host = lab.add_host()
    lab.simulator.act("disconnect_host", host=host.name)
    handle = await lab.start(host)
    report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
    assert "vCenter" in report.detail
    await handle.cancel()


async def test_a_passthrough_that_stays_inactive_after_the_reboot_waits_for_a_person(lab: Lab) -> None:
    host = lab.add_host()
    gpu = lab.witness(host)["gpu"]
    lab.simulator.act("break_passthrough", host=host.name, device=gpu)
    handle = await lab.start(host)
    await lab.decide(handle, await lab.asked(handle))
    report = await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    assert "reboot" in report.detail
    assert "enabled but not active" in report.detail
    assert "maintenance mode and has not taken it out" in report.detail
    assert lab.reboots(host) == 1, "never a second reboot unasked"
    lab.simulator.act("break_passthrough", host=host.name, device=gpu, broken=False)
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.RETRY, by="cli:test"))
    assert (await handle.result()).outcome is Outcome.PREPARED
    assert lab.reboots(host) == 2
    assert not lab.witness(host)["maintenance"]


async def test_a_host_that_does_not_come_back_is_told_truthfully(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    limits = HostLimits(reboot_timeout_s=6, blocked_recheck_s=1)
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, limits=limits) as lab:
        host = lab.add_host()
        lab.simulator.act("hang_reboot", host=host.name)
        handle = await lab.start(host)
        await lab.decide(handle, await lab.asked(handle))
        report = await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
        assert "notResponding" in report.detail
        assert report.steps[-1].status is StepStatus.FAILED
        await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.GIVE_UP, by="cli:test"))
        error = await failure(handle)
        assert error.type == "NeedsHuman"
        assert "gave up" in error.message
        assert "maintenance mode and has not taken it out" in error.message


async def test_a_failed_step_that_nobody_resolves_ends_at_its_deadline(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    limits = HostLimits(reboot_timeout_s=4, resolve_deadline_s=1)
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, limits=limits) as lab:
        host = lab.add_host()
        lab.simulator.act("hang_reboot", host=host.name)
        handle = await lab.start(host)
        await lab.decide(handle, await lab.asked(handle))
        assert "Nobody resolved it in time" in (await failure(handle)).message


async def test_vcenter_going_away_mid_run_costs_time_and_nothing_else(lab: Lab) -> None:
    host = lab.add_host()
    handle = await lab.start(host)
    await lab.decide(handle, await lab.asked(handle))
    await lab.until(handle, lambda report: any(record.step.kind == "reboot" for record in report.steps))
    lab.simulator.outage(3)
    report = await handle.result()
    assert report.outcome is Outcome.PREPARED
    assert lab.reboots(host) == 1


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("method", ["EnterMaintenanceMode_Task", "UpdatePassthruConfig", "RebootHost_Task"])
async def test_a_change_whose_answer_is_lost_happens_once(lab: Lab, method: str, drop: str) -> None:
    host = lab.add_host()
    lab.simulator.add_fault(method=method, drop=drop, times=1)
    report = await lab.prepare(host)
    (rule,) = lab.simulator.control("GET", "/simulator/faults")["faults"]
    lab.simulator.clear_faults()
    assert rule["hits"] == 1, "the answer was lost"
    assert report.outcome is Outcome.PREPARED
    assert lab.reboots(host) == 1


async def test_a_session_that_vcenter_ended_is_renewed(lab: Lab) -> None:
    host = lab.add_host()
    handle = await lab.start(host)
    approval = await lab.asked(handle)
    assert lab.simulator.kill_sessions() > 0
    await lab.decide(handle, approval)
    assert (await handle.result()).outcome is Outcome.PREPARED


async def test_a_wrong_password_names_vcenter_user_and_source(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    settings = vcenter_settings(fast_vcenter, tmp_path)
    wrong = tmp_path / "wrong-password"
    wrong.write_text("nope")
    settings = settings.model_copy(update={"password_file": wrong})
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, vcenter=settings) as lab:
        host = HostRef(vcenter=lab.vcenter, key="k", moid="host-1", name="esx-01")
        error = await failure(await lab.start(host))
        assert error.type == "BadRequest"
        for word in (lab.vcenter, fast_vcenter.user, str(wrong)):
            assert word in error.message
        assert "nope" not in error.message


async def test_an_untrusted_certificate_is_refused_with_its_fix(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    settings = vcenter_settings(fast_vcenter, tmp_path).model_copy(update={"ca_file": None})
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, vcenter=settings) as lab:
        host = HostRef(vcenter=lab.vcenter, key="k2", moid="host-1", name="esx-01")
        error = await failure(await lab.start(host))
        assert error.type == "BadRequest"
        assert "ca_file" in error.message


async def test_a_cancelled_run_says_how_it_left_the_host(lab: Lab) -> None:
    host = lab.add_host()
    lab.simulator.act("slow_reboot", host=host.name, seconds=1200)
    handle = await lab.start(host)
    await lab.decide(handle, await lab.asked(handle))
    await lab.until(handle, lambda report: any(record.step.kind == "reboot" for record in report.steps))
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, CancelledError)
    report = await handle.query(PrepareGpuHost.report)
    assert "Cancelled" in report.detail
    assert "maintenance mode and has not taken it out" in report.detail


# -- approvals ------------------------------------------------------------------------------------------------------


async def refused(call: Callable[[], object]) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as raised:
        await call()  # type: ignore[misc]
    return str(raised.value.cause)


async def test_decisions_that_do_not_count_are_refused_with_the_reason(lab: Lab) -> None:
    host = lab.add_host()
    handle = await lab.start(host, requester="cli:alice")
    approval = await lab.asked(handle)
    stranger = Ed25519PrivateKey.generate()
    assert "not trusted" in await refused(lambda: lab.decide(handle, approval, key=stranger))
    assert "another person" in await refused(lambda: lab.decide(handle, approval, approver="cli:alice"))
    assert "the plan changed" in await refused(lambda: lab.decide(handle, approval, plan_hash="0" * 32))
    assert "not for this run" in await refused(lambda: lab.decide(handle, approval, run_id="an-earlier-run"))
    assert (await lab.asked(handle)).state is ApprovalState.PENDING
    assert lab.witness(host)["maintenance"] is False
    await handle.cancel()


async def test_a_repeated_decision_counts_once(lab: Lab) -> None:
    host = lab.add_host()
    handle = await lab.start(host)
    approval = await lab.asked(handle)
    first = await lab.decide(handle, approval, nonce="the-same-decision")
    assert await lab.decide(handle, approval, nonce="the-same-decision") == first
    assert "approved already" in await refused(lambda: lab.decide(handle, approval, verdict="deny"))
    assert (await handle.result()).outcome is Outcome.PREPARED


async def test_an_approval_expires_at_its_deadline(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, terms=ApprovalTerms(deadline_s=1)) as lab:
        host = lab.add_host()
        report = await (await lab.start(host)).result()
        assert report.outcome is Outcome.EXPIRED
        assert report.approvals[-1].state is ApprovalState.EXPIRED
        assert lab.reboots(host) == 0


async def test_a_plan_that_changed_while_it_waited_is_asked_again(lab: Lab) -> None:
    host = lab.add_host(rebind_without_reboot=True)
    handle = await lab.start(host)
    first = await lab.asked(handle)
    # Meanwhile somebody puts a second card's worth of work on the table: the label wanted is not the only change.
    lab.simulator.act("set_maintenance", host=host.name, on=True)
    await lab.decide(handle, first)
    report = await handle.result()
    # Maintenance mode is somebody else's now: fewer steps than approved, none that was not, and it is not exited.
    assert [record.step.kind for record in report.steps] == ["enable-passthrough"]
    assert lab.witness(host)["maintenance"]


async def test_a_grant_that_ran_out_is_asked_for_again(lab: Lab) -> None:
    host = lab.add_host()
    handle = await lab.start(host)
    first = await lab.asked(handle)
    await lab.decide(handle, first, expires_at=datetime.now(UTC))
    report = await lab.until(handle, lambda report: len(report.approvals) == 2)
    assert report.approvals[-1].state is ApprovalState.PENDING
    await lab.decide(handle, report.approvals[-1])
    assert (await handle.result()).outcome is Outcome.PREPARED


async def test_a_policy_of_the_worker_can_approve_by_itself(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, terms=ApprovalTerms(automatic=True)) as lab:
        report = await (await lab.start(lab.add_host())).result()
        assert report.outcome is Outcome.PREPARED
        assert report.approvals[-1].approver == "policy:auto_approve"
