"""A host whose VMs HA could not restart is not taken down, and the run goes on by itself once it could."""

import asyncio
from pathlib import Path

from pyVmomi import vim
from temporalio.client import Client

from contracts.names import TaskQueues
from contracts.prepare import Outcome, Stage
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.inventory import host_index


async def test_no_host_with_vms_goes_down_while_ha_has_nothing_left(
    temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    with SimulatorProcess(clusters=1, hosts=2, gpus=1, vms=2, time_scale=600) as simulator:
        async with open_lab(simulator, temporal_client, queues, tmp_path) as lab:
            with lab.pool.session() as si:
                host, other = sorted((each.ref for each in host_index(si, lab.vcenter).hosts), key=lambda ref: ref.name)
            lab.simulator.act("disconnect_host", host=other.name)
            run = await lab.start(host)
            report = await lab.until(run, lambda report: report.stage is Stage.BLOCKED)
            assert "has no failover capacity left (HA admission control, level 0)" in report.detail
            assert not lab.vcenter_events(host, vim.event.EnteringMaintenanceModeEvent)
            await asyncio.to_thread(lab.simulator.act, "restore_host", host=other.name)
            await lab.decide(run, await lab.asked(run))
            assert (await run.result()).outcome is Outcome.PREPARED
            assert lab.reboots(host) == 1
