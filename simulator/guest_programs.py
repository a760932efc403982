"""The small programs of a guest: what a provisioning tool calls to look around and to handle files."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from pyVmomi import vim

from simulator.guests import Guest
from simulator.laws.guest_drivers import gpus_of, loaded, trouble
from simulator.laws.guest_files import GuestDisk
from simulator.laws.guests import host_name
from simulator.nvidia_smi import Output
from simulator.world import VirtualMachine, World

__all__ = ["PROGRAMS", "Context"]


@dataclass(frozen=True, slots=True)
class Context:
    """Where a program runs, and what comes in on its standard input."""

    world: World
    vm: VirtualMachine
    guest: Guest
    disk: GuestDisk
    directory: str
    user: str
    given: str

    def path(self, path: str) -> str:
        return posixpath.join(self.directory, path)


def _options(arguments: list[str]) -> tuple[str, list[str]]:
    """The letters of all short options, and the other words."""
    letters = "".join(word[1:] for word in arguments if word.startswith("-") and not word.startswith("--"))
    return letters, [word for word in arguments if not word.startswith("-")]


def _cat(at: Context, arguments: list[str]) -> Output:
    _, names = _options(arguments)
    if not names:
        return Output(at.given)
    said, complained = "", ""
    for name in names:
        try:
            said += at.disk.read(at.path(name)).decode(errors="replace")
        except vim.fault.FileFault:
            complained += f"cat: {name}: No such file or directory\n"
    return Output(said, 1 if complained else 0, complained)


def _ls(at: Context, arguments: list[str]) -> Output:
    letters, names = _options(arguments)
    said, complained = "", ""
    for name in names or [at.directory]:
        try:
            entries = at.disk.list(at.path(name))
        except vim.fault.FileFault:
            complained += f"ls: cannot access '{name}': No such file or directory\n"
            continue
        for entry, found in entries:
            if "l" in letters and entry not in (".", ".."):
                kind, size = ("d", 4096) if found.content is None else ("-", len(found.content))
                said += f"{kind} {size} {entry}\n"
            elif entry not in (".", "..") or "a" in letters:
                said += f"{entry}\n"
    return Output(said, 2 if complained else 0, complained)


def _sha256sum(at: Context, arguments: list[str]) -> Output:
    letters, names = _options(arguments)
    if "c" in letters:
        lines = (at.disk.read(at.path(names[0])).decode() if names else at.given).splitlines()
        return _checked(at, lines)
    said, complained = "", ""
    for name in names:
        try:
            said += f"{hashlib.sha256(at.disk.read(at.path(name))).hexdigest()}  {name}\n"
        except vim.fault.FileFault:
            complained += f"sha256sum: {name}: No such file or directory\n"
    return Output(said, 1 if complained else 0, complained)


def _checked(at: Context, lines: list[str]) -> Output:
    said, status = "", 0
    for line in lines:
        wanted, _, name = line.partition("  ")
        try:
            right = hashlib.sha256(at.disk.read(at.path(name.strip()))).hexdigest() == wanted.strip()
        except vim.fault.FileFault:
            right = False
        said += f"{name.strip()}: {'OK' if right else 'FAILED'}\n"
        status = status if right else 1
    return Output(said, status)


def _mkdir(at: Context, arguments: list[str]) -> Output:
    letters, names = _options(arguments)
    for name in names:
        if at.disk.find(at.path(name)) is not None and "p" in letters:
            continue
        try:
            at.disk.make_directory(at.path(name), parents="p" in letters)
        except vim.fault.FileFault as fault:
            return Output("", 1, f"mkdir: cannot create directory '{name}': {fault.msg}\n")
    return Output("")


def _rm(at: Context, arguments: list[str]) -> Output:
    letters, names = _options(arguments)
    for name in names:
        found = at.disk.find(at.path(name))
        try:
            if found is not None and found.is_directory and "r" in letters.casefold():
                at.disk.delete_directory(at.path(name), recursive=True)
            elif found is not None or "f" not in letters:
                at.disk.delete(at.path(name))
        except vim.fault.FileFault as fault:
            return Output("", 1, f"rm: cannot remove '{name}': {fault.msg}\n")
    return Output("")


def _mv(at: Context, arguments: list[str]) -> Output:
    _, names = _options(arguments)
    if len(names) != 2:
        return Output("", 1, "mv: missing file operand\n")
    try:
        at.disk.write(at.path(names[1]), at.disk.read(at.path(names[0])))
        at.disk.delete(at.path(names[0]))
    except vim.fault.FileFault as fault:
        return Output("", 1, f"mv: cannot move '{names[0]}': {fault.msg}\n")
    return Output("")


def _chmod(at: Context, arguments: list[str]) -> Output:
    if len(arguments) < 2:
        return Output("", 1, "chmod: missing operand\n")
    mode, names = arguments[0], arguments[1:]
    for name in names:
        found = at.guest.files.get(at.path(name))
        if found is None:
            return Output("", 1, f"chmod: cannot access '{name}': No such file or directory\n")
        found.mode = int(mode, 8) if mode.isdigit() else found.mode | 0o111 if "x" in mode else found.mode
    return Output("")


def _test(at: Context, arguments: list[str]) -> Output:
    words = [word for word in arguments if word != "]"]
    negated = words[:1] == ["!"]
    words = words[1:] if negated else words
    if len(words) == 2 and words[0] in ("-e", "-f", "-d", "-s", "-x", "-r", "-S"):
        found = at.disk.find(at.path(words[1]))
        true = found is not None and {
            "-f": not found.is_directory, "-d": found.is_directory, "-s": bool(found.content),
            "-x": bool(found.mode & 0o111),
        }.get(words[0], True)  # fmt: skip
    elif len(words) == 2 and words[0] in ("-n", "-z"):
        true = bool(words[1]) == (words[0] == "-n")
    elif len(words) == 3 and words[1] in ("=", "==", "!=", "-eq", "-ne"):
        true = (words[0] == words[2]) == (words[1] in ("=", "==", "-eq"))
    else:
        true = len(words) == 1 and bool(words[0])
    return Output("", 0 if true != negated else 1)


def _uname(at: Context, arguments: list[str]) -> Output:
    letters, _ = _options(arguments)
    parts = {"s": "Linux", "n": host_name(at.vm), "r": "5.15.0-105-generic", "m": "x86_64"}
    wanted = "snrm" if "a" in letters else letters or "s"
    return Output(" ".join(parts[letter] for letter in "snrm" if letter in wanted) + "\n")


def _lsmod(at: Context, arguments: list[str]) -> Output:
    lines = ["Module                  Size  Used by", "vmw_vmci               98304  1"]
    if loaded(at.vm, at.guest) is not None:
        lines += ["nvidia_uvm           1523712  0", "nvidia              56717312  1 nvidia_uvm"]
    return Output("\n".join(lines) + "\n")


def _lspci(at: Context, arguments: list[str]) -> Output:
    return Output(
        "".join(
            f"{gpu.address.removeprefix('0000:')} 3D controller [0302]: NVIDIA Corporation "
            f"[{gpu.vendor_id:04x}:{gpu.device_id:04x}]\n"
            for gpu in gpus_of(at.vm)
        )
    )


def _dmesg(at: Context, arguments: list[str]) -> Output:
    driver = at.guest.driver
    found = trouble(at.vm, at.guest, driver) if driver is not None else None
    kernel = f"[   12.000000] {found.kernel}\n" if found is not None and found.kernel else ""
    return Output(f"[    0.000000] Linux version 5.15.0-105-generic\n{kernel}")


def _services(at: Context) -> set[str]:
    found = {"ssh", "vmtoolsd", "cloud-init"}
    if at.guest.operator_driver is not None:
        found |= {"containerd", "kubelet"}
    if at.guest.driver is not None:
        found |= {"nvidia-gridd", "nvidia-topologyd"} if at.guest.driver.kind == "grid" else {"nvidia-persistenced"}
    return found


def _systemctl(at: Context, arguments: list[str]) -> Output:
    words = [word for word in arguments if not word.startswith("-")]
    if len(words) < 2:
        return Output("", 0 if words in ([], ["daemon-reload"]) else 1)
    verb, name = words[0], words[1].removesuffix(".service")
    if name not in _services(at):
        missing = f"Unit {name}.service could not be found.\n"
        return Output("inactive\n", 3) if verb == "is-active" else Output("", 4, missing)
    running = name not in at.guest.stopped_services
    if verb in ("start", "restart"):
        at.guest.stopped_services.discard(name)
    elif verb == "stop":
        at.guest.stopped_services.add(name)
    elif verb == "is-active":
        return Output("active\n" if running else "inactive\n", 0 if running else 3)
    elif verb == "is-enabled":
        return Output("enabled\n")
    elif verb == "status":
        state = "active (running)" if running else "inactive (dead)"
        return Output(f"{name}.service\n     Active: {state}\n", 0 if running else 3)
    elif verb not in ("enable", "disable"):
        return Output("", 1, f"Unknown command verb {verb}.\n")
    return Output("")


def _mokutil(at: Context, arguments: list[str]) -> Output:
    if at.vm.firmware != "efi":
        return Output("", 1, "EFI variables are not supported on this system\n")
    return Output(f"SecureBoot {'enabled' if at.vm.secure_boot else 'disabled'}\n")


def _names(at: Context) -> list[str]:
    found = ["systemd", "vmtoolsd"]
    if at.guest.operator_driver is not None:
        found += ["containerd", "kubelet", "nvidia-driver-daemonset"]
    return found + [process.name for process in at.guest.processes.values() if process.ended is None]


def _pgrep(at: Context, arguments: list[str]) -> Output:
    _, names = _options(arguments)
    found = [str(1 + 300 * index) for index, name in enumerate(_names(at)) if names and names[-1] in name]
    return Output("".join(f"{pid}\n" for pid in found), 0 if found else 1)


def _grep(at: Context, arguments: list[str]) -> Output:
    letters, words = _options(arguments)
    if not words:
        return Output("", 2, "Usage: grep [OPTION]... PATTERNS [FILE]...\n")
    text = _cat(at, words[1:]) if words[1:] else Output(at.given)
    fold = str.casefold if "i" in letters else str
    found = [line for line in text.stdout.splitlines() if (fold(words[0]) in fold(line)) != ("v" in letters)]
    said = "" if "q" in letters else f"{len(found)}\n" if "c" in letters else "".join(f"{line}\n" for line in found)
    return Output(said, 0 if found else 1, text.stderr)


def _head(at: Context, arguments: list[str]) -> Output:
    count = next((int(word.lstrip("-n")) for word in arguments if word.lstrip("-n").isdigit()), 10)
    return Output("".join(at.given.splitlines(keepends=True)[:count]))


def _which(at: Context, arguments: list[str]) -> Output:
    _, names = _options(arguments)
    found = [f"/usr/bin/{name}" for name in names if at.disk.find(f"/usr/bin/{name}") is not None]
    return Output("".join(f"{path}\n" for path in found), 0 if names and len(found) == len(names) else 1)


def _echo(at: Context, arguments: list[str]) -> Output:
    words = arguments[1:] if arguments[:1] == ["-n"] else arguments
    return Output(" ".join(words) + ("" if arguments[:1] == ["-n"] else "\n"))


PROGRAMS: dict[str, Callable[[Context, list[str]], Output]] = {
    "[": _test, "cat": _cat, "chmod": _chmod, "command": _which, "dmesg": _dmesg, "echo": _echo,
    "false": lambda at, arguments: Output("", 1), "grep": _grep, "head": _head,
    "hostname": lambda at, arguments: Output(f"{host_name(at.vm)}\n"),
    "id": lambda at, arguments: Output("0\n" if at.user == "root" else "1000\n"),
    "ls": _ls, "lsmod": _lsmod, "lspci": _lspci, "mkdir": _mkdir, "mokutil": _mokutil, "mv": _mv, "pgrep": _pgrep,
    "ps": lambda at, arguments: Output("".join(f"{name}\n" for name in _names(at))),
    "rm": _rm, "sha256sum": _sha256sum, "systemctl": _systemctl, "test": _test,
    "true": lambda at, arguments: Output(""), "uname": _uname, "which": _which,
}  # fmt: skip
"""By name; each takes where it runs and its arguments."""
