"""The vGPU Manager installed, upgraded and removed on hosts that no image owns."""

import hashlib
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, Conflict, NeedsHuman, Unreachable
from tests.support.simulator import SimulatorProcess
from tests.vsphere.targets import Target
from vsphere.packages import install_package, installed_vib, remove_package
from vsphere.tasks import TaskOutcome

NAME = "NVD-VGPU_ESXi_8.0.0_Driver"


class Depot(NamedTuple):
    """A depot of the simulator's web server."""

    url: str
    sha256: str
    vib_url: str


@pytest.fixture(scope="module")
def depots(simulator: SimulatorProcess) -> dict[str, Depot]:
    """By package name and driver version."""
    base = f"https://{simulator.host}:{simulator.port}"
    found = {}
    for entry in simulator.control("GET", "/simulator/depots")["depots"].values():
        vib: dict[str, Any] = entry["vib"]
        url = base + entry["url"]
        version = vib["version"].partition("-")[0]
        found[f"{vib['name']} {version}"] = Depot(url, entry["sha256"], f"{url.removesuffix('.zip')}/{vib['path']}")
    return found


@pytest.fixture
def target(simulator: SimulatorProcess, gpu_si: vim.ServiceInstance) -> Iterator[Target]:
    made = Target(simulator, gpu_si)
    made.enter_maintenance()
    # A fresh host may have come with a vGPU Manager.
    for vib in made.state.vibs or ():
        remove_package(gpu_si, made.ref, vib.name)
    yield made
    simulator.clear_faults()


@pytest.fixture
def old(depots: dict[str, Depot]) -> Depot:
    return depots[f"{NAME} 535.129.03"]


@pytest.fixture
def new(depots: dict[str, Depot]) -> Depot:
    return depots[f"{NAME} 550.54.16"]


def install(target: Target, depot: Depot, requirement: str = "", name: str = NAME) -> str:
    """Install, wait, and say what was done."""
    change = install_package(target.si, target.ref, name, requirement, depot.url, depot.sha256)
    assert change is not None
    if change.task is not None:
        assert target.finish(change.task) == TaskOutcome("success")
    return change.text


def version(target: Target) -> str:
    found = installed_vib(target.si, target.ref, NAME.lower())
    return found.version.partition("-")[0] if found else ""


def test_a_package_is_installed_upgraded_and_removed_once(target: Target, old: Depot, new: Depot) -> None:
    assert "absent → 535.129.03-" in install(target, old, "==535.129.03")
    assert version(target) == "535.129.03"
    assert target.state.reboot_required
    # Already right: neither the depot nor the host is asked.
    assert install_package(target.si, target.ref, NAME, ">=535", "https://127.0.0.1:1/x.zip", "") is None
    assert "→ 550.54.16-" in install(target, new, ">=550")
    assert version(target) == "550.54.16"
    removed = remove_package(target.si, target.ref, NAME)
    assert removed is not None
    assert (version(target), remove_package(target.si, target.ref, NAME)) == ("", None)


def test_esx_9_is_installed_by_esxcli(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance, depots: dict[str, Depot]
) -> None:
    target = Target(simulator, gpu_si, version="9.0.0")
    target.enter_maintenance()
    name = "NVD-VGPU_ESXi_9.0.0_Driver"
    depot = depots[f"{name} 580.65.05"]
    for vib in target.state.vibs or ():
        remove_package(gpu_si, target.ref, vib.name)
    change = install_package(gpu_si, target.ref, name, "580.*", depot.url, depot.sha256)
    assert change is not None
    assert change.task is None
    assert installed_vib(gpu_si, target.ref, name) is not None


def test_a_wrong_checksum_stops_before_the_host(target: Target, old: Depot) -> None:
    with pytest.raises(BadRequest, match="it was not used"):
        install_package(target.si, target.ref, NAME, "", old.url, "0" * 64)
    assert version(target) == ""


def test_the_wrong_driver_package_is_named(target: Target, depots: dict[str, Depot]) -> None:
    wrong = depots["NVD-AIE_ESXi_8.0.0_Driver 550.54.16"]
    with pytest.raises(BadRequest, match=r"does not hold NVD-VGPU.*it holds NVD-AIE.* are different packages"):
        install_package(target.si, target.ref, NAME, "", wrong.url, wrong.sha256)


def test_the_wrong_version_and_release_are_named(target: Target, old: Depot, depots: dict[str, Depot]) -> None:
    with pytest.raises(BadRequest, match=r"holds NVD-VGPU.* 535\.129\.03-.*, which is not >=550"):
        install_package(target.si, target.ref, NAME, ">=550", old.url, old.sha256)
    seven = depots["NVD-VGPU_ESXi_7.0.2_Driver 510.108.03"]
    with pytest.raises(BadRequest, match=r"is for ESXi 7\.\*, host .* is 8\."):
        install_package(target.si, target.ref, "NVD-VGPU_ESXi_7.0.2_Driver", "", seven.url, seven.sha256)


def test_a_package_below_the_hosts_acceptance_level_needs_a_human(target: Target, depots: dict[str, Depot]) -> None:
    tools = depots["gpu-tools 1.2"]
    with pytest.raises(NeedsHuman, match=r"gpu-tools .* is community, and host .* takes partner or better"):
        install_package(target.si, target.ref, "gpu-tools", "", tools.url, tools.sha256)


def test_a_host_outside_maintenance_or_with_an_image_is_not_changed(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance, target: Target, old: Depot
) -> None:
    working = Target(simulator, gpu_si)
    with pytest.raises(Conflict, match="not in maintenance mode"):
        install_package(gpu_si, working.ref, "NVD-none", "", old.url, old.sha256)
    simulator.act("set_lifecycle_managed", cluster="gpu-01", on=True)
    try:
        with pytest.raises(Conflict, match="has a vLCM image, which owns its packages"):
            install_package(gpu_si, target.ref, NAME, "", old.url, old.sha256)
    finally:
        simulator.act("set_lifecycle_managed", cluster="gpu-01", on=False)


def test_a_lost_answer_is_unknown_and_the_next_try_installs_nothing_twice(target: Target, old: Depot) -> None:
    target.simulator.add_fault(method="InstallHostPatchV2_Task", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        install_package(target.si, target.ref, NAME, "", old.url, old.sha256)
    target.simulator.add_fault(method="InstallHostPatchV2_Task", error="HostConfigFault")
    change = install_package(target.si, target.ref, NAME, "", old.url, old.sha256)
    if change is not None:
        assert change.text == "an installation was running already"
        assert target.finish(change.task) == TaskOutcome("success")
    assert version(target) == "535.129.03"


def test_a_single_vib_can_be_installed(target: Target, old: Depot) -> None:
    context = ssl.create_default_context(cafile=str(target.simulator.ca_file))
    with urllib.request.urlopen(old.vib_url, context=context) as answer:  # noqa: S310
        sha256 = hashlib.sha256(answer.read()).hexdigest()
    change = install_package(target.si, target.ref, NAME, "", old.vib_url, sha256)
    assert change is not None
    assert target.finish(change.task) == TaskOutcome("success")
    assert version(target) == "535.129.03"


def test_a_package_that_is_not_there_is_none(target: Target) -> None:
    assert installed_vib(target.si, target.ref, "NVD-nothing") is None
