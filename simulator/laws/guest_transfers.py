"""File transfers into and out of guests: a URL for one file, good for one transfer and for a while."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from pyVmomi import vim

from simulator.laws.guest_files import GuestDisk
from simulator.world import World

__all__ = ["PATH", "Transfer", "TransferRefused", "claim", "finish", "from_guest", "to_guest"]

PATH = "/guestFile"
GOOD_FOR = timedelta(minutes=10)


class TransferRefused(Exception):
    """The URL is no good; the message says why."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One permitted transfer; `size` is the only size that an upload may have, in bytes."""

    disk: GuestDisk
    path: str
    size: int
    upload: bool
    overwrite: bool
    mode: int
    until: datetime


def _permit(disk: GuestDisk, path: str, size: int, *, upload: bool, overwrite: bool = True, mode: int = 0o644) -> str:
    world = disk.world
    token = secrets.token_hex(16)
    until = world.registry.clock.now() + GOOD_FOR
    number = len(world.transfers) + 1
    world.transfers[token] = Transfer(disk, path, size, upload, overwrite, mode, until)
    return f"{world.address}{PATH}?id={number}&token={token}"


def to_guest(disk: GuestDisk, path: str, size: int, *, overwrite: bool, mode: int) -> str:
    """Where to PUT a file; raises what writing it would: `FileAlreadyExists`, `FileNotFound` for its directory."""
    if not overwrite and disk.find(path) is not None:
        raise vim.fault.FileAlreadyExists(file=path, msg=f"{path} already exists.")
    folder = disk.find(path.rpartition("/")[0] or "/")
    if folder is None or not folder.is_directory:
        raise vim.fault.FileNotFound(file=path, msg=f"The directory of {path} was not found.")
    return _permit(disk, path, size, upload=True, overwrite=overwrite, mode=mode)


def from_guest(disk: GuestDisk, path: str) -> tuple[str, int]:
    """Where to GET a file, and its size in bytes; raises `FileNotFound`, `NotAFile`."""
    size = len(disk.read(path))
    return _permit(disk, path, size, upload=False), size


def claim(world: World, token: str, *, upload: bool) -> Transfer:
    """Use a permission up; raises `TransferRefused` for one that is unknown, used or too old, or a guest down."""
    found = world.transfers.pop(token, None)
    if found is None or found.upload != upload:
        raise TransferRefused("there is no such transfer, or it is done")
    if found.until < world.registry.clock.now():
        raise TransferRefused("the transfer has expired")
    if not found.disk.vm.booted:
        raise TransferRefused("the guest is down")
    return found


def finish(transfer: Transfer, content: bytes) -> None:
    """The file has arrived; raises `TransferRefused` for another size than announced, `FileFault`s."""
    if len(content) != transfer.size:
        raise TransferRefused(f"{len(content)} bytes came, {transfer.size} were announced")
    transfer.disk.write(transfer.path, content, overwrite=transfer.overwrite, mode=transfer.mode)
