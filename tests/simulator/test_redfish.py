from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from simulator.laws import passthrough
from simulator.laws.hosts import boot
from simulator.world import Host
from tests.simulator.law_world import until
from tests.simulator.sites import Running, basic, running
from tests.simulator.small_world import PASSWORD, USER


@asynccontextmanager
async def bmc(**size: int) -> AsyncIterator[tuple[Running, Host, str]]:
    """A simulator, its first host, and the path of that host's system."""
    async with running(**size) as vcenter:
        vcenter.headers = basic()
        host = next(iter(vcenter.world.hosts.values()))
        yield vcenter, host, f"/redfish/v1/Systems/{host.uuid}"


async def reset(vcenter: Running, system: str, kind: str) -> int:
    status, _ = await vcenter.call("POST", f"{system}/Actions/ComputerSystem.Reset", {"ResetType": kind})
    return status


async def test_from_the_root_a_client_finds_the_hosts_bios() -> None:
    async with bmc() as (vcenter, host, system):
        _, root = await vcenter.call("GET", "/redfish/v1/")
        _, systems = await vcenter.call("GET", root["Systems"]["@odata.id"])
        assert {"@odata.id": system} in systems["Members"]
        _, shown = await vcenter.call("GET", system)
        assert (shown["UUID"], shown["PowerState"]) == (host.uuid, "On")
        _, bios = await vcenter.call("GET", shown["Bios"]["@odata.id"])
        assert bios["Attributes"] == {
            "ProcVirtualization": "Enabled",
            "SriovGlobalEnable": "Enabled",
            "MmioAbove4Gb": "Enabled",
        }


async def test_a_bios_change_waits_for_the_reset_and_turns_the_iommu_on() -> None:
    async with bmc() as (vcenter, host, system):
        host.bios_iommu = False
        _, bios = await vcenter.call("GET", f"{system}/Bios")
        assert bios["Attributes"]["ProcVirtualization"] == "Disabled"
        pending = bios["@Redfish.Settings"]["SettingsObject"]["@odata.id"]
        status, _ = await vcenter.call("PATCH", pending, {"Attributes": {"ProcVirtualization": "Enabled"}})
        assert (status, host.iommu) == (200, False)
        assert (await vcenter.call("GET", pending))[1]["Attributes"] == {"ProcVirtualization": "Enabled"}
        before = host.boot_time
        assert await reset(vcenter, system, "GracefulRestart") == 204
        await until(lambda: host.boot_time > before and host.up)
        assert host.iommu
        assert any(passthrough.capable(host, function) for function in host.pci.values())
        assert (await vcenter.call("GET", pending))[1]["Attributes"] == {}


async def test_a_reboot_from_vcenter_applies_a_bios_change_too() -> None:
    async with bmc() as (vcenter, host, system):
        await vcenter.call("PATCH", f"{system}/Bios/Settings", {"Attributes": {"SriovGlobalEnable": "Disabled"}})
        await boot(vcenter.world, host)
        assert not host.bios_sriov


async def test_a_forced_restart_takes_the_vms_along() -> None:
    async with bmc(vms=2) as (vcenter, host, system):
        vm = next(iter(host.vms.values()))
        vm.host.compute.ha_enabled = False
        before = host.boot_time
        await reset(vcenter, system, "ForceRestart")
        await until(lambda: vm.power_state == "poweredOff")
        await until(lambda: host.boot_time > before and host.up)


async def test_a_system_that_is_off_answers_and_is_switched_on() -> None:
    async with bmc() as (vcenter, host, system):
        await reset(vcenter, system, "ForceOff")
        await until(lambda: host.connection_state == "notResponding")
        assert (await vcenter.call("GET", system))[1]["PowerState"] == "Off"
        await reset(vcenter, system, "On")
        await until(lambda: host.up)


@pytest.mark.parametrize(
    "attributes", [{"NoSuchAttribute": "Enabled"}, {"ProcVirtualization": "Maybe"}, {}, "ProcVirtualization"]
)
async def test_unknown_settings_are_refused_and_change_nothing(attributes: object) -> None:
    async with bmc() as (vcenter, host, system):
        status, said = await vcenter.call("PATCH", f"{system}/Bios/Settings", {"Attributes": attributes})
        assert status == 400
        assert said["error"]["@Message.ExtendedInfo"]
        assert host.bios_pending == {}
        assert await reset(vcenter, system, "Sideways") == 400


async def test_other_vendors_have_other_names() -> None:
    async with bmc() as (vcenter, host, system):
        host.vendor, host.cpu_model = "HPE", "AMD EPYC 7763"
        _, bios = await vcenter.call("GET", f"{system}/Bios")
        assert bios["Attributes"] == {"ProcAmdIoVt": "Enabled", "Sriov": "Enabled"}


async def test_it_takes_a_password_or_a_session_token() -> None:
    async with bmc() as (vcenter, _, system):
        vcenter.headers = basic(USER, "wrong")
        assert (await vcenter.call("GET", system))[0] == 401
        sessions = "/redfish/v1/SessionService/Sessions"
        assert (await vcenter.call("POST", sessions, {"UserName": USER, "Password": "wrong"}))[0] == 401
        url = f"https://127.0.0.1:{vcenter.simulator.port}{sessions}"
        async with vcenter.client.post(url, json={"UserName": USER, "Password": PASSWORD}) as answer:
            assert answer.status == 201
            vcenter.headers, place = {"X-Auth-Token": answer.headers["X-Auth-Token"]}, answer.headers["Location"]
        assert (await vcenter.call("GET", system))[0] == 200
        assert (await vcenter.call("DELETE", place))[0] == 204
        assert (await vcenter.call("GET", system))[0] == 401
