"""Hosts that were prepared, and what somebody does to them who does not know of gpuwright."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pyVmomi import vim
from temporalio.client import WorkflowHandle

from contracts import ids
from contracts.host import HostRef
from contracts.prepare import Outcome
from contracts.reconcile import ReconcileFleetReport
from tests.support.lab import Handle, Lab
from workflows.prepare_gpu_host import PrepareGpuHost

__all__ = ["configure", "eventually", "last_run", "listed", "prepared", "proposal", "run_of"]


async def eventually(holds: Callable[[], Awaitable[Any]], timeout_s: float = 60) -> Any:
    """What `holds` gives, as soon as it gives something."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not (found := await holds()):
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout_s} s"
        await asyncio.sleep(0.2)
    return found


async def prepared(lab: Lab, profile: str = "training", **options: Any) -> HostRef:
    """A host that was prepared, and that Temporal lists so."""
    host = lab.add_host(**options)
    handle = await lab.start(host, profile)
    await lab.decide(handle, await lab.asked(handle))
    assert (await handle.result()).outcome is Outcome.PREPARED
    await listed(lab, host, "Completed")
    return host


async def listed(lab: Lab, host: HostRef, status: str, times: int = 1) -> None:
    """Wait until Temporal lists so many preparations of the host with that status."""
    query = f'WorkflowId = "{run_of(host)}" AND ExecutionStatus = "{status}"'

    async def holds() -> bool:
        return (await lab.client.count_workflows(query)).count == times

    await eventually(holds)


def run_of(host: HostRef) -> str:
    """The workflow ID of the host's preparations."""
    return ids.prepare_gpu_host(host.vcenter, host.key)


def configure(lab: Lab, host: HostRef, *, on: bool, label: str = "") -> None:
    """Change passthrough as somebody would who does not know of gpuwright."""
    gpu = lab.witness(host)["gpu"]
    si = lab.simulator.connect()
    try:
        system = lab.system(host, si).configManager.pciPassthruSystem
        system.UpdatePassthruConfig([vim.host.PciPassthruConfig(id=gpu, passthruEnabled=on, hardwareLabel=label)])
    finally:
        lab.simulator.disconnect(si)


def proposal(lab: Lab, host: HostRef) -> Handle:
    """The newest preparation of the host."""
    return lab.client.get_workflow_handle_for(PrepareGpuHost.run, run_of(host))


async def last_run(lab: Lab) -> WorkflowHandle[Any, ReconcileFleetReport]:
    """The newest run of the lab's schedule."""
    described = await lab.client.get_schedule_handle(ids.reconcile_fleet(lab.vcenter)).describe()
    action: Any = described.info.recent_actions[-1].action
    return lab.client.get_workflow_handle(action.workflow_id, run_id=action.first_execution_run_id)
