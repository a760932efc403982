"""Which NVIDIA driver works in which guest, and what `nvidia-smi` there proves.

Source: NVIDIA's vGPU software documentation. The data-centre driver works with whole GPUs only. The vGPU guest driver
(`-grid`) works with both; with a vGPU it must be of the vGPU Manager's branch, or of an older one that it still serves.
"""

import re

from contracts.machine import GuestEvidence
from contracts.vms import DriverKind, DriverPackage

__all__ = ["branch", "driver_misfit", "guest_proves", "guest_trouble"]

_SERVED: dict[int, frozenset[int]] = {
    470: frozenset({470, 460, 450}),
    510: frozenset({510, 470}),
    525: frozenset({525, 510, 470}),
    535: frozenset({535, 525, 470}),
    550: frozenset({550, 535}),
    570: frozenset({570, 550, 535}),
    580: frozenset({580, 570, 535}),
}
"""Branch of the vGPU Manager → branches of guest drivers that it serves: its own, the one before, and the long-term
one that is supported beside it (vGPU 13 = 470, 14 = 510, 15 = 525, 16 = 535, 17 = 550, 18 = 570, 19 = 580)."""


def branch(version: str) -> int | None:
    """The branch of a driver version: `550.54.16` is of branch 550; None where it has none."""
    found = re.match(r"(\d+)", version)
    return int(found[1]) if found else None


def driver_misfit(package: DriverPackage, *, vgpu: bool, host_manager: str) -> str:
    """Why a driver package cannot work in the VM, in words; empty when it can.

    `host_manager` is the version of the vGPU Manager on the VM's host, empty where none is known; it matters to vGPU.
    """
    if not vgpu:
        return ""
    if package.kind is DriverKind.DATA_CENTER:
        return (
            f"the data-centre driver {package.version} works with whole GPUs only; in a vGPU VM it fails with a "
            "libvgpu.so mismatch: name the vGPU guest driver (its file name ends in -grid.run)"
        )
    guest, host = branch(package.version), branch(host_manager)
    if guest is None or host is None:
        return ""
    served = _SERVED.get(host)
    if guest > host or (served is not None and guest not in served):
        wanted = ", ".join(str(each) for each in sorted(served or {host}, reverse=True))
        return (
            f"the guest driver {package.version} is of branch {guest}, and the host's vGPU Manager {host_manager} "
            f"serves guests of {wanted}: name a driver of one of these"
        )
    return ""


def guest_proves(guest: GuestEvidence, gpus: int) -> bool:
    """`nvidia-smi` in the guest shows every GPU of the VM."""
    return not guest.unreadable and not guest.error and len(guest.gpus) == gpus


def guest_trouble(guest: GuestEvidence, gpus: int, *, vgpu: bool) -> str:
    """What is wrong inside the guest, with its likely cause and fix; empty when it proves its GPUs."""
    if guest_proves(guest, gpus):
        return ""
    if guest.unreadable:
        return f"the guest could not be asked: {guest.unreadable}"
    if guest.gpu_operator and (guest.error or not guest.gpus):
        return (
            f"nvidia-smi: {guest.error or 'shows no GPU'}; this is a Kubernetes node whose GPU Operator installs the "
            "driver itself: look at its nvidia-driver-daemonset, and install nothing by hand"
        )
    if "libvgpu" in guest.error:
        return (
            f"nvidia-smi: {guest.error}; the data-centre driver is in a vGPU VM: install the vGPU guest driver (-grid)"
        )
    if guest.driver_installed is False:
        return "no NVIDIA driver is installed in the guest; ask for driver policy install, or use an image that has one"
    if guest.error:
        hint = "the vGPU guest driver of a branch that the host's vGPU Manager serves" if vgpu else "the driver"
        return f"nvidia-smi: {guest.error}; install {hint} again, and look at `dmesg` in the guest"
    return f"nvidia-smi shows {len(guest.gpus)} of {gpus} GPUs; look at `lspci` and `dmesg` in the guest"
