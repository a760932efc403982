"""How much 64-bit MMIO space a VM with whole GPUs needs, and the settings that give it.

Source: VMware's guide to large GPUs (`pciPassthru.use64bitMMIO`, `pciPassthru.64bitMMIOSizeGB`), verified on hardware
for 2×16 → 64, 2×24 → 128, 8×16 → 256 and 10×16 → 512. With too little the VM runs and does not boot, without an error.
"""

from collections.abc import Sequence

from planning.gpu_models import GPU_MODELS, LARGE_BAR_GIB

__all__ = ["MMIO_SIZE", "USE_MMIO", "framebuffer_gib", "mmio_settings", "mmio_size_gib", "mmio_too_small"]

USE_MMIO = "pciPassthru.use64bitMMIO"
MMIO_SIZE = "pciPassthru.64bitMMIOSizeGB"


def mmio_size_gib(framebuffers_gib: Sequence[int]) -> int:
    """The MMIO space in GiB for GPUs with these framebuffers; 0 without GPUs.

    Their sum, if it is a power of two, to the next power of two; otherwise rounded up to one, and then once more.
    """
    total = sum(framebuffers_gib)
    return 2 << (total - 1).bit_length() if total else 0


def framebuffer_gib(vendor_device: str, reported_mib: int = 0) -> int:
    """A GPU's framebuffer in whole GiB: the larger of what its host reports and what the table of models knows.

    Too much MMIO space costs nothing, too little keeps the VM from booting. 0 where neither knows.
    """
    model = GPU_MODELS.get(vendor_device)
    return max(-(-reported_mib // 1024), model.framebuffer_gib if model else 0)


def mmio_settings(framebuffers_gib: Sequence[int]) -> dict[str, str]:
    """The extra configuration for whole GPUs; empty when every one is small enough to do without."""
    if all(size < LARGE_BAR_GIB for size in framebuffers_gib):
        return {}
    return {USE_MMIO: "TRUE", MMIO_SIZE: str(mmio_size_gib(framebuffers_gib))}


def mmio_too_small(extra_config: dict[str, str], framebuffers_gib: Sequence[int]) -> str:
    """Why these settings keep a VM with such GPUs from booting, in words; empty when they are enough.

    vSphere reads the keys whatever their letter case.
    """
    wanted = mmio_settings(framebuffers_gib)
    if not wanted:
        return ""
    have = {key.casefold(): value.strip() for key, value in extra_config.items()}
    if have.get(USE_MMIO.casefold(), "").upper() != "TRUE":
        return f"{USE_MMIO} is not TRUE"
    size = have.get(MMIO_SIZE.casefold(), "")
    if not size.isdigit() or int(size) < int(wanted[MMIO_SIZE]):
        return f"{MMIO_SIZE} is {size or 'not set'}, and {wanted[MMIO_SIZE]} is needed"
    return ""
