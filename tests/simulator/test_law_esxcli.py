from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from pyVmomi import vmodl

from simulator import esxcli_types
from simulator.laws import adding, hosts
from simulator.laws.esxcli import COMMANDS
from simulator.world import Host, World
from tests.simulator.law_world import CALL, dynamic_gpu, gpu_ids, make_passthrough, world_of

XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
Rows = list[dict[str, str]]
URL = "https://depots.test/depots/NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240.zip"
ARGUMENTS = {
    "graphics.host.set": {"defaulttype": "Shared"},
    "software.vib.install": {"depot": URL, "dryrun": "true"},
    "software.vib.update": {"depot": URL, "dryrun": "true"},
    "software.vib.remove": {"vibname": "i40en", "dryrun": "true"},
    "software.acceptance.set": {"level": "PartnerSupported"},
}
"""What those commands need that do nothing without arguments."""


async def execute(world: World, host: Host, command: str, **arguments: str) -> Any:
    number = host.moid.removeprefix("host-")
    executer = world.registry.objects[f"ManagedMethodExecuter-{number}"]
    namespace = command.rpartition(".")[0]
    return await executer.invoke(
        "ExecuteSoap",
        CALL,
        {
            "moid": f"ha-cli-handler-{namespace.replace('.', '-')}",
            "version": "urn:vim25/5.0",
            "method": f"vim.EsxCLI.{command}",
            "argument": [
                esxcli_types.SoapArgument(name=name, val=f"<{name}>{value}</{name}>")
                for name, value in arguments.items()
            ],
        },
    )


def parse(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314 - the simulator's own answer


async def rows(world: World, host: Host, command: str, **arguments: str) -> Rows:
    result = await execute(world, host, command, **arguments)
    assert result.fault is None, result.fault.faultDetail
    root = parse(result.response)
    found = list(root) if root.get(XSI_TYPE) == "ArrayOfDataObject" else [root]
    return [{field.tag.removeprefix("{urn:vim25}"): field.text or "" for field in item} for item in found]


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


async def test_every_command_answers_on_a_fresh_host() -> None:
    async with world_of() as world:
        for path in COMMANDS:
            arguments = ARGUMENTS.get(path, {})
            result = await execute(world, first(world), path, **arguments)
            assert result.fault is None
            parse(result.response)


async def test_graphics_devices_show_the_active_type_and_their_vms() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        one, _ = gpu_ids(host)
        make_passthrough(host, one)
        vm = next(iter(host.vms.values()))
        vm.gpus = [dynamic_gpu()]
        vm.gpus[0].assigned_id = one
        devices = await rows(world, host, "graphics.device.list")
        assert [(row["GraphicsType"], row["NumberofVMs"]) for row in devices] == [("Direct", "1"), ("Basic", "0")]
        assert devices[0]["Address"] == one
        assert [row["VMName"] for row in await rows(world, host, "graphics.vm.list")] == [vm.name]


async def test_the_default_graphics_type_is_set_and_read_back() -> None:
    async with world_of() as world:
        host = first(world)
        result = await execute(
            world,
            host,
            "graphics.host.set",
            defaulttype="SharedPassthru",
            sharedpassthruassignmentpolicy="Consolidation",
        )
        assert parse(result.response).text == "true"
        assert await rows(world, host, "graphics.host.get") == [
            {"DefaultGraphicsType": "SharedPassthru", "SharedPassthruAssignmentPolicy": "Consolidation"}
        ]
        assert host.default_graphics_type == "sharedDirect"


async def test_the_pci_list_shows_labels_owners_and_plain_hex_ids() -> None:
    async with world_of() as world:
        host = first(world)
        one, _ = gpu_ids(host)
        make_passthrough(host, one, label="Training")
        listed = {row["Address"]: row for row in await rows(world, host, "hardware.pci.list")}
        assert listed.keys() == host.pci.keys()
        assert (listed[one]["HardwareLabel"], listed[one]["CurrentOwner"]) == ("Training", "VM Passthru")
        assert (listed[one]["VendorID"], listed[one]["DeviceID"]) == ("0x10de", "0x20f1")
        nics = [row["VMkernelName"] for row in listed.values() if row["DeviceClassName"] == "Ethernet controller"]
        assert {"vmnic0", "vmnic1"} <= set(nics)
        displays = await rows(world, host, "hardware.pci.list", **{"class": "0x0302"})
        assert [row["Address"] for row in displays] == sorted(gpu_ids(host))


async def test_the_kernel_setting_tells_of_the_iommu() -> None:
    async with world_of() as world:
        host = first(world)
        for on, runtime in ((True, "FALSE"), (False, "TRUE")):
            hosts.set_iommu(world, host, on)
            (setting,) = await rows(world, host, "system.settings.kernel.list", option="noIOMMU")
            assert (setting["Name"], setting["Runtime"]) == ("noIOMMU", runtime)


async def test_no_kernel_setting_tells_of_an_iommu_that_the_bios_keeps_off() -> None:
    async with world_of() as world:
        host = adding.new_host(world, next(iter(world.clusters.values())), "bios", bios_iommu=False)
        (setting,) = await rows(world, host, "system.settings.kernel.list", option="noIOMMU")
        assert setting["Runtime"] == "FALSE"
        assert {row["PassthruCapable"] for row in await rows(world, host, "hardware.pci.list")} == {"false"}
        hosts.set_iommu(world, host, on=True, bios=True)
        assert "true" in {row["PassthruCapable"] for row in await rows(world, host, "hardware.pci.list")}


async def test_the_boot_device_tells_of_usb() -> None:
    async with world_of() as world:
        stick = adding.new_host(world, next(iter(world.clusters.values())), "stick", usb_boot=True)
        for host, usb in ((first(world), "false"), (stick, "true")):
            disks = await rows(world, host, "storage.core.device.list")
            (boot,) = [disk for disk in disks if disk["IsBootDevice"] == "true"]
            assert boot["IsUSB"] == usb


async def test_failures_travel_in_the_result() -> None:
    async with world_of() as world:
        host = first(world)
        for command, arguments, words in (
            ("software.vib.get", {"vibname": "none"}, "No VIB matching"),
            ("software.profile.get", {}, "There is no esxcli command"),
            ("system.settings.kernel.list", {"option": "nonsense"}, "Unable to find"),
            ("system.version.get", {"verbose": "1"}, "Invalid option verbose"),
            ("graphics.host.set", {"defaulttype": "Direct"}, "Invalid default graphics type"),
            ("graphics.host.set", {}, "at least one"),
        ):
            result = await execute(world, host, command, **arguments)
            assert result.response is None
            assert words in result.fault.faultDetail


async def test_command_info_names_what_a_command_line_takes() -> None:
    async with world_of() as world:
        executer = world.registry.objects[f"ManagedMethodExecuter-{first(world).moid[5:]}"]
        arguments = {
            "moid": "ha-dynamic-type-manager-local-cli-cliinfo",
            "version": "urn:vim25/5.0",
            "method": "vim.CLIInfo.FetchCLIInfo",
            "argument": [
                esxcli_types.SoapArgument(name="typeName", val="<typeName>vim.EsxCLI.graphics.host</typeName>")
            ],
        }
        info = parse((await executer.invoke("ExecuteSoap", CALL, arguments)).response)
        space = {"v": "urn:vim25"}
        assert [found.text for found in info.findall("v:method/v:name", space)] == ["get", "set"]
        assert "--default-type" in [found.text for found in info.findall("v:method/v:param/v:aliases", space)]


async def test_the_type_manager_lists_the_handlers() -> None:
    async with world_of() as world:
        manager = world.registry.objects[f"DynamicTypeManager-{first(world).moid[5:]}"]
        found = await manager.invoke("DynamicTypeMgrQueryMoInstances", CALL, {"filterSpec": None})
        assert ("ha-cli-handler-software-vib", "vim.EsxCLI.software.vib") in {(item.id, item.moType) for item in found}


async def test_a_host_that_does_not_answer_runs_nothing() -> None:
    async with world_of() as world:
        hosts.disconnect_abruptly(world, first(world))
        with pytest.raises(vmodl.fault.HostNotConnected):
            await execute(world, first(world), "system.version.get")
