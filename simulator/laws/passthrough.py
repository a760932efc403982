"""PCI passthrough on a host: what UpdatePassthruConfig does, and what a boot makes active."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyVmomi import vim, vmodl

from simulator.world import Host, PciFunction, World

__all__ = ["activate", "break_passthrough", "capable", "doomed", "group", "refresh", "update"]

NOT_SUPPORTED = "Host does not support passthrough configuration"


def capable(host: Host, function: PciFunction) -> bool:
    """`passthruCapable`: the device can be passed through and the IOMMU is on; nothing else tells of the IOMMU."""
    return host.iommu and function.assignable


def group(host: Host, pci_id: str) -> list[PciFunction]:
    """What a change of `pci_id` switches: the device, and every function that depends on it when it is a bridge."""
    return [function for function in host.pci.values() if pci_id in (function.id, function.dependent_device)]


def update(world: World, host: Host, configs: Iterable[Any], api_version: str) -> None:
    """`UpdatePassthruConfig`: exactly what is sent, also where that destroys something.

    A config without `passthruEnabled` arrives as false and turns passthrough off; an empty label clears it, an
    absent one leaves it. Fields younger than the caller's API version (`hardwareLabel` 7.0.2, `applyNow` 7.0)
    are not seen. Raises `HostConfigFault` with the IOMMU off or for a device that cannot be passed through,
    `HostNotConnected` when the host does not answer, and `InvalidArgument` for an unknown device.
    """
    require_connected(world, host)
    configs = list(configs)
    version = version_tuple(api_version)
    if not host.iommu:
        raise vim.fault.HostConfigFault(msg=f"{NOT_SUPPORTED}.")
    for config in configs:
        if config.id not in host.pci:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="config.id", msg=f"{host.name} has no PCI device {config.id}."
            )
        if config.passthruEnabled and not any(capable(host, function) for function in group(host, config.id)):
            raise vim.fault.HostConfigFault(msg=f"{NOT_SUPPORTED} for device {config.id}.")
    for config in configs:
        enabled = bool(config.passthruEnabled)
        for function in group(host, config.id):
            function.passthru_enabled = enabled
        if version >= (7, 0, 2) and config.hardwareLabel is not None:
            host.pci[config.id].hardware_label = config.hardwareLabel
    for config in configs:
        if version >= (7, 0) and config.applyNow and host.rebind_without_reboot:
            _rebind(host, config.id)
    world.changed(host)


def _rebind(host: Host, pci_id: str) -> None:
    """Take effect without a reboot, unless ESXi or a running VM holds any of the devices."""
    functions = group(host, pci_id)
    held = {gpu.assigned_id for vm in host.vms.values() if vm.power_state == "poweredOn" for gpu in vm.gpus}
    if not any(function.used_by or function.id in held for function in functions):
        _switch(host, functions)


def activate(host: Host) -> None:
    """At boot, what is enabled becomes active, if the IOMMU is on and the device it depends on is unclaimed too."""
    _switch(host, list(host.pci.values()))


def _switch(host: Host, functions: list[PciFunction]) -> None:
    for function in functions:
        function.passthru_active = (
            function.passthru_enabled
            and host.iommu
            and not function.passthru_stuck
            and host.pci[function.dependent_device].passthru_enabled
        )
        if (card := host.gpus.get(function.id)) is not None:
            if function.passthru_active:
                card.active_type = "direct"
            elif card.active_type == "direct":
                card.active_type = "basic"


def doomed(host: Host) -> bool:
    """The host gives away a device it needs, its boot disk's controller or a management NIC: it will not come back."""
    return host.iommu and any(function.passthru_enabled and function.used_by for function in host.pci.values())


def refresh(world: World, host: Host) -> None:
    """`Refresh`: look at the devices again; the world never lags, so only a connection is needed."""
    require_connected(world, host)
    world.changed(host)


def break_passthrough(world: World, host: Host, pci_id: str, broken: bool = True) -> None:
    """Test knob: passthrough of this device stays inactive, whatever is enabled and however often it boots."""
    host.pci[pci_id].passthru_stuck = broken
    world.changed(host)


def require_connected(world: World, host: Host) -> None:
    """Raises `HostNotConnected` when vCenter cannot talk to the host."""
    if not host.up:
        raise vmodl.fault.HostNotConnected(
            msg=f"Unable to communicate with the remote host {host.name}, since it is disconnected."
        )


def version_tuple(api_version: str) -> tuple[int, ...]:
    """`7.0.2.0` as comparable numbers."""
    return tuple(int(part) for part in api_version.split("."))
