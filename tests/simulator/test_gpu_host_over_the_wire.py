"""The chain that a gateway walks to share a GPU, over the real command's wire."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from pyVim.task import WaitForTask
from pyVmomi import vim

from tests.simulator.test_law_packages import NEW, OLD
from tests.support.simulator import SimulatorProcess


@pytest.fixture
def host(simulator: SimulatorProcess) -> Iterator[Any]:
    """A host with two A100 cards, gone afterwards."""
    moid = simulator.act("add_host", cluster="gpu-01", name="wire.gpu.test", gpus=["10de:20f1", "10de:20f1"])
    client = simulator.connect()
    found = vim.HostSystem(moid, client._stub)
    yield found
    simulator.act("set_maintenance", host=moid, on=True)
    WaitForTask(found.Destroy_Task())
    simulator.disconnect(client)


def get(simulator: SimulatorProcess, path: str) -> bytes:
    url = f"https://{simulator.host}:{simulator.port}{path}"
    with urllib.request.urlopen(url, context=simulator.ssl_context(), timeout=30) as answer:
        return bytes(answer.read())


def test_a_depot_is_downloaded_with_its_checksum(simulator: SimulatorProcess) -> None:
    depots = json.loads(get(simulator, "/simulator/depots"))["depots"]
    shown = depots[NEW]
    assert hashlib.sha256(get(simulator, shown["url"])).hexdigest() == shown["sha256"]
    member = get(simulator, f"/simulator/depots/{NEW}/{shown['vib']['path']}")
    assert member.startswith(b"!<arch>\n")


def test_a_driver_is_installed_by_the_patch_manager_and_shares_the_cards(
    simulator: SimulatorProcess, host: Any
) -> None:
    url = f"https://{simulator.host}:{simulator.port}/simulator/depots/{OLD}.zip"
    simulator.act("set_maintenance", host=host._moId, on=True)
    result = WaitForTask(host.configManager.patchManager.InstallHostPatchV2_Task(bundleUrls=[url]))
    assert result == "success"
    assert host.summary.rebootRequired
    packages = host.configManager.imageConfigManager.FetchSoftwarePackages()
    assert {package.version for package in packages if package.vendor == "NVD"} == {OLD[12:]}
    graphics = host.configManager.graphicsManager
    devices = [
        vim.host.GraphicsConfig.DeviceType(deviceId=device.pciId, graphicsType="sharedDirect")
        for device in graphics.graphicsInfo
    ]
    graphics.UpdateGraphicsConfig(
        vim.host.GraphicsConfig(
            hostDefaultGraphicsType="sharedDirect", sharedPassthruAssignmentPolicy="performance", deviceType=devices
        )
    )
    simulator.act("set_package", host=host._moId, depot=OLD)  # as after a boot
    assert {device.graphicsType for device in graphics.graphicsInfo} == {"sharedDirect"}
    assert "grid_a100-20c" in host.config.sharedPassthruGpuTypes
    profile = next(info for info in graphics.RetrieveVgpuProfileInfo() if info.name == "grid_a100-20c")
    assert (profile.fbSizeInGib, profile.profileSharing) == (20, "timeSliced")


def test_services_and_lockdown_are_switched(host: Any) -> None:
    services, access = host.configManager.serviceSystem, host.configManager.hostAccessManager

    def running() -> dict[str, bool]:
        return {service.key: service.running for service in services.serviceInfo.service}

    assert not running()["TSM-SSH"]
    services.StartService(id="TSM-SSH")
    assert running()["TSM-SSH"]
    with pytest.raises(vim.fault.InvalidState):
        services.StartService(id="TSM-SSH")
    services.StopService(id="TSM-SSH")
    assert not running()["TSM-SSH"]
    access.ChangeLockdownMode(mode="lockdownNormal")
    access.UpdateLockdownExceptions(users=["root"])
    assert (host.config.lockdownMode, list(access.QueryLockdownExceptions())) == ("lockdownNormal", ["root"])


@pytest.mark.parametrize("mode", ["ensureObjectAccessibility", "noAction"])
def test_maintenance_mode_takes_a_vsan_mode(host: Any, mode: str) -> None:
    spec = vim.host.MaintenanceSpec(vsanMode=vim.vsan.host.DecommissionMode(objectAction=mode))
    WaitForTask(host.EnterMaintenanceMode_Task(timeout=60, evacuatePoweredOffVms=False, maintenanceSpec=spec))
    assert host.runtime.inMaintenanceMode
