"""A guest's life: it comes up with its VM, lets people in, and is gone when the VM is off."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.guests import Guest, GuestFile
from simulator.laws import customization
from simulator.world import VirtualMachine, World

__all__ = ["default_address", "guest_of", "host_name", "log_in", "put_file", "tools_come_up", "went_down"]

_DIRECTORIES = ("/", "/etc", "/home", "/opt", "/root", "/run", "/tmp", "/usr", "/usr/bin", "/var", "/var/tmp")  # noqa: S108 - a guest's own
_OS_RELEASE = (
    'PRETTY_NAME="Ubuntu 22.04.4 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\nVERSION="22.04.4 LTS (Jammy Jellyfish)"\n'
    "VERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\n"
)


def guest_of(world: World, vm: VirtualMachine) -> Guest:
    """What is inside the VM; made when it is first looked at, since most VMs' insides never are."""
    if vm.guest is None:
        vm.guest = Guest()
        now = world.registry.clock.now()
        vm.guest.files = {path: GuestFile(None, now, 0o755) for path in _DIRECTORIES}
        put_file(world, vm.guest, "/etc/os-release", _OS_RELEASE.encode())
    return vm.guest


def put_file(world: World, guest: Guest, path: str, content: bytes, mode: int = 0o644) -> None:
    """A file as the guest itself writes it, with the directories that it lies in."""
    now = world.registry.clock.now()
    parent = path.rpartition("/")[0]
    while parent and parent not in guest.files:
        guest.files[parent] = GuestFile(None, now, 0o755)
        parent = parent.rpartition("/")[0]
    guest.files[path] = GuestFile(content, now, mode)


def host_name(vm: VirtualMachine) -> str:
    """What the guest calls itself."""
    return vm.guest.host_name if vm.guest is not None and vm.guest.host_name else vm.name


def default_address(vm: VirtualMachine) -> str:
    """What DHCP gives the VM."""
    number = int(vm.moid.removeprefix("vm-"))
    return f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"


def tools_come_up(world: World, vm: VirtualMachine) -> None:
    """The guest has booted: who it is to be is carried out, VMware Tools run and it has its address.

    With `quirks.no_tools` the guest runs and nobody hears of it: neither Tools nor customisation nor an address.
    """
    if vm.quirks.no_tools:
        return
    customization.carry_out(world, vm, lambda: guest_of(world, vm))
    vm.booted = True
    vm.ip_address = vm.guest.address if vm.guest is not None and vm.guest.address else default_address(vm)
    world.changed(vm)


def went_down(vm: VirtualMachine) -> None:
    """The guest stops with all that runs in it; its disk stays."""
    if vm.guest is None:
        return
    for process in vm.guest.processes.values():
        if process.work is not None:
            process.work.cancel()
    vm.guest.processes.clear()
    vm.guest.stopped_services.clear()


def log_in(world: World, vm: VirtualMachine, auth: Any) -> tuple[Guest, str]:
    """The guest and the user's name, for a guest operation.

    Raises `InvalidPowerState` when the VM is off, `GuestOperationsUnavailable` while VMware Tools do not run,
    `InvalidGuestLogin` for a wrong user or password, `OperationNotSupportedByGuest` for any other way to log in.
    """
    if vm.power_state != "poweredOn":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOn", existingState=vm.power_state, msg=f"{vm.name} is not powered on."
        )
    if not vm.booted:
        raise vim.fault.GuestOperationsUnavailable(
            msg="The guest operations agent could not be contacted: VMware Tools is not running."
        )
    if not isinstance(auth, vim.vm.guest.NamePasswordAuthentication):
        raise vim.fault.OperationNotSupportedByGuest(msg="The guest knows only users with passwords.")
    guest = guest_of(world, vm)
    if not auth.password or guest.logins.get(auth.username) != auth.password:
        raise vim.fault.InvalidGuestLogin(msg="Failed to authenticate with the guest operating system.")
    return guest, auth.username
