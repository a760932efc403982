"""Installing NVIDIA's driver in a Linux guest: looked for first, checked twice, run once, removed afterwards."""

import re
import tempfile
from collections.abc import Callable
from typing import IO, NamedTuple

from pyVmomi import vim

from contracts.errors import BadRequest, Conflict, NeedsHuman, NotSupported, Unreachable
from contracts.machine import GuestEvidence, VmRef
from contracts.vms import DriverPackage
from vsphere.depots import datastore_path
from vsphere.downloads import copy_checked, opened_url
from vsphere.guest import look_inside
from vsphere.guest_access import Guest, open_guest
from vsphere.guest_files import FOLDER, download_tail, list_names, remove_file, remove_folder, upload
from vsphere.guest_programs import Ended, Heartbeat, await_marked, run
from vsphere.settings import GuestCredentials

__all__ = ["MAX_DRIVER_BYTES", "Installed", "install_driver"]

MAX_DRIVER_BYTES = 2 * 2**30
"""Drivers have some 400 MiB."""
_WHAT = "driver package"
_TAIL = 2000
_FILE = "driver.run"
_WHOLE = "the driver package arrived whole"


class Installed(NamedTuple):
    """Whether an installer ran, and what there is to say. That the driver works, the next look tells."""

    changed: bool
    text: str


def install_driver(
    si: vim.ServiceInstance,
    ref: VmRef,
    credentials: GuestCredentials,
    package: DriverPackage,
    heartbeat: Heartbeat,
    timeout_s: float,
    max_bytes: int = MAX_DRIVER_BYTES,
) -> Installed:
    """Install `package` unless `nvidia-smi` shows its version already; `timeout_s` bounds the installer's run.

    An installer that an earlier attempt left running is waited for. The service fetches the package over verified TLS
    (the system's authorities and the vCenter's `ca_file`). Raises `Conflict` for a node of the GPU Operator, which
    installs the driver itself; `NeedsHuman` with the end of the installer's output when it fails; `BadRequest` for a
    wrong package or login; `Unreachable` when guest, Tools or package do not answer.
    """
    guest = open_guest(si, ref, credentials)
    mark = f"gpuwright-{package.sha256[:16]}"
    seen = _look(guest, heartbeat)
    if _proves(seen, package):
        # An attempt that died may have left its files; the driver that it installed is here.
        _clean(guest, mark)
        return Installed(False, f"nvidia-smi in {guest.where} shows driver {package.version} already")
    if seen.gpu_operator:
        raise Conflict(
            f"{guest.where} is a Kubernetes node whose GPU Operator installs the driver itself, and one installed by "
            "hand clashes with it: use driver policy verify, or take the node out of the operator's hands first "
            "(driver.enabled=false)"
        )
    if (ended := await_marked(guest, mark, timeout_s, heartbeat)) is not None:
        if ended.exit_code not in (None, 0) and _proves(_look(guest, heartbeat), package):
            # Nobody saw how it ended, and yet it did its work.
            ended = Ended(0, "")
        _done(guest, package, ended._replace(output=_left_output(guest, mark)), timeout_s, mark)
        return Installed(True, f"the installer of driver {package.version} that ran in {guest.where} has ended")
    _clean(guest, mark)
    with tempfile.TemporaryFile() as copy:
        size = _fetch(guest, package, copy, heartbeat, max_bytes)
        copy.seek(0)
        with guest.asked("make a folder for the driver"):
            folder = guest.files.CreateTemporaryDirectoryInGuest(guest.machine, guest.auth(), f"{mark}-", "", FOLDER)
        try:
            upload(guest, f"{folder}/{_FILE}", copy, size, _beats(guest, heartbeat, "uploaded"))
        except BaseException:
            remove_folder(guest, folder)
            raise
    try:
        ended = run(guest, "/bin/sh", _command(guest, package, folder), timeout_s, heartbeat, mark, patient=True)
    except (NotSupported, NeedsHuman, BadRequest):
        # It was refused. After anything else it may run: it removes its files itself, or the next attempt does.
        remove_folder(guest, folder)
        raise
    _done(guest, package, ended, timeout_s, mark)
    return Installed(True, f"driver {package.version} is installed in {guest.where}")


def _command(guest: Guest, package: DriverPackage, folder: str) -> str:
    """Check what arrived, run it, and remove it: the guest cleans up even if nobody is left to ask it."""
    if not re.fullmatch(r"[A-Za-z0-9/._-]+", folder):
        raise NotSupported(f"{guest.where} made a folder whose name no shell takes as it is: {folder!r}")
    sudo, path = "" if guest.credentials.user == "root" else "sudo -n ", f"{folder}/{_FILE}"
    check = f'echo "{package.sha256}  {path}" | sha256sum -c - && echo {_WHOLE}'
    return f"-c '{check} && {sudo}sh {path} --silent --no-questions; status=$?; rm -rf {folder}; exit $status'"


def _look(guest: Guest, heartbeat: Heartbeat) -> GuestEvidence:
    seen = look_inside(guest, heartbeat)
    if seen.unreadable:
        raise BadRequest(f"{guest.where}: {seen.unreadable}")
    return seen


def _proves(seen: GuestEvidence, package: DriverPackage) -> bool:
    return bool(seen.gpus) and not seen.error and all(gpu.driver_version == package.version for gpu in seen.gpus)


def _done(guest: Guest, package: DriverPackage, ended: Ended, timeout_s: float, mark: str) -> None:
    """Raise what the end of the installer means, unless it went well."""
    what = f"NVIDIA's installer of driver {package.version} in {guest.where}"
    said = ended.output[-_TAIL:].strip() or "nothing"
    if ended.exit_code is None:
        raise NeedsHuman(
            f"{what} still runs after {timeout_s:g} s and is left to itself: look at /var/log/nvidia-installer.log "
            f"there; trying again waits for it. It said: {said}"
        )
    _clean(guest, mark)
    if ended.exit_code != 0 and ended.output and _WHOLE not in ended.output:
        raise Unreachable(f"{what} did not arrive whole and was not run; send it again. The check there said: {said}")
    if ended.exit_code != 0:
        hint = ""
        if "sudo:" in ended.output:
            hint = f"; let user {guest.credentials.user} run sh as root without a password, or name root's credentials"
        raise NeedsHuman(
            f"{what} ended with status {ended.exit_code}{hint}; see /var/log/nvidia-installer.log there. It said: "
            f"{said}"
        )


def _fetch(guest: Guest, package: DriverPackage, into: IO[bytes], heartbeat: Heartbeat, max_bytes: int) -> int:
    # Also refuses a password in the URL, which messages would show.
    datastore_path(package.url)
    beat = _beats(guest, heartbeat, "fetched")
    with opened_url(guest.si, guest.ref.vcenter, _WHAT, package.url) as stream:
        return copy_checked(stream, into, _WHAT, package.url, package.sha256, max_bytes, beat)


def _beats(guest: Guest, heartbeat: Heartbeat, what: str) -> Callable[[int], None]:
    return lambda size: heartbeat({"vm": guest.ref.moid, what: size})


def _left(guest: Guest, mark: str) -> list[str]:
    return [name for name in list_names(guest, FOLDER) if name.startswith(f"{mark}-")]


def _left_output(guest: Guest, mark: str) -> str:
    """What the installer of an earlier attempt said; the newest where there are several."""
    files = [name for name in _left(guest, mark) if name.endswith(".out")]
    return "".join(download_tail(guest, f"{FOLDER}/{name}") for name in files)


def _clean(guest: Guest, mark: str) -> None:
    """Remove what attempts at this package left: their output files and folders."""
    for name in _left(guest, mark):
        path = f"{FOLDER}/{name}"
        if name.endswith(".out"):
            remove_file(guest, path)
        else:
            remove_folder(guest, path)
