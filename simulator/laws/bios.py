"""BIOS settings that matter for GPUs, as the BMC shows them; a change waits for the next boot."""

from __future__ import annotations

from simulator.world import Host

__all__ = ["ATTRIBUTES", "apply", "attributes", "check", "set_now", "set_pending"]

ON, OFF = "Enabled", "Disabled"
ATTRIBUTES = ("ProcVirtualization", "ProcVtd", "SriovGlobalEnable", "MmioAbove4Gb")
"""Dell's attribute names: VT-x, VT-d, SR-IOV and Above 4G decoding, each `Enabled` or `Disabled`."""


def attributes(host: Host) -> dict[str, str]:
    """The settings in force, by Redfish attribute."""
    return {
        "ProcVirtualization": host.bios.get("ProcVirtualization", ON),
        "ProcVtd": ON if host.bios_iommu else OFF,
        "SriovGlobalEnable": ON if host.bios_sriov else OFF,
        "MmioAbove4Gb": ON if host.bios_above_4g else OFF,
    }


def set_pending(host: Host, wanted: dict[str, str]) -> None:
    """Ask for settings; raises `ValueError` for an unknown attribute or value, and then changes nothing."""
    check(wanted)
    host.bios_pending |= wanted


def check(wanted: dict[str, str]) -> None:
    """Raises `ValueError` for an unknown attribute or value."""
    for name, value in wanted.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"{name} is no BIOS attribute of this system: it has {', '.join(ATTRIBUTES)}")
        if value not in (ON, OFF):
            raise ValueError(f"{name} is {value!r}; it must be {ON} or {OFF}")


def apply(host: Host) -> None:
    """At boot: what was asked for is in force."""
    set_now(host, host.bios_pending)
    host.bios_pending = {}


def set_now(host: Host, wanted: dict[str, str]) -> None:
    """Settings as if they had been so at the last boot."""
    host.bios |= wanted
    host.bios_iommu = wanted.get("ProcVtd", ON if host.bios_iommu else OFF) == ON
    host.bios_sriov = wanted.get("SriovGlobalEnable", ON if host.bios_sriov else OFF) == ON
    host.bios_above_4g = wanted.get("MmioAbove4Gb", ON if host.bios_above_4g else OFF) == ON
