"""The guest operations manager with its three managers: programs, files and logins inside VMs."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, method, prop
from simulator.entities.base import resolve
from simulator.guests import GuestFile
from simulator.laws import guest_processes, guest_transfers
from simulator.laws.guest_files import GuestDisk
from simulator.laws.guests import log_in
from simulator.world import VirtualMachine, World

__all__ = ["guest_managers"]

_guest = vim.vm.guest
MANAGER, AUTH, FILES, PROCESSES = (
    "guestOperationsManager", "guestOperationsAuthManager", "guestOperationsFileManager",
    "guestOperationsProcessManager",
)  # fmt: skip
_MOST = 50
"""How many files one answer lists unless told otherwise."""


def guest_managers(world: World) -> list[Managed]:
    """The four objects."""
    return [
        _GuestOperations(world.registry, MANAGER),
        _AuthManager(world, AUTH),
        _FileManager(world, FILES),
        _ProcessManager(world, PROCESSES),
    ]


class _GuestOperations(Managed):
    vim_type = _guest.GuestOperationsManager

    @prop("authManager")
    def auth_manager(self) -> Any:
        return _guest.AuthManager(AUTH)

    @prop("fileManager")
    def file_manager(self) -> Any:
        return _guest.FileManager(FILES)

    @prop("processManager")
    def process_manager(self) -> Any:
        return _guest.ProcessManager(PROCESSES)


class _Manager(Managed):
    def __init__(self, world: World, moid: str) -> None:
        super().__init__(world.registry, moid)
        self.world = world

    def _vm(self, ref: Any) -> VirtualMachine:
        found: VirtualMachine = resolve(self.world, ref, vim.VirtualMachine)
        return found

    def _disk(self, ref: Any, auth: Any) -> GuestDisk:
        vm = self._vm(ref)
        return GuestDisk(self.world, vm, log_in(self.world, vm, auth)[0])


class _AuthManager(_Manager):
    vim_type = _guest.AuthManager

    @method("ValidateCredentialsInGuest")
    def validate(self, call: Call, vm: Any, auth: Any) -> None:
        log_in(self.world, self._vm(vm), auth)


class _ProcessManager(_Manager):
    vim_type = _guest.ProcessManager

    @method("StartProgramInGuest")
    def start(self, call: Call, vm: Any, auth: Any, spec: Any) -> int:
        state = self._vm(vm)
        guest, user = log_in(self.world, state, auth)
        return guest_processes.start(self.world, state, guest, user, spec)

    @method("ListProcessesInGuest")
    def list_processes(self, call: Call, vm: Any, auth: Any, pids: list[int] | None = None) -> list[Any]:
        guest, _ = log_in(self.world, self._vm(vm), auth)
        return [
            _guest.ProcessManager.ProcessInfo(
                name=found.name,
                pid=found.pid,
                owner=found.owner,
                cmdLine=found.command,
                startTime=found.started,
                endTime=found.ended,
                exitCode=found.exit_code,
            )
            for found in guest_processes.processes(self.world, guest)
            if not pids or found.pid in pids
        ]

    @method("TerminateProcessInGuest")
    async def terminate(self, call: Call, vm: Any, auth: Any, pid: int) -> None:
        guest, _ = log_in(self.world, self._vm(vm), auth)
        await guest_processes.terminate(self.world, guest, pid)

    @method("ReadEnvironmentVariableInGuest")
    def environment(self, call: Call, vm: Any, auth: Any, names: list[str] | None = None) -> list[str]:
        _, user = log_in(self.world, self._vm(vm), auth)
        found = guest_processes.environment(user)
        return [f"{name}={value}" for name, value in found.items() if not names or name in names]


class _FileManager(_Manager):
    vim_type = _guest.FileManager

    @method("MakeDirectoryInGuest")
    def make_directory(self, call: Call, vm: Any, auth: Any, directoryPath: str, createParentDirectories: bool) -> None:
        self._disk(vm, auth).make_directory(directoryPath, parents=createParentDirectories)

    @method("DeleteFileInGuest")
    def delete_file(self, call: Call, vm: Any, auth: Any, filePath: str) -> None:
        self._disk(vm, auth).delete(filePath)

    @method("DeleteDirectoryInGuest")
    def delete_directory(self, call: Call, vm: Any, auth: Any, directoryPath: str, recursive: bool) -> None:
        self._disk(vm, auth).delete_directory(directoryPath, recursive=recursive)

    @method("MoveFileInGuest")
    def move_file(self, call: Call, vm: Any, auth: Any, srcFilePath: str, dstFilePath: str, overwrite: bool) -> None:
        disk = self._disk(vm, auth)
        disk.write(dstFilePath, disk.read(srcFilePath), overwrite=overwrite)
        disk.delete(srcFilePath)

    @method("CreateTemporaryFileInGuest")
    def temporary_file(
        self, call: Call, vm: Any, auth: Any, prefix: str, suffix: str, directoryPath: str | None = None
    ) -> str:
        return self._disk(vm, auth).temporary(prefix, suffix, directoryPath, folder=False)

    @method("CreateTemporaryDirectoryInGuest")
    def temporary_directory(
        self, call: Call, vm: Any, auth: Any, prefix: str, suffix: str, directoryPath: str | None = None
    ) -> str:
        return self._disk(vm, auth).temporary(prefix, suffix, directoryPath, folder=True)

    @method("ListFilesInGuest")
    def list_files(
        self,
        call: Call,
        vm: Any,
        auth: Any,
        filePath: str,
        index: int | None = None,
        maxResults: int | None = None,
        matchPattern: str | None = None,
    ) -> Any:
        found = self._disk(vm, auth).list(filePath, matchPattern)
        first = index or 0
        last = first + (_MOST if maxResults is None else maxResults)
        return _guest.FileManager.ListFileInfo(
            files=[_file_info(name, entry) for name, entry in found[first:last]], remaining=max(0, len(found) - last)
        )

    @method("ChangeFileAttributesInGuest")
    def change_attributes(self, call: Call, vm: Any, auth: Any, guestFilePath: str, fileAttributes: Any) -> None:
        disk = self._disk(vm, auth)
        disk.read(guestFilePath)
        permissions = getattr(fileAttributes, "permissions", None)
        if permissions is not None and (found := disk.guest.files.get(guestFilePath)) is not None:
            found.mode = permissions

    @method("InitiateFileTransferToGuest")
    def transfer_to_guest(
        self,
        call: Call,
        vm: Any,
        auth: Any,
        guestFilePath: str,
        fileAttributes: Any,
        fileSize: int,
        overwrite: bool,
    ) -> str:
        if fileSize < 0:
            raise vmodl.fault.InvalidArgument(invalidProperty="fileSize", msg=f"{fileSize} is no size.")
        disk = self._disk(vm, auth)
        mode = getattr(fileAttributes, "permissions", None) or 0o644
        return guest_transfers.to_guest(disk, guestFilePath, fileSize, overwrite=overwrite, mode=mode)

    @method("InitiateFileTransferFromGuest")
    def transfer_from_guest(self, call: Call, vm: Any, auth: Any, guestFilePath: str) -> Any:
        disk = self._disk(vm, auth)
        url, size = guest_transfers.from_guest(disk, guestFilePath)
        found = disk.find(guestFilePath)
        attributes = _guest.FileManager.FileAttributes() if found is None else _attributes(found)
        return _guest.FileManager.FileTransferInformation(attributes=attributes, size=size, url=url)


def _attributes(found: GuestFile) -> Any:
    return _guest.FileManager.PosixFileAttributes(
        modificationTime=found.changed, accessTime=found.changed, ownerId=0, groupId=0, permissions=found.mode
    )


def _file_info(name: str, found: GuestFile) -> Any:
    return _guest.FileManager.FileInfo(
        path=name,
        type="directory" if found.content is None else "file",
        size=4096 if found.content is None else len(found.content),
        attributes=_attributes(found),
    )
