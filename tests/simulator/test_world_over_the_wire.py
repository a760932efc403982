"""The whole world behind the real wire, with the calls that a gateway makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from pyVmomi import vim, vmodl

from simulator import esxcli_types
from tests.support.simulator import SimulatorProcess

HOST_PATHS = [
    "name",
    "parent",
    "config.pciPassthruInfo",
    "config.graphicsInfo",
    "config.graphicsConfig",
    "config.sharedPassthruGpuTypes",
    "config.sharedGpuCapabilities",
    "config.assignableHardwareBinding",
    "config.lockdownMode",
    "config.product",
    "config.storageDevice.hostBusAdapter",
    "config.storageDevice.scsiLun",
    "config.storageDevice.scsiTopology",
    "config.network.pnic",
    "config.network.vswitch",
    "config.network.proxySwitch",
    "config.option",
    "hardware.pciDevice",
    "hardware.systemInfo",
    "summary.hardware",
    "summary.rebootRequired",
    "summary.managementServerIp",
    "capability.deviceRebindWithoutRebootSupported",
    "runtime.connectionState",
    "runtime.powerState",
    "runtime.bootTime",
    "runtime.inMaintenanceMode",
    "runtime.standbyMode",
    "runtime.dasHostState",
    "vm",
    "datastore",
    "network",
    "configManager.pciPassthruSystem",
    "configManager.graphicsManager",
    "configManager.imageConfigManager",
]
MAY_BE_UNSET = {"config.network.proxySwitch", "config.assignableHardwareBinding", "vm"}


@pytest.fixture(scope="module")
def vcenter(simulator: SimulatorProcess) -> Iterator[Any]:
    connected = simulator.connect()
    yield connected
    simulator.disconnect(connected)


@pytest.fixture
def host(simulator: SimulatorProcess, vcenter: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh host of its own for each test, gone afterwards."""
    name = f"{request.node.name.replace('_', '-')}.gpu.test"
    moid = simulator.act("add_host", cluster="gpu-02", name=name, gpus=["10de:20f1", "10de:20f1"])
    added = vim.HostSystem(moid, vcenter._stub)
    yield added
    simulator.act("set_maintenance", host=name, on=True)
    assert ended(added.Destroy_Task()).state == "success"


def ended(task: Any) -> Any:
    wait_for(lambda: task.info.state not in ("queued", "running"))
    return task.info


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read(vcenter: Any, host: Any, paths: list[str]) -> dict[str, Any]:
    query = vmodl.query.PropertyCollector
    spec = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=host)], propSet=[query.PropertySpec(type=vim.HostSystem, pathSet=paths)]
    )
    result = vcenter.content.propertyCollector.RetrievePropertiesEx([spec], query.RetrieveOptions())
    (found,) = result.objects
    assert not found.missingSet
    return {prop.name: prop.val for prop in found.propSet}


def test_one_read_brings_all_of_a_host(vcenter: Any, host: Any) -> None:
    values = read(vcenter, host, HOST_PATHS)
    assert set(HOST_PATHS) - values.keys() <= MAY_BE_UNSET
    gpu = values["config.graphicsInfo"][0].pciId
    assert (values["config.graphicsInfo"][0].graphicsType, values["config.lockdownMode"]) == (
        "basic",
        "lockdownDisabled",
    )
    info = next(info for info in values["config.pciPassthruInfo"] if info.id == gpu)
    assert (info.passthruCapable, info.passthruEnabled, info.dependentDevice) == (True, False, gpu)
    device = next(device for device in values["hardware.pciDevice"] if device.id == gpu)
    assert (device.vendorId & 0xFFFF, device.deviceId & 0xFFFF) == (0x10DE, 0x20F1)


def test_a_host_is_prepared_for_passthrough(vcenter: Any, host: Any) -> None:
    gpu = host.config.graphicsInfo[0].pciId
    assert ended(host.RebootHost_Task(force=False)).error.__class__ is vim.fault.InvalidState
    assert ended(host.EnterMaintenanceMode_Task(timeout=600)).state == "success"
    change = vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True, hardwareLabel="Training")
    host.configManager.pciPassthruSystem.UpdatePassthruConfig([change])
    assert read(vcenter, host, ["summary.rebootRequired"]) == {"summary.rebootRequired": True}
    before = host.runtime.bootTime
    assert ended(host.RebootHost_Task(force=False)).state == "success"
    wait_for(lambda: host.runtime.connectionState == "notResponding")
    wait_for(lambda: host.runtime.connectionState == "connected")
    assert host.runtime.bootTime > before
    info = next(info for info in host.config.pciPassthruInfo if info.id == gpu)
    assert (info.passthruEnabled, info.passthruActive, info.hardwareLabel) == (True, True, "Training")
    assert ended(host.ExitMaintenanceMode_Task(timeout=0)).state == "success"
    names = [
        type(event).__name__.rpartition(".")[2]
        for event in reversed(
            vcenter.content.eventManager.QueryEvents(
                vim.event.EventFilterSpec(
                    entity=vim.event.EventFilterSpec.ByEntity(entity=host, recursion="self"),
                    disableFullMessage=False,
                )
            )
        )
    ]
    assert [name for name in names if name != "TaskEvent"] == [
        "HostAddedEvent", "HostConnectedEvent", "EnteringMaintenanceModeEvent", "EnteredMaintenanceModeEvent",
        "HostShutdownEvent", "HostConnectionLostEvent", "HostConnectedEvent", "ExitMaintenanceModeEvent",
    ]  # fmt: skip


def test_a_label_sent_to_an_old_api_vanishes(simulator: SimulatorProcess, host: Any) -> None:
    old = simulator.connect()
    try:
        stub = old._stub
        stub.version = "vim.version.v7_0"
        system = vim.host.PciPassthruSystem(host.configManager.pciPassthruSystem._moId, stub)
        gpu = host.config.graphicsInfo[0].pciId
        system.UpdatePassthruConfig(
            [vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True, hardwareLabel="Training")]
        )
        info = next(info for info in host.config.pciPassthruInfo if info.id == gpu)
        assert (info.passthruEnabled, info.hardwareLabel) == (True, None)
    finally:
        simulator.disconnect(old)


def test_packages_are_listed(host: Any) -> None:
    packages = host.configManager.imageConfigManager.FetchSoftwarePackages()
    assert "esx-base" in {package.name for package in packages}


def test_esxcli_answers_through_the_method_executer(host: Any) -> None:
    executer = host._stub.InvokeMethod(host, esxcli_types.ManagedMethodExecuter.Retrieve.info, ())
    result = executer.ExecuteSoap("ha-cli-handler-software-vib", "urn:vim25/5.0", "vim.EsxCLI.software.vib.list", [])
    assert result.fault is None
    root = ElementTree.fromstring(result.response)  # noqa: S314 - the simulator's own answer
    assert "esx-base" in [field.text for field in root.iter("{urn:vim25}Name")]


def test_a_host_without_iommu_refuses_in_the_clients_words(simulator: SimulatorProcess, host: Any) -> None:
    simulator.act("set_iommu", host=host.name, on=False)
    gpu = host.config.graphicsInfo[0].pciId
    with pytest.raises(vim.fault.HostConfigFault, match="Host does not support passthrough configuration"):
        host.configManager.pciPassthruSystem.UpdatePassthruConfig(
            [vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True)]
        )
