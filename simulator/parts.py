"""What hosts and VMs are made of: PCI functions, GPU cards, packages, services, a VM's GPU devices."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GpuCard", "HostService", "PciFunction", "Vib", "VmGpu", "default_services"]


@dataclass(slots=True)
class PciFunction:
    """One PCI function of a host. `used_by` names what ESXi does with it (`vmhba0`, `vmnic0`), empty when nothing."""

    id: str
    vendor_id: int
    device_id: int
    class_id: int
    vendor_name: str
    device_name: str
    sub_vendor_id: int = 0
    sub_device_id: int = 0
    parent_bridge: str | None = None
    dependent_device: str = ""
    used_by: str = ""
    driver: str = ""
    assignable: bool = False
    """The device itself can be passed through; `passthruCapable` also takes an IOMMU that is on."""
    passthru_enabled: bool = False
    passthru_active: bool = False
    passthru_stuck: bool = False
    """Test knob: passthrough never becomes active on this device."""
    hardware_label: str = ""
    sriov_capable: bool = False


@dataclass(slots=True)
class GpuCard:
    """What makes a PCI function a GPU: its model and its host graphics types, configured and active."""

    pci_id: str
    name: str
    framebuffer_mib: int
    configured_type: str = "shared"
    active_type: str = "basic"
    configured_vgpu_mode: str = "sameSize"
    active_vgpu_mode: str = "sameSize"
    mig: bool = False
    """MIG is in force on the card."""
    mig_pending: bool = False
    """MIG as it was asked for; it is in force after a reset of the GPU or a reboot."""


@dataclass(slots=True, frozen=True)
class Vib:
    """A package; `provides_vgpu` marks the NVIDIA vGPU Manager.

    `platform` is the ESXi release it is for, as a pattern; empty for any.
    """

    name: str
    version: str
    vendor: str
    acceptance_level: str = "VMwareCertified"
    summary: str = ""
    install_date: str = "2024-03-05"
    provides_vgpu: bool = False
    signed: bool = True
    platform: str = ""
    component: str = ""
    """The vLCM component that it belongs to; empty for what comes with the base image."""

    @property
    def full_id(self) -> str:
        """`<vendor>_bootbank_<name>_<version>`, as esxcli names it."""
        return f"{self.vendor}_bootbank_{self.name}_{self.version}"


@dataclass(slots=True)
class HostService:
    """A service of a host; `policy` says when it starts: `on`, `off` or `automatic`."""

    key: str
    label: str
    running: bool
    policy: str


def default_services() -> dict[str, HostService]:
    """A fresh host's services, by key: SSH and the shell are off."""
    found = (
        HostService("TSM-SSH", "SSH", False, "off"),
        HostService("TSM", "ESXi Shell", False, "off"),
        HostService("xorg", "X.Org Server", False, "on"),
        HostService("ntpd", "NTP Daemon", True, "on"),
    )
    return {service.key: service for service in found}


@dataclass(slots=True)
class VmGpu:
    """A GPU device of a VM: `static` names its device, `dynamic` its allowed devices and label, `vgpu` its profile."""

    key: int
    kind: str
    pci_id: str = ""
    device_name: str = ""
    vendor_id: int = 0
    device_id: int = 0
    system_id: str = ""
    allowed: tuple[tuple[int, int], ...] = ()
    label: str = ""
    profile: str = ""
    assigned_id: str | None = None
