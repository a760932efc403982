"""One simulated vCenter and one set of workers for the tests of whole workflows; each test adds its own hosts."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client

from contracts.names import TaskQueues
from tests.support.directed_forward import forward
from tests.support.directed_watch import watch
from tests.support.lab import Lab, open_lab
from tests.support.simulator import SimulatorProcess

__all__ = ["forward", "watch"]


@pytest.fixture(scope="session")
def fast_vcenter() -> Iterator[SimulatorProcess]:
    """A vCenter where a reboot of four minutes takes two seconds."""
    with SimulatorProcess(clusters=1, hosts=2, gpus=1, vms=2, time_scale=120) as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lab(
    fast_vcenter: SimulatorProcess, temporal_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Lab]:
    """The lab that tests share when they need no settings of their own."""
    folder: Path = tmp_path_factory.mktemp("lab")
    async with open_lab(fast_vcenter, temporal_client, TaskQueues("lab"), folder) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_fault_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests share the simulator; a fault that one injects is not the next one's."""
    shared = request.getfixturevalue("fast_vcenter") if "fast_vcenter" in request.fixturenames else None
    yield
    if shared is not None:
        shared.clear_faults()
