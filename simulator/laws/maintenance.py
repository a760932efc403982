"""Maintenance mode: a host is emptied before it counts as maintained."""

from __future__ import annotations

import asyncio

from pyVmomi import vim

from simulator.laws import vsan
from simulator.laws.mobility import evacuates, reserve_is_kept
from simulator.laws.notices import host_argument, post_host_event, post_vm_event
from simulator.laws.passthrough import require_connected
from simulator.laws.placement import fit, hosts_for
from simulator.laws.vm_states import move, stop
from simulator.world import Host, VirtualMachine, World

__all__ = ["enter", "leave"]

ENTER_SECONDS = 5.0
LEAVE_SECONDS = 5.0
MIGRATION_SECONDS = 10.0
AGENT_EXTENSION = "com.vmware.vim.eam"
"""VMs that this extension manages, vCLS among them, do not keep a host from maintenance: they are powered off."""


async def enter(
    world: World, host: Host, timeout_s: int, evacuate_powered_off: bool = False, vsan_mode: str | None = None
) -> None:
    """`EnterMaintenanceMode_Task`.

    DRS in fully automated mode moves running VMs away. A VM that cannot move, or fits nowhere, stays, and the task
    waits for it, as it does for vSAN to rebuild objects unless `vsan_mode` is `noAction`: until `timeout_s` has
    passed, or for ever when that is 0 or less. Raises `InvalidState` for a host that is in maintenance or on its
    way, `Timedout`, `HostNotConnected`.
    """
    require_connected(world, host)
    if host.in_maintenance or host.entering_maintenance:
        raise vim.fault.InvalidState(msg=f"{host.name} is in maintenance mode, or entering it, already.")
    host.entering_maintenance = True
    try:
        post_host_event(
            world,
            vim.event.EnteringMaintenanceModeEvent,
            host,
            f"Host {host.name} has started to enter maintenance mode",
        )
        await world.sleep(ENTER_SECONDS)
        await _empty(world, host, timeout_s - ENTER_SECONDS if timeout_s > 0 else None)
        if vsan_mode != "noAction":
            await _wait_for_vsan(world, host, timeout_s)
        if evacuate_powered_off:
            for vm in [vm for vm in host.vms.values() if not any(gpu.kind == "static" for gpu in vm.gpus)]:
                if targets := hosts_for(world, vm, without=host):
                    move(world, vm, targets[0])
        host.in_maintenance = True
    finally:
        host.entering_maintenance = False
        world.changed(host, host.compute)
    post_host_event(
        world, vim.event.EnteredMaintenanceModeEvent, host, f"Host {host.name} has entered maintenance mode"
    )


async def _empty(world: World, host: Host, seconds_left: float | None) -> None:
    named: set[str] = set()
    while running := [vm for vm in host.vms.values() if vm.power_state == "poweredOn"]:
        moved = False
        for vm in running:
            if vm.managed_by and vm.managed_by[0] == AGENT_EXTENSION:
                stop(world, vm)
                moved = True
            elif evacuates(world, vm) and reserve_is_kept(host) and (targets := hosts_for(world, vm, without=host)):
                await world.sleep(MIGRATION_SECONDS)
                seconds_left = None if seconds_left is None else seconds_left - MIGRATION_SECONDS
                if (
                    vm.host is host
                    and vm.power_state == "poweredOn"
                    and targets[0] in hosts_for(world, vm, without=host)
                ):
                    migrate_now(world, vm, targets[0], by_drs=True)
                moved = True
            elif vm.moid not in named:
                named.add(vm.moid)
                post_vm_event(
                    world,
                    vim.event.NoMaintenanceModeDrsRecommendationForVM,
                    vm,
                    f"DRS has no recommendation for {vm.name} while {host.name} enters maintenance mode",
                )
        require_connected(world, host)
        if seconds_left is not None and seconds_left <= 0:
            raise vim.fault.Timedout(msg=f"{host.name} did not enter maintenance mode in time: VMs still run on it.")
        if not moved:
            # At a high time scale, one second of the world's time would be a busy loop.
            pause = max(1.0, 0.02 * world.registry.clock.scale)
            await world.sleep(pause)
            seconds_left = None if seconds_left is None else seconds_left - pause


async def _wait_for_vsan(world: World, host: Host, timeout_s: int) -> None:
    """Objects stay accessible only when nothing else is being rebuilt; the host may be lost meanwhile."""
    try:
        async with asyncio.timeout(timeout_s / world.registry.clock.scale if timeout_s > 0 else None):
            await vsan.wait_for_resync(world, host.compute)
    except TimeoutError:
        raise vim.fault.Timedout(
            msg=f"{host.name} did not enter maintenance mode in time: vSAN is resynchronizing objects."
        ) from None
    require_connected(world, host)


def migrate_now(world: World, vm: VirtualMachine, target: Host, *, by_drs: bool = False) -> None:
    """The VM is on `target` from now on, running or not."""
    source = host_argument(world, vm.host)
    devices = fit(target, vm).devices if vm.power_state == "poweredOn" else {}
    move(world, vm, target)
    for gpu in vm.gpus:
        gpu.assigned_id = devices.get(gpu.key)
    kind = vim.event.DrsVmMigratedEvent if by_drs else vim.event.VmMigratedEvent
    post_vm_event(world, kind, vm, f"Migrated {vm.name} from {source.name} to {target.name}", sourceHost=source)


async def leave(world: World, host: Host) -> None:
    """`ExitMaintenanceMode_Task`; raises `InvalidState` for a host that is not in maintenance mode."""
    require_connected(world, host)
    if not host.in_maintenance:
        raise vim.fault.InvalidState(msg=f"{host.name} is not in maintenance mode.")
    await world.sleep(LEAVE_SECONDS)
    host.in_maintenance = False
    post_host_event(world, vim.event.ExitMaintenanceModeEvent, host, f"Host {host.name} has exited maintenance mode")
    world.changed(host, host.compute)
