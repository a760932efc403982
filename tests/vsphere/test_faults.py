"""What each kind of fault means, with its own words kept."""

from http.client import RemoteDisconnected

import pytest
from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Busy, Conflict, GpuwrightError, NeedsHuman, NotSupported, Unreachable
from vsphere.faults import translated, words


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (vim.fault.NotAuthenticated(msg="gone"), Unreachable),
        (vim.fault.NoPermission(msg="no", privilegeId="Host.Config.Maintenance"), NeedsHuman),
        (vim.fault.InvalidLogin(msg="no"), BadRequest),
        (vmodl.fault.ManagedObjectNotFound(msg="gone"), BadRequest),
        (vmodl.fault.HostNotConnected(msg="off"), Unreachable),
        (vim.fault.Timedout(msg="late"), Unreachable),
        (vim.fault.TaskInProgress(msg="busy"), Busy),
        (vmodl.fault.NotSupported(msg="never"), NotSupported),
        (vim.fault.InvalidPowerState(msg="on"), Conflict),
        (vmodl.fault.InvalidArgument(msg="bad", invalidProperty="config.id"), BadRequest),
        (vim.fault.HostConfigFault(msg="Host does not support passthrough configuration."), NeedsHuman),
        (vim.fault.ConcurrentAccess(msg="changed"), Conflict),
        (vim.fault.DuplicateName(msg="The name 'a' already exists.", name="a"), Conflict),
        (vim.fault.InsufficientResourcesFault(msg="no device"), Conflict),
        (vim.fault.InsufficientGraphicsResourcesFault(msg="no vGPU"), Conflict),
        (vim.fault.NoCompatibleHost(msg="none"), Conflict),
        (vim.fault.InvalidDeviceSpec(msg="bad device", deviceIndex=0), BadRequest),
        (
            vim.fault.DeviceUnsupportedForVmVersion(
                msg="old", deviceIndex=0, currentVersion="vmx-15", expectedVersion="vmx-17"
            ),
            NotSupported,
        ),
        (vim.fault.GenericVmConfigFault(msg="Module 'DevicePowerOn' power on failed.", reason=""), NeedsHuman),
        (vim.fault.InvalidGuestLogin(msg="no"), BadRequest),
        (vim.fault.GuestOperationsUnavailable(msg="no Tools"), Unreachable),
        (vim.fault.TooManyGuestLogons(msg="many"), Busy),
        (vim.fault.OperationNotSupportedByGuest(msg="never"), NotSupported),
        (vim.fault.GuestPermissionDenied(msg="no"), NeedsHuman),
        (RemoteDisconnected("closed"), Unreachable),
        (TimeoutError("late"), Unreachable),
    ],
)
def test_faults_have_one_meaning_and_keep_their_words(fault: Exception, meaning: type[GpuwrightError]) -> None:
    with pytest.raises(GpuwrightError) as raised, translated("reboot esx-01 on vcenter-a"):
        raise fault
    assert type(raised.value) is meaning
    assert str(raised.value).startswith("reboot esx-01 on vcenter-a: ")
    assert str(getattr(fault, "msg", fault)) in str(raised.value)
    assert raised.value.__cause__ is fault


def test_errors_that_are_no_faults_pass_through() -> None:
    for error in (Conflict("mine"), ZeroDivisionError("a bug")):
        with pytest.raises(type(error)) as raised, translated("anything"):
            raise error
        assert raised.value is error


def test_details_and_causes_are_told() -> None:
    detail = vmodl.LocalizableMessage(key="k", message="Device 0000:81:00.0 is in use")
    cause = vim.fault.PlatformConfigFault(msg="", text="vmkernel said no")
    fault = vim.fault.HostConfigFault(msg="An error occurred", faultMessage=[detail], faultCause=cause)
    assert words(fault) == (
        "HostConfigFault: An error occurred: Device 0000:81:00.0 is in use < PlatformConfigFault: vmkernel said no"
    )


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(msg="Permission denied", privilegeId="Host.Config.Maintenance")
    assert "privilege Host.Config.Maintenance" in words(fault)
