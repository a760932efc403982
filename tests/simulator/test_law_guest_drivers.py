"""NVIDIA's drivers in guests: which installs where, and what proves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from simulator.laws.guest_drivers import GUEST_BRANCHES, compatible
from tests.simulator.vm_site import PLAIN, VGPU, VmSite

DATACENTER = "NVIDIA-Linux-x86_64-550.54.14.run"
GRID = "NVIDIA-Linux-x86_64-550.54.14-grid.run"
NOT_COMMUNICATING = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver"
QUERY = "nvidia-smi --query-gpu=name,driver_version,uuid,pci.bus_id,memory.total,mig.mode.current --format=csv,noheader"


@pytest.fixture
def whole(vm_site: VmSite) -> Iterator[Any]:
    vm = vm_site.add("whole")
    yield vm
    vm_site.remove(vm)


@pytest.fixture
def shared(vm_site: VmSite) -> Iterator[Any]:
    vm = vm_site.add("shared", host=VGPU, gpu="vgpu")
    yield vm
    vm_site.remove(vm)


@pytest.mark.parametrize("driver", [DATACENTER, GRID])
def test_both_drivers_show_a_whole_gpu(vm_site: VmSite, whole: Any, driver: str) -> None:
    assert vm_site.run(whole, "nvidia-smi -L") == (127, "sh: nvidia-smi: command not found\n")
    status, said = vm_site.install(whole, driver)
    assert status == 0, said
    status, line = vm_site.run(whole, QUERY)
    name, version, uuid, bus, memory, mig = line.strip().split(", ")
    assert (status, name, version, memory, mig) == (
        0, "NVIDIA A100-PCIE-40GB", "550.54.14", "40960 MiB", "Disabled",
    )  # fmt: skip
    assert bus == "00000000:03:00.0"
    assert vm_site.run(whole, "nvidia-smi -L")[1] == f"GPU 0: {name} (UUID: {uuid})\n"
    assert vm_site.run(whole, "lsmod | grep -q nvidia && cat /sys/module/nvidia/version") == (0, "550.54.14\n")
    assert vm_site.run(whole, "cat /sys/bus/pci/devices/0000:03:00.0/device") == (0, "0x20f1\n")


def test_the_data_center_driver_installs_in_a_vgpu_vm_and_then_fails(vm_site: VmSite, shared: Any) -> None:
    assert vm_site.install(shared, DATACENTER)[0] == 0
    status, said = vm_site.run(shared, "nvidia-smi")
    assert (status, "libvgpu.so" in said) == (18, True)
    assert vm_site.run(shared, "lsmod | grep -q nvidia")[0] == 1
    assert vm_site.install(shared, GRID)[0] == 0
    assert vm_site.run(shared, QUERY)[1].startswith("GRID A100-20C, 550.54.14, GPU-")


def test_a_guest_driver_of_a_foreign_branch_does_not_talk_to_the_host(vm_site: VmSite, shared: Any) -> None:
    for version, works in (("580.65.06", False), ("470.103.01", False), ("535.129.03", True)):
        assert vm_site.install(shared, f"NVIDIA-Linux-x86_64-{version}-grid.run")[0] == 0
        status, said = vm_site.run(shared, "nvidia-smi")
        assert (status == 0, NOT_COMMUNICATING in said) == (works, not works), version
        assert ("not compatible with the host" in vm_site.run(shared, "dmesg")[1]) is not works


def test_a_guest_is_never_newer_than_its_host_nor_older_than_it_serves() -> None:
    for host, guests in GUEST_BRANCHES.items():
        assert guests[0] == max(guests) == host
        assert all(compatible(host, guest) for guest in guests)
        assert not compatible(host, host + 5)
        assert not compatible(host, min(guests) - 5)
    assert (compatible(600, 600), compatible(600, 580)) == (True, False)


def test_a_vgpu_is_licensed_with_a_token(vm_site: VmSite, shared: Any) -> None:
    vm_site.install(shared, GRID)
    assert "Unlicensed" in vm_site.run(shared, "nvidia-smi -q | grep License")[1]
    vm_site.run(shared, "mkdir -p /etc/nvidia/ClientConfigToken")
    assert vm_site.put(shared, "/etc/nvidia/ClientConfigToken/client.tok", b"token") == 200
    assert vm_site.run(shared, "systemctl restart nvidia-gridd; nvidia-smi -q | grep -c Unlicensed") == (1, "0\n")


def test_an_installer_finds_no_gpu_in_a_vm_without_one(vm_site: VmSite) -> None:
    vm = vm_site.add("bare", host=PLAIN, gpu="none")
    status, said = vm_site.install(vm, DATACENTER)
    assert (status, "no NVIDIA GPU found" in said) == (1, True)
    assert vm_site.run(vm, "nvidia-smi")[0] == 127
    vm_site.remove(vm)


def test_an_installer_is_damaged_asks_or_wants_root(vm_site: VmSite, whole: Any) -> None:
    url = f"https://{vm_site.simulator.host}:{vm_site.simulator.port}/simulator/drivers"
    told = json.loads(vm_site.get(url)[2])["drivers"][GRID]
    content = vm_site.get(f"{url}/{GRID}")[2]
    assert hashlib.sha256(content).hexdigest() == told["sha256"]
    vm_site.put(whole, "/root/half.run", content[:2000])
    status, said = vm_site.run(whole, "sh /root/half.run --silent")
    assert (status, "checksums" in said) == (1, True)
    vm_site.put(whole, "/root/all.run", content)
    assert vm_site.run(whole, "sh /root/all.run")[0] == 1
    assert vm_site.run(whole, "/root/all.run --silent")[0] == 126
    assert vm_site.run(whole, "chmod +x /root/all.run && /root/all.run --silent && nvidia-smi -L")[0] == 0


def test_a_driver_by_hand_clashes_with_the_gpu_operators(vm_site: VmSite, whole: Any) -> None:
    vm_site.act("kubernetes_node", vm="whole", version="535.129.03")
    assert vm_site.run(whole, "pgrep nvidia-driver-daemonset > /dev/null && test -e /run/nvidia/driver")[0] == 0
    assert vm_site.run(whole, "systemctl is-active containerd") == (0, "active\n")
    assert vm_site.run(whole, "nvidia-smi")[0] == 127
    assert vm_site.run(whole, "chroot /run/nvidia/driver nvidia-smi -L")[0] == 0
    assert vm_site.install(whole, DATACENTER)[0] == 0
    status, said = vm_site.run(whole, "nvidia-smi")
    assert (status, "Driver/library version mismatch" in said) == (18, True)


def test_a_module_without_a_signature_does_not_load_under_secure_boot(vm_site: VmSite) -> None:
    vm = vm_site.add("secured", on=False)
    spec = vim.vm.ConfigSpec(bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=True))
    assert vm_site.ended(vm.ReconfigVM_Task(spec)).state == "success"
    vm_site.ended(vm.PowerOnVM_Task())
    vm_site.until(lambda: vm.guest.guestOperationsReady)
    assert vm_site.run(vm, "mokutil --sb-state")[1] == "SecureBoot enabled\n"
    assert vm_site.install(vm, DATACENTER)[0] == 0
    status, said = vm_site.run(vm, "nvidia-smi")
    assert (status, NOT_COMMUNICATING in said) == (9, True)
    vm_site.remove(vm)
