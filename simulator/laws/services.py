"""A host's services, and lockdown mode, which keeps people out of it."""

from __future__ import annotations

from pyVmomi import vim, vmodl

from simulator.laws import graphics
from simulator.laws.passthrough import require_connected
from simulator.world import Host, HostService, World

__all__ = ["LOCKDOWN_MODES", "boot", "may_log_in", "restart", "set_lockdown", "set_policy", "start", "stop"]

POLICIES = ("on", "off", "automatic")
LOCKDOWN_MODES = ("lockdownDisabled", "lockdownNormal", "lockdownStrict")


def _service(world: World, host: Host, key: str) -> HostService:
    require_connected(world, host)
    if key not in host.services:
        raise vim.fault.NotFound(msg=f"{host.name} has no service {key!r}.")
    return host.services[key]


def start(world: World, host: Host, key: str) -> None:
    """`StartService`; raises `NotFound`, and `InvalidState` when it runs or, for X, without graphics to show."""
    service = _service(world, host, key)
    if service.running:
        raise vim.fault.InvalidState(msg=f"The service {key} is running on {host.name} already.")
    _run(world, host, service)


def restart(world: World, host: Host, key: str) -> None:
    """`RestartService`: starts it also when it is stopped."""
    _run(world, host, _service(world, host, key))


def _run(world: World, host: Host, service: HostService) -> None:
    if service.key == "xorg":
        graphics.restart_xorg(world, host)
        # X has a screen only on a card that is `shared`; that it fails says nothing of vGPU.
        service.running = any(card.active_type == "shared" for card in host.gpus.values())
    else:
        service.running = True
    world.changed(host)


def stop(world: World, host: Host, key: str) -> None:
    """`StopService`; raises `NotFound`, and `InvalidState` when it does not run."""
    service = _service(world, host, key)
    if not service.running:
        raise vim.fault.InvalidState(msg=f"The service {key} is not running on {host.name}.")
    service.running = False
    world.changed(host)


def set_policy(world: World, host: Host, key: str, policy: str) -> None:
    """`UpdateServicePolicy`: when the service starts by itself; raises `NotFound`, `InvalidArgument`."""
    service = _service(world, host, key)
    if policy not in POLICIES:
        raise vmodl.fault.InvalidArgument(invalidProperty="policy", msg=f"The policy is one of {', '.join(POLICIES)}.")
    service.policy = policy
    world.changed(host)


def boot(host: Host) -> None:
    """After a boot those services run whose policy says so; a port that is opened by hand stays closed."""
    for service in host.services.values():
        service.running = service.policy == "on" and service.key != "xorg"


def set_lockdown(world: World, host: Host, mode: str) -> None:
    """`ChangeLockdownMode`; raises `InvalidArgument`."""
    if mode not in LOCKDOWN_MODES:
        raise vmodl.fault.InvalidArgument(invalidProperty="mode", msg=f"The mode is one of {LOCKDOWN_MODES}.")
    host.lockdown_mode = mode
    world.changed(host)


def may_log_in(host: Host, user: str) -> bool:
    """Whether SSH lets the user in: in lockdown mode only exception users get in."""
    return host.lockdown_mode == "lockdownDisabled" or user in host.lockdown_exceptions
