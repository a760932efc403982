"""NVIDIA's drivers inside a guest: what installs, what then works, and in which words it fails."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.guests import Guest, GuestDriver
from simulator.hardware import model_of
from simulator.installers import BadInstaller, read_installer
from simulator.laws.profiles import offered
from simulator.nvidia_smi import gpu_uuid
from simulator.world import VirtualMachine, VmGpu

__all__ = ["GUEST_BRANCHES", "GuestGpu", "Trouble", "compatible", "gpus_of", "install", "loaded", "trouble"]

GUEST_BRANCHES: dict[int, tuple[int, ...]] = {
    450: (450,),
    470: (470, 450),
    510: (510, 470),
    525: (525, 510, 470),
    535: (535, 525, 470),
    550: (550, 535),
    570: (570, 550, 535),
    580: (580, 570, 535),
}
"""The guest branches that each branch of the vGPU Manager serves: its own, the one before it, and the long-term
branch before that (NVIDIA's vGPU release notes, "compatibility of vGPU Manager and guest drivers"). A guest is never
newer than its host."""

_LIBVGPU = (
    "Failed to initialize NVML: Driver/library version mismatch\n"
    "libvgpu.so: version mismatch: this driver does not run on a vGPU\n"
)
_NOT_COMMUNICATING = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)
INSTALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class GuestGpu:
    """A GPU as the guest sees it; `address` is its place on the guest's own PCI bus."""

    address: str
    name: str
    framebuffer_mib: int
    uuid: str
    vendor_id: int
    device_id: int
    mig: bool | None
    """`None` where the GPU knows no MIG."""
    shared: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why `nvidia-smi` shows nothing: what it prints, its exit status, and what the kernel logs."""

    text: str
    status: int
    kernel: str = ""


def gpus_of(vm: VirtualMachine) -> list[GuestGpu]:
    """The GPUs on the guest's bus: those that the host gave the VM at power-on."""
    held = [gpu for gpu in vm.gpus if gpu.assigned_id in vm.host.gpus]
    return [_seen(vm, index, gpu) for index, gpu in enumerate(held)]


def _seen(vm: VirtualMachine, index: int, gpu: VmGpu) -> GuestGpu:
    pci_id = gpu.assigned_id or ""
    card, function = vm.host.gpus[pci_id], vm.host.pci[pci_id]
    model = model_of(function)
    address = f"0000:{3 + 8 * index:02x}:00.0"
    ids = (function.vendor_id, function.device_id)
    if gpu.kind != "vgpu":
        mig = False if model.mig else None
        return GuestGpu(address, model.product, card.framebuffer_mib, gpu_uuid(vm.host, card), *ids, mig, False)
    profile = offered(vm.host).get(gpu.profile)
    size = profile.framebuffer_mib if profile else 0
    family, _, rest = gpu.profile.partition("_")
    name = f"{family.upper()} {rest.upper()}"
    uuid = f"GPU-{vm.uuid[:24]}{gpu.key:012d}"
    return GuestGpu(address, name, size, uuid, *ids, True if profile and profile.slices else None, True)


def compatible(host_branch: int, guest_branch: int) -> bool:
    """Whether a guest driver of one branch works on a vGPU of another: see `GUEST_BRANCHES`."""
    return guest_branch in GUEST_BRANCHES.get(host_branch, (host_branch,))


def _host_branch(vm: VirtualMachine) -> int | None:
    versions = [vib.version for vib in vm.host.running_vibs if vib.provides_vgpu]
    return int(versions[0].partition(".")[0]) if versions else None


def loaded(vm: VirtualMachine, guest: Guest) -> GuestDriver | None:
    """The driver whose kernel module runs: the GPU Operator's comes first, having been there first."""
    if not gpus_of(vm):
        return None
    if guest.operator_driver is not None:
        return guest.operator_driver if _refusal(vm, guest.operator_driver) is None else None
    if guest.driver is None or vm.secure_boot or _refusal(vm, guest.driver) is not None:
        return None
    return guest.driver


def trouble(vm: VirtualMachine, guest: Guest, driver: GuestDriver) -> Trouble | None:
    """Why this driver's `nvidia-smi` fails in the guest as it is; `None` when it works."""
    if not gpus_of(vm):
        return Trouble("No devices were found\n", 6)
    if guest.operator_driver not in (None, driver):
        text = f"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: {driver.version}\n"
        kernel = (
            f"NVRM: API mismatch: the client has the version {driver.version}, but this kernel module has the "
            f"version {guest.operator_driver.version if guest.operator_driver else ''}."
        )
        return Trouble(text, 18, kernel)
    if vm.secure_boot and guest.operator_driver is None:
        return Trouble(_NOT_COMMUNICATING, 9, "Loading of module nvidia rejected: Key was rejected by service")
    return _refusal(vm, driver)


def _refusal(vm: VirtualMachine, driver: GuestDriver) -> Trouble | None:
    """What a driver says against the devices: driver 1 against any vGPU, driver 3 against one of a foreign branch."""
    if not any(gpu.shared for gpu in gpus_of(vm)):
        return None
    if driver.kind != "grid":
        return Trouble(_LIBVGPU, 18, "NVRM: GPU has fallen off: vGPU is not supported by this driver (libvgpu.so)")
    host_branch = _host_branch(vm)
    if host_branch is not None and not compatible(host_branch, driver.branch):
        return Trouble(
            _NOT_COMMUNICATING,
            9,
            f"NVRM: vGPU version mismatch: guest driver {driver.version} is not compatible with the host's vGPU "
            f"Manager {host_branch}",
        )
    return None


def install(vm: VirtualMachine, guest: Guest, content: bytes) -> tuple[int, str]:
    """Run an installer silently; returns its exit status and output.

    It fails on a damaged file and where it finds no NVIDIA GPU: the VM has none, or was not powered on with it. That
    the driver is the wrong one for the VM, or that the GPU Operator has one, it does not notice: `nvidia-smi` does.
    """
    try:
        driver = read_installer(content)
    except BadInstaller as damaged:
        return 1, f"{damaged}\n"
    if driver is None:
        return 126, "cannot execute: this is no installer\n"
    title = f"NVIDIA Accelerated Graphics Driver for Linux-x86_64 {driver.version}"
    start = f"Verifying archive integrity... OK\nUncompressing {title}\n"
    if not gpus_of(vm):
        return 1, (
            f"{start}ERROR: no NVIDIA GPU found: you do not appear to have an NVIDIA GPU supported by the "
            f"{driver.version} NVIDIA Linux graphics driver installed in this system.\n"
        )
    guest.driver = driver
    if guest.operator_driver is not None:
        start += (
            "WARNING: an NVIDIA kernel module appears to be loaded already; the new one is used after it is gone.\n"
        )
    return 0, f"{start}Installation of the {title} is now complete.\n"


def uninstall(guest: Guest) -> tuple[int, str]:
    """`nvidia-uninstall`."""
    if guest.driver is None:
        return 127, "nvidia-uninstall: command not found\n"
    version, guest.driver = guest.driver.version, None
    return 0, f"Uninstallation of existing driver: NVIDIA Accelerated Graphics Driver {version} is complete.\n"
