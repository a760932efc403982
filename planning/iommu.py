"""Is the IOMMU (Intel VT-d, AMD-Vi) on? No vSphere property says so; there is only evidence."""

from enum import StrEnum
from typing import NamedTuple

from contracts.host import HostState

__all__ = ["Iommu", "IommuVerdict", "iommu_verdict"]


class Iommu(StrEnum):
    """What the evidence says."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class IommuVerdict(NamedTuple):
    """The verdict and the evidence for it, in words."""

    iommu: Iommu
    evidence: str


def iommu_verdict(state: HostState) -> IommuVerdict:
    """Judge by `passthruCapable` of the PCI devices and the VMkernel setting `noIOMMU`."""
    if not state.pci:
        return IommuVerdict(Iommu.UNKNOWN, "the host's PCI devices could not be read")
    if state.kernel_no_iommu:
        return IommuVerdict(Iommu.OFF, "the VMkernel setting noIOMMU is TRUE")
    kernel = "noIOMMU is FALSE" if state.kernel_no_iommu is False else "noIOMMU could not be read"
    capable = sum(device.passthru_capable for device in state.pci)
    if capable:
        return IommuVerdict(Iommu.ON, f"{capable} of {len(state.pci)} PCI devices are passthruCapable; {kernel}")
    return IommuVerdict(Iommu.OFF, f"none of {len(state.pci)} PCI devices is passthruCapable; {kernel}")
