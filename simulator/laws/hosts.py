"""Hosts go down, boot, lose and regain their connection to vCenter."""

from __future__ import annotations

from pyVmomi import vim, vmodl

from simulator.laws import bios, graphics, ha, passthrough, registration, services
from simulator.laws.notices import post_host_event
from simulator.laws.passthrough import require_connected
from simulator.laws.vm_states import die
from simulator.world import Host, VirtualMachine, World

__all__ = [
    "RESET_TYPES",
    "SHUTDOWN_SECONDS",
    "boot",
    "disconnect",
    "disconnect_abruptly",
    "fail",
    "hang_reboot",
    "isolate",
    "lose",
    "reboot",
    "reconnect",
    "reset",
    "restore",
    "set_iommu",
    "set_maintenance",
    "shut_down",
    "slow_reboot",
]

ACCEPT_SECONDS = 5.0
SHUTDOWN_SECONDS = 20.0
BOOT_SECONDS = 220.0
"""With the shutdown, 240 s from the reboot task to the connection: what a server of this size needs."""
NOTICE_SECONDS = 15.0
"""How long vCenter takes to notice that a host does not answer any more."""
CONNECT_SECONDS = 5.0


async def reboot(world: World, host: Host, force: bool) -> None:
    """`RebootHost_Task`: the task ends when the host has accepted; going down and booting happen after it.

    Raises `InvalidState` for a host that is not in maintenance mode, without `force`.
    """
    _require_maintenance(world, host, force, "rebooted")
    await world.sleep(ACCEPT_SECONDS)
    post_host_event(world, vim.event.HostShutdownEvent, host, f"Host {host.name} is rebooting", reason="reboot")
    _in_background(world, host, _reboot(world, host))


async def shut_down(world: World, host: Host, force: bool) -> None:
    """`ShutdownHost_Task`: as for a reboot, but the host stays off until `restore_host`."""
    _require_maintenance(world, host, force, "shut down")
    await world.sleep(ACCEPT_SECONDS)
    post_host_event(world, vim.event.HostShutdownEvent, host, f"Host {host.name} is shutting down", reason="shutdown")
    _in_background(world, host, _go_down(world, host))


def _require_maintenance(world: World, host: Host, force: bool, verb: str) -> None:
    require_connected(world, host)
    if not host.in_maintenance and not force:
        raise vim.fault.InvalidState(msg=f"{host.name} must be in maintenance mode to be {verb}.")


def _in_background(world: World, host: Host, work: object) -> None:
    """At most one thing happens to a host's power at a time; a newer one replaces it."""
    if host.background is not None:
        host.background.cancel()
    host.background = world.start(work)  # type: ignore[arg-type]


async def _reboot(world: World, host: Host) -> None:
    await _go_down(world, host)
    await boot(world, host)


async def _go_down(world: World, host: Host) -> None:
    await world.sleep(SHUTDOWN_SECONDS)
    _down(world, host)


def _down(world: World, host: Host) -> None:
    """The host is off and HA notices, unless it was taken out on purpose."""
    meant = host.in_maintenance or host.standby_mode == "in"
    died = lose(world, host, power="poweredOff", ha_view="hostDown")
    if not meant:
        ha.respond_to_failure(world, host, died)


async def boot(world: World, host: Host) -> None:
    """Boot, apply what waited for a boot, and connect; a host that gave away a device it needs stays lost."""
    hangs = host.boot_hangs or passthrough.doomed(host)
    seconds = host.boot_seconds if host.boot_seconds is not None else BOOT_SECONDS
    await world.sleep(seconds)
    if hangs:
        return
    host.power_state, host.standby_mode = "poweredOn", "none"
    host.boot_time = world.registry.clock.now()
    host.ledger.append("boot")
    host.running_vibs = frozenset(host.vibs)
    bios.apply(host)
    services.boot(host)
    passthrough.activate(host)
    graphics.activate(host)
    _regain(world, host)


def lose(world: World, host: Host, *, power: str = "", ha_view: str = "") -> list[VirtualMachine]:
    """The host stops answering vCenter, and HA sees it as `ha_view`; with its power gone (`power` is what is left
    of it) its VMs die: returns which.
    """
    known = host.connection_state == "connected"
    host.responding = False
    host.connection_state = "notResponding"
    host.ha_view = ha_view or host.ha_view
    died: list[VirtualMachine] = []
    if power:
        host.power_state = power
        died = [vm for vm in host.vms.values() if vm.power_state == "poweredOn"]
        for vm in died:
            die(world, vm)
        for gone in host.orphans:
            gone.power_state = "poweredOff"
    if known:
        post_host_event(world, vim.event.HostConnectionLostEvent, host, f"Host {host.name} is not responding")
    # Another host may be HA's master now.
    world.changed(host.compute, *host.compute.hosts.values(), *host.vms.values())
    return died


def _regain(world: World, host: Host) -> None:
    for vm in host.vms.values():
        vm.last_seen, vm.last_ids = None, {}
    known = host.connection_state == "connected"
    host.responding = True
    host.connection_state = "connected"
    host.ha_view = ""
    if not known:
        post_host_event(world, vim.event.HostConnectedEvent, host, f"Connected to {host.name} in {host.compute.name}")
    registration.reappear(world, host)
    world.changed(host.compute, *host.compute.hosts.values(), *host.vms.values())


async def disconnect(world: World, host: Host) -> None:
    """`DisconnectHost_Task`: vCenter lets go of a host that runs on; raises `InvalidState` when it is disconnected."""
    if host.connection_state == "disconnected":
        raise vim.fault.InvalidState(msg=f"{host.name} is already disconnected.")
    await world.sleep(CONNECT_SECONDS)
    host.connection_state = "disconnected"
    post_host_event(
        world, vim.event.HostDisconnectedEvent, host, f"Disconnected from {host.name}", reason="userRequest"
    )
    world.changed(host, host.compute, *host.vms.values())


async def reconnect(world: World, host: Host) -> None:
    """`ReconnectHost_Task`; raises `InvalidState` when it is connected, `HostNotReachable` when it does not answer."""
    if host.connection_state == "connected":
        raise vim.fault.InvalidState(msg=f"{host.name} is already connected.")
    await world.sleep(CONNECT_SECONDS)
    if not host.responding or host.power_state != "poweredOn":
        raise vmodl.fault.HostNotReachable(msg=f"Unable to communicate with the remote host {host.name}.")
    _regain(world, host)


RESET_TYPES = ("On", "ForceOff", "ForceRestart", "GracefulRestart")


def reset(world: World, host: Host, kind: str) -> None:
    """The BMC's `ComputerSystem.Reset`: it asks neither ESXi nor vCenter, so running VMs die with the host."""
    on = host.power_state == "poweredOn"
    if kind == "On" or not on:
        if not on and kind != "ForceOff":
            _in_background(world, host, _come_back(world, host))
    elif kind == "ForceOff":
        fail(world, host)
    else:
        _in_background(world, host, _power_cycle(world, host, graceful=kind == "GracefulRestart"))


async def _power_cycle(world: World, host: Host, *, graceful: bool) -> None:
    if graceful:
        await _go_down(world, host)
    else:
        await _fail(world, host)
    await boot(world, host)


# What no API call causes: the actions of the world.


def fail(world: World, host: Host) -> None:
    """The host loses its power; vCenter and HA notice after a while."""
    _in_background(world, host, _fail(world, host))


async def _fail(world: World, host: Host) -> None:
    host.responding = False
    host.power_state = "poweredOff"
    await world.sleep(NOTICE_SECONDS)
    _down(world, host)


async def _come_back(world: World, host: Host) -> None:
    if host.connection_state == "connected":
        # It went and nobody has noticed yet; its VMs are gone all the same.
        await _fail(world, host)
    await boot(world, host)


def restore(world: World, host: Host) -> None:
    """Whatever was wrong with the host is over: it boots if it did not run, and answers again.

    Devices that it had given away although it needs them are its own again, as after a repair at the console.
    """
    host.boot_hangs = False
    for function in host.pci.values():
        if function.used_by:
            function.passthru_enabled = False
    if host.power_state != "poweredOn":
        _in_background(world, host, _come_back(world, host))
    elif not host.responding:
        if host.background is not None:
            host.background.cancel()
        _regain(world, host)


def isolate(world: World, host: Host) -> None:
    """The host loses its management network: HA's isolation response decides what becomes of its VMs."""
    _in_background(world, host, _isolate(world, host))


async def _isolate(world: World, host: Host) -> None:
    host.responding = False
    await world.sleep(NOTICE_SECONDS)
    lose(world, host, ha_view="networkIsolated")
    if not host.in_maintenance:
        ha.respond_to_isolation(world, host)


def disconnect_abruptly(world: World, host: Host) -> None:
    """vCenter alone loses the host, which runs on with its VMs."""
    lose(world, host)


def hang_reboot(world: World, host: Host) -> None:
    """The host does not come back from its next boots, until `restore`."""
    host.boot_hangs = True


def slow_reboot(world: World, host: Host, seconds: float) -> None:
    """A boot takes `seconds` of the world's time from now on."""
    host.boot_seconds = seconds


def set_iommu(world: World, host: Host, on: bool, *, bios: bool = False) -> None:
    """The IOMMU is switched by the kernel setting, or in the `bios`, as if it had been so at the last boot."""
    if bios:
        host.bios_iommu = on
    else:
        host.kernel_iommu = on
    passthrough.activate(host)
    world.changed(host)


def set_maintenance(world: World, host: Host, on: bool) -> None:
    """Someone else's maintenance mode appears or ends, without the time that it takes."""
    if host.in_maintenance == on:
        return
    host.in_maintenance = on
    kind = vim.event.EnteredMaintenanceModeEvent if on else vim.event.ExitMaintenanceModeEvent
    post_host_event(world, kind, host, f"Host {host.name} has {'entered' if on else 'exited'} maintenance mode")
    world.changed(host, host.compute)
