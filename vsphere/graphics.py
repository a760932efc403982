"""Graphics types of a host and its devices, written within the host's whole `GraphicsConfig` and read back.

A `GraphicsConfig` with a partial device list or without a policy would reset the rest.
"""

import time
from collections.abc import Sequence
from typing import Any

from pyVmomi import vim

from contracts.errors import BadRequest, NeedsHuman, NotSupported
from contracts.host import HostRef
from vsphere.faults import translated
from vsphere.properties import Read, knows, read_properties

__all__ = ["set_graphics_type", "set_host_graphics"]

_READ_BACK_S = 10
_PATHS = ["config.graphicsConfig", "config.graphicsInfo", "configManager.graphicsManager"]


def set_graphics_type(
    si: vim.ServiceInstance, host: HostRef, sbdf: str, graphics_type: str, vgpu_mode: str | None = None
) -> bool:
    """Configure a device as `shared` or `sharedDirect`; False when it is so already. In force after a reboot.

    `vgpu_mode` is `sameSize`, `mixedSize` or `multiInstanceGpu` (API 8.0.3); None keeps it.

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
        if vgpu_mode is not None and not knows(si, vim.host.GraphicsConfig.DeviceType, "vgpuMode"):
            raise NotSupported(f"{what}: the vGPU mode {vgpu_mode} needs vSphere API 8.0.3")

        def right(config: Any) -> bool:
            mode_right = vgpu_mode is None or _types(config, "vgpuMode").get(sbdf) == vgpu_mode
            return mode_right and _types(config).get(sbdf) == graphics_type

        if right(config):
            return False
        full = _changed(si, config, sbdf, graphics_type, read.get("config.graphicsInfo") or ())
        if vgpu_mode is not None:
            next(entry for entry in full.deviceType if entry.deviceId.lower() == sbdf).vgpuMode = vgpu_mode
        manager.UpdateGraphicsConfig(full)
        deadline = time.monotonic() + _READ_BACK_S
        while not right(seen := _read(si, host).get("config.graphicsConfig")):
            if time.monotonic() >= deadline:
                raise NeedsHuman(
                    f"{what}: vCenter accepted it, but {_READ_BACK_S} s later shows {_types(seen).get(sbdf)}"
                )
            time.sleep(0.5)
    return True


def set_host_graphics(
    si: vim.ServiceInstance, host: HostRef, default_type: str | None = None, policy: str | None = None
) -> bool:
    """Set the host's default graphics type and its vGPU assignment policy; None keeps. False when both are so already.

    Types are `shared` and `sharedDirect` (in force after a reboot), policies `performance` and `consolidation`. Every
    device keeps the type and vGPU mode that it is configured for. Raises what `set_graphics_type` raises.
    """
    what = (
        f"set graphics default {default_type or 'as is'}, policy {policy or 'as is'} on {host.name} of {host.vcenter}"
    )
    with translated(what):
        read = _read(si, host)
        config, manager = read.get("config.graphicsConfig"), read.get("configManager.graphicsManager")
        if config is None or manager is None:
            raise NotSupported(f"{what}: the host has no graphics configuration")
        wanted = (default_type or config.hostDefaultGraphicsType, policy or config.sharedPassthruAssignmentPolicy)
        if _host_wide(config) == wanted:
            return False
        full = _changed(si, config, "", "", read.get("config.graphicsInfo") or ())
        full.hostDefaultGraphicsType, full.sharedPassthruAssignmentPolicy = wanted
        manager.UpdateGraphicsConfig(full)
        deadline = time.monotonic() + _READ_BACK_S
        while (seen := _host_wide(_read(si, host).get("config.graphicsConfig"))) != wanted:
            if time.monotonic() >= deadline:
                raise NeedsHuman(f"{what}: vCenter accepted it, but {_READ_BACK_S} s later shows {seen}")
            time.sleep(0.5)
    return True


def _host_wide(config: Any) -> tuple[str, str] | None:
    return config and (config.hostDefaultGraphicsType, config.sharedPassthruAssignmentPolicy)


def _changed(
    si: vim.ServiceInstance, config: Any, sbdf: str, graphics_type: str, active: Sequence[Any]
) -> vim.host.GraphicsConfig:
    """The whole configuration, with the type of one device changed; of none when `sbdf` is empty."""
    device_type = vim.host.GraphicsConfig.DeviceType
    mode_known = knows(si, device_type, "vgpuMode")
    devices = []
    for entry in config.deviceType:
        wanted = graphics_type if entry.deviceId.lower() == sbdf else entry.graphicsType
        devices.append(device_type(deviceId=entry.deviceId, graphicsType=wanted))
        if mode_known and entry.vgpuMode is not None:
            devices[-1].vgpuMode = entry.vgpuMode
    listed = set(_types(config)) | {sbdf}
    # A device that is not listed would be reset; only types that can be asked for are written down.
    devices += [
        device_type(deviceId=info.pciId, graphicsType=info.graphicsType)
        for info in active
        if info.pciId.lower() not in listed and info.graphicsType in ("shared", "sharedDirect")
    ]
    if sbdf and sbdf not in _types(config):
        devices.append(device_type(deviceId=sbdf, graphicsType=graphics_type))
    return vim.host.GraphicsConfig(
        hostDefaultGraphicsType=config.hostDefaultGraphicsType,
        sharedPassthruAssignmentPolicy=config.sharedPassthruAssignmentPolicy,
        deviceType=devices,
    )


def _types(config: Any, attribute: str = "graphicsType") -> dict[str, str]:
    return {entry.deviceId.lower(): getattr(entry, attribute) for entry in (config.deviceType if config else ())}


def _read(si: vim.ServiceInstance, host: HostRef) -> Read:
    return read_properties(si, vim.HostSystem(host.moid, si._stub), {vim.HostSystem: _PATHS})[host.moid]
