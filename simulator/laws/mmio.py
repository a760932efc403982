"""How much 64-bit MMIO space a VM needs for its GPUs."""

from __future__ import annotations

__all__ = ["LARGE_BAR_MIB", "mmio_gib_needed"]

LARGE_BAR_MIB = 16 * 1024
"""Cards and vGPU profiles from this framebuffer on do not fit below 4 GiB and need 64-bit MMIO space."""


def mmio_gib_needed(framebuffers_mib: list[int]) -> int:
    """The 64-bit MMIO space for these GPUs, in GiB: their sum to the next power of two, and once more.

    A sum that is a power of two already is doubled only once.
    """
    total = -(-sum(framebuffers_mib) // 1024)
    power = 1 << max(0, (total - 1).bit_length())
    return power * 2
