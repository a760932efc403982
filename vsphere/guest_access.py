"""A Linux guest that can be worked in: who logs in, through which managers, and what its refusals mean.

The password is read from its file for each call and kept nowhere: no attribute, message or log line holds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from pyVmomi import vim

from contracts.errors import BadRequest, NotSupported, Unreachable
from contracts.machine import VmRef
from vsphere.faults import translated, words
from vsphere.properties import read_properties
from vsphere.sessions import content
from vsphere.settings import GuestCredentials

__all__ = ["Guest", "open_guest"]

_VM_PATHS = [
    "config.instanceUuid",
    "guest.guestFamily",
    "guest.guestOperationsReady",
    "guest.toolsRunningStatus",
    "runtime.bootTime",
    "runtime.host",
    "runtime.powerState",
]


class Guest:
    """Made by `open_guest`. `boot_time` is the VM's when it was opened, `host` the ESXi host that it ran on."""

    def __init__(
        self,
        si: vim.ServiceInstance,
        ref: VmRef,
        credentials: GuestCredentials,
        managers: tuple[Any, Any, Any],
        boot_time: datetime | None,
        host: Any,
    ) -> None:
        self.si = si
        self.ref = ref
        self.credentials = credentials
        self.boot_time = boot_time
        self.host = host
        self.machine = vim.VirtualMachine(ref.moid, si._stub)
        self.where = f"the guest of VM {ref.name} on {ref.vcenter}"
        self.logins, self.files, self.processes = managers

    def auth(self) -> Any:
        """A login with the password as it is now; raises `BadRequest`. Its repr shows the password: keep it nowhere."""
        return vim.vm.guest.NamePasswordAuthentication(
            username=self.credentials.user,
            password=self.credentials.password().get_secret_value(),
            interactiveSession=False,
        )

    @contextmanager
    def asked(self, what: str) -> Iterator[None]:
        """Around guest operations: raises what faults mean; `Unreachable` while the VM or VMware Tools are down."""
        with translated(f"{what} in {self.where}"):
            try:
                yield
            except vim.fault.InvalidPowerState as fault:
                raise Unreachable(f"{what} in {self.where}: the VM is not on ({words(fault)})") from fault

    def refusal(self) -> str:
        """Why the guest lets the user do nothing, in words; empty when it does."""
        try:
            with self.asked("log in"):
                try:
                    self.logins.ValidateCredentialsInGuest(self.machine, self.auth())
                except vim.fault.InvalidGuestLogin as fault:
                    return (
                        f"it refused user {self.credentials.user} with the password from "
                        f"{self.credentials.password_source} ({words(fault)}); correct the user or the password"
                    )
                except (vim.fault.GuestPermissionDenied, vim.fault.OperationDisabledByGuest) as fault:
                    return f"it does not let user {self.credentials.user} do guest operations ({words(fault)})"
        except NotSupported as error:
            return str(error)
        return ""


def open_guest(si: vim.ServiceInstance, ref: VmRef, credentials: GuestCredentials) -> Guest:
    """A guest whose VMware Tools take guest operations; nobody has logged in yet.

    Raises `Unreachable` while the VM is off or Tools do not answer, `NotSupported` for other guests than Linux,
    `BadRequest` when the VM is gone or the reference means another one.
    """
    with translated(f"look at VM {ref.name} on {ref.vcenter}"):
        machine = vim.VirtualMachine(ref.moid, si._stub)
        read = read_properties(si, machine, {vim.VirtualMachine: _VM_PATHS})[ref.moid]
        where = f"the guest of VM {ref.name} on {ref.vcenter}"
        if (uuid := str(read.get("config.instanceUuid") or "")) != ref.instance_uuid:
            raise BadRequest(f"{ref.moid} on {ref.vcenter} is now VM {uuid or '?'}, not {ref.name}; look at it again")
        if read.get("runtime.powerState") != "poweredOn":
            raise Unreachable(f"{where}: the VM is {read.get('runtime.powerState')}")
        family = str(read.get("guest.guestFamily") or "")
        if family not in ("", "linuxGuest"):
            raise NotSupported(
                f"{where} is a {family}, and gpuwright works inside Linux guests only: use driver policy none, and "
                "install and check the driver there by your own means"
            )
        if not read.get("guest.guestOperationsReady"):
            raise Unreachable(
                f"{where} takes no guest operations yet: VMware Tools are "
                f"{read.get('guest.toolsRunningStatus') or 'unknown'}"
            )
        manager = content(si).guestOperationsManager
        if manager is None:
            raise NotSupported(f"{where}: vCenter offers no guest operations")
        kind = vim.vm.guest.GuestOperationsManager
        offered = read_properties(si, manager, {kind: ["authManager", "fileManager", "processManager"]})[manager._moId]
    managers = (offered.get("authManager"), offered.get("fileManager"), offered.get("processManager"))
    return Guest(si, ref, credentials, managers, read.get("runtime.bootTime"), read.get("runtime.host"))
