from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from simulator.depots import DEPOTS
from simulator.laws import packages
from simulator.laws.hosts import boot
from simulator.world import Host, World
from tests.simulator.law_world import CALL, until, world_of
from tests.simulator.test_law_esxcli import execute, first, rows

OLD, NEW = "NVD-AIE-800_535.129.03-1OEM.800.1.0.20613240", "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"
GRAPHICS = "NVD-VGPU-800_550.54.16-1OEM.800.1.0.20613240"
DRIVER = "NVD-AIE_ESXi_8.0.0_Driver"


def url(name: str) -> str:
    return f"https://depots.test:8443/simulator/depots/{name}.zip"


@asynccontextmanager
async def maintained() -> AsyncIterator[tuple[World, Host]]:
    async with world_of() as world:
        host = first(world)
        host.in_maintenance = True
        yield world, host


async def refusal(world: World, host: Host, name: str, **arguments: str) -> str:
    """What esxcli says against an installation, and that it changed nothing."""
    before = list(host.vibs)
    result = await execute(world, host, "software.vib.install", depot=url(name), **arguments)
    assert result.response is None
    assert host.vibs == before
    return str(result.fault.faultDetail)


async def patch(world: World, host: Host, method: str = "InstallHostPatchV2_Task", **arguments: Any) -> Any:
    """Run a task of the patch manager to its end and return its info."""
    manager = world.registry.objects[f"ha-host-patch-manager-{host.moid[5:]}"]
    task = await manager.invoke(method, CALL, arguments)
    await until(lambda: task.task_info.state in ("success", "error"))
    return task.task_info


async def test_an_installed_driver_is_pending_and_runs_after_the_boot() -> None:
    async with maintained() as (world, host):
        (result,) = await rows(world, host, "software.vib.install", depot=url(NEW))
        assert (result["RebootRequired"], result["VIBsInstalled"]) == ("true", f"NVD_bootbank_{DRIVER}_{NEW[12:]}")
        assert DRIVER in {row["Name"] for row in await rows(world, host, "software.vib.list")}
        assert (host.reboot_required, host.vgpu_manager_runs) == (True, False)
        await boot(world, host)
        assert (host.reboot_required, host.vgpu_manager_runs) == (False, True)


async def test_an_upgrade_replaces_the_older_version_which_runs_until_the_boot() -> None:
    async with maintained() as (world, host):
        for name in (OLD, NEW):
            await rows(world, host, "software.vib.install", depot=url(name))
            if name == OLD:
                await boot(world, host)
        assert [vib.version for vib in host.vibs if vib.name == DRIVER] == [NEW[12:]]
        assert (host.vgpu_manager_runs, host.reboot_required) == (True, True)
        (again,) = await rows(world, host, "software.vib.install", depot=url(NEW))
        assert (again["RebootRequired"], again["VIBsInstalled"]) == ("false", "")


async def test_an_update_takes_only_what_is_newer_than_what_is_installed() -> None:
    async with maintained() as (world, host):
        (absent,) = await rows(world, host, "software.vib.update", depot=url(NEW))
        assert absent["VIBsInstalled"] == ""
        await rows(world, host, "software.vib.install", depot=url(NEW))
        (older,) = await rows(world, host, "software.vib.update", depot=url(OLD))
        assert older["VIBsInstalled"] == ""


async def test_a_removed_driver_runs_until_the_boot() -> None:
    async with maintained() as (world, host):
        await rows(world, host, "software.vib.install", depot=url(NEW))
        await boot(world, host)
        (result,) = await rows(world, host, "software.vib.remove", vibname=DRIVER)
        assert (result["RebootRequired"], host.vgpu_manager_runs, host.reboot_required) == ("true", True, True)
        await boot(world, host)
        assert (host.vgpu_manager_runs, host.reboot_required) == (False, False)


async def test_installing_and_removing_take_maintenance_mode() -> None:
    async with maintained() as (world, host):
        await rows(world, host, "software.vib.install", depot=url(NEW))
        host.in_maintenance = False
        assert "MaintenanceMode is required" in await refusal(world, host, OLD)
        removal = await execute(world, host, "software.vib.remove", vibname=DRIVER)
        assert "MaintenanceMode is required" in removal.fault.faultDetail
        info = await patch(world, host, metaUrls=[url(OLD)])
        assert isinstance(info.error, vim.fault.InvalidState)


async def test_a_package_below_the_hosts_acceptance_level_is_refused() -> None:
    async with maintained() as (world, host):
        assert "AcceptanceConfigError" in await refusal(world, host, "gpu-tools_1.2")
        await execute(world, host, "software.acceptance.set", level="VMwareCertified")
        assert "AcceptanceConfigError" in await refusal(world, host, NEW)
        await execute(world, host, "software.acceptance.set", level="CommunitySupported")
        await rows(world, host, "software.vib.install", depot=url("gpu-tools_1.2"))
        with pytest.raises(packages.PackageError, match="gpu-tools"):
            packages.set_acceptance(world, host, "PartnerSupported")
        assert host.acceptance_level == "CommunitySupported"


async def test_secure_boot_takes_signed_packages_only_whatever_is_forced() -> None:
    async with maintained() as (world, host):
        host.secure_boot, host.acceptance_level = True, "CommunitySupported"
        assert "Secure Boot" in await refusal(world, host, "gpu-tools_1.2")
        assert "Secure Boot" in await refusal(world, host, "gpu-tools_1.2", force="true")
        assert "cannot be skipped" in await refusal(world, host, NEW, nosigcheck="true")
        await rows(world, host, "software.vib.install", depot=url(NEW))


async def test_a_package_for_another_release_is_refused() -> None:
    async with maintained() as (world, host):
        assert "requires esx-version 7" in await refusal(world, host, "NVD-VGPU-702_510.108.03-1OEM.702.1.0.17867351")


async def test_the_two_nvidia_packages_exclude_each_other() -> None:
    async with maintained() as (world, host):
        await rows(world, host, "software.vib.install", depot=url(NEW))
        assert "conflicts with" in await refusal(world, host, GRAPHICS)


async def test_a_place_without_a_depot_is_said_and_a_datastore_path_is_one() -> None:
    async with maintained() as (world, host):
        for place in ("https://depots.test/depots/none.zip", "[vsan-01] none.zip", "nonsense"):
            result = await execute(world, host, "software.vib.install", depot=place)
            assert "Could not download" in result.fault.faultDetail
        await rows(world, host, "software.vib.install", depot=f"[vsan-01] depots/{NEW}.zip")
        assert any(vib.name == DRIVER for vib in host.vibs)


async def test_the_patch_manager_installs_scans_and_removes() -> None:
    async with maintained() as (world, host):
        scanned = await patch(world, host, "ScanHostPatchV2_Task", metaUrls=[url(NEW)[:-4] + "/metadata.zip"])
        assert [(item.id, item.applicable, item.installed) for item in scanned.result.status] == [
            ("NVD-AIE-800", True, False)
        ]
        installed = await patch(world, host, metaUrls=[url(NEW)[:-4] + "/metadata.zip"])
        assert (installed.state, host.reboot_required) == ("success", True)
        assert installed.result.status[0].restartRequired
        removed = await patch(world, host, "UninstallHostPatch_Task", bulletinIds=["NVD-AIE-800"])
        assert removed.state == "success"
        assert not any(vib.name == DRIVER for vib in host.vibs)


async def test_the_patch_manager_tells_the_installers_words() -> None:
    async with maintained() as (world, host):
        info = await patch(world, host, vibUrls=[url("gpu-tools_1.2")])
        assert isinstance(info.error, vim.fault.PlatformConfigFault)
        assert "AcceptanceConfigError" in info.error.text


async def test_esx_9_takes_no_baselines() -> None:
    async with maintained() as (world, host):
        host.version = "9.0.0"
        with pytest.raises(vmodl.fault.NotSupported, match="no longer supported"):
            await patch(world, host, metaUrls=[url(NEW)])


async def test_one_change_at_a_time_and_a_lost_host_ends_it() -> None:
    async with maintained() as (world, host):
        installing = asyncio.ensure_future(packages.install(world, host, [DEPOTS[NEW].vib]))
        await until(lambda: host.image_busy)
        assert "LockingError" in await refusal(world, host, OLD)
        host.connection_state = "notResponding"
        with pytest.raises(vmodl.fault.HostNotConnected):
            await installing
        assert not any(vib.name == DRIVER for vib in host.vibs)


async def test_the_acceptance_level_has_the_apis_names_too() -> None:
    async with maintained() as (world, host):
        manager = world.registry.objects[f"imageConfigManager-{host.moid[5:]}"]
        await manager.invoke("UpdateHostImageAcceptanceLevel", CALL, {"newAcceptanceLevel": "community"})
        assert await manager.invoke("HostImageConfigGetAcceptance", CALL, {}) == "community"
        assert host.acceptance_level == "CommunitySupported"


def test_a_depot_is_an_offline_bundle_with_the_same_bytes_every_time() -> None:
    depot = DEPOTS[NEW]
    assert hashlib.sha256(depot.content).hexdigest() == depot.sha256
    bundle = zipfile.ZipFile(io.BytesIO(depot.content))
    assert {"index.xml", "vendor-index.xml", "metadata.zip"} < set(bundle.namelist())
    assert bundle.read(depot.vib_path).startswith(b"!<arch>\n")
    metadata = zipfile.ZipFile(io.BytesIO(bundle.read("metadata.zip")))
    assert NEW[12:].encode() in metadata.read("vmware.xml")
