"""PCI passthrough and hardware labels: read, change, write every required field, read back.

`PciPassthruConfig(id, hardwareLabel=…)` alone would switch passthrough off, so a config always says both.
"""

import time
from collections.abc import Mapping
from typing import Any

from pyVmomi import vim

from contracts.errors import BadRequest, NeedsHuman, NotSupported
from contracts.host import HostRef
from vsphere.faults import translated
from vsphere.properties import knows, read_properties
from vsphere.sessions import api_version

__all__ = ["set_label", "set_passthrough"]

_READ_BACK_S = 10


def set_passthrough(
    si: vim.ServiceInstance,
    host: HostRef,
    sbdf: str,
    enabled: bool,
    label: str | None = None,
    apply_now: bool = False,
) -> bool:
    """Request passthrough on or off for a device, and its hardware label; False when both were requested already.

    `label=None` keeps the label, `""` clears it. `apply_now` asks for effect without a reboot; whether it had one
    shows in `passthruActive` only. Passthrough is switched for the `dependentDevice`, which may be a bridge with
    other functions behind it: the caller has checked those. Raises `NotSupported` (label below API 7.0.2, device not
    capable), `BadRequest` (no such device), `NeedsHuman` (vCenter's refusal, or the values do not read back),
    `Unreachable` when it is unknown whether the change was carried out: then call again.
    """
    what = f"set passthrough of {sbdf} on host {host.name} of {host.vcenter}"
    if label is not None and not knows(si, vim.host.PciPassthruConfig, "hardwareLabel"):
        raise NotSupported(
            f"{what}: hardware labels need vSphere API 7.0.2, {host.vcenter} speaks {api_version(si)}; upgrade vCenter "
            "or remove 'label' from the profile"
        )
    with translated(what):
        system, devices = _read(si, host)
        device = devices.get(sbdf)
        if device is None:
            raise BadRequest(f"{what}: the host has no such device that passthrough knows; it has {_names(devices)}")
        if _requested(device, enabled, label) and (not apply_now or device.passthruActive == enabled):
            return False
        if system is None or (enabled and not device.passthruCapable):
            raise NotSupported(f"{what}: the device cannot be passed through (passthruCapable is false)")
        system.UpdatePassthruConfig(_configs(si, devices, device, enabled, label, apply_now))
        _read_back(si, host, sbdf, enabled, label, what)
    return True


def set_label(si: vim.ServiceInstance, host: HostRef, sbdf: str, label: str) -> bool:
    """Write a device's hardware label and keep its passthrough as it is requested now; False when it has the label.

    Raises what `set_passthrough` raises.
    """
    with translated(f"set the label of {sbdf} on host {host.name} of {host.vcenter}"):
        device = _read(si, host)[1].get(sbdf)
    return set_passthrough(si, host, sbdf, bool(device and device.passthruEnabled), label)


def _configs(
    si: vim.ServiceInstance,
    devices: Mapping[str, Any],
    device: Any,
    enabled: bool,
    label: str | None,
    apply_now: bool,
) -> list[vim.host.PciPassthruConfig]:
    """The whole config of the device, after that of the device it depends on where that is another one."""
    label_known = knows(si, vim.host.PciPassthruConfig, "hardwareLabel")
    apply_known = knows(si, vim.host.PciPassthruConfig, "applyNow")

    def config(entry: Any, wanted_label: str | None) -> vim.host.PciPassthruConfig:
        made = vim.host.PciPassthruConfig(id=entry.id, passthruEnabled=enabled)
        kept = entry.hardwareLabel if wanted_label is None and label_known else wanted_label
        if label_known and kept is not None:
            made.hardwareLabel = kept
        if apply_known:
            made.applyNow = apply_now
        return made

    parent = devices.get(device.dependentDevice)
    if parent is None or parent.id == device.id:
        return [config(device, label)]
    # Others may depend on the same bridge: a new label must not switch it.
    switching = device.passthruEnabled != enabled
    if switching or (apply_now and parent.passthruEnabled == enabled):
        return [config(parent, None), config(device, label)]
    return [config(device, label)]


def _read(si: vim.ServiceInstance, host: HostRef) -> tuple[Any, dict[str, Any]]:
    paths = ["config.pciPassthruInfo", "configManager.pciPassthruSystem"]
    read = read_properties(si, vim.HostSystem(host.moid, si._stub), {vim.HostSystem: paths})[host.moid]
    entries = read.get("config.pciPassthruInfo") or ()
    return read.get("configManager.pciPassthruSystem"), {entry.id.lower(): entry for entry in entries}


def _requested(device: Any, enabled: bool, label: str | None) -> bool:
    return device.passthruEnabled == enabled and (label is None or (device.hardwareLabel or "") == label)


def _read_back(si: vim.ServiceInstance, host: HostRef, sbdf: str, enabled: bool, label: str | None, what: str) -> None:
    # vCenter's copy of the host's configuration may lag a moment behind the host.
    deadline = time.monotonic() + _READ_BACK_S
    while True:
        device = _read(si, host)[1].get(sbdf)
        if device is not None and _requested(device, enabled, label):
            return
        if time.monotonic() >= deadline:
            seen = device and f"passthruEnabled={device.passthruEnabled}, hardwareLabel={device.hardwareLabel!r}"
            raise NeedsHuman(
                f"{what}: vCenter accepted it, but {_READ_BACK_S} s later shows {seen or 'no such device'}"
            )
        time.sleep(0.5)


def _names(devices: Mapping[str, Any]) -> str:
    capable = sorted(sbdf for sbdf, device in devices.items() if device.passthruCapable)
    return ", ".join(capable) or "none that is capable"
