"""SSH is opened for a purpose and closed again, whatever happens; the X server restarts."""

from collections.abc import Iterator

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, NeedsHuman, Unreachable
from tests.support.simulator import SimulatorProcess
from tests.vsphere.targets import Target
from vsphere.services import SSH, XORG, restart_service, set_service, ssh_opened


@pytest.fixture
def target(simulator: SimulatorProcess, gpu_si: vim.ServiceInstance) -> Iterator[Target]:
    yield Target(simulator, gpu_si)
    simulator.clear_faults()


def ssh_runs(target: Target) -> bool:
    service = target.state.service(SSH)
    assert service is not None
    return service.running


def test_ssh_is_open_within_the_block_and_closed_after_it(target: Target) -> None:
    assert not ssh_runs(target)
    with ssh_opened(target.si, target.ref) as ran_before:
        assert (ssh_runs(target), ran_before) == (True, False)
    assert not ssh_runs(target)


def test_ssh_is_closed_when_the_block_fails(target: Target) -> None:
    with pytest.raises(ZeroDivisionError), ssh_opened(target.si, target.ref):
        raise ZeroDivisionError
    assert not ssh_runs(target)


def test_ssh_that_ran_before_stays_open(target: Target) -> None:
    assert set_service(target.si, target.ref, SSH, True)
    assert not set_service(target.si, target.ref, SSH, True)
    with ssh_opened(target.si, target.ref) as ran_before:
        assert ran_before
    assert ssh_runs(target)


def test_what_a_crashed_try_opened_is_closed_by_the_next(target: Target) -> None:
    set_service(target.si, target.ref, SSH, True)
    with ssh_opened(target.si, target.ref, ran_before=False):
        assert ssh_runs(target)
    assert not ssh_runs(target)


def test_a_failure_to_close_is_raised_but_never_hides_the_blocks_own_error(target: Target) -> None:
    target.simulator.add_fault(method="StopService", error="HostConfigFault")
    with pytest.raises(NeedsHuman, match="stop service TSM-SSH"), ssh_opened(target.si, target.ref):
        assert ssh_runs(target)
    with pytest.raises(ZeroDivisionError), ssh_opened(target.si, target.ref, ran_before=False):
        raise ZeroDivisionError


def test_a_lost_answer_is_unknown_and_the_next_try_looks(target: Target) -> None:
    target.simulator.add_fault(method="StartService", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        set_service(target.si, target.ref, SSH, True)
    assert not set_service(target.si, target.ref, SSH, True)


def test_an_unknown_service_is_answered_with_those_there_are(target: Target) -> None:
    with pytest.raises(BadRequest, match=r"no such service; it has .*TSM-SSH"):
        set_service(target.si, target.ref, "telnetd", True)


def test_xorg_is_restarted(target: Target) -> None:
    assert restart_service(target.si, target.ref, XORG)
    target.simulator.add_fault(method="StartService", error="HostConfigFault")
    target.simulator.add_fault(method="RestartService", error="HostConfigFault")
    with pytest.raises(NeedsHuman, match="restart service xorg"):
        restart_service(target.si, target.ref, XORG)
