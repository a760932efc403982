"""The vGPU chain whole: manager, graphics types, reboot, profiles; and changes from one mode to another."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from tests.support.lab import Handle, Lab, open_lab
from tests.support.simulator import SimulatorProcess

A40 = "10de:2235"
NAME = "NVD-VGPU_ESXi_8.0.0_Driver"
OLD, NEW = "NVD-VGPU-800_535.129.03-1OEM.800.1.0.20613240", "NVD-VGPU-800_550.54.16-1OEM.800.1.0.20613240"
AIE = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"


def manager(simulator: SimulatorProcess, bundle: str, version: str = ">=550", **changes: Any) -> VgpuManager:
    site = simulator.control("GET", "/simulator/depots")["depots"][bundle]
    url = f"https://{simulator.host}:{simulator.port}{site['url']}"
    return VgpuManager(name=NAME, version=version, depot=url, sha256=site["sha256"]).model_copy(update=changes)


def profiles(simulator: SimulatorProcess) -> tuple[Profile, ...]:
    vgpu = GpuWanted(match=A40, mode=GpuMode.VGPU)
    passthrough = GpuWanted(match=A40, mode=GpuMode.PASSTHROUGH, label="Whole")
    one_of_each = (passthrough.model_copy(update={"count": 1}), vgpu)
    new = manager(simulator, NEW)
    return (
        Profile(name="inference", gpus=(vgpu,), vgpu_manager=new, sharing="consolidation"),
        Profile(name="old", gpus=(vgpu,), vgpu_manager=manager(simulator, OLD, version="535.*")),
        Profile(name="mixed", gpus=one_of_each, vgpu_manager=new),
        Profile(name="whole", gpus=(passthrough,)),
        Profile(name="fresh", gpus=(GpuWanted(match=A40, mode=GpuMode.DEFAULT),), vgpu_manager="absent"),
        Profile(name="wrong-package", gpus=(vgpu,), vgpu_manager=manager(simulator, AIE)),
        Profile(name="wrong-checksum", gpus=(vgpu,), vgpu_manager=manager(simulator, NEW, sha256="0" * 64)),
        Profile(name="no-depot", gpus=(vgpu,), vgpu_manager=manager(simulator, NEW, depot=None, sha256=None)),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(
    fast_vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("vgpu")
    async with open_lab(
        fast_vcenter, temporal_client, TaskQueues("vgpu"), folder, profiles=profiles(fast_vcenter)
    ) as made:
        yield made


async def bring(lab: Lab, host: Any, profile: str) -> PrepareGpuHostReport:
    handle = await lab.start(host, profile)
    await lab.decide(handle, await lab.asked(handle))
    return await handle.result()


def kinds(report: PrepareGpuHostReport) -> list[str]:
    return [record.step.kind for record in report.steps]


async def failure(handle: Handle) -> ApplicationError:
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    assert isinstance(raised.value.cause, ApplicationError)
    return raised.value.cause


async def test_a_fresh_host_gets_the_manager_and_offers_profiles_after_one_reboot(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40, A40])
    report = await bring(lab, host, "inference")
    assert report.outcome is Outcome.PREPARED
    assert kinds(report) == [
        "enter-maintenance",
        "install-vgpu-manager",
        "set-host-graphics",
        "set-graphics-type",
        "set-graphics-type",
        "reboot",
        "exit-maintenance",
    ]
    assert all(gpu.right and gpu.mode == "vgpu" for gpu in report.gpus)
    assert "nvidia_a40-24c" in report.gpus[0].profiles or "nvidia_a40-24q" in report.gpus[0].profiles
    assert lab.reboots(host) == 1
    si = lab.simulator.connect()
    try:
        system = lab.system(host, si)
        assert {info.graphicsType for info in system.config.graphicsInfo} == {"sharedDirect"}
        assert system.config.graphicsConfig.sharedPassthruAssignmentPolicy == "consolidation"
    finally:
        lab.simulator.disconnect(si)
    assert (await (await lab.start(host, "inference")).result()).outcome is Outcome.ALREADY_RIGHT


async def test_one_card_in_passthrough_and_one_as_vgpu_on_the_same_host(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40, A40])
    report = await bring(lab, host, "mixed")
    assert report.outcome is Outcome.PREPARED
    assert [(gpu.mode, gpu.label) for gpu in report.gpus] == [("passthrough", "Whole"), ("vgpu", None)]
    assert lab.reboots(host) == 1


async def test_modes_change_in_both_directions(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40])
    assert (await bring(lab, host, "whole")).gpus[0].mode == "passthrough"
    there = await bring(lab, host, "inference")
    assert there.gpus[0].mode == "vgpu"
    assert "disable-passthrough" in kinds(there)
    back = await bring(lab, host, "whole")
    assert back.gpus[0].mode == "passthrough"
    assert "set-graphics-type" in kinds(back)
    fresh = await bring(lab, host, "fresh")
    assert fresh.gpus[0].mode == "default"
    assert "remove-vgpu-manager" in kinds(fresh)


async def test_an_older_manager_is_upgraded(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40])
    await bring(lab, host, "old")
    report = await bring(lab, host, "inference")
    assert "install-vgpu-manager" in kinds(report)
    assert "550.54.16" in next(r.text for r in report.steps if r.step.kind == "install-vgpu-manager")
    assert lab.reboots(host) == 2


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("wrong-package", "AI Enterprise (AIE) and graphics (VGPU) host drivers are different downloads"),
        ("wrong-checksum", "has the SHA-256"),
        ("no-depot", "names no depot"),
    ],
)
async def test_a_wrong_depot_is_known_before_anything_is_touched(lab: Lab, profile: str, words: str) -> None:
    host = lab.add_host(gpus=[A40])
    error = await failure(await lab.start(host, profile))
    assert error.type == "BadRequest"
    assert words in error.message
    assert lab.witness(host)["maintenance"] is False


async def test_esx_9_without_an_image_is_known_before_anything_is_touched(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40], version="9.0.0")
    error = await failure(await lab.start(host, "inference"))
    assert error.type == "NotSupported"
    assert "no longer patched host by host" in error.message
