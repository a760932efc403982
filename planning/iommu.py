"""Is the IOMMU (Intel VT-d, AMD-Vi) on? No vSphere property says so; there is only evidence."""

from enum import StrEnum
from typing import NamedTuple

from contracts.host import BiosFeature, HostState

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
    """Judge by `passthruCapable` of the PCI devices and the VMkernel setting `noIOMMU`; the BMC's word is added."""
    verdict = _by_vsphere(state)
    said = _by_bmc(state)
    return IommuVerdict(verdict.iommu, f"{verdict.evidence}; {said}") if said else verdict


def _by_bmc(state: HostState) -> str:
    if state.bios_unread:
        return f"the BMC could not be asked: {state.bios_unread}"
    if state.bios is None:
        return ""
    if BiosFeature.IOMMU in state.bios.on:
        return "the BMC says that it is on in the BIOS"
    if BiosFeature.IOMMU in state.bios.ordered:
        return "the BMC says that it is off in the BIOS, and on from the next boot"
    if BiosFeature.IOMMU in state.bios.off:
        return "the BMC says that it is off in the BIOS"
    return "the BMC names no BIOS switch for it"


def _by_vsphere(state: HostState) -> IommuVerdict:
    if not state.pci:
        return IommuVerdict(Iommu.UNKNOWN, "the host's PCI devices could not be read")
    if state.kernel_no_iommu:
        return IommuVerdict(Iommu.OFF, "the VMkernel setting noIOMMU is TRUE")
    kernel = "noIOMMU is FALSE" if state.kernel_no_iommu is False else "noIOMMU could not be read"
    capable = sum(device.passthru_capable for device in state.pci)
    if capable:
        return IommuVerdict(Iommu.ON, f"{capable} of {len(state.pci)} PCI devices are passthruCapable; {kernel}")
    return IommuVerdict(Iommu.OFF, f"none of {len(state.pci)} PCI devices is passthruCapable; {kernel}")
