"""vSphere HA: what becomes of the VMs of a host that failed or is isolated."""

from __future__ import annotations

import asyncio

from pyVmomi import vim, vmodl

from simulator.laws import ha_events
from simulator.laws.drs import recommend
from simulator.laws.ha_settings import acts, is_protected, isolation_response, urgency
from simulator.laws.placement import free_memory_mib, obstacle
from simulator.laws.power import ask, check_mmio, check_startable, drs_automation, start_guest, start_on
from simulator.laws.vm_states import die
from simulator.world import Cluster, Host, VirtualMachine, World

__all__ = ["ATTEMPTS", "RESTART_SECONDS", "RETRY_SECONDS", "respond_to_failure", "respond_to_isolation"]

RESTART_SECONDS = 20.0
RETRY_SECONDS = 60.0
ATTEMPTS = 5
_AT_ONCE = 20
"""So many VMs are tried before anything else goes on."""


def respond_to_failure(world: World, host: Host, died: list[VirtualMachine]) -> None:
    """The host is off: HA says so and restarts what it can of these VMs elsewhere."""
    if acts(host.compute):
        ha_events.host_failed(world, host)
        _restart_later(world, host.compute, died)


def respond_to_isolation(world: World, host: Host) -> None:
    """The host runs on without its network: each VM's isolation response says what becomes of it."""
    if not acts(host.compute):
        return
    ha_events.host_isolated(world, host)
    running = [vm for vm in host.vms.values() if vm.power_state == "poweredOn"]
    stopped = [vm for vm in running if isolation_response(vm) != "none"]
    for vm in stopped:
        die(world, vm)
        ha_events.off_on_isolation(world, vm, shut_down=isolation_response(vm) == "shutdown")
    _restart_later(world, host.compute, stopped)


def _restart_later(world: World, cluster: Cluster, vms: list[VirtualMachine]) -> None:
    """Hosts that fail together make one batch, so that the most urgent of all their VMs come first."""
    if vms and not cluster.awaiting_restart:
        cluster.failover = world.start(_restart_all(world, cluster))
    cluster.awaiting_restart += vms


async def _restart_all(world: World, cluster: Cluster) -> None:
    await world.sleep(RESTART_SECONDS)
    while any(host.connection_state == "connected" and not host.responding for host in cluster.hosts.values()):
        # One more is lost already and nobody has noticed: its VMs belong to this batch, and it takes nobody's.
        await world.sleep(1.0)
    waiting, cluster.awaiting_restart = cluster.awaiting_restart, []
    for attempt in range(ATTEMPTS):
        if not waiting:
            return
        if attempt:
            await world.sleep(RETRY_SECONDS)
        left: list[VirtualMachine] = []
        for number, vm in enumerate(sorted(waiting, key=urgency), 1):
            if not _restart(world, vm):
                left.append(vm)
            if number % _AT_ONCE == 0:
                # Hundreds of VMs take a while, and clients are to be answered meanwhile.
                await asyncio.sleep(0)
        waiting = left


def _restart(world: World, vm: VirtualMachine) -> bool:
    """Try it once; false when it is worth trying again.

    A static DirectPath VM stays off without a word from HA. What admission control reserved may be used up, and it
    knows nothing of devices. Where DRS may only recommend, a VM with GPUs waits for somebody to apply that.
    """
    wanted = vm.moid in world.vms and is_protected(vm) and acts(vm.host.compute) and not vm.stray
    if not wanted or vm.power_state != "poweredOff" or any(gpu.kind == "static" for gpu in vm.gpus):
        return True
    target = _place(vm)
    try:
        check_startable(vm)
        if target is None:
            reason = _why_nowhere(vm)
            ha_events.not_enough_resources(world, vm, reason)
            ha_events.restart_failed(world, vm, vim.fault.InsufficientResourcesFault(msg=reason))
            return False
        if vm.gpus and drs_automation(vm) == "manual":
            recommend(world, vm, target)
            return True
        check_mmio(vm, target)
    except vmodl.MethodFault as fault:
        ha_events.restart_failed(world, vm, fault)
        return True
    _start(world, vm, target)
    return True


def _place(vm: VirtualMachine) -> Host | None:
    usable = [host for host in vm.host.compute.hosts.values() if not obstacle(host, vm)]
    return max(usable, key=free_memory_mib, default=None)


def _why_nowhere(vm: VirtualMachine) -> str:
    reasons = dict.fromkeys(obstacle(host, vm) for host in vm.host.compute.hosts.values() if host is not vm.host)
    return "no host can run it: " + ("; ".join(reasons) or "there is no other")


def _start(world: World, vm: VirtualMachine, target: Host) -> None:
    source, question = vm.host, vm.quirks.question
    start_on(world, vm, target, boot_guest=question is None)
    ha_events.restarted(world, vm, source)
    if question is not None:
        world.start(_start_after_answer(world, vm, question))


async def _start_after_answer(world: World, vm: VirtualMachine, question: tuple[str, tuple[str, ...]]) -> None:
    try:
        await ask(world, vm, *question)
    except vmodl.fault.RequestCanceled:
        # No task waits to be told; the VM is off.
        return
    start_guest(world, vm)
