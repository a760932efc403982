"""A VM that is there gets other GPUs, with approval; and where policy says so, new VMs are asked for too."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.machine import VCenterVmActivities
from contracts.approvals import ApprovalState, ApprovalTerms
from contracts.errors import Conflict
from contracts.names import TaskQueues
from contracts.plan import Plan, Risk, Step, StepKind, plan_hash
from contracts.provision import VmLimits, VmOutcome, VmStepOrder, VmWork
from contracts.signing import Keyring
from contracts.vms import DriverPolicy, DynamicGpu, GuestDriver, VgpuGpu, VmRequest
from tests.support.lab import A100, open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.vms import PROFILE, TEMPLATE, VmLab
from vsphere.settings import GuestCredentials


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=3, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        simulator.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vms(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VmLab]:
    folder = tmp_path_factory.mktemp("change")
    (folder / "guest").write_text("simulator")
    guests = {"ubuntu": GuestCredentials(user="root", password_file=folder / "guest")}
    async with open_lab(vcenter, temporal_client, TaskQueues("change"), folder, guests=guests) as lab:
        yield VmLab(lab)


async def test_a_running_vm_goes_from_a_whole_gpu_to_a_share_and_back_each_with_approval(vms: VmLab) -> None:
    whole, shared = vms.ready_host("swap"), vms.vgpu_host("gpu-01")
    before = vms.dynamic("swap")
    made = await vms.provisioned(before)
    assert made.host == whole.name
    wanted = changed(before, VgpuGpu(profile=PROFILE))
    handle = await vms.provision(wanted, VmWork.CHANGE)
    approval = await vms.asked(handle)
    kinds = [step.kind for step in approval.plan.steps]
    assert kinds[0] == "shut-down-guest"
    assert "set-vm-gpus" in kinds
    report = await vms.approved(handle)
    assert report.outcome is VmOutcome.CHANGED
    assert report.host == shared.name
    seen = vms.seen(before.name)
    assert seen is not None
    assert [gpu["profile"] for gpu in seen["gpus"]] == [PROFILE]
    report = await vms.approved(await vms.provision(before, VmWork.CHANGE))
    assert report.outcome is VmOutcome.CHANGED
    assert report.host == whole.name
    assert vms.ledger(before.name) == ["added"]


async def test_a_change_to_what_a_vm_has_already_is_no_change(vms: VmLab) -> None:
    vms.ready_host("same")
    request = vms.dynamic("same")
    await vms.provisioned(request)
    handle = await vms.provision(request, VmWork.CHANGE)
    report = await handle.result()
    assert report.outcome is VmOutcome.ALREADY_RIGHT
    assert not report.approvals


async def test_a_change_that_nobody_approves_leaves_the_vm_running_as_it_is(vms: VmLab) -> None:
    host = vms.ready_host("denied", gpus=2)
    request = vms.dynamic("denied")
    await vms.provisioned(request)
    handle = await vms.provision(changed(request, DynamicGpu(match=A100, label="denied", count=2)), VmWork.CHANGE)
    await vms.lab.decide(handle, await vms.asked(handle), verdict="deny")
    report = await handle.result()
    assert report.outcome is VmOutcome.DENIED
    seen = vms.seen(request.name)
    assert seen is not None
    assert (seen["power_state"], seen["host"], len(seen["gpus"])) == ("poweredOn", host.name, 1)


async def test_a_vm_that_is_not_there_cannot_be_changed(vms: VmLab) -> None:
    report = await vms.failed(await vms.provision(vms.dynamic("nothing"), VmWork.CHANGE))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "BadRequest")


async def test_nvidia_smi_in_the_guest_is_the_proof_where_the_request_asks_for_it(vms: VmLab) -> None:
    vms.ready_host("verify", gpus=2)
    driver = GuestDriver(policy=DriverPolicy.VERIFY, credentials="ubuntu")
    without = vms.dynamic("verify", driver=driver)
    report = await vms.failed(await vms.provision(without))
    assert (report.outcome, report.error) == (VmOutcome.UNDONE, "NeedsHuman")
    assert "no NVIDIA driver is installed in the guest" in report.detail
    vms.lab.simulator.act("add_template", name="with-driver", host="esx-01-01.gpu.test")
    vms.lab.simulator.act("set_guest_driver", vm="with-driver", kind="datacenter")
    proven = await vms.provisioned(vms.dynamic("verify", driver=driver, source={"template": "with-driver"}))
    assert proven.outcome is VmOutcome.PROVISIONED
    assert any(line.startswith("nvidia-smi shows") for line in proven.proof), proven.proof


def package(vms: VmLab, version: str, kind: str = "grid") -> dict[str, str]:
    """A driver of the simulated vendor's site, as requests name it."""
    suffix = "-grid.run" if kind == "grid" else f"{version}.run"
    drivers = vms.lab.simulator.control("GET", "/simulator/drivers")["drivers"]
    file = next(name for name in drivers if version in name and name.endswith(suffix))
    url = f"https://{vms.lab.simulator.host}:{vms.lab.simulator.port}/simulator/drivers/{file}"
    return {"kind": kind, "version": version, "url": url, "sha256": drivers[file]["sha256"]}


def installing(driver: dict[str, str]) -> dict[str, object]:
    return {"policy": "install", "credentials": "ubuntu", "package": driver}


async def test_the_vgpu_guest_driver_is_installed_and_proven_in_the_guest(vms: VmLab) -> None:
    vms.vgpu_host("gpu-02")
    request = vms.vgpu("gpu-02", driver=installing(package(vms, "550.54.14")))
    report = await vms.provisioned(request)
    assert report.outcome is VmOutcome.PROVISIONED
    assert [record.step.kind for record in report.steps].count(StepKind.INSTALL_GUEST_DRIVER) == 1
    assert any("driver 550.54.14" in line for line in report.proof), report.proof


async def test_a_driver_that_cannot_work_in_a_vgpu_vm_is_refused_or_undone_with_the_reason(vms: VmLab) -> None:
    vms.vgpu_host("gpu-02")
    wrong = vms.vgpu("gpu-02", driver=installing(package(vms, "550.54.14", "data-center")))
    report = await vms.failed(await vms.provision(wrong))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "BadRequest")
    assert "-grid" in report.detail
    assert vms.ledger(wrong.name) == []
    # Which branch the host serves is known once the VM is on it.
    newer = vms.vgpu("gpu-02", driver=installing(package(vms, "580.65.06")))
    report = await vms.failed(await vms.provision(newer))
    assert (report.outcome, report.error) == (VmOutcome.UNDONE, "BadRequest")
    assert "branch 580" in report.detail
    assert vms.seen(newer.name) is None


async def test_credentials_that_nobody_configured_are_refused_before_anything_is_made(vms: VmLab) -> None:
    driver = GuestDriver(policy=DriverPolicy.VERIFY, credentials="nobody")
    request = vms.dynamic("any", driver=driver)
    report = await vms.failed(await vms.provision(request))
    assert (report.outcome, report.error) == (VmOutcome.REFUSED, "BadRequest")
    assert "'nobody'" in report.detail
    assert vms.ledger(request.name) == []


def changed(request: VmRequest, *gpus: DynamicGpu | VgpuGpu) -> VmRequest:
    return request.model_copy(update={"gpus": gpus})


async def test_where_policy_says_so_a_new_vm_is_asked_for_and_made_with_the_grant(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path: Path
) -> None:
    async with open_lab(vcenter, temporal_client, TaskQueues("ask-for-vms"), tmp_path, ask_for_vms=True) as lab:
        vms = VmLab(lab)
        vms.ready_host("asked", gpus=2)
        request = vms.dynamic("asked")
        handle = await vms.provision(request)
        approval = await vms.asked(handle)
        assert not approval.plan.needs_approval
        assert vms.ledger(request.name) == []
        report = await vms.approved(handle)
        assert report.outcome is VmOutcome.PROVISIONED
        assert [each.state for each in report.approvals] == [ApprovalState.APPROVED]
        denied = await vms.provision(vms.dynamic("asked"))
        await vms.lab.decide(denied, await vms.asked(denied), verdict="deny")
        assert (await denied.result()).outcome is VmOutcome.DENIED


async def test_a_forged_order_neither_removes_nor_changes_what_the_run_did_not_make(vms: VmLab) -> None:
    vms.ready_host("forged")
    made = await vms.provisioned(vms.dynamic("forged"))
    assert made.vm is not None
    activities = VCenterVmActivities(
        {vms.lab.vcenter: vms.lab.pool}, Keyring({}), terms=ApprovalTerms(), limits=VmLimits()
    )
    power_on = Step(kind=StepKind.POWER_ON_VM, target=made.name, reason="r", change="c", risk=Risk.SAFE)
    delete = power_on.model_copy(update={"kind": StepKind.DELETE_VM, "params": {"vm": made.vm.moid}})
    for work, step, call in (
        (VmWork.UNDO, delete, activities.delete_vm),
        (VmWork.PROVISION, power_on, activities.power_on_gpu_vm),
    ):
        plan, subject = Plan(steps=(step,)), f"{vms.lab.vcenter}/{made.vm.instance_uuid}"
        order = VmStepOrder(
            vcenter=vms.lab.vcenter,
            step=step,
            plan=plan,
            plan_hash=plan_hash(subject, plan),
            subject=subject,
            work=work,
            request=made.request,
            vm=made.vm,
            # What the order says about the run does not count.
            run=f"provision-gpu-vm/{vms.lab.vcenter}/{made.name}",
        )
        with pytest.raises(Conflict, match="this run did not make that VM"):
            await asyncio.to_thread(ActivityEnvironment().run, call, order)
    assert vms.ledger(made.name) == ["added"]
