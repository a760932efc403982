"""MIG is switched over SSH that is closed again whatever happens, and proven by the profiles that appear."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.client import Client

from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport, Stage
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from tests.support.lab import A100, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.services import SSH
from vsphere.settings import SshSettings

NAME = "NVD-AIE_ESXi_8.0.0_Driver"
NEW = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"
OLD = "NVD-AIE-800_535.129.03-1OEM.800.1.0.20613240"


def profiles(simulator: SimulatorProcess) -> tuple[Profile, ...]:
    def manager(bundle: str, version: str) -> VgpuManager:
        site = simulator.control("GET", "/simulator/depots")["depots"][bundle]
        url = f"https://{simulator.host}:{simulator.port}{site['url']}"
        return VgpuManager(name=NAME, version=version, depot=url, sha256=site["sha256"])

    mig = GpuWanted(match=A100, mode=GpuMode.VGPU_MIG)
    return (
        Profile(name="slices", gpus=(mig,), vgpu_manager=manager(NEW, ">=550")),
        Profile(name="old-slices", gpus=(mig,), vgpu_manager=manager(OLD, "535.*")),
        Profile(name="shares", gpus=(GpuWanted(match=A100, mode=GpuMode.VGPU),), vgpu_manager=manager(NEW, ">=550")),
        Profile(name="whole", gpus=(GpuWanted(match=A100, mode=GpuMode.PASSTHROUGH),)),
    )


@asynccontextmanager
async def lab_of_one(
    simulator: SimulatorProcess, client: Client, queues: TaskQueues, folder: Path, gpus: int = 1, **changes: object
) -> AsyncIterator[tuple[Lab, HostRef]]:
    """A host of its own, and a lab whose SSH settings lead to it, its key pinned."""
    name = f"esx-{queues.base}.gpu.test"
    simulator.act("add_host", cluster="gpu-01", name=name, gpus=[A100] * gpus)
    where = simulator.control("GET", f"/simulator/hosts/{name}/ssh")
    (folder / "ssh-password").write_text(simulator.password)
    (folder / "known_hosts").write_text(f"[{where['address']}]:{where['port']} {where['host_key']}\n")
    ssh = SshSettings.model_validate(
        {
            "address": where["address"],
            "port": where["port"],
            "password_file": folder / "ssh-password",
            "known_hosts_file": folder / "known_hosts",
        }
        | changes
    )
    async with open_lab(simulator, client, queues, folder, profiles=profiles(simulator), ssh=ssh) as lab:
        yield lab, lab.find(name)


async def bring(lab: Lab, host: HostRef, profile: str) -> PrepareGpuHostReport:
    handle = await lab.start(host, profile)
    await lab.decide(handle, await lab.asked(handle))
    return await handle.result()


def kinds(report: PrepareGpuHostReport) -> list[str]:
    return [record.step.kind for record in report.steps]


def offered(lab: Lab, host: HostRef) -> set[str]:
    si = lab.simulator.connect()
    try:
        return set(lab.system(host, si).config.sharedPassthruGpuTypes or ())
    finally:
        lab.simulator.disconnect(si)


def ssh_runs(lab: Lab, host: HostRef) -> bool:
    si = lab.simulator.connect()
    try:
        services = lab.system(host, si).config.service.service
        return next(bool(service.running) for service in services if service.key == SSH)
    finally:
        lab.simulator.disconnect(si)


def open_ssh(lab: Lab, host: HostRef) -> None:
    si = lab.simulator.connect()
    try:
        lab.system(host, si).configManager.serviceSystem.StartService(SSH)
    finally:
        lab.simulator.disconnect(si)


async def test_slices_appear_stay_are_found_lost_and_go(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_of_one(fast_vcenter, temporal_client, queues, tmp_path, gpus=2) as (lab, host):
        report = await bring(lab, host, "old-slices")
        assert report.outcome is Outcome.PREPARED
        assert kinds(report)[-3:] == ["reboot", "set-mig", "exit-maintenance"]
        assert [gpu.mode for gpu in report.gpus] == ["vgpu-mig", "vgpu-mig"]
        assert "grid_a100-3-20c" in offered(lab, host)
        assert "grid_a100-40c" not in offered(lab, host)
        assert not ssh_runs(lab, host)
        assert (await (await lab.start(host, "old-slices")).result()).outcome is Outcome.ALREADY_RIGHT

        # The upgrade's reboot loses MIG: nobody approved setting it again, so it is asked for.
        lab.simulator.act("set_forgets_mig", host=host.name)
        handle = await lab.start(host, "slices")
        first = await lab.asked(handle)
        assert "set-mig" not in [step.kind for step in first.plan.steps]
        await lab.decide(handle, first)
        again = await lab.until(
            handle, lambda report: report.stage is Stage.AWAITING_APPROVAL and len(report.approvals) == 2
        )
        assert again.plan
        assert [step.kind for step in again.plan.steps] == ["set-mig", "exit-maintenance"]
        await lab.decide(handle, again.approvals[-1])
        assert (await handle.result()).outcome is Outcome.PREPARED
        assert "grid_a100-3-20c" in offered(lab, host)

        shared = await bring(lab, host, "shares")
        assert kinds(shared) == ["enter-maintenance", "set-mig", "exit-maintenance"]
        assert "grid_a100-40c" in offered(lab, host)
        await bring(lab, host, "slices")
        whole = await bring(lab, host, "whole")
        assert kinds(whole)[:2] == ["enter-maintenance", "set-mig"], "a card gives MIG back before it leaves"
        assert whole.gpus[0].mode == "passthrough"
        assert not ssh_runs(lab, host)


async def test_ssh_that_could_not_be_closed_is_closed_by_the_next_attempt(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_of_one(fast_vcenter, temporal_client, queues, tmp_path) as (lab, host):
        lab.simulator.add_fault(method="StopService", drop="before", times=1)
        report = await bring(lab, host, "slices")
        (rule,) = lab.simulator.control("GET", "/simulator/faults")["faults"]
        assert rule["hits"] == 1
        assert report.outcome is Outcome.PREPARED
        assert not ssh_runs(lab, host), "the second attempt found SSH running and knew that nobody else had opened it"


async def test_ssh_that_somebody_keeps_open_stays_open(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_of_one(fast_vcenter, temporal_client, queues, tmp_path) as (lab, host):
        lab.simulator.act("set_package", host=host.name, depot=NEW)
        await bring(lab, host, "shares")
        open_ssh(lab, host)
        report = await bring(lab, host, "slices")
        assert "reboot" not in kinds(report)
        assert report.gpus[0].mode == "vgpu-mig"
        assert ssh_runs(lab, host)


async def test_a_host_key_that_is_not_the_pinned_one_ends_in_a_question_and_closed_ssh(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    other = tmp_path / "other_hosts"
    other.write_text("")
    async with lab_of_one(fast_vcenter, temporal_client, queues, tmp_path, known_hosts_file=other) as (lab, host):
        lab.simulator.act("set_package", host=host.name, depot=NEW)
        await bring(lab, host, "shares")
        handle = await lab.start(host, "slices")
        await lab.decide(handle, await lab.asked(handle))
        report = await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
        assert "the host's key is not the one in" in report.detail
        assert not ssh_runs(lab, host)
        await handle.cancel()


async def test_without_a_login_for_hosts_mig_waits_before_anything_is_touched(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with open_lab(fast_vcenter, temporal_client, queues, tmp_path, profiles=profiles(fast_vcenter)) as lab:
        host = lab.add_host()
        handle = await lab.start(host, "slices")
        report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
        assert "add a section 'ssh' to the configuration" in report.detail
        assert not lab.witness(host)["maintenance"]
        await handle.cancel()
