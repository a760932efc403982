"""Host graphics: configured and active types, and the sharing policy."""

from __future__ import annotations

from typing import Any

from pyVmomi import vmodl

from simulator.laws.passthrough import require_connected
from simulator.world import Host, World

__all__ = ["activate", "restart_xorg", "set_host_default", "update"]

TYPES = ("basic", "shared", "direct", "sharedDirect")
POLICIES = ("performance", "consolidation")


def update(world: World, host: Host, config: Any) -> None:
    """`UpdateGraphicsConfig`: an absolute description of the host, so what is not sent is reset.

    A device that is not listed falls back to `shared`, a missing policy to `performance`, a missing vGPU mode to
    `sameSize`. Types take effect at the next boot, the policy at once. Raises `InvalidArgument` for unknown
    values and devices, `HostNotConnected` when the host does not answer.
    """
    require_connected(world, host)
    default = config.hostDefaultGraphicsType or "shared"
    policy = config.sharedPassthruAssignmentPolicy or "performance"
    devices = {device.deviceId: device for device in config.deviceType or []}
    _check("hostDefaultGraphicsType", default, TYPES)
    _check("sharedPassthruAssignmentPolicy", policy, POLICIES)
    for device in devices.values():
        _check("deviceType.deviceId", device.deviceId, tuple(host.gpus))
        _check("deviceType.graphicsType", device.graphicsType, TYPES)
    host.default_graphics_type, host.assignment_policy = default, policy
    for card in host.gpus.values():
        sent = devices.get(card.pci_id)
        card.configured_type = sent.graphicsType if sent else "shared"
        card.configured_vgpu_mode = (sent.vgpuMode if sent else None) or "sameSize"
    world.changed(host)


def set_host_default(world: World, host: Host, default: str | None, policy: str | None) -> None:
    """`esxcli graphics host set`: all devices follow the new default at the next boot; the policy acts at once."""
    if default is not None:
        _check("default-type", default, TYPES)
        host.default_graphics_type = default
        for card in host.gpus.values():
            card.configured_type = default
    if policy is not None:
        _check("shared-passthru-assignment-policy", policy, POLICIES)
        host.assignment_policy = policy
    world.changed(host)


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise vmodl.fault.InvalidArgument(
            invalidProperty=field, msg=f"{field} is {value!r}; it must be one of {', '.join(allowed) or '(none)'}."
        )


def activate(host: Host) -> None:
    """At boot: configured types become active as far as drivers allow, and MIG as it was asked for."""
    for card in host.gpus.values():
        card.mig = card.mig_pending = card.mig_pending and not host.forgets_mig
    _take_effect(host)


def _take_effect(host: Host) -> None:
    """Without a host driver a card is `basic`; `sharedDirect` takes a running vGPU Manager; a card in passthrough is
    `direct` and invisible to the vGPU Manager.
    """
    host.active_default_graphics_type = host.default_graphics_type
    for card in host.gpus.values():
        if host.pci[card.pci_id].passthru_active:
            card.active_type = "direct"
        elif not host.vgpu_manager_runs:
            card.active_type = "basic"
        else:
            card.active_type = card.configured_type
        card.active_vgpu_mode = card.configured_vgpu_mode


def restart_xorg(world: World, host: Host) -> None:
    """Below ESXi 7.0 U1 configured types become active when the X server restarts; later it has no say in it."""
    if host.release < (7, 0, 1):
        _take_effect(host)
    world.changed(host)
