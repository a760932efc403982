"""Simulators shared by this package's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulator.small_world import RunningSimulator
from tests.simulator.vm_site import VmSite
from tests.support.simulator import SimulatorProcess


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimulatorProcess]:
    """The real command with its whole world: two clusters of three hosts with two GPUs, a minute in 0.2 s."""
    with SimulatorProcess(clusters=2, hosts=3, gpus=2, vms=12, time_scale=300, seed=7) as running:
        yield running


@pytest.fixture(scope="session")
def vm_site() -> Iterator[VmSite]:
    """Three hosts with four GPUs: none prepared, for vGPU, in passthrough with one GPU in use; a minute in 0.1 s."""
    with SimulatorProcess(clusters=1, hosts=3, gpus=4, vms=0, gpu_vms=1, time_scale=600) as running:
        site = VmSite(running)
        yield site
        site.close()


@pytest.fixture(scope="session")
def wire_session() -> Iterator[RunningSimulator]:
    with RunningSimulator() as running:
        yield running


@pytest.fixture
def wire(wire_session: RunningSimulator) -> Iterator[RunningSimulator]:
    """A simulator with a small world, without any fault rules."""
    yield wire_session
    wire_session.do(wire_session.simulator.faults.rules.clear)


@pytest.fixture
def client(wire: RunningSimulator) -> Iterator[Any]:
    """A pyVmomi service instance, logged in over verified TLS."""
    connected = wire.connect()
    yield connected
    wire.logout(connected)
