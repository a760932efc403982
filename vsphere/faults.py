"""The one place where vSphere's faults and transport errors become `contracts.errors`, with their own words kept.

Fault types are from the vSphere Web Services API reference, `vmodl.fault.*` and `vim.fault.*`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Busy, Conflict, GpuwrightError, NeedsHuman, NotSupported, Unreachable

__all__ = ["translate", "translated", "words"]

# First match wins, so subclasses come before their bases.
_MEANINGS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[GpuwrightError], str], ...] = (
    (vim.fault.NotAuthenticated, Unreachable, "the session ended; the call was refused and nothing was changed"),
    (vim.fault.NoPermission, NeedsHuman, "grant the service account this privilege on the object"),
    (vim.fault.InvalidLogin, BadRequest, "correct the user or the password"),
    (vim.fault.InvalidGuestLogin, BadRequest, "correct the guest's user or password"),
    (vim.fault.GuestOperationsUnavailable, Unreachable, "VMware Tools do not answer in the guest"),
    (vim.fault.TooManyGuestLogons, Busy, "wait until other logins to the guest end"),
    (
        (vim.fault.OperationNotSupportedByGuest, vim.fault.GuestComponentsOutOfDate),
        NotSupported,
        "update VMware Tools in the guest",
    ),
    (vmodl.fault.ManagedObjectNotFound, BadRequest, "the object no longer exists"),
    (
        (vmodl.fault.HostNotConnected, vmodl.fault.HostNotReachable, vmodl.fault.HostCommunication),
        Unreachable,
        "vCenter cannot reach the host",
    ),
    (
        (vim.fault.HostConnectFault, vim.fault.NoHost, vim.fault.Timedout),
        Unreachable,
        "the host did not answer vCenter in time",
    ),
    (
        (vim.fault.TaskInProgress, vim.fault.ResourceInUse, vim.fault.VAppTaskInProgress),
        Busy,
        "wait until the other operation ends",
    ),
    (
        (vmodl.fault.NotSupported, vmodl.fault.MethodNotFound, vmodl.fault.NotImplemented),
        NotSupported,
        "this release or device cannot do it",
    ),
    (vim.fault.DeviceUnsupportedForVmVersion, NotSupported, "the VM's hardware version is too old for it"),
    (vim.fault.ConcurrentAccess, Conflict, "somebody changed it meanwhile; look again"),
    (vim.fault.DuplicateName, Conflict, "the name is taken there; choose another"),
    (
        (vim.fault.InsufficientResourcesFault, vim.fault.NoCompatibleHost),
        Conflict,
        "no host has free what it needs; look at the placement again",
    ),
    (vim.fault.InvalidDeviceSpec, BadRequest, "the device is not as the host has it; look again"),
    ((vmodl.fault.NotEnoughLicenses, vim.fault.RestrictedVersion), NeedsHuman, "add a licence that covers it"),
    (vim.fault.InvalidState, Conflict, "the object is in a state that does not allow it; look again"),
    (
        (vmodl.fault.InvalidArgument, vmodl.fault.InvalidRequest, vmodl.fault.InvalidType, vim.fault.NotFound),
        BadRequest,
        "",
    ),
    (vmodl.fault.RequestCanceled, Busy, "the call was cancelled; try again"),
    (vmodl.fault.SystemError, Unreachable, "vCenter failed inside; try again, then see its logs"),
)


def words(fault: BaseException) -> str:
    """What the fault itself says: type, message, details and causes, e.g. `HostConfigFault: …`."""
    said: list[str] = []
    seen: BaseException | None = fault
    while isinstance(seen, vmodl.MethodFault) and len(said) < 12:
        details = [getattr(seen, "msg", None), getattr(seen, "text", None), getattr(seen, "reason", None)]
        details += [item.message for item in getattr(seen, "faultMessage", None) or ()]
        if isinstance(seen, vim.fault.NoPermission) and not isinstance(seen, vim.fault.NotAuthenticated):
            missing = [name for entry in getattr(seen, "missingPrivileges", None) or () for name in entry.privilegeIds]
            privileges = dict.fromkeys(filter(None, [getattr(seen, "privilegeId", None), *missing]))
            details.append("privilege " + ", ".join(privileges))
        if isinstance(seen, vmodl.fault.InvalidArgument) and seen.invalidProperty:
            details.append(f"property {seen.invalidProperty}")
        if isinstance(seen, vmodl.fault.ManagedObjectNotFound) and seen.obj is not None:
            details.append(f"object {seen.obj._moId}")
        said.append(": ".join([type(seen).__name__.rpartition(".")[2], *dict.fromkeys(filter(None, details))]))
        seen = getattr(seen, "faultCause", None)
    return " < ".join(said) or f"{type(fault).__name__}: {fault}"


def translate(what: str, error: Exception) -> GpuwrightError:
    """The error that `error` means for `what` (e.g. `reboot esx-01 on vcenter-a`)."""
    if isinstance(error, GpuwrightError):
        return error
    if isinstance(error, (vmodl.MethodFault, vmodl.RuntimeFault)):
        for types, meaning, hint in _MEANINGS:
            if isinstance(error, types):
                return meaning(f"{what}: {words(error)}" + (f" ({hint})" if hint else ""))
        return NeedsHuman(f"{what}: {words(error)}")
    if isinstance(error, ExpatError):
        return Unreachable(f"{what}: the answer is not XML that can be read: {error}")
    return Unreachable(f"{what}: {type(error).__name__}: {error}")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise vSphere faults and transport errors as `contracts.errors`, starting with `what` was tried."""
    try:
        yield
    except (vmodl.MethodFault, vmodl.RuntimeFault, OSError, HTTPException, ExpatError) as error:
        raise translate(what, error) from error
