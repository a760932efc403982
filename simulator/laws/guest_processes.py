"""Programs in a guest, started through VMware Tools and looked after until somebody has read how they ended."""

from __future__ import annotations

import asyncio
from typing import Any

from pyVmomi import vim

from simulator.guest_shell import Shell
from simulator.guests import Guest, GuestProcess
from simulator.laws.guest_files import GuestDisk
from simulator.laws.power import reboot_guest
from simulator.world import VirtualMachine, World

__all__ = ["environment", "processes", "start", "terminate"]

KEPT_SECONDS = 300.0
"""How long VMware Tools tell of a process that has ended."""
_KILLED = 143


def environment(user: str) -> dict[str, str]:
    """The variables that a user's programs start with."""
    home = "/root" if user == "root" else f"/home/{user}"
    return {
        "HOME": home,
        "LANG": "C.UTF-8",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "SHELL": "/bin/bash",
        "USER": user,
    }


def start(world: World, vm: VirtualMachine, guest: Guest, user: str, spec: Any) -> int:
    """`StartProgramInGuest`: the shell runs the program with its arguments; returns the process's id at once.

    As on a Linux guest, `arguments` may redirect output. Raises `FileNotFound` for a program or a directory that is
    not there, `CannotAccessFile` for a file that is no program.
    """
    disk = GuestDisk(world, vm, guest)
    program = disk.find(spec.programPath)
    if program is None or program.is_directory:
        raise vim.fault.FileNotFound(file=spec.programPath, msg=f"The program {spec.programPath} was not found.")
    if not program.mode & 0o111:
        raise vim.fault.CannotAccessFile(file=spec.programPath, msg=f"{spec.programPath} is not executable.")
    where = spec.workingDirectory or environment(user)["HOME"]
    if spec.workingDirectory and ((found := disk.find(where)) is None or not found.is_directory):
        raise vim.fault.FileNotFound(file=where, msg=f"The directory {where} was not found.")
    variables = environment(user)
    for entry in spec.envVariables or []:
        name, _, value = entry.partition("=")
        variables[name] = value
    command = f"{spec.programPath} {spec.arguments or ''}".strip()
    pid, guest.next_pid = guest.next_pid, guest.next_pid + 7
    name = spec.programPath.rpartition("/")[2]
    process = GuestProcess(pid, name, user, command, world.registry.clock.now())
    guest.processes[pid] = process
    shell = Shell(world, vm, guest, variables, where, reboot=lambda: reboot_guest(world, vm))
    process.work = world.start(_run(world, process, shell, command))
    return pid


async def _run(world: World, process: GuestProcess, shell: Shell, command: str) -> None:
    code = _KILLED
    try:
        code = await shell.run(command)
    finally:
        process.exit_code, process.ended = code, world.registry.clock.now()


def processes(world: World, guest: Guest) -> list[GuestProcess]:
    """What Tools started and still tell of, and the services that run by themselves."""
    now = world.registry.clock.now()
    kept = KEPT_SECONDS / world.registry.clock.scale
    for pid, process in list(guest.processes.items()):
        # Never less than some real seconds: a fast world's clients are no faster than in life.
        if process.ended is not None and (now - process.ended).total_seconds() > max(kept, 10.0):
            del guest.processes[pid]
    services = ["systemd", "vmtoolsd"]
    if guest.operator_driver is not None:
        services += ["containerd", "kubelet", "nvidia-driver-daemonset"]
    own = [GuestProcess(1 + 300 * index, name, "root", f"/usr/bin/{name}", now) for index, name in enumerate(services)]
    return [*own, *guest.processes.values()]


async def terminate(world: World, guest: Guest, pid: int) -> None:
    """`TerminateProcessInGuest`; raises `GuestProcessNotFound` for what does not run."""
    process = guest.processes.get(pid)
    if process is None or process.work is None or process.ended is not None:
        raise vim.fault.GuestProcessNotFound(pid=pid, msg=f"There is no process {pid} that could be ended.")
    process.work.cancel()
    await asyncio.wait([process.work])
    if process.ended is None:
        # It had not even begun.
        process.exit_code, process.ended = _KILLED, world.registry.clock.now()
