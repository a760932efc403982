"""govc, an independent client, against the whole simulator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.simulator import SimulatorProcess

HOST = "/DC0/host/gpu-01/esx-01-01.gpu.test"


def objects(simulator: SimulatorProcess, command: str, *arguments: str) -> Any:
    return json.loads(simulator.govc(command, "-json", *arguments).stdout)


@pytest.fixture(scope="session")
def vm(simulator: SimulatorProcess) -> str:
    """A VM's inventory path."""
    return sorted(simulator.govc("find", "/", "-type", "m").stdout.split())[0]


def test_about_tells_the_product_and_the_api_version(simulator: SimulatorProcess) -> None:
    about = objects(simulator, "about")["about"]
    assert (about["apiType"], about["apiVersion"]) == ("VirtualCenter", "8.0.2.0")


def test_ls_walks_the_inventory(simulator: SimulatorProcess) -> None:
    assert "/DC0/host" in simulator.govc("ls").stdout.split()
    assert HOST in simulator.govc("ls", "/DC0/host/gpu-01").stdout.split()
    found = simulator.govc("find", "/DC0/host/gpu-01", "-type", "h").stdout.split()
    assert sorted(found)[0] == HOST
    assert len(found) == 3


def test_host_info_shows_a_connected_host(simulator: SimulatorProcess) -> None:
    (host,) = objects(simulator, "host.info", "-host", HOST)["hostSystems"]
    assert host["summary"]["config"]["name"] == "esx-01-01.gpu.test"
    assert host["summary"]["runtime"]["connectionState"] == "connected"


def test_vm_info_shows_a_vm(simulator: SimulatorProcess, vm: str) -> None:
    (shown,) = objects(simulator, "vm.info", vm)["virtualMachines"]
    assert shown["summary"]["config"]["name"] == vm.rpartition("/")[2]


def test_power_operations_wait_for_their_tasks(simulator: SimulatorProcess, vm: str) -> None:
    def state() -> str:
        return str(simulator.govc("object.collect", "-s", vm, "runtime.powerState").stdout.strip())

    for operation, expected in [("-off", "poweredOff"), ("-on", "poweredOn")]:
        if state() != expected:
            assert "OK" in simulator.govc("vm.power", operation, vm).stdout
        assert state() == expected
    refused = simulator.govc("vm.power", "-on", vm, check=False)
    assert refused.returncode != 0
    assert "already powered on" in refused.stderr


def test_events_of_a_vm_are_listed(simulator: SimulatorProcess, vm: str) -> None:
    simulator.govc("vm.power", "-off", vm)
    simulator.govc("vm.power", "-on", vm)
    listed = simulator.govc("events", "-n", "50", vm).stdout
    assert "owered on" in listed
    assert "ogin" not in listed


def test_esxcli_lists_packages_and_graphics_devices(simulator: SimulatorProcess) -> None:
    vibs = simulator.govc("host.esxcli", "-host", HOST, "software", "vib", "list").stdout
    assert "esx-base" in vibs
    devices = simulator.govc("host.esxcli", "-host", HOST, "graphics", "device", "list").stdout
    assert devices.count("NVIDIA") == 2


def test_pci_devices_on_offer_are_listed(simulator: SimulatorProcess, vm: str) -> None:
    assert simulator.govc("device.pci.ls", "-vm", vm).returncode == 0
    assert "VirtualVmxnet3" in simulator.govc("device.ls", "-vm", vm).stdout


def test_maintenance_mode_is_entered_and_left(simulator: SimulatorProcess) -> None:
    def in_maintenance() -> str:
        return str(simulator.govc("object.collect", "-s", HOST, "runtime.inMaintenanceMode").stdout.strip())

    assert "OK" in simulator.govc("host.maintenance.enter", HOST).stdout
    assert in_maintenance() == "true"
    assert "OK" in simulator.govc("host.maintenance.exit", HOST).stdout
    assert in_maintenance() == "false"


def test_sessions_and_recent_tasks_are_listed(simulator: SimulatorProcess) -> None:
    assert simulator.user in simulator.govc("session.ls").stdout
    assert "Target" in simulator.govc("tasks").stdout
