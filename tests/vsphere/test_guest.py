"""What `nvidia-smi` proves in a guest, and what else is seen there."""

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.errors import Unreachable
from contracts.machine import GuestEvidence, VmRef
from planning.guest_drivers import guest_proves, guest_trouble
from tests.simulator.vm_site import VGPU
from tests.vsphere.guests import DATA_CENTER, GRID, Guests
from vsphere.guest import evidence_of, inspect_guest
from vsphere.guest_programs import Ended, GuestProgram
from vsphere.settings import GuestCredentials

LINE = "NVIDIA A100-PCIE-40GB, GPU-1234, 550.54.14, 40960\n"
NO_OPERATOR = "gpuwright driver-root 1\ngpuwright operator-pods 1\n"


def inspect(guests: Guests, ref: VmRef, credentials: GuestCredentials | None = None) -> GuestEvidence:
    with guests.pool.session() as si:
        return inspect_guest(si, ref, credentials or guests.root, None, lambda _: None)


def test_a_whole_gpu_is_proven_with_name_uuid_driver_and_memory(guests: Guests) -> None:
    vm, ref = guests.add("whole")
    before = inspect(guests, ref)
    assert (before.driver_installed, before.gpus, before.gpu_operator) == (False, (), False)
    assert "no NVIDIA driver is installed" in guest_trouble(before, 1, vgpu=False)
    guests.site.install(vm, DATA_CENTER)
    seen = inspect(guests, ref)
    (gpu,) = seen.gpus
    assert (gpu.name, gpu.driver_version, gpu.memory_mib) == ("NVIDIA A100-PCIE-40GB", "550.54.14", 40960)
    assert gpu.uuid.startswith("GPU-")
    assert guest_proves(seen, 1)
    assert seen.boot_time == vm.runtime.bootTime
    assert guests.left(vm) == []


def test_the_wrong_driver_says_why_in_nvidias_words(guests: Guests) -> None:
    vm, ref = guests.add("shared", host=VGPU, gpu="vgpu")
    guests.site.install(vm, DATA_CENTER)
    seen = inspect(guests, ref)
    assert (seen.driver_installed, seen.gpus) == (True, ())
    assert "libvgpu.so: version mismatch" in seen.error
    assert "install the vGPU guest driver (-grid)" in guest_trouble(seen, 1, vgpu=True)
    guests.site.install(vm, GRID)
    assert inspect(guests, ref).gpus[0].name == "GRID A100-20C"


def test_a_gpu_operators_driver_is_seen_and_proves_its_gpus(guests: Guests) -> None:
    vm, ref = guests.add("node")
    guests.simulator.act("kubernetes_node", vm="node", version="550.54.14")
    seen = inspect(guests, ref)
    assert (seen.gpu_operator, seen.driver_installed, len(seen.gpus)) == (True, True, 1)
    assert guest_proves(seen, 1)
    guests.site.install(vm, "NVIDIA-Linux-x86_64-535.129.03.run")
    clash = inspect(guests, ref)
    assert (clash.gpu_operator, clash.gpus) == (True, ())
    assert "Driver/library version mismatch" in clash.error
    assert "install nothing by hand" in guest_trouble(clash, 1, vgpu=False)


def test_a_refused_login_is_evidence_in_words(guests: Guests) -> None:
    _, ref = guests.add("locked")
    seen = inspect(guests, ref, guests.credentials("root", "not-the-password"))
    assert "refused user root with the password from file" in seen.unreadable
    assert "InvalidGuestLogin" in seen.unreadable
    assert "not-the-password" not in seen.model_dump_json()
    assert not guest_proves(seen, 0)


def test_a_rotated_password_needs_no_restart(guests: Guests) -> None:
    _, ref = guests.add("rotated")
    credentials = guests.credentials("ada", "old")
    guests.simulator.act("set_guest_login", vm="rotated", user="ada", password="new")
    assert inspect(guests, ref, credentials).unreadable
    assert credentials.password_file is not None
    credentials.password_file.write_text("new\n")
    assert not inspect(guests, ref, credentials).unreadable


def test_evidence_is_never_of_two_boots(guests: Guests) -> None:
    vm, ref = guests.add("twice")
    first = vm.runtime.bootTime
    done: list[Any] = []

    def restart(_: dict[str, Any]) -> None:
        if not done:
            done.append(guests.site.ended(vm.ResetVM_Task()))
            guests.site.until(lambda: vm.guest.guestOperationsReady)

    with guests.pool.session() as si, pytest.raises(Unreachable, match="restarted"):
        inspect_guest(si, ref, guests.root, None, restart)
    assert inspect(guests, ref).boot_time == vm.runtime.bootTime != first


def program(name: str = "sleep", command: str = "", ended: bool = False) -> GuestProgram:
    return GuestProgram(1, name, command, datetime.now(UTC), ended, 0 if ended else None)


@pytest.mark.parametrize(
    ("said", "gpus", "error"),
    [
        (f"{LINE}{LINE}gpuwright nvidia-smi 0\n", 2, ""),
        ("NVIDIA A100, GPU-1, 550.54.14, [N/A]\ngpuwright nvidia-smi 0\n", 1, ""),
        ("No devices were found\ngpuwright nvidia-smi 0\n", 0, "No devices were found"),
        ("NVIDIA-SMI has failed.\ngpuwright nvidia-smi 9\n", 0, "NVIDIA-SMI has failed."),
        (f"{LINE}Unable to determine the device handle\ngpuwright nvidia-smi 15\n", 1, "Unable to determine the dev"),
        (f"{LINE}gpuwright nvidia-smi 14\n", 1, "it ended with status 14 and said nothing"),
        ("gpuwright nvidia-smi 0\n", 0, "it ended with status 0 and said nothing"),
        ("sh: not found\ngpuwright nvidia-smi 127\n", 0, "nvidia-smi is not installed"),
        ("sh: cannot fork\n", 0, "sh: cannot fork"),
        ("", 0, "the guest's shell said nothing"),
    ],
)
def test_only_whole_answers_prove(said: str, gpus: int, error: str) -> None:
    seen = evidence_of(Ended(0, said + NO_OPERATOR), [])
    if "nvidia-smi" not in said:
        seen = evidence_of(Ended(0, said), [])
    assert len(seen.gpus) == gpus
    assert seen.error.startswith(error)
    assert bool(seen.error) is bool(error)
    assert seen.gpu_operator is False


def test_a_hung_nvidia_smi_is_an_error_with_its_time() -> None:
    assert evidence_of(Ended(None, ""), []).error == "nvidia-smi did not answer within 90 s"


@pytest.mark.parametrize(
    ("rest", "found", "operator"),
    [
        (NO_OPERATOR, program("nvidia-driver"), True),
        (NO_OPERATOR, program("bash", "/bin/bash -x /usr/local/bin/nvidia-driver init"), True),
        (NO_OPERATOR, program("nvidia-driver", ended=True), False),
        (NO_OPERATOR, program("sh", "/bin/sh -c ls | grep -q nvidia-driver-daemonset"), False),
        (NO_OPERATOR, program("kubelet", "/usr/bin/kubelet"), False),
        (NO_OPERATOR.replace("root 1", "root 0"), program(), True),
        (NO_OPERATOR.replace("pods 1", "pods 0"), program(), True),
    ],
)
def test_signs_of_a_gpu_operator(rest: str, found: GuestProgram, operator: bool) -> None:
    seen = evidence_of(Ended(0, f"{LINE}gpuwright nvidia-smi 0\n{rest}"), [found])
    assert seen.gpu_operator is operator
