"""NVIDIA's data-centre GPUs by PCI id: what people call them, and how much framebuffer they have.

Ids are those of the PCI ID repository (pci.ids), framebuffers those of NVIDIA's data sheets, in GiB. A model that is
missing here is no error: its host reports a framebuffer, and people can ask for it by vendor:device.
"""

from collections.abc import Collection
from typing import NamedTuple

__all__ = ["GPU_MODELS", "LARGE_BAR_GIB", "GpuModel", "model_names", "models_named", "pair_words"]

LARGE_BAR_GIB = 16
"""Cards from this framebuffer on have BARs that do not fit below 4 GiB: they need 64-bit MMIO space."""


class GpuModel(NamedTuple):
    """A model: the name that people ask for, and its framebuffer in GiB."""

    name: str
    framebuffer_gib: int


GPU_MODELS: dict[str, GpuModel] = {
    "10de:13bd": GpuModel("M10", 8),
    "10de:13f2": GpuModel("M60", 8),
    "10de:15f7": GpuModel("P100", 12),
    "10de:15f8": GpuModel("P100", 16),
    "10de:15f9": GpuModel("P100", 16),
    "10de:1b38": GpuModel("P40", 24),
    "10de:1bb3": GpuModel("P4", 8),
    "10de:1db1": GpuModel("V100", 16),
    "10de:1db3": GpuModel("V100", 16),
    "10de:1db4": GpuModel("V100", 16),
    "10de:1db5": GpuModel("V100", 32),
    "10de:1db6": GpuModel("V100", 32),
    "10de:1db8": GpuModel("V100", 32),
    "10de:1df6": GpuModel("V100S", 32),
    "10de:1eb8": GpuModel("T4", 16),
    "10de:20b0": GpuModel("A100", 40),
    "10de:20b1": GpuModel("A100", 40),
    "10de:20b2": GpuModel("A100", 80),
    "10de:20b5": GpuModel("A100", 80),
    "10de:20b7": GpuModel("A30", 24),
    "10de:20f1": GpuModel("A100", 40),
    "10de:20f3": GpuModel("A800", 80),
    "10de:20f5": GpuModel("A800", 80),
    "10de:20f6": GpuModel("A800", 40),
    "10de:2230": GpuModel("RTX A6000", 48),
    "10de:2231": GpuModel("RTX A5000", 24),
    "10de:2233": GpuModel("RTX A5500", 24),
    "10de:2235": GpuModel("A40", 48),
    "10de:2236": GpuModel("A10", 24),
    "10de:2322": GpuModel("H800", 80),
    "10de:2324": GpuModel("H800", 80),
    "10de:2330": GpuModel("H100", 80),
    "10de:2331": GpuModel("H100", 80),
    "10de:25b6": GpuModel("A16", 16),
    "10de:26b1": GpuModel("RTX 6000 Ada", 48),
    "10de:26b5": GpuModel("L40", 48),
    "10de:26b9": GpuModel("L40S", 48),
    "10de:27b8": GpuModel("L4", 24),
}
"""By vendor:device. `10de:25b6` is the A2 as well as each GPU of an A16."""


def models_named(name: str) -> tuple[str, ...]:
    """Every vendor:device of a model, whatever the letter case; empty for a name that is not in the table."""
    wanted = name.casefold().removeprefix("nvidia ").strip()
    return tuple(pair for pair, model in GPU_MODELS.items() if model.name.casefold() == wanted)


def model_names() -> tuple[str, ...]:
    """The names that can be asked for."""
    return tuple(sorted({model.name for model in GPU_MODELS.values()}))


def pair_words(pairs: Collection[str]) -> str:
    """Vendor:device pairs as people read them: the model's name where they are all of its pairs, and there are many."""
    first = next(iter(pairs), "")
    if len(pairs) > 1 and first in GPU_MODELS:
        name = GPU_MODELS[first].name
        if set(pairs) == set(models_named(name)):
            return name
    return " or ".join(pairs)
