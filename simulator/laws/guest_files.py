"""The files of a guest: what is on its disk, and what its kernel shows below /proc, /sys and /run."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from fnmatch import fnmatchcase

from pyVmomi import vim

from simulator.guests import Guest, GuestFile
from simulator.laws.guest_drivers import gpus_of, loaded
from simulator.laws.guests import host_name
from simulator.world import VirtualMachine, World

__all__ = ["GuestDisk"]

PROGRAMS = ("bash", "cat", "chmod", "chroot", "dmesg", "echo", "env", "false", "grep", "head", "hostname", "id", "ls",
            "lsmod", "lspci", "mkdir", "mokutil", "mv", "pgrep", "ps", "reboot", "rm", "sh", "sha256sum", "sleep",
            "sudo", "systemctl", "test", "true", "uname", "which")  # fmt: skip
"""What is in the guest's /usr/bin besides NVIDIA's programs."""


class GuestDisk:
    """One guest's files. Paths are absolute POSIX paths; faults are vSphere's `FileFault`s."""

    def __init__(self, world: World, vm: VirtualMachine, guest: Guest) -> None:
        self.world = world
        self.vm = vm
        self.guest = guest

    def find(self, path: str) -> GuestFile | None:
        """What is at a path, kernel's files included."""
        path = _normal(path)
        return self.guest.files.get(path) or self._shown().get(path)

    def read(self, path: str) -> bytes:
        """Raises `FileNotFound`, `NotAFile`."""
        found = self.find(path)
        if found is None:
            raise _fault(vim.fault.FileNotFound, path, "was not found")
        if found.content is None:
            raise _fault(vim.fault.NotAFile, path, "is a directory")
        return found.content

    def write(self, path: str, content: bytes, *, overwrite: bool = True, mode: int = 0o644) -> None:
        """Raises `FileAlreadyExists`, `FileNotFound` for a directory that is not there, `NotAFile`."""
        path = _normal(path)
        self._require_directory(posixpath.dirname(path))
        found = self.find(path)
        if found is not None and found.is_directory:
            raise _fault(vim.fault.NotAFile, path, "is a directory")
        if found is not None and not overwrite:
            raise _fault(vim.fault.FileAlreadyExists, path, "already exists")
        if path in self._shown():
            raise _fault(vim.fault.CannotAccessFile, path, "cannot be written")
        self.guest.files[path] = GuestFile(content, self.world.registry.clock.now(), found.mode if found else mode)

    def make_directory(self, path: str, *, parents: bool) -> None:
        """Raises `FileAlreadyExists`, `FileNotFound` for a parent that is not there."""
        path = _normal(path)
        if self.find(path) is not None:
            raise _fault(vim.fault.FileAlreadyExists, path, "already exists")
        parent = posixpath.dirname(path)
        if parents and self.find(parent) is None:
            self.make_directory(parent, parents=True)
        self._require_directory(parent)
        self.guest.files[path] = GuestFile(None, self.world.registry.clock.now(), 0o755)

    def delete(self, path: str) -> None:
        """A file; raises `FileNotFound`, `NotAFile`."""
        path = _normal(path)
        self.read(path)
        if path not in self.guest.files:
            raise _fault(vim.fault.CannotAccessFile, path, "cannot be deleted")
        del self.guest.files[path]

    def delete_directory(self, path: str, *, recursive: bool) -> None:
        """Raises `FileNotFound`, `NotADirectory`, `DirectoryNotEmpty`."""
        path = _normal(path)
        self._require_directory(path)
        below = [found for found in self.guest.files if found.startswith(path.rstrip("/") + "/")]
        if below and not recursive:
            raise _fault(vim.fault.DirectoryNotEmpty, path, "is not empty")
        for found in (*below, path):
            self.guest.files.pop(found, None)

    def list(self, path: str, pattern: str | None = None) -> list[tuple[str, GuestFile]]:
        """A directory's entries, `.` and `..` first, or one file; raises `FileNotFound`."""
        path = _normal(path)
        found = self.find(path)
        if found is None:
            raise _fault(vim.fault.FileNotFound, path, "was not found")
        if not found.is_directory:
            return [(path, found)]
        entries = [(".", found), ("..", found)] + [
            (posixpath.basename(name), entry)
            for name, entry in sorted((self._shown() | self.guest.files).items())
            if name != "/" and posixpath.dirname(name) == path
        ]
        return [entry for entry in entries if pattern is None or fnmatchcase(entry[0], pattern)]

    def temporary(self, prefix: str, suffix: str, directory: str | None, *, folder: bool) -> str:
        """A new file or directory with a name of its own; returns its path."""
        where = _normal(directory or "/tmp")  # noqa: S108 - the guest's own
        self._require_directory(where)
        path = f"{where.rstrip('/')}/{prefix}{self.world.uuid()[:8]}{suffix}"
        now = self.world.registry.clock.now()
        self.guest.files[path] = GuestFile(None if folder else b"", now, 0o700 if folder else 0o600)
        return path

    def _require_directory(self, path: str) -> None:
        found = self.find(path)
        if found is None:
            raise _fault(vim.fault.FileNotFound, path, "was not found")
        if not found.is_directory:
            raise _fault(vim.fault.NotADirectory, path, "is not a directory")

    def _shown(self) -> dict[str, GuestFile]:
        """What no disk holds: programs, and what the kernel and its drivers show."""
        vm, guest = self.vm, self.guest
        files: dict[str, str] = {f"/usr/bin/{name}": "" for name in PROGRAMS}
        files |= {"/etc/hostname": f"{host_name(vm)}\n", "/proc/version": "Linux version 5.15.0-105-generic\n"}
        if guest.driver is not None:
            files |= {"/usr/bin/nvidia-smi": "", "/usr/bin/nvidia-uninstall": ""}
        if (driver := loaded(vm, guest)) is not None:
            files["/proc/driver/nvidia/version"] = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver.version}\n"
            files["/sys/module/nvidia/version"] = f"{driver.version}\n"
            files |= {f"/dev/nvidia{index}": "" for index, _ in enumerate(gpus_of(vm))}
        if guest.operator_driver is not None:
            files["/run/nvidia/driver/usr/bin/nvidia-smi"] = ""
            files["/etc/kubernetes/kubelet.conf"] = "apiVersion: v1\nkind: Config\n"
            files["/run/containerd/containerd.sock"] = ""
        if vm.firmware == "efi":
            files["/sys/firmware/efi/fw_platform_size"] = "64\n"
        for gpu in gpus_of(vm):
            files[f"/sys/bus/pci/devices/{gpu.address}/vendor"] = f"0x{gpu.vendor_id:04x}\n"
            files[f"/sys/bus/pci/devices/{gpu.address}/device"] = f"0x{gpu.device_id:04x}\n"
        now = vm.boot_time or vm.created
        shown = {path: GuestFile(content.encode(), now, _mode(path)) for path, content in files.items()}
        return {parent: GuestFile(None, now, 0o755) for parent in _parents(shown)} | shown


def _mode(path: str) -> int:
    return 0o755 if "/bin/" in path else 0o444


def _parents(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while (path := posixpath.dirname(path)) != "/":
            found.add(path)
    return found


def _normal(path: str) -> str:
    if not path.startswith("/"):
        raise _fault(vim.fault.FileNotFound, path, "is no absolute path")
    normal = posixpath.normpath(path)
    # /bin is a link to /usr/bin.
    return f"/usr{normal}" if normal.startswith(("/bin/", "/sbin/")) else normal


def _fault(kind: type, path: str, what: str) -> Exception:
    fault: Exception = kind(file=path, msg=f"{path} {what}.")
    return fault
