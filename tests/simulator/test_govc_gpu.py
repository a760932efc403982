"""govc's GPU commands, a client that is not ours, against the simulated vCenter."""

from collections.abc import Iterator

import pytest

from tests.support.simulator import SimulatorProcess


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=1, hosts=1, gpus=2, vms=1, time_scale=100) as simulator:
        yield simulator


def test_gpu_host_info_lists_each_gpu_once(vcenter: SimulatorProcess) -> None:
    told = vcenter.govc("gpu.host.info", "-host", "esx-01-01.gpu.test").stdout
    assert told.count("Device ID: 0x20f1") == 2
    assert told.count("Vendor ID: 0x10de") == 2 + told.count("SubVendor ID: 0x10de")
    assert "PCI ID: 0000:81:00.0" in told


def test_gpu_host_profiles_are_on_offer_only_while_the_vgpu_manager_runs(vcenter: SimulatorProcess) -> None:
    refused = vcenter.govc("gpu.host.profile.ls", "-host", "esx-01-01.gpu.test", check=False)
    assert refused.returncode != 0
    assert "no vGPU profiles available" in refused.stderr


def test_a_vgpu_is_added_to_a_vm_seen_and_removed(vcenter: SimulatorProcess) -> None:
    vcenter.govc("vm.power", "-off", "app-00001")
    vcenter.govc("gpu.vm.add", "-vm", "app-00001", "-profile", "nvidia_a40-24c")
    assert "nvidia_a40-24c" in vcenter.govc("gpu.vm.info", "-vm", "app-00001").stdout
    vcenter.govc("gpu.vm.remove", "-vm", "app-00001")
    assert "nvidia_a40-24c" not in vcenter.govc("gpu.vm.info", "-vm", "app-00001", check=False).stdout
