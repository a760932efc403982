"""The graphics type of a device, written within the host's whole `GraphicsConfig` and read back.

A `GraphicsConfig` with a partial device list or without a policy would reset the rest.
"""

import time
from typing import Any

from pyVmomi import vim

from contracts.errors import BadRequest, NeedsHuman, NotSupported
from contracts.host import HostRef
from vsphere.faults import translated
from vsphere.properties import Read, knows, read_properties

__all__ = ["set_graphics_type"]

_READ_BACK_S = 10
_PATHS = ["config.graphicsConfig", "config.graphicsInfo", "configManager.graphicsManager"]


def set_graphics_type(si: vim.ServiceInstance, host: HostRef, sbdf: str, graphics_type: str) -> bool:
    """Configure a device as `shared` or `sharedDirect`; False when it is so already. In force after a reboot.

    Everything else in the host's graphics configuration is kept. Raises `BadRequest` (no such graphics device),
    `NotSupported` (no graphics manager), `NeedsHuman` (refused, or it does not read back), `Unreachable` when it is
    unknown whether the change was carried out: then call again.
    """
    what = f"set graphics type {graphics_type} of {sbdf} on host {host.name} of {host.vcenter}"
    with translated(what):
        read = _read(si, host)
        config, manager = read.get("config.graphicsConfig"), read.get("configManager.graphicsManager")
        if config is None or manager is None:
            raise NotSupported(f"{what}: the host has no graphics configuration")
        known = {info.pciId.lower() for info in read.get("config.graphicsInfo") or ()} | set(_types(config))
        if sbdf not in known:
            raise BadRequest(f"{what}: no such graphics device; the host has {', '.join(sorted(known)) or 'none'}")
        if _types(config).get(sbdf) == graphics_type:
            return False
        manager.UpdateGraphicsConfig(_changed(si, config, sbdf, graphics_type))
        deadline = time.monotonic() + _READ_BACK_S
        while (seen := _types(_read(si, host).get("config.graphicsConfig")).get(sbdf)) != graphics_type:
            if time.monotonic() >= deadline:
                raise NeedsHuman(f"{what}: vCenter accepted it, but {_READ_BACK_S} s later shows {seen}")
            time.sleep(0.5)
    return True


def _changed(si: vim.ServiceInstance, config: Any, sbdf: str, graphics_type: str) -> vim.host.GraphicsConfig:
    device_type = vim.host.GraphicsConfig.DeviceType
    mode_known = knows(si, device_type, "vgpuMode")
    devices = []
    for entry in config.deviceType:
        wanted = graphics_type if entry.deviceId.lower() == sbdf else entry.graphicsType
        devices.append(device_type(deviceId=entry.deviceId, graphicsType=wanted))
        if mode_known and entry.vgpuMode is not None:
            devices[-1].vgpuMode = entry.vgpuMode
    if sbdf not in _types(config):
        devices.append(device_type(deviceId=sbdf, graphicsType=graphics_type))
    return vim.host.GraphicsConfig(
        hostDefaultGraphicsType=config.hostDefaultGraphicsType,
        sharedPassthruAssignmentPolicy=config.sharedPassthruAssignmentPolicy,
        deviceType=devices,
    )


def _types(config: Any) -> dict[str, str]:
    return {entry.deviceId.lower(): entry.graphicsType for entry in (config.deviceType if config else ())}


def _read(si: vim.ServiceInstance, host: HostRef) -> Read:
    return read_properties(si, vim.HostSystem(host.moid, si._stub), {vim.HostSystem: _PATHS})[host.moid]
