"""BIOS settings that matter for GPUs, as a BMC shows them; a change waits for the next boot."""

from __future__ import annotations

from simulator.world import Host

__all__ = ["OFF", "ON", "apply", "attributes", "check", "set_now", "set_pending"]

ON, OFF = "Enabled", "Disabled"
_SWITCHES = {
    "Dell Inc.": {
        "ProcVirtualization": "bios_iommu", "SriovGlobalEnable": "bios_sriov", "MmioAbove4Gb": "bios_above_4g",
    },
    "HPE": {"IntelProcVtd": "bios_iommu", "ProcAmdIoVt": "bios_iommu", "Sriov": "bios_sriov"},
}  # fmt: skip
"""The vendors' attributes, each `Enabled` or `Disabled`, by what they switch. Dell has one for VT-x and VT-d
together; HPE always decodes above 4G, and has the IOMMU under the CPU's own name."""


def _switches(host: Host) -> dict[str, str]:
    amd = "AMD" in host.cpu_model
    other = "IntelProcVtd" if amd else "ProcAmdIoVt"
    return {name: switch for name, switch in _SWITCHES[host.vendor].items() if name != other}


def attributes(host: Host) -> dict[str, str]:
    """The settings in force, by the vendor's attribute."""
    return {name: ON if getattr(host, switch) else OFF for name, switch in _switches(host).items()}


def check(host: Host, wanted: dict[str, str]) -> None:
    """Raises `ValueError` for an unknown attribute or value."""
    known = _switches(host)
    for name, value in wanted.items():
        if name not in known:
            raise ValueError(f"{name} is no BIOS attribute of this system: it has {', '.join(known)}")
        if value not in (ON, OFF):
            raise ValueError(f"{name} is {value!r}; it must be {ON} or {OFF}")


def set_pending(host: Host, wanted: dict[str, str]) -> None:
    """Ask for settings; raises `ValueError` for an unknown attribute or value, and then changes nothing."""
    check(host, wanted)
    host.bios_pending |= wanted
    host.ledger += [f"bios {name}={value}" for name, value in wanted.items()]


def apply(host: Host) -> None:
    """At boot: what was asked for is in force."""
    set_now(host, host.bios_pending)
    host.bios_pending = {}


def set_now(host: Host, wanted: dict[str, str]) -> None:
    """Settings as if they had been so at the last boot."""
    for name, value in wanted.items():
        setattr(host, _switches(host)[name], value == ON)
