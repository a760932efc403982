"""The two worlds that the gateway is tested against: vcsim and the project's simulator."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from contracts.host import HostRef
from tests.simulator.vm_site import VmSite
from tests.support.simulator import SimulatorProcess
from tests.support.vcsim import VcsimProcess
from tests.vsphere.guests import Guests
from vsphere.inventory import find_host
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings


@dataclass(frozen=True)
class World:
    """A running vCenter and how to log in to it."""

    name: str
    host: str
    port: int
    user: str
    password_file: Path
    server_cert_file: Path | None
    ca_file: Path | None
    hosts: tuple[str, ...]
    cluster: str

    def settings(self, **changes: Any) -> VCenterSettings:
        """Settings that work, with changes; None removes one."""
        fields: dict[str, Any] = {
            "name": self.name,
            "url": f"https://{self.host}:{self.port}",
            "user": self.user,
            "password_file": self.password_file,
            "server_cert_file": self.server_cert_file,
            "ca_file": self.ca_file,
        }
        return VCenterSettings(**{k: v for k, v in (fields | changes).items() if v is not None})


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimulatorProcess]:
    """The project's simulator: a cluster of four hosts with two GPUs; five minutes pass in a second."""
    with SimulatorProcess(clusters=1, hosts=4, gpus=2, vms=4, time_scale=300, seed=11) as running:
        yield running


@pytest.fixture(scope="session")
def simulated(simulator: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> World:
    password_file = tmp_path_factory.mktemp("simulated") / "password"
    password_file.write_text(simulator.password + "\n")
    hosts = tuple(f"esx-01-0{number}.gpu.test" for number in (1, 2, 3, 4))
    return World(
        "simulated",
        simulator.host,
        simulator.port,
        simulator.user,
        password_file,
        None,
        simulator.ca_file,
        hosts,
        "gpu-01",
    )


@pytest.fixture(scope="session")
def vcsim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_vcsim(tmp_path_factory) as running:
        yield running


@contextmanager
def running_vcsim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A vcsim, until the block ends."""
    password_file = tmp_path_factory.mktemp("vcsim") / "password"
    with VcsimProcess() as running:
        password_file.write_text(running.password)
        hosts = ("DC0_C0_H0", "DC0_C0_H1", "DC0_C0_H2")
        yield World(
            "vcsim", running.host, running.port, running.user, password_file, running.cert, None, hosts, "DC0_C0"
        )


@pytest.fixture(scope="session", params=["vcsim", "simulated"])
def world(request: pytest.FixtureRequest) -> World:
    """Each of the two worlds."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def pool(world: World) -> Iterator[SessionPool]:
    """Sessions of each world."""
    with SessionPool(world.settings()) as opened:
        yield opened


@pytest.fixture
def si(pool: SessionPool) -> Iterator[vim.ServiceInstance]:
    """A session of each world."""
    with pool.session() as lent:
        yield lent


@pytest.fixture
def host(si: vim.ServiceInstance, world: World) -> HostRef:
    """A host of each world's cluster."""
    return find_host(si, world.name, world.hosts[0])


@pytest.fixture
def gpu_pool(simulated: World) -> Iterator[SessionPool]:
    """Sessions of the world that has GPUs."""
    with SessionPool(simulated.settings()) as opened:
        yield opened


@pytest.fixture
def gpu_si(gpu_pool: SessionPool) -> Iterator[vim.ServiceInstance]:
    """A session of the world that has GPUs."""
    with gpu_pool.session() as lent:
        yield lent


@pytest.fixture(scope="session")
def guest_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """Three hosts with four GPUs: none prepared, for vGPU, in passthrough; a minute passes in 0.3 s."""
    with SimulatorProcess(clusters=1, hosts=3, gpus=4, vms=0, gpu_vms=1, time_scale=200) as running:
        site = VmSite(running)
        guests = Guests(site, tmp_path_factory.mktemp("guests"))
        yield guests
        guests.pool.close()
        site.close()


@pytest.fixture
def guests(guest_site: Guests) -> Iterator[Guests]:
    """VMs with guests, removed after the test."""
    yield guest_site
    guest_site.clean()
