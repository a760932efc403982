"""What the BIOS has switched off is found by the BMC's word, changed with approval, and comes with a reboot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport, Stage
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from tests.support.lab import A100, TRAINING, Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.redfish import Bmc
from vsphere.settings import BmcSettings

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
