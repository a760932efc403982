"""A guest's shell: command lines, scripts, and the programs that provisioning calls."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from pyVmomi import vim

from simulator import guest_programs
from simulator.guest_programs import Context
from simulator.guest_smi import guest_nvidia_smi
from simulator.guest_words import Command, Pipeline, ShellSyntaxError, parse
from simulator.guests import Guest
from simulator.installers import read_installer
from simulator.laws import guest_drivers
from simulator.laws.guest_files import GuestDisk
from simulator.nvidia_smi import Output
from simulator.world import VirtualMachine, World

__all__ = ["Shell"]

COMMAND_SECONDS = 0.2
_SHELLS = ("sh", "bash", "dash")
_DRIVER_ROOT = "/run/nvidia/driver"


class Shell:
    """Runs command lines in a guest. Variables, the directory and the last status live as long as the shell."""

    def __init__(
        self,
        world: World,
        vm: VirtualMachine,
        guest: Guest,
        variables: dict[str, str],
        directory: str,
        reboot: Callable[[], None],
    ) -> None:
        self.world = world
        self.vm = vm
        self.guest = guest
        self.variables = dict(variables)
        self.directory = directory
        self.reboot = reboot
        self.disk = GuestDisk(world, vm, guest)
        self.status = 0
        self._ended = False
        self._stops_at_errors = False

    async def run(self, line: str) -> int:
        """Run a command line and return its exit status; its output goes where it is redirected, or nowhere."""
        return (await self._script(line, "")).status

    async def _script(self, text: str, given: str) -> Output:
        try:
            pipelines = parse(text)
        except ShellSyntaxError as wrong:
            self.status = 2
            return Output("", 2, f"sh: {wrong}\n")
        said, complained = "", ""
        for index, pipeline in enumerate(pipelines):
            if self._ended or (pipeline.joint == "&&" and self.status) or (pipeline.joint == "||" and not self.status):
                continue
            output = await self._pipeline(pipeline, given)
            said, complained, self.status = said + output.stdout, complained + output.stderr, output.status
            tested = index + 1 < len(pipelines) and pipelines[index + 1].joint != ";"
            if self.status and self._stops_at_errors and not tested:
                self._ended = True
        return Output(said, self.status, complained)

    async def _pipeline(self, pipeline: Pipeline, given: str) -> Output:
        complained, output = "", Output("")
        for command in pipeline.commands:
            output = await self._command(command, given)
            given, complained = output.stdout, complained + output.stderr
        return Output(output.stdout, output.status, complained)

    async def _command(self, command: Command, given: str) -> Output:
        words = [word.text(self._value) for word in command.words]
        while words and "=" in words[0] and words[0].partition("=")[0].isidentifier():
            name, _, self.variables[name] = words.pop(0).partition("=")
        targets = [(stream, operator, where.text(self._value)) for stream, operator, where in command.redirections]
        try:
            for stream, _, where in targets:
                if stream == "0":
                    given = self.disk.read(self._path(where)).decode(errors="replace")
            output = await self._program(words, given) if words else Output("")
            return self._redirected(output, targets)
        except vim.fault.FileFault as fault:
            return Output("", 1, f"sh: {fault.msg}\n")

    def _value(self, name: str) -> str:
        return str(self.status) if name == "?" else self.variables.get(name, "")

    def _path(self, path: str) -> str:
        return posixpath.join(self.directory, path)

    def _redirected(self, output: Output, targets: list[tuple[str, str, str]]) -> Output:
        """Write each stream where it was sent; `2>&1` sends errors where output goes at that point."""
        streams: dict[str, str | None] = {"1": None, "2": None}
        joined = False
        for stream, operator, where in targets:
            if operator == ">&" or where.startswith("&"):
                joined = joined or (stream == "2" and where.lstrip("&") == "1")
                streams[stream] = streams.get(where.lstrip("&"))
            elif stream != "0":
                for each in "12" if stream == "&" else stream:
                    streams[each] = where
                    self._write(where, "", append=operator == ">>")
                joined = joined or stream == "&"
        said, complained = output.stdout, output.stderr
        if joined and streams["1"] is None:
            return Output(said + complained, output.status)
        if streams["1"] is not None:
            self._write(streams["1"], said, append=True)
        if streams["2"] is not None:
            self._write(streams["2"], complained, append=True)
        return Output(
            "" if streams["1"] is not None else said, output.status, "" if streams["2"] is not None else complained
        )

    def _write(self, path: str, text: str, *, append: bool) -> None:
        if path == "/dev/null":
            return
        path = self._path(path)
        before = self.disk.read(path) if append and self.disk.find(path) is not None else b""
        self.disk.write(path, before + text.encode())

    async def _program(self, words: list[str], given: str) -> Output:
        name, arguments = words[0].rpartition("/")[2], words[1:]
        if name in ("exit", "cd", "export", "set", ":"):
            return self._builtin(name, arguments)
        await self.world.sleep(COMMAND_SECONDS)
        if "/" in words[0] and self.disk.find(self._path(words[0])) is None:
            return Output("", 127, f"sh: {words[0]}: No such file or directory\n")
        if name in ("sudo", "env", "nohup", "exec"):
            rest = arguments[1:] if arguments[:1] and arguments[0].startswith("-") else arguments
            user = self.variables["USER"]
            try:
                self.variables["USER"] = "root" if name == "sudo" else user
                return await self._program(rest, given) if rest else Output("")
            finally:
                self.variables["USER"] = user
        if name in _SHELLS:
            return await self._shell(arguments, given)
        if name == "sleep":
            await self.world.sleep(float(arguments[0]) if arguments else 0)
            return Output("")
        if name == "reboot" or words[:2] == ["systemctl", "reboot"]:
            self.reboot()
            return Output("")
        if "/" in words[0] and not words[0].startswith(("/usr/", "/bin/", "/sbin/", _DRIVER_ROOT)):
            return await self._file(self._path(words[0]), arguments, given, executed=True)
        if name in ("nvidia-smi", "nvidia-uninstall", "chroot"):
            return self._nvidia(name, words)
        program = guest_programs.PROGRAMS.get(name)
        if program is None:
            return Output("", 127, f"sh: {words[0]}: command not found\n")
        context = Context(self.world, self.vm, self.guest, self.disk, self.directory, self.variables["USER"], given)
        return program(context, arguments)

    def _builtin(self, name: str, arguments: list[str]) -> Output:
        if name == "exit":
            self._ended = True
            return Output("", int(arguments[0]) if arguments and arguments[0].isdigit() else self.status)
        if name == "cd":
            wanted = self._path(arguments[0] if arguments else self.variables["HOME"])
            found = self.disk.find(wanted)
            if found is None or not found.is_directory:
                return Output("", 1, f"sh: cd: {wanted}: No such file or directory\n")
            self.directory = wanted
        if name == "export":
            for entry in arguments:
                if "=" in entry:
                    key, _, self.variables[key] = entry.partition("=")
        if name == "set" and any(word.startswith("-") and "e" in word for word in arguments):
            self._stops_at_errors = True
        return Output("")

    async def _shell(self, arguments: list[str], given: str) -> Output:
        """`sh -c TEXT`, `sh FILE`, or what comes in on standard input."""
        inner = Shell(self.world, self.vm, self.guest, self.variables, self.directory, self.reboot)
        while arguments and arguments[0].startswith("-") and arguments[0] != "-":
            flags, arguments = arguments[0], arguments[1:]
            inner._stops_at_errors = inner._stops_at_errors or "e" in flags
            if "c" in flags:
                return await inner._script(arguments[0] if arguments else "", given)
        if not arguments:
            return await inner._script(given, "")
        return await inner._file(inner._path(arguments[0]), arguments[1:], given, executed=False)

    async def _file(self, path: str, arguments: list[str], given: str, *, executed: bool) -> Output:
        """Run a script or an installer from the disk."""
        found = self.disk.find(path)
        if found is None:
            return Output("", 127, f"sh: {path}: No such file or directory\n")
        if executed and not found.mode & 0o111:
            return Output("", 126, f"sh: {path}: Permission denied\n")
        content = self.disk.read(path)
        if content.startswith(b"#!/bin/sh\n# NVIDIA-Linux"):
            return await self._installer(content, arguments)
        inner = Shell(self.world, self.vm, self.guest, self.variables, self.directory, self.reboot)
        return await inner._script(content.decode(errors="replace"), given)

    async def _installer(self, content: bytes, arguments: list[str]) -> Output:
        if "--uninstall" in arguments:
            status, text = guest_drivers.uninstall(self.guest)
            return Output(text, status)
        if not {"-s", "--silent", "-q", "--no-questions"} & set(arguments):
            # It asks with a screenful that nobody sees.
            return Output("", 1, "Error opening terminal: unknown.\n")
        await self.world.sleep(guest_drivers.INSTALL_SECONDS)
        if self.variables["USER"] != "root":
            return Output("ERROR: nvidia-installer must be run as root\n", 1)
        status, text = guest_drivers.install(self.vm, self.guest, content)
        if status == 0:
            self.world.ledger.append({"what": "driver installed", "name": self.vm.name, "moid": self.vm.moid})
        self._log(text, read_installer(content) if status == 0 else None)
        return Output(text, status)

    def _log(self, text: str, driver: object) -> None:
        log = f"nvidia-installer log file '/var/log/nvidia-installer.log'\n{text}{driver or ''}\n"
        if self.disk.find("/var/log") is None:
            self.disk.make_directory("/var/log", parents=True)
        self.disk.write("/var/log/nvidia-installer.log", log.encode())

    def _nvidia(self, name: str, words: list[str]) -> Output:
        """NVIDIA's own programs: in the guest, or in the GPU Operator's driver container."""
        operator = self.guest.operator_driver
        if name == "chroot":
            if words[1:2] != [_DRIVER_ROOT] or operator is None:
                return Output("", 125, "chroot: cannot change root directory: No such file or directory\n")
            if words[2:3] != ["nvidia-smi"]:
                return Output("", 127, "chroot: failed to run command: No such file or directory\n")
            return guest_nvidia_smi(self.vm, self.guest, operator, words[3:])
        if words[0].startswith(_DRIVER_ROOT) and operator is not None:
            return guest_nvidia_smi(self.vm, self.guest, operator, words[1:])
        if name == "nvidia-uninstall":
            status, text = guest_drivers.uninstall(self.guest)
            return Output(text, status)
        if self.guest.driver is None:
            return Output("", 127, "sh: nvidia-smi: command not found\n")
        return guest_nvidia_smi(self.vm, self.guest, self.guest.driver, words[1:])
