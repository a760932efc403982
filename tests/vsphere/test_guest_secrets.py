"""A guest's password is nowhere to be read: no message, repr, traceback, log line, heartbeat or Temporal payload."""

import io
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from pyVmomi import vim
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import pydantic_data_converter

from contracts.errors import GpuwrightError, to_application_error
from contracts.machine import VmRef
from tests.vsphere.guests import DATA_CENTER, Guests
from vsphere.guest import inspect_guest
from vsphere.guest_access import open_guest
from vsphere.guest_driver import install_driver
from vsphere.guest_programs import run_in_guest
from vsphere.settings import GuestCredentials
from workers.logging import configure_logging
from workers.settings import LoggingSettings

RIGHT, WRONG = "r1ght-gu3st-pa55word", "wr0ng-gu3st-pa55word"

Operation = Callable[[vim.ServiceInstance, VmRef, GuestCredentials, Any], Any]


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """What was logged so far, at the most talkative level."""
    root = logging.getLogger()
    before, stream = (list(root.handlers), root.level), io.StringIO()
    configure_logging(LoggingSettings(format="json", level="debug"), stream)
    yield stream.getvalue
    root.handlers, root.level = before[0], before[1]
    structlog.reset_defaults()


def told(error: BaseException) -> list[str]:
    """Every form in which an exception leaves the process, causes included."""
    failures = [Failure()]
    pydantic_data_converter.failure_converter.to_failure(error, pydantic_data_converter.payload_converter, failures[0])
    if isinstance(error, GpuwrightError):
        failures.append(Failure())
        pydantic_data_converter.failure_converter.to_failure(
            to_application_error(error), pydantic_data_converter.payload_converter, failures[1]
        )
    said = ["".join(traceback.format_exception(error)), *(str(failure) for failure in failures)]
    seen: BaseException | None = error
    while seen is not None:
        said += [str(seen), repr(seen), repr(seen.args), repr(vars(seen))]
        seen = seen.__cause__ or seen.__context__
    return said


def run(si: vim.ServiceInstance, ref: VmRef, credentials: GuestCredentials, heartbeat: Any) -> Any:
    return run_in_guest(si, ref, credentials, "/bin/sh", "-c 'env; ps; exit 1'", 30, heartbeat)


def inspect(si: vim.ServiceInstance, ref: VmRef, credentials: GuestCredentials, heartbeat: Any) -> Any:
    return inspect_guest(si, ref, credentials, None, heartbeat).model_dump_json()


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"method": "StartProgramInGuest", "error": "vim.fault.TooManyGuestLogons"},
        {"method": "CreateTemporary*", "error": "vmodl.fault.InvalidArgument"},
        {"method": "ListProcessesInGuest", "error": "vim.fault.NoPermission"},
        {"method": "InitiateFileTransfer*", "error": "vmodl.fault.SystemError"},
        {"method": "ValidateCredentialsInGuest", "drop": "before"},
        {"method": "DeleteFileInGuest", "error": "vim.fault.GuestPermissionDenied"},
    ],
)
def test_no_failure_shows_the_password(
    guests: Guests, logged: Callable[[], str], fault: dict[str, Any], secret_vm: VmRef
) -> None:
    def install(si: vim.ServiceInstance, ref: VmRef, credentials: GuestCredentials, heartbeat: Any) -> Any:
        return install_driver(si, ref, credentials, guests.package(DATA_CENTER), heartbeat, 60)

    said: list[str] = []
    failed = 0

    def beat(details: dict[str, Any]) -> None:
        said.append(repr(details))

    if fault:
        guests.simulator.add_fault(**fault)
    password = RIGHT if fault else WRONG
    credentials = guests.credentials("ada", password)
    operations: list[Operation] = [run, inspect, install]
    for operation in operations:
        with guests.pool.session() as si:
            try:
                said.append(repr(operation(si, secret_vm, credentials, beat)))
            except GpuwrightError as error:
                failed += 1
                structlog.get_logger("vsphere").exception("guest_operation_failed", credentials=credentials)
                said += told(error)
    assert failed or "guest_file_left" in logged()
    for text in (*said, logged()):
        assert password not in text


def test_nothing_that_is_kept_holds_the_password(guests: Guests, secret_vm: VmRef) -> None:
    credentials = guests.credentials("ada", RIGHT)
    with guests.pool.session() as si:
        guest = open_guest(si, secret_vm, credentials)
        assert guest.refusal() == ""
        assert guest.auth().password == RIGHT
        for kept in (guest, vars(guest), credentials, credentials.model_dump(), vars(si._stub), credentials.password()):
            assert RIGHT not in repr(kept)
    assert RIGHT not in credentials.model_dump_json()
    assert credentials.password_file is not None
    assert str(credentials.password_file) in repr(credentials)


@pytest.fixture
def secret_vm(guests: Guests) -> VmRef:
    """Its user ada has the right password."""
    _, ref = guests.add("secret")
    guests.simulator.act("set_guest_login", vm="secret", user="ada", password=RIGHT)
    return ref
