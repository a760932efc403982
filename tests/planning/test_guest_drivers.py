"""Which guest driver works where: domain.md's table, branches, and what nvidia-smi in the guest proves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.machine import GuestEvidence, GuestGpu
from contracts.vms import DriverKind, DriverPackage
from planning.guest_drivers import branch, driver_misfit, guest_proves, guest_trouble


def package(kind: DriverKind, version: str = "550.54.15") -> DriverPackage:
    return DriverPackage(kind=kind, version=version, url="https://depot/driver.run", sha256="0" * 64)


@pytest.mark.parametrize(
    ("kind", "vgpu", "works"),
    [
        (DriverKind.DATA_CENTER, False, True),
        (DriverKind.DATA_CENTER, True, False),
        (DriverKind.GRID, False, True),
        (DriverKind.GRID, True, True),
    ],
)
def test_the_table_of_drivers_and_modes(kind: DriverKind, vgpu: bool, works: bool) -> None:
    assert (not driver_misfit(package(kind), vgpu=vgpu, host_manager="550.54.16")) == works


@pytest.mark.parametrize(
    ("guest", "host", "works"),
    [
        ("550.54.15", "550.90.05", True),
        ("550.90.07", "550.54.16", True),
        ("535.183.01", "550.54.16", True),
        ("570.86.10", "550.54.16", False),
        ("470.103.01", "550.54.16", False),
        ("470.103.01", "", True),
        ("600.10", "600.20", True),
        ("610.10", "600.20", False),
    ],
)
def test_a_vgpu_guest_is_of_a_branch_that_its_host_serves(guest: str, host: str, works: bool) -> None:
    found = driver_misfit(package(DriverKind.GRID, guest), vgpu=True, host_manager=host)
    assert (found == "") == works
    if found:
        assert guest in found
        assert host in found


@given(st.integers(100, 999), st.integers(100, 999))
def test_a_guest_newer_than_its_host_never_works(guest: int, host: int) -> None:
    misfit = driver_misfit(package(DriverKind.GRID, f"{guest}.1"), vgpu=True, host_manager=f"{host}.1")
    assert misfit or guest <= host


def test_a_whole_gpu_does_not_care_about_the_host() -> None:
    assert not driver_misfit(package(DriverKind.GRID, "580.1"), vgpu=False, host_manager="470.1")


def test_versions_have_branches() -> None:
    assert (branch("550.54.16"), branch("n/a")) == (550, None)


def test_a_guest_proves_all_of_its_gpus_or_nothing() -> None:
    one = GuestGpu(name="NVIDIA A100-PCIE-40GB")
    assert guest_proves(GuestEvidence(gpus=(one, one)), 2)
    assert not guest_proves(GuestEvidence(gpus=(one,)), 2)
    assert not guest_proves(GuestEvidence(gpus=(one, one), error="lost"), 2)


@pytest.mark.parametrize(
    ("seen", "vgpu", "words"),
    [
        (GuestEvidence(unreadable="wrong password of 'ubuntu'"), False, "could not be asked: wrong password"),
        (GuestEvidence(error="command not found", driver_installed=False), False, "no NVIDIA driver is installed"),
        (
            GuestEvidence(error="failed to initialise: libvgpu.so mismatch"),
            True,
            "install the vGPU guest driver (-grid)",
        ),
        (GuestEvidence(error="could not communicate", driver_installed=True), True, "vGPU Manager serves"),
        (GuestEvidence(error="could not communicate", gpu_operator=True), False, "nvidia-driver-daemonset"),
        (GuestEvidence(gpus=(GuestGpu(name="A100"),)), False, "shows 1 of 2 GPUs"),
    ],
)
def test_what_is_wrong_in_a_guest_is_named_with_its_fix(seen: GuestEvidence, vgpu: bool, words: str) -> None:
    assert words in guest_trouble(seen, 2, vgpu=vgpu)
