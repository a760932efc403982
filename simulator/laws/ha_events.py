"""What HA says in events: by their classic types, or as the `EventEx` that newer releases send."""

from __future__ import annotations

from pyVmomi import vim

from simulator.laws.notices import host_argument, post_vm_event, vm_argument
from simulator.world import Host, VirtualMachine, World

__all__ = ["host_failed", "host_isolated", "not_enough_resources", "off_on_isolation", "restart_failed", "restarted"]


def host_failed(world: World, host: Host) -> None:
    message = f"A possible host failure has been detected by vSphere HA on {host.name}"
    failed = host_argument(world, host)
    if host.compute.new_events:
        _post_ex(world, "com.vmware.vc.ha.DasHostFailedEvent", message, host)
    else:
        world.post(vim.event.DasHostFailedEvent(failedHost=failed, host=failed, fullFormattedMessage=message))


def host_isolated(world: World, host: Host) -> None:
    message = f"Host {host.name} has been isolated from cluster {host.compute.name}"
    isolated = host_argument(world, host)
    if host.compute.new_events:
        _post_ex(world, "com.vmware.vc.ha.DasHostIsolatedEvent", message, host)
    else:
        world.post(vim.event.DasHostIsolatedEvent(isolatedHost=isolated, host=isolated, fullFormattedMessage=message))


def off_on_isolation(world: World, vm: VirtualMachine, *, shut_down: bool) -> None:
    isolated = host_argument(world, vm.host)
    verb = "shut down" if shut_down else "powered off"
    message = f"{vm.name} was {verb} on the isolated host {vm.host.name}"
    if shut_down:
        kind, fields = vim.event.VmShutdownOnIsolationEvent, {"shutdownResult": ""}
    else:
        kind, fields = vim.event.VmPowerOffOnIsolationEvent, {}
    post_vm_event(world, kind, vm, message, isolatedHost=isolated, **fields)


def restarted(world: World, vm: VirtualMachine, source: Host) -> None:
    """The VM runs on its host now; newer releases do not say where it was."""
    if vm.host.compute.new_events:
        message = f"vSphere HA restarted virtual machine {vm.name} on host {vm.host.name}"
        _post_ex(world, "com.vmware.vc.HA.VmRestartedByHAEvent", message, vm.host, vm)
        return
    message = f"{vm.name} was restarted on {vm.host.name} since {source.name} failed"
    kind = vim.event.VmRestartedOnAlternateHostEvent
    post_vm_event(world, kind, vm, message, sourceHost=host_argument(world, source))


def not_enough_resources(world: World, vm: VirtualMachine, reason: str) -> None:
    message = f"There are insufficient resources to start {vm.name}: {reason}"
    post_vm_event(world, vim.event.NotEnoughResourcesToStartVmEvent, vm, message, reason=reason)


def restart_failed(world: World, vm: VirtualMachine, fault: vim.fault.VimFault) -> None:
    message = f"vSphere HA unsuccessfully failed over {vm.name} on {vm.host.name}. Reason: {fault.msg}"
    post_vm_event(world, vim.event.VmFailoverFailed, vm, message, reason=fault)


def _post_ex(world: World, event_type: str, message: str, host: Host, vm: VirtualMachine | None = None) -> None:
    """Its letter case is not that of the documentation: releases differ in it."""
    about = vm or host
    world.post(
        vim.event.EventEx(
            eventTypeId=event_type,
            severity="info" if vm is not None else "error",
            host=host_argument(world, host),
            vm=vm_argument(world, vm) if vm is not None else None,
            objectId=about.moid,
            objectName=about.name,
            objectType=vim.VirtualMachine if vm is not None else vim.HostSystem,
            message=message,
            fullFormattedMessage=message,
        )
    )
