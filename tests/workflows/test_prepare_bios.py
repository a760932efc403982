"""What the BIOS has switched off is found by the BMC's word, changed with approval, and comes with a reboot."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from activities import looking
from contracts.approvals import Resolution, Resolve
from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport, Stage
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from tests.support.lab import A100, TRAINING, Handle, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.passthrough import set_passthrough
from vsphere.redfish import Bmc
from vsphere.settings import BmcSettings
from workflows.prepare_gpu_host import PrepareGpuHost

NEW = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"
VGPU = Profile(
    name="shares",
    gpus=(GpuWanted(match=A100, mode=GpuMode.VGPU),),
    vgpu_manager=VgpuManager(name="NVD-AIE_ESXi_8.0.0_Driver", version=">=550"),
)


def bmc_settings(simulator: SimulatorProcess, folder: Path, **changes: Any) -> BmcSettings:
    (folder / "bmc-password").write_text(simulator.password)
    fields = {
        "hosts": ["*.gpu.test"],
        "url": f"https://{simulator.host}:{simulator.port}",
        "user": simulator.user,
        "password_file": folder / "bmc-password",
        "ca_file": simulator.ca_file,
    }
    return BmcSettings.model_validate(fields | changes)


@asynccontextmanager
async def lab_with_bmcs(
    simulator: SimulatorProcess, client: Client, queues: TaskQueues, folder: Path, **changes: Any
) -> AsyncIterator[Lab]:
    bmc = bmc_settings(simulator, folder, **changes)
    async with open_lab(simulator, client, queues, folder, profiles=(TRAINING, VGPU), bmcs=(bmc,)) as lab:
        yield lab


def kinds(report: PrepareGpuHostReport) -> list[str]:
    return [record.step.kind for record in report.steps]


@pytest.mark.parametrize("vendor_defaults", [{}, {"MmioAbove4Gb": "Disabled"}])
async def test_an_iommu_that_is_off_in_the_bios_is_switched_on_with_approval(
    fast_vcenter: SimulatorProcess,
    temporal_client: Client,
    queues: TaskQueues,
    tmp_path: Path,
    vendor_defaults: dict[str, str],
) -> None:
    async with lab_with_bmcs(fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host()
        off = {"ProcVirtualization": "Disabled", **vendor_defaults}
        lab.simulator.act("set_bios", host=host.name, attributes=off)
        handle = await lab.start(host)
        approval = await lab.asked(handle)
        report = await lab.until(handle, lambda report: True)
        assert "the BMC says that it is off in the BIOS" in report.iommu
        bmc = Bmc(bmc_settings(lab.simulator, tmp_path), host.name, host.key)
        assert not bmc.bios().pending, "nothing is ordered before somebody approves"
        await lab.decide(handle, approval)
        done = await handle.result()
        assert done.outcome is Outcome.PREPARED
        assert kinds(done)[:4] == ["enter-maintenance", "set-bios", "reboot", "enable-passthrough"]
        state = bmc.bios()
        assert {name: state.attributes[name] for name in off} == dict.fromkeys(off, "Enabled")
        assert lab.witness(host)["active"]
        assert not lab.witness(host)["maintenance"]


async def test_sriov_comes_with_the_one_reboot_that_vgpu_needs_anyway(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_with_bmcs(fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host()
        lab.simulator.act("set_package", host=host.name, depot=NEW)
        lab.simulator.act("set_sriov", host=host.name, on=False)
        handle = await lab.start(host, "shares")
        await lab.decide(handle, await lab.asked(handle))
        report = await handle.result()
        assert report.outcome is Outcome.PREPARED
        assert kinds(report) == [
            "enter-maintenance",
            "set-bios",
            "set-host-graphics",
            "set-graphics-type",
            "reboot",
            "exit-maintenance",
        ]
        assert "grid_a100-40c" in report.gpus[0].profiles
        assert lab.reboots(host) == 1


async def test_a_bmc_that_does_not_answer_is_named_and_the_host_is_waited_for(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_with_bmcs(fast_vcenter, temporal_client, queues, tmp_path, user="nobody") as lab:
        host = lab.add_host(bios_iommu=False)
        handle = await lab.start(host)
        report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
        assert "the BMC could not be asked" in report.detail
        assert "user nobody" in report.detail
        assert report.plan
        assert any("the BMC could not be asked" in note for note in report.plan.notes)
        await handle.cancel()


async def test_a_kernel_without_iommu_is_not_the_bios_s_doing(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_with_bmcs(fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host(iommu=False)
        handle = await lab.start(host)
        report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
        assert "noIOMMU" in report.detail
        assert report.plan
        assert "set-bios" not in [step.kind for step in report.plan.steps]
        await handle.cancel()


async def gave_up(lab: Lab, handle: Handle) -> PrepareGpuHostReport:
    """What the run says at its end, after a person chose to restore and approved the way back."""
    await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
    await handle.execute_update(PrepareGpuHost.resolve, Resolve(resolution=Resolution.RESTORE, by="cli:test"))
    asked = await lab.until(handle, lambda report: len(report.approvals) == 2)
    await lab.decide(handle, asked.approvals[-1])
    return await handle.result()


async def test_giving_up_puts_the_bios_back_to_its_old_values(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_with_bmcs(fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host()
        old = {"ProcVirtualization": "Disabled", "MmioAbove4Gb": "Disabled", "SriovGlobalEnable": "Enabled"}
        lab.simulator.act("set_bios", host=host.name, attributes=old)
        lab.simulator.act("break_passthrough", host=host.name, device=lab.witness(host)["gpu"])
        handle = await lab.start(host)
        await lab.decide(handle, await lab.asked(handle))
        report = await gave_up(lab, handle)
        assert report.outcome is Outcome.RESTORED
        assert [step.kind for step in report.approvals[-1].plan.steps] == [
            "set-bios",
            "disable-passthrough",
            "reboot",
            "exit-maintenance",
        ]
        assert dict(Bmc(bmc_settings(lab.simulator, tmp_path), host.name, host.key).bios().attributes) == old
        seen = lab.witness(host)
        assert (seen["enabled"], seen["label"], seen["maintenance"]) == (False, None, False)


async def test_giving_up_leaves_on_in_the_bios_what_another_device_needs_and_says_so(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_with_bmcs(fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host(gpus=[A100, "10de:2235"])
        lab.simulator.act("set_bios", host=host.name, attributes={"ProcVirtualization": "Disabled"})
        lab.simulator.act("break_passthrough", host=host.name, device=lab.witness(host)["gpu"])
        handle = await lab.start(host)
        await lab.decide(handle, await lab.asked(handle))
        await lab.until(handle, lambda report: report.stage is Stage.AWAITING_RESOLUTION)
        with lab.pool.session() as si:
            other = next(gpu.pciId for gpu in lab.system(host, si).config.graphicsInfo if "A40" in gpu.deviceName)
            assert set_passthrough(si, host, other, enabled=True)
        report = await gave_up(lab, handle)
        assert report.outcome is Outcome.RESTORED_IN_PART
        assert f"Not put back: iommu stays on in the BIOS, because {other}" in report.detail
        bios = Bmc(bmc_settings(lab.simulator, tmp_path), host.name, host.key).bios()
        assert bios.attributes["ProcVirtualization"] == "Enabled"
        assert not lab.witness(host)["enabled"]


async def test_a_bmc_that_takes_too_long_costs_a_look_its_share_only(
    fast_vcenter: SimulatorProcess,
    temporal_client: Client,
    queues: TaskQueues,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looking, "_ASIDE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        async with lab_with_bmcs(fast_vcenter, temporal_client, queues, tmp_path, url=url) as lab:
            host = lab.add_host(bios_iommu=False)
            handle = await lab.start(host)
            report = await lab.until(handle, lambda report: report.stage is Stage.BLOCKED)
            assert f"the BMC could not be asked: the BMC of {host.name} did not answer within 0.5 s" in report.detail
            await handle.cancel()
