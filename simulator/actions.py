"""What may happen to a vCenter without any API call, by name: for tests and for the demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.event_knobs import event_knobs
from simulator.laws import adding, hosts, passthrough
from simulator.world import World

__all__ = ["actions"]


def actions(world: World) -> dict[str, Callable[..., Any]]:
    """The actions; hosts, clusters and devices are told by name or moid. They raise `KeyError` for unknown names."""

    fail = hosts.fail

    def add_host(cluster: str, name: str, connected: bool = True, gpus: list[str] | None = None, iommu: bool = True,
                 rebind_without_reboot: bool = False, usb_boot: bool = False,
                 gpu_shares_bridge_with_nic: bool = False, lockdown_mode: str = "lockdownDisabled",
                 version: str = "8.0.2", uuid: str | None = None, bios_iommu: bool = True) -> str:  # fmt: skip
        """Add a host with events; returns its moid. See `adding.new_host`."""
        host = adding.add_host(
            world,
            world.cluster_named(cluster),
            name,
            connected=connected,
            gpus=gpus,
            iommu=iommu,
            bios_iommu=bios_iommu,
            rebind_without_reboot=rebind_without_reboot,
            usb_boot=usb_boot,
            gpu_shares_bridge_with_nic=gpu_shares_bridge_with_nic,
            lockdown_mode=lockdown_mode,
            version=version,
            uuid=uuid,
        )
        return host.moid

    def fail_host(host: str) -> None:
        hosts.fail(world, world.host_named(host))

    def fail_hosts(hosts: list[str]) -> None:
        """They lose their power in the same moment."""
        for found in [world.host_named(name) for name in hosts]:
            fail(world, found)

    def restore_host(host: str) -> None:
        hosts.restore(world, world.host_named(host))

    def isolate_host(host: str) -> None:
        hosts.isolate(world, world.host_named(host))

    def disconnect_host(host: str) -> None:
        hosts.disconnect_abruptly(world, world.host_named(host))

    def hang_reboot(host: str) -> None:
        hosts.hang_reboot(world, world.host_named(host))

    def slow_reboot(host: str, seconds: float) -> None:
        hosts.slow_reboot(world, world.host_named(host), seconds)

    def set_iommu(host: str, on: bool, bios: bool = False) -> None:
        hosts.set_iommu(world, world.host_named(host), on, bios=bios)

    def set_maintenance(host: str, on: bool) -> None:
        hosts.set_maintenance(world, world.host_named(host), on)

    def break_passthrough(host: str, device: str, broken: bool = True) -> None:
        passthrough.break_passthrough(world, world.host_named(host), device, broken)

    def set_lifecycle_managed(cluster: str, on: bool) -> None:
        found = world.cluster_named(cluster)
        found.lifecycle_managed = on
        world.changed(found)

    def set_config_manager_enabled(cluster: str, on: bool) -> None:
        found = world.cluster_named(cluster)
        found.config_manager_enabled = on
        world.changed(found)

    def ledger(host: str) -> list[str]:
        """What was done to a host's packages, BIOS and cards, whoever did it, and its boots, in order."""
        return world.host_named(host).ledger

    def post_raw_events(wsdl_type: str, fields: str, count: int = 1) -> list[int]:
        """Log events whose fields are this XML; returns their keys. See `EventLog.post_raw`."""
        return world.registry.events.post_raw(wsdl_type, fields, count)

    return event_knobs(world.registry, world.start) | {
        action.__name__: action
        for action in (
            add_host, fail_host, fail_hosts, restore_host, isolate_host, disconnect_host, hang_reboot, slow_reboot,
            set_iommu, set_maintenance, break_passthrough, set_lifecycle_managed, set_config_manager_enabled,
            ledger, post_raw_events,
        )
    }  # fmt: skip
