"""Programs in Linux guests: started once, followed to their end, and their output read.

Source: vSphere Web Services API, `GuestProcessManager`. VMware Tools run the arguments through a shell, so that output
can be redirected, and tell how a program ended for some minutes afterwards.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from pyVmomi import vim

from contracts.errors import GpuwrightError, NeedsHuman, Unreachable
from contracts.machine import VmRef
from vsphere.guest_access import Guest, open_guest
from vsphere.guest_files import FOLDER, download_tail, remove_file
from vsphere.settings import GuestCredentials

__all__ = ["Ended", "GuestProgram", "Heartbeat", "await_marked", "list_programs", "run", "run_in_guest"]

Heartbeat = Callable[[dict[str, Any]], None]

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LOOKS_AFTER_LOST_ANSWER = 5
_SAME_START_S = 60
"""Tools and the kernel compute a program's start differently, but never by so much."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class GuestProgram:
    """A running program, or one that Tools started and still tell of. `exit_code` is None while it runs."""

    pid: int
    name: str
    command: str
    started: datetime | None
    ended: bool
    exit_code: int | None


class Ended(NamedTuple):
    """How a program ended, with the last 64 KiB of its output and errors. No exit code: it was out of time."""

    exit_code: int | None
    output: str


def run_in_guest(
    si: vim.ServiceInstance,
    ref: VmRef,
    credentials: GuestCredentials,
    program: str,
    arguments: str,
    timeout_s: float,
    heartbeat: Heartbeat,
) -> tuple[int, str]:
    """Run a program once and return its exit status and output; `arguments` is shell text, so quote.

    `heartbeat` is called at least every five seconds; what it raises is passed on, and the program goes on. Raises
    `Unreachable` when the guest or VMware Tools go down, `NeedsHuman` when the program is still running after
    `timeout_s` (it is terminated then), and as `open_guest` does.
    """
    ended = run(open_guest(si, ref, credentials), program, arguments, timeout_s, heartbeat)
    if ended.exit_code is None:
        raise NeedsHuman(
            f"{program} in the guest of VM {ref.name} on {ref.vcenter} had not ended after {timeout_s:g} s and was "
            f"terminated; it said: {ended.output[-2000:].strip() or 'nothing'}"
        )
    return ended.exit_code, ended.output


def run(
    guest: Guest,
    program: str,
    arguments: str,
    timeout_s: float,
    heartbeat: Heartbeat,
    mark: str = "",
    patient: bool = False,
) -> Ended:
    """Like `run_in_guest`, with an open guest; out of time it returns no exit code.

    The output file's name begins with `mark`, so that a later attempt finds it. A `patient` run that is out of time or
    loses sight of the program leaves both as they are: the next attempt goes on with them (`await_marked`).
    """
    mark = mark or f"gpuwright-{secrets.token_hex(6)}"
    with guest.asked("make a file for output"):
        output = guest.files.CreateTemporaryFileInGuest(guest.machine, guest.auth(), f"{mark}-", ".out", FOLDER)
    started = over = False
    try:
        pid = _start(guest, program, f"{arguments} > {output} 2>&1", output)
        started = True
        code = _follow(guest, pid, timeout_s, heartbeat)
        if code is None and not patient:
            _terminate(guest, pid)
        over = code is not None or not patient
        return Ended(code, download_tail(guest, output))
    finally:
        if over or not started or not patient:
            remove_file(guest, output)


def await_marked(guest: Guest, mark: str, timeout_s: float, heartbeat: Heartbeat) -> Ended | None:
    """Wait for running programs whose command line holds `mark`; None when none runs.

    The exit code is that of the one that Tools started, 0 or not; -1 where it ended unseen. Without an exit code it
    still runs after `timeout_s`.
    """
    deadline, pause, waited = time.monotonic() + timeout_s, _FIRST_PAUSE_S, False
    while True:
        marked = [program for program in list_programs(guest) if mark in program.command]
        heartbeat({"vm": guest.ref.moid, "programs": [program.pid for program in marked]})
        if all(program.ended for program in marked):
            codes = [program.exit_code for program in marked if program.exit_code is not None]
            return Ended(codes[-1] if codes else -1, "") if waited else None
        if time.monotonic() >= deadline:
            return Ended(None, "")
        waited = True
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def list_programs(guest: Guest, pids: Sequence[int] = ()) -> list[GuestProgram]:
    """The programs in the guest, the oldest first; `pids` narrows."""
    with guest.asked("list programs"):
        found = guest.processes.ListProcessesInGuest(guest.machine, guest.auth(), list(pids))
    programs = [
        GuestProgram(
            each.pid, each.name or "", each.cmdLine or "", each.startTime, each.endTime is not None, each.exitCode
        )
        for each in found
    ]
    return sorted(programs, key=lambda program: program.started.timestamp() if program.started else 0.0)


def _start(guest: Guest, program: str, arguments: str, mark: str) -> int:
    """Sent once. When the answer is lost, the program is looked for by its mark, and never started again."""
    spec = vim.vm.guest.ProcessManager.ProgramSpec(programPath=program, arguments=arguments)
    try:
        with guest.asked(f"start {program}"):
            return int(guest.processes.StartProgramInGuest(guest.machine, guest.auth(), spec))
    except Unreachable:
        for attempt in range(_LOOKS_AFTER_LOST_ANSWER):
            if attempt:
                time.sleep(1)
            if found := [each for each in list_programs(guest) if mark in each.command]:
                return found[0].pid
        raise


def _follow(guest: Guest, pid: int, timeout_s: float, heartbeat: Heartbeat) -> int | None:
    """The exit code, or None when it still runs after `timeout_s`."""
    deadline, pause = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    started: datetime | None = None
    while True:
        found = next(iter(list_programs(guest, [pid])), None)
        heartbeat({"vm": guest.ref.moid, "programs": [pid]})
        started = started or (found.started if found else None)
        if found is None or not _same_start(started, found.started):
            raise Unreachable(
                f"program {pid} in {guest.where} is gone, and nobody knows how it ended: the guest or its VMware Tools "
                "were restarted meanwhile"
            )
        if found.ended:
            return found.exit_code if found.exit_code is not None else -1
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def _same_start(one: datetime | None, other: datetime | None) -> bool:
    return one is None or other is None or abs((one - other).total_seconds()) < _SAME_START_S


def _terminate(guest: Guest, pid: int) -> None:
    try:
        with guest.asked(f"terminate program {pid}"):
            try:
                guest.processes.TerminateProcessInGuest(guest.machine, guest.auth(), pid)
            except vim.fault.GuestProcessNotFound:
                return
    except GpuwrightError as error:
        # It is out of time either way; what is told is that.
        _log.warning("guest_program_left", vm=guest.ref.name, pid=pid, error=str(error))
