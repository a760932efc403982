"""In a cluster with an image the vGPU Manager comes and goes by remediation, never by hand, and once."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pyVmomi import vim
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from tests.support.lab import Lab, open_lab
from tests.support.simulator import SimulatorProcess
from vsphere import rest
from vsphere.connection import Endpoint
from vsphere.vlcm import lifecycle_manager

A40 = "10de:2235"
NAME, COMPONENT = "NVD-VGPU_ESXi_8.0.0_Driver", "NVD-VGPU-800"
BUNDLE = "NVD-VGPU-800_550.54.16-1OEM.800.1.0.20613240"
VERSION = "550.54.16-1OEM.800.1.0.20613240"


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=1, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        simulator.act("set_lifecycle_managed", cluster="gpu-01", on=True)
        yield simulator


def profiles(simulator: SimulatorProcess) -> tuple[Profile, ...]:
    site = simulator.control("GET", "/simulator/depots")["depots"][BUNDLE]
    url = f"https://{simulator.host}:{simulator.port}{site['url']}"
    manager = VgpuManager(name=NAME, version=">=550", depot=url, sha256=site["sha256"])
    vgpu = GpuWanted(match=A40, mode=GpuMode.VGPU)
    return (
        Profile(name="inference", gpus=(vgpu,), vgpu_manager=manager),
        Profile(name="fresh", gpus=(GpuWanted(match=A40, mode=GpuMode.DEFAULT),), vgpu_manager="absent"),
        Profile(
            name="datastore",
            gpus=(vgpu,),
            vgpu_manager=manager.model_copy(update={"depot": "[datastore1] depots/vgpu.zip"}),
        ),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(
    vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("image")
    async with open_lab(vcenter, temporal_client, TaskQueues("image"), folder, profiles=profiles(vcenter)) as made:
        yield made


async def bring(lab: Lab, host: HostRef, profile: str) -> PrepareGpuHostReport:
    handle = await lab.start(host, profile)
    await lab.decide(handle, await lab.asked(handle))
    return await handle.result()


def kinds(report: PrepareGpuHostReport) -> list[str]:
    return [record.step.kind for record in report.steps]


def cluster_of(lab: Lab, host: HostRef) -> str:
    si = lab.simulator.connect()
    try:
        return str(lab.system(host, si).parent._moId)
    finally:
        lab.simulator.disconnect(si)


def remediations(lab: Lab, host: HostRef) -> list[dict[str, Any]]:
    """The ended remediations of this host, by the lifecycle manager's own account."""
    with lifecycle_manager(lab.pool.settings) as manager:
        tasks = manager._send("GET", "/api/cis/tasks")
    results = [task["result"] for task in tasks.values() if task["operation"] == "apply" and "result" in task]
    return [result for result in results if host.moid in result["host_status"]]


def task_kinds(lab: Lab, host: HostRef) -> list[str]:
    """What vCenter was ordered to do with the host through the vSphere API."""
    si = lab.simulator.connect()
    try:
        entity = vim.TaskFilterSpec.ByEntity(entity=lab.system(host, si), recursion="self")
        collector = si.content.taskManager.CreateCollectorForTasks(vim.TaskFilterSpec(entity=entity))
        return [info.descriptionId for info in collector.ReadNextTasks(1000)]
    finally:
        lab.simulator.disconnect(si)


def facts(lab: Lab, host: HostRef) -> dict[str, Any]:
    si = lab.simulator.connect()
    try:
        system = lab.system(host, si)
        packages = system.configManager.imageConfigManager.FetchSoftwarePackages()
        return {
            "active": [info.graphicsType for info in system.config.graphicsInfo],
            "profiles": list(system.config.sharedPassthruGpuTypes or ()),
            "maintenance": system.runtime.inMaintenanceMode,
            "versions": [package.version for package in packages if package.name == NAME],
        }
    finally:
        lab.simulator.disconnect(si)


async def test_the_manager_comes_by_the_image_once_and_leaves_by_it(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40])
    report = await bring(lab, host, "inference")
    assert report.outcome is Outcome.PREPARED
    assert kinds(report) == [
        "enter-maintenance",
        "set-host-graphics",
        "set-graphics-type",
        "remediate-image",
        "exit-maintenance",
    ]
    seen = facts(lab, host)
    assert seen["active"] == ["sharedDirect"]
    assert "nvidia_a40-24q" in seen["profiles"]
    assert seen["versions"] == [VERSION]
    assert seen["maintenance"] is False
    assert [each["successful_hosts"] for each in remediations(lab, host)] == [[host.moid]]
    by_hand = [kind for kind in task_kinds(lab, host) if "patchmanager" in kind.lower() or "reboot" in kind.lower()]
    assert by_hand == [], "the lifecycle manager installs and reboots, nobody else"

    assert (await (await lab.start(host, "inference")).result()).outcome is Outcome.ALREADY_RIGHT
    fresh = await bring(lab, host, "fresh")
    assert "remediate-image" in kinds(fresh)
    assert facts(lab, host)["versions"] == []
    with lifecycle_manager(lab.pool.settings) as manager:
        assert COMPONENT not in manager.image(cluster_of(lab, host)).components
    assert len(remediations(lab, host)) == 2


async def test_a_manager_installed_by_hand_is_put_into_the_image_that_would_remove_it(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40])
    await bring(lab, host, "inference")
    cluster = cluster_of(lab, host)
    with lifecycle_manager(lab.pool.settings) as manager:
        manager.set_component(cluster, COMPONENT, None, "by somebody else", lambda _: None)
    handle = await lab.start(host, "inference")
    asked = await lab.asked(handle)
    (step,) = (step for step in asked.plan.steps if step.kind == "remediate-image")
    assert f"{VERSION} is on {host.name}, but not in the image" in step.reason
    await lab.decide(handle, asked)
    report = await handle.result()
    assert report.outcome is Outcome.PREPARED
    assert kinds(report) == ["enter-maintenance", "remediate-image", "exit-maintenance"]
    with lifecycle_manager(lab.pool.settings) as manager:
        assert manager.image(cluster).components[COMPONENT] == VERSION
    assert facts(lab, host)["versions"] == [VERSION]
    assert (await (await lab.start(host, "inference")).result()).outcome is Outcome.ALREADY_RIGHT


async def test_an_answer_lost_while_the_host_is_remediated_costs_no_second_remediation(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40])
    handle = await lab.start(host, "inference")
    await lab.decide(handle, await lab.asked(handle))
    await lab.until(handle, lambda report: any(record.step.kind == "remediate-image" for record in report.steps))
    endpoint = Endpoint(lab.pool.settings)
    await asyncio.to_thread(until_remediating, lab, endpoint)
    lab.simulator.outage(1)
    report = await handle.result()
    assert report.outcome is Outcome.PREPARED
    assert len(remediations(lab, host)) == 1


def until_remediating(lab: Lab, endpoint: Endpoint) -> None:
    deadline = time.monotonic() + 30
    with lifecycle_manager(lab.pool.settings) as manager:
        while time.monotonic() < deadline:
            tasks = rest.call(endpoint, "GET", "/api/cis/tasks?status=RUNNING", headers=manager._headers).body
            if any(task["operation"] == "apply" for task in tasks.values()):
                return
            time.sleep(0.05)
    raise AssertionError("no remediation began")


async def test_a_depot_that_vcenter_cannot_fetch_is_known_before_anything_is_touched(lab: Lab) -> None:
    host = lab.add_host(gpus=[A40])
    with pytest.raises(WorkflowFailureError) as raised:
        await (await lab.start(host, "datastore")).result()
    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.type == "BadRequest"
    assert "from a URL only" in raised.value.cause.message
    assert task_kinds(lab, host) == []
