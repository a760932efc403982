"""What is plugged into a host: GPU models and the PCI layout of a two-socket server."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.world import GpuCard, PciFunction, Vib

__all__ = ["BASE_VIBS", "BUILD_MODELS", "GPU_MODELS", "GpuModel", "default_advanced_settings", "model_of", "plug_in"]

NVIDIA = 0x10DE
INTEL = 0x8086
_BRIDGE, _DISPLAY_3D, _ETHERNET, _RAID, _USB = 0x0604, 0x0302, 0x0200, 0x0104, 0x0C03
_GPU_BUSES = (0x81, 0xE2, 0x3B, 0xAF, 0x5F, 0xC3, 0xD8, 0xF1, 0x41, 0x61, 0x9B, 0xA1, 0xB1, 0xCA, 0xD1, 0xE9)


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A card as PCI shows it: ids as plain integers, framebuffer in MiB, and its name in vGPU profiles.

    `mig` lists its MIG profiles as (slices, GiB), empty when it cannot do MIG. A `compute_only` card has no display
    engine, so no profiles for graphics. An `sriov` card (Ampere and later) shares itself by SR-IOV.
    """

    device_id: int
    sub_device_id: int
    name: str
    framebuffer_mib: int
    profile_prefix: str
    vgpu_framebuffers_gib: tuple[int, ...]
    mig: tuple[tuple[int, int], ...] = ()
    compute_only: bool = False
    sriov: bool = True
    mig_at_once: bool = False
    """MIG takes effect without a reset of the card (Hopper)."""
    product: str = ""
    """The name that `nvidia-smi` shows."""


_SLICES_80 = ((1, 10), (1, 20), (2, 20), (3, 40), (4, 40), (7, 80))
GPU_MODELS: dict[str, GpuModel] = {
    "10de:20f1": GpuModel(
        0x20F1, 0x145F, "GA100 [A100 PCIe 40GB]", 40960, "grid_a100", (4, 5, 8, 10, 20, 40),
        ((1, 5), (1, 10), (2, 10), (3, 20), (4, 20), (7, 40)), compute_only=True, product="NVIDIA A100-PCIE-40GB",
    ),
    "10de:20b5": GpuModel(
        0x20B5, 0x1533, "GA100 [A100 PCIe 80GB]", 81920, "grid_a100d", (4, 8, 10, 16, 20, 40, 80),
        _SLICES_80, compute_only=True, product="NVIDIA A100 80GB PCIe",
    ),
    "10de:20b7": GpuModel(
        0x20B7, 0x1532, "GA100GL [A30 PCIe]", 24576, "nvidia_a30", (4, 6, 8, 12, 24),
        ((1, 6), (2, 12), (4, 24)), compute_only=True, product="NVIDIA A30",
    ),
    "10de:2235": GpuModel(
        0x2235, 0x145A, "GA102GL [A40]", 49152, "nvidia_a40", (4, 6, 8, 12, 16, 24, 48), product="NVIDIA A40"
    ),
    "10de:2331": GpuModel(
        0x2331, 0x1626, "GH100 [H100 PCIe]", 81920, "nvidia_h100", (4, 5, 8, 10, 16, 20, 40, 80),
        _SLICES_80, compute_only=True, mig_at_once=True, product="NVIDIA H100 PCIe",
    ),
    "10de:26b9": GpuModel(
        0x26B9, 0x1851, "AD102GL [L40S]", 49152, "nvidia_l40s", (4, 6, 8, 12, 16, 24, 48), product="NVIDIA L40S"
    ),
    "10de:27b8": GpuModel(0x27B8, 0x16CA, "AD104GL [L4]", 24576, "nvidia_l4", (4, 6, 8, 12, 24), product="NVIDIA L4"),
    "10de:1db4": GpuModel(
        0x1DB4, 0x1214, "GV100GL [Tesla V100 PCIe 16GB]", 16384, "grid_v100", (4, 8, 16),
        sriov=False, product="Tesla V100-PCIE-16GB",
    ),
}  # fmt: skip
"""Device ids as in the PCI ID repository; framebuffers as in NVIDIA's data sheets."""


def model_of(function: PciFunction) -> GpuModel:
    """The GPU model that a PCI function is; raises `KeyError` for anything else."""
    return GPU_MODELS[f"{function.vendor_id:04x}:{function.device_id:04x}"]


BUILD_MODELS = ("10de:20f1", "10de:2235", "10de:20b5", "10de:26b9")
"""Cluster by cluster, the model that a built world's hosts carry."""

BASE_VIBS = (
    Vib("esx-base", "8.0.2-0.0.22380479", "VMware", summary="ESXi base system"),
    Vib("esx-ui", "2.13.1-21996720", "VMware", summary="VMware Host Client"),
    Vib("i40en", "2.3.4.0-5vmw.802.0.0.22380479", "VMW", summary="Intel Ethernet 700 series driver"),
    Vib("lsi-mr3", "7.725.02.00-1vmw.802.0.0.22380479", "VMW", summary="MegaRAID driver"),
    Vib("nmlx5-core", "4.23.0.36-10vmw.802.0.0.22380479", "VMW", summary="Mellanox ConnectX driver"),
)


def default_advanced_settings() -> dict[str, object]:
    """The host's advanced settings that clients of this project look at, at their defaults."""
    return {
        "Mem.ShareForceSalting": 2,
        "Net.PVRDMAVmknic": "",
        "UserVars.ESXiShellTimeOut": 0,
        "UserVars.SuppressShellWarning": 0,
        "VMkernel.Boot.hyperthreading": True,
    }


def plug_in(
    gpus: list[str], *, usb_boot: bool = False, gpu_shares_bridge_with_nic: bool = False
) -> tuple[dict[str, PciFunction], dict[str, GpuCard]]:
    """The PCI functions and GPU cards of a fresh host that has these GPU models (`10de:20f1`).

    A card's own bridge makes it depend on nothing but itself. With `gpu_shares_bridge_with_nic` the first card
    sits behind the same switch as the management NICs, so that its `dependentDevice` is that switch.
    Raises `ValueError` for an unknown model or too many cards.
    """
    if len(gpus) > len(_GPU_BUSES):
        raise ValueError(f"a host takes at most {len(_GPU_BUSES)} GPUs, not {len(gpus)}")
    unknown = sorted(set(gpus) - GPU_MODELS.keys())
    if unknown:
        raise ValueError(f"unknown GPU model {unknown[0]!r}: choose from {', '.join(GPU_MODELS)}")
    nic_bridge = "0000:64:00.0" if gpu_shares_bridge_with_nic else "0000:17:00.0"
    nic_bus = 0x66 if gpu_shares_bridge_with_nic else 0x19
    functions = [
        PciFunction("0000:00:00.0", INTEL, 0x2020, 0x0600, "Intel Corporation", "Sky Lake-E DMI3 Registers"),
        PciFunction(
            "0000:00:14.0", INTEL, 0xA1AF, _USB, "Intel Corporation", "C620 Series USB 3.0 xHCI Controller",
            used_by="vmhba32" if usb_boot else "", driver="vmkusb",
        ),
        _bridge("0000:17:00.0", INTEL, 0x2030, "Intel Corporation", "Sky Lake-E PCI Express Root Port A"),
        PciFunction(
            "0000:18:00.0", 0x1000, 0x0014, _RAID, "Broadcom / LSI", "MegaRAID Tri-Mode SAS3516", 0x1028, 0x1F3E,
            parent_bridge="0000:17:00.0", used_by="vmhba0", driver="lsi_mr3", assignable=True,
        ),
    ]  # fmt: skip
    if gpu_shares_bridge_with_nic:
        functions.append(_bridge(nic_bridge, 0x10B5, 0x8747, "PLX Technology, Inc.", "PEX 8747 PCI Express Switch"))
    functions += [
        PciFunction(
            f"0000:{nic_bus:02x}:00.{port}", INTEL, 0x1572, _ETHERNET, "Intel Corporation",
            "Ethernet Controller X710 for 10GbE SFP+", 0x8086, 0x0007,
            parent_bridge=nic_bridge, dependent_device=nic_bridge if gpu_shares_bridge_with_nic else "",
            used_by=f"vmnic{port}", driver="i40en", assignable=True,
        )
        for port in (0, 1)
    ]  # fmt: skip
    functions += [
        _bridge("0000:4a:00.0", INTEL, 0x2031, "Intel Corporation", "Sky Lake-E PCI Express Root Port B"),
        PciFunction(
            "0000:4b:00.0", 0x15B3, 0x1017, _ETHERNET, "Mellanox Technologies", "MT27800 Family [ConnectX-5]",
            0x15B3, 0x0006, parent_bridge="0000:4a:00.0", driver="nmlx5_core", assignable=True,
        ),
    ]  # fmt: skip
    cards: dict[str, GpuCard] = {}
    for index, key in enumerate(gpus):
        model = GPU_MODELS[key]
        shared = gpu_shares_bridge_with_nic and index == 0
        bus = 0x65 if shared else _GPU_BUSES[index]
        bridge = nic_bridge if shared else f"0000:{bus - 1:02x}:00.0"
        if not shared:
            functions.append(_bridge(bridge, INTEL, 0x2032, "Intel Corporation", "Sky Lake-E PCI Express Root Port C"))
        pci_id = f"0000:{bus:02x}:00.0"
        functions.append(
            PciFunction(
                pci_id, NVIDIA, model.device_id, _DISPLAY_3D, "NVIDIA Corporation", model.name,
                NVIDIA, model.sub_device_id, parent_bridge=bridge,
                dependent_device=bridge if shared else "", assignable=True, sriov_capable=model.sriov,
            )
        )  # fmt: skip
        cards[pci_id] = GpuCard(pci_id, model.name, model.framebuffer_mib)
    for function in functions:
        function.dependent_device = function.dependent_device or function.id
    return {function.id: function for function in sorted(functions, key=lambda found: found.id)}, dict(
        sorted(cards.items())
    )


def _bridge(pci_id: str, vendor_id: int, device_id: int, vendor: str, name: str) -> PciFunction:
    return PciFunction(pci_id, vendor_id, device_id, _BRIDGE, vendor, name, driver="pcie")
