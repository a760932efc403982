"""vSphere HA: what becomes of the VMs of a host that failed or is isolated."""

from __future__ import annotations

from pyVmomi import vim

from simulator.laws.notices import host_argument, post_vm_event
from simulator.laws.placement import hosts_for
from simulator.laws.power import start_on
from simulator.laws.vm_states import stop
from simulator.world import Host, VirtualMachine, World

__all__ = ["respond_to_failure", "respond_to_isolation"]

RESTART_SECONDS = 20.0


async def respond_to_failure(world: World, host: Host) -> None:
    """The host is off: HA says so and restarts what it can elsewhere."""
    if not host.compute.ha_enabled:
        return
    world.post(
        vim.event.DasHostFailedEvent(
            failedHost=host_argument(world, host),
            host=host_argument(world, host),
            fullFormattedMessage=f"A possible host failure has been detected by vSphere HA on {host.name}",
        )
    )
    await _restart_elsewhere(world, host)


async def respond_to_isolation(world: World, host: Host) -> None:
    """The host runs on without its network: HA does what the cluster's isolation response says."""
    cluster = host.compute
    if not cluster.ha_enabled:
        return
    isolated = host_argument(world, host)
    world.post(
        vim.event.DasHostIsolatedEvent(
            isolatedHost=isolated,
            host=isolated,
            fullFormattedMessage=f"Host {host.name} has been isolated from cluster {cluster.name}",
        )
    )
    if cluster.isolation_response == "none":
        return
    for vm in [vm for vm in host.vms.values() if vm.power_state == "poweredOn"]:
        protected = vm.protected
        stop(world, vm)
        vm.protected = protected
        if cluster.isolation_response == "shutdown":
            kind, verb, fields = vim.event.VmShutdownOnIsolationEvent, "shut down", {"shutdownResult": ""}
        else:
            kind, verb, fields = vim.event.VmPowerOffOnIsolationEvent, "powered off", {}
        message = f"{vm.name} was {verb} on the isolated host {host.name}"
        post_vm_event(world, kind, vm, message, isolatedHost=isolated, **fields)
    await _restart_elsewhere(world, host)


async def _restart_elsewhere(world: World, host: Host) -> None:
    """Restart the host's protected VMs.

    A static DirectPath VM stays off without a word from HA. One with Dynamic DirectPath I/O comes back while a
    host has a matching free device, which admission control knows nothing of.
    """
    victims = [vm for vm in host.vms.values() if vm.protected and vm.power_state == "poweredOff"]
    restartable = [vm for vm in victims if not any(gpu.kind == "static" for gpu in vm.gpus)]
    if not restartable:
        return
    await world.sleep(RESTART_SECONDS)
    for vm in restartable:
        if vm.host is host and vm.power_state == "poweredOff" and vm.moid in world.vms:
            _restart(world, vm, host)


def _restart(world: World, vm: VirtualMachine, failed: Host) -> None:
    targets = hosts_for(world, vm, without=failed)
    if not targets:
        reason = "no host has enough resources for it"
        post_vm_event(
            world,
            vim.event.NotEnoughResourcesToStartVmEvent,
            vm,
            f"There are insufficient resources to start {vm.name}: {reason}",
            reason=reason,
        )
        post_vm_event(
            world, vim.event.VmFailoverFailed, vm, f"vSphere HA unsuccessfully failed over {vm.name} on {failed.name}"
        )
        return
    source = host_argument(world, failed)
    start_on(world, vm, targets[0])
    post_vm_event(
        world,
        vim.event.VmRestartedOnAlternateHostEvent,
        vm,
        f"{vm.name} was restarted on {vm.host.name} since {failed.name} failed",
        sourceHost=source,
    )
