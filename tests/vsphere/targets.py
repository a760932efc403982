"""Fresh simulated hosts and short ways to look at them."""

from itertools import count
from typing import Any

from pyVmomi import vim

from contracts.host import GraphicsDevice, HostRef, HostState, PciFunction
from tests.support.simulator import SimulatorProcess
from vsphere import hosts
from vsphere.inventory import find_host, read_host
from vsphere.tasks import TaskOutcome, await_task

__all__ = ["GPU", "OTHER_GPU", "Target"]

GPU, OTHER_GPU = "0000:81:00.0", "0000:e2:00.0"
_NUMBERS = count(1)


class Target:
    """A fresh simulated host; `more` are arguments of the simulator's action `add_host`."""

    def __init__(self, simulator: SimulatorProcess, si: vim.ServiceInstance, **more: Any) -> None:
        self.simulator, self.si = simulator, si
        name = f"change-{next(_NUMBERS):02}.gpu.test"
        simulator.act("add_host", cluster="gpu-01", name=name, **more)
        self.ref: HostRef = find_host(si, "simulated", name)

    @property
    def state(self) -> HostState:
        return read_host(self.si, self.ref)

    def gpu(self, sbdf: str = GPU) -> PciFunction:
        return next(function for function in self.state.pci if function.sbdf == sbdf)

    def graphics(self, sbdf: str) -> GraphicsDevice:
        return next(device for device in self.state.graphics if device.sbdf == sbdf)

    def finish(self, task: str | None) -> TaskOutcome:
        assert task is not None
        return await_task(self.si, task, lambda _: None, 60)

    def enter_maintenance(self) -> None:
        assert self.finish(hosts.enter_maintenance(self.si, self.ref, 600)) == TaskOutcome("success")
