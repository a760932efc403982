"""Standby, which DPM uses to save power: a host without running VMs goes down, and boots again when it is called."""

from __future__ import annotations

from pyVmomi import vim

from simulator.laws import hosts
from simulator.laws.notices import post_host_event
from simulator.laws.passthrough import require_connected
from simulator.laws.placement import hosts_for
from simulator.laws.vm_states import move
from simulator.world import Host, World

__all__ = ["enter", "leave"]


async def enter(world: World, host: Host, evacuate_powered_off: bool = False, *, by_dpm: bool = False) -> None:
    """`PowerDownHostToStandBy_Task`; with `evacuate_powered_off`, VMs that are off move to hosts that could run them.

    Raises `HostNotConnected`, `InvalidState` for a host that is in maintenance mode or has running VMs.
    """
    _require_idle(world, host)
    entering = vim.event.DrsEnteringStandbyModeEvent if by_dpm else vim.event.EnteringStandbyModeEvent
    entered = vim.event.DrsEnteredStandbyModeEvent if by_dpm else vim.event.EnteredStandbyModeEvent
    host.standby_mode = "entering"
    world.changed(host)
    post_host_event(world, entering, host, f"Host {host.name} is entering standby mode")
    await world.sleep(hosts.SHUTDOWN_SECONDS)
    try:
        _require_idle(world, host)
    except vim.fault.InvalidState:
        host.standby_mode = "none"
        world.changed(host)
        raise
    if evacuate_powered_off:
        for vm in [vm for vm in host.vms.values() if not any(gpu.kind == "static" for gpu in vm.gpus)]:
            if targets := hosts_for(world, vm, without=host):
                move(world, vm, targets[0])
    host.standby_mode = "in"
    hosts.lose(world, host, power="standBy")
    post_host_event(world, entered, host, f"Host {host.name} has entered standby mode")


def _require_idle(world: World, host: Host) -> None:
    require_connected(world, host)
    if host.in_maintenance or host.entering_maintenance:
        raise vim.fault.InvalidState(msg=f"{host.name} is in maintenance mode and cannot enter standby mode.")
    if any(vm.power_state == "poweredOn" for vm in host.vms.values()):
        raise vim.fault.InvalidState(msg=f"VMs run on {host.name}: it cannot enter standby mode.")


async def leave(world: World, host: Host, *, by_dpm: bool = False) -> None:
    """`PowerUpHostFromStandBy_Task`; raises `InvalidState` for a host that is not in standby."""
    if host.standby_mode != "in":
        raise vim.fault.InvalidState(msg=f"{host.name} is not in standby mode.")
    exiting = vim.event.DrsExitingStandbyModeEvent if by_dpm else vim.event.ExitingStandbyModeEvent
    exited = vim.event.DrsExitedStandbyModeEvent if by_dpm else vim.event.ExitedStandbyModeEvent
    host.standby_mode = "exiting"
    world.changed(host)
    post_host_event(world, exiting, host, f"Host {host.name} is exiting standby mode")
    await hosts.boot(world, host)
    if host.up:
        post_host_event(world, exited, host, f"Host {host.name} has exited standby mode")
