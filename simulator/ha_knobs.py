"""Actions about HA, standby and VMs that are lost: for tests and for the demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from simulator.laws import ha_settings, standby
from simulator.laws.notices import post_vm_event
from simulator.laws.vm_states import stop
from simulator.world import World

__all__ = ["ha_knobs"]

_CONNECTIONS = ("connected", "orphaned", "inaccessible", "invalid")


def ha_knobs(world: World) -> dict[str, Callable[..., Any]]:
    """The actions; hosts, clusters and VMs are told by name or moid. They raise `KeyError`, `ValueError`."""

    def set_ha(cluster: str, enabled: bool | None = None, host_monitoring: bool | None = None,
               restart_priority: str | None = None, isolation_response: str | None = None,
               admission_control: bool | None = None, strict_admission: bool | None = None,
               new_events: bool | None = None) -> None:  # fmt: skip
        """HA's settings of a cluster; what is left out stays.

        With `strict_admission`, admission control refuses people's power-ons too; with `new_events`, HA's events are
        `EventEx`.
        """
        found = world.cluster_named(cluster)
        for name, value in (("restart_priority", restart_priority), ("isolation_response", isolation_response)):
            if value is not None:
                ha_settings.set_for_cluster(found, name, value)
        for name, on in (("ha_enabled", enabled), ("host_monitoring", host_monitoring), ("new_events", new_events),
                         ("admission_control", admission_control), ("strict_admission", strict_admission)):  # fmt: skip
            if on is not None:
                setattr(found, name, on)
        world.changed(found, *found.hosts.values(), *(vm for host in found.hosts.values() for vm in host.vms.values()))

    def set_vm_ha(vm: str, restart_priority: str | None = None, isolation_response: str | None = None,
                  protected: bool | None = None) -> None:  # fmt: skip
        """HA's settings of a VM; what is left out stays, and `clusterRestartPriority` and `clusterIsolationResponse`
        give it its cluster's. `protected`: whether HA was told that the VM should run.
        """
        found = world.vm_named(vm)
        for name, value in (("restart_priority", restart_priority), ("isolation_response", isolation_response)):
            if value is not None:
                ha_settings.set_for_vm(found, name, value)
        if protected is not None:
            found.protected = protected
        world.changed(found, found.host.compute)

    def set_vm_connection(vm: str, state: str) -> None:
        """What vCenter says of a VM itself: `orphaned` (its host does not have it), `inaccessible` (its files cannot
        be read), `invalid`, or `connected` again. It does not run meanwhile.
        """
        if state not in _CONNECTIONS:
            raise ValueError(f"{state!r} is no connection state: use one of {', '.join(_CONNECTIONS)}")
        found = world.vm_named(vm)
        found.stray = "" if state == "connected" else state
        if found.stray and found.power_state == "poweredOn":
            stop(world, found)
        if state == "orphaned":
            message = f"{found.name} does not exist on {found.host.name}"
            post_vm_event(world, vim.event.VmOrphanedEvent, found, message)
        world.changed(found, found.host)

    async def enter_standby(host: str) -> None:
        """DPM puts the host to standby; raises `InvalidState` while VMs run on it."""
        await standby.enter(world, world.host_named(host), True, by_dpm=True)

    async def exit_standby(host: str) -> None:
        """DPM calls the host back."""
        await standby.leave(world, world.host_named(host), by_dpm=True)

    return {
        action.__name__: action
        for action in (set_ha, set_vm_ha, set_vm_connection, enter_standby, exit_standby)
    }  # fmt: skip
