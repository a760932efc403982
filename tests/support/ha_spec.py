"""Clusters of GPU hosts and VMs as plain data, and what befalls them: what the model of HA and the simulator are given.

Cards, profiles and the MMIO rule are stated here once more, from NVIDIA's and VMware's documents.
"""

from dataclasses import dataclass

__all__ = ["FRAMEBUFFER_GIB", "PRIORITIES", "SLOTS", "Case", "Cluster", "Device", "Gpu", "Host", "Rule", "Vm",
           "mmio_needed_gib", "profiles"]  # fmt: skip

SLOTS = ("0000:81:00.0", "0000:e2:00.0", "0000:3b:00.0", "0000:af:00.0")
"""Where the machines have their GPUs, in the order in which they are plugged in."""
FRAMEBUFFER_GIB = {"10de:1db4": 16, "10de:20b5": 80, "10de:20b7": 24, "10de:20f1": 40, "10de:2235": 48}
"""V100, A100 80GB, A30, A100 40GB, A40 (NVIDIA's data sheets)."""
_SHARED = {
    "10de:20b5": ("grid_a100d", (8, 20, 40, 80), ((1, 10), (3, 40), (7, 80))),
    "10de:20b7": ("nvidia_a30", (6, 12, 24), ((1, 6), (2, 12), (4, 24))),
    "10de:20f1": ("grid_a100", (5, 10, 20, 40), ((1, 5), (2, 10), (3, 20), (4, 20), (7, 40))),
    "10de:2235": ("nvidia_a40", (8, 16, 24, 48), ()),
}
PRIORITIES = ("highest", "high", "medium", "low", "lowest", "disabled")
_LARGE_GIB = 16


@dataclass(frozen=True)
class Gpu:
    """A card: `passthrough`, `vgpu` (time-sliced), `mig`, or `default` (no VM can have it)."""

    address: str
    model: str
    mode: str = "passthrough"
    label: str = ""


@dataclass(frozen=True)
class Device:
    """A GPU device of a VM: `dynamic` with its pairs and label, `static` by address, `vgpu` by profile."""

    kind: str
    allowed: tuple[str, ...] = ()
    label: str = ""
    address: str = ""
    profile: str = ""


@dataclass(frozen=True)
class Host:
    name: str
    memory_gib: int = 512
    gpus: tuple[Gpu, ...] = ()
    policy: str = "performance"
    names_small_mmio: bool = False
    maintenance: bool = False
    version: str = "8.0.2"


@dataclass(frozen=True)
class Vm:
    """A VM that runs; `restart_priority`, `isolation_response` and `drs_override` are its own, if it has any."""

    name: str
    host: str
    gpus: tuple[Device, ...] = ()
    memory_gib: int = 32
    mmio_gib: int = 1024
    reserved: bool = True
    protected: bool = True
    restart_priority: str | None = None
    isolation_response: str | None = None
    drs_override: str | None = None
    no_tools: bool = False
    """From now on its guest does not tell that it is up."""
    question: str = ""
    """It asks this when it is powered on again."""


@dataclass(frozen=True)
class Rule:
    """A mandatory VM-host rule: these VMs on these hosts, or never on them."""

    vms: tuple[str, ...]
    hosts: tuple[str, ...]
    affine: bool = False


@dataclass(frozen=True)
class Cluster:
    """VMs are in the order of their moids, hosts in that of the inventory; `drs` None: off."""

    name: str
    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    rules: tuple[Rule, ...] = ()
    ha: bool = True
    host_monitoring: bool = True
    new_events: bool = False
    drs: str | None = "fullyAutomated"
    restart_priority: str = "medium"
    isolation_response: str = "none"


@dataclass(frozen=True)
class Case:
    """A cluster, what befalls which of its hosts (`power`, `isolation` or `cut-off`), and what people do.

    `before` are VMs that somebody powers off just before; `early` are hosts that are back while HA still tries.
    `after` is done when HA has done what it can: `power-off`, `suspend`, `remove`, `orphan`, `lose-files` of a VM,
    `return` of a host.
    """

    cluster: Cluster
    failures: tuple[tuple[str, str], ...]
    before: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    after: tuple[tuple[str, str], ...] = ()


def profiles(gpu: Gpu) -> dict[str, tuple[int, int]]:
    """What a card offers: by name the framebuffer in GiB and the slices, 0 for a time-sliced one."""
    if gpu.mode not in ("vgpu", "mig") or gpu.model not in _SHARED:
        return {}
    prefix, sizes, slices = _SHARED[gpu.model]
    if gpu.mode == "mig":
        return {f"{prefix}-{count}-{gib}c": (gib, count) for count, gib in slices}
    return {f"{prefix}-{gib}c": (gib, 0) for gib in sizes}


def mmio_needed_gib(sizes: list[int]) -> int:
    """The sum, rounded up to a power of two, and once more; 0 where every GPU does without."""
    if all(size < _LARGE_GIB for size in sizes):
        return 0
    power = 1
    while power < sum(sizes):
        power *= 2
    return power * 2
