"""What a look at a whole vCenter costs, and how long it takes to know where a GPU VM could run.

2,500 hosts with four GPUs each and 40,000 VMs, 2,000 of them with a GPU, in the project's simulator. The look is that
of `ReconcileFleet`: everything read, compared, and a snapshot of each of 50 clusters kept in a real Temporal server.
The peer is what scripts usually do: the same facts attribute by attribute through pyVmomi, measured over a sample of
hosts and VMs and scaled up, in the same run against the same simulator. `make bench` runs it.
"""

import asyncio
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from pyVmomi import vim
from temporalio.testing import ActivityEnvironment

from activities.fleet import VCenterFleetActivities
from benchmarks.results import keep
from contracts.names import TaskQueues
from contracts.reconcile import FleetLook, LookAtFleet
from contracts.rules import RulesFile
from contracts.vms import DynamicGpu, VmRequest, VmSource
from planning.placement import place
from tests.support.simulator import SimulatorProcess
from vsphere.connection import calls_made
from vsphere.fleet import read_fleet
from vsphere.sessions import SessionPool, content
from vsphere.settings import VCenterSettings
from workers.assembly import Parts, build_workers
from workers.client import connect
from workers.settings import TemporalSettings
from workers.temporal_server import temporal_server
from workflows.cluster_snapshots import ClusterSnapshots

CLUSTERS, HOSTS, GPUS, VMS, GPU_VMS = 50, 50, 4, 38_000, 2_000
SAMPLE = 40


def main() -> None:
    """Measure, print and keep."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SimulatorProcess(clusters=CLUSTERS, hosts=HOSTS, gpus=GPUS, vms=VMS, gpu_vms=GPU_VMS) as simulator,
    ):
        password = Path(folder) / "password"
        password.write_text(simulator.password)
        settings = VCenterSettings(
            name="bench",
            url=f"https://{simulator.host}:{simulator.port}",
            user=simulator.user,
            password_file=password,
            ca_file=simulator.ca_file,
        )
        with SessionPool(settings) as pool, pool.session() as si:
            before_mib = _peak_mib()
            look, look_s = asyncio.run(_look(pool, Path(folder)))
            look_mib = _peak_mib()
            started = time.perf_counter()
            fleet = read_fleet(si, "bench")
            whole_s = time.perf_counter() - started
            started = time.perf_counter()
            read_fleet(si, "bench", "gpu-01")
            cluster_s = time.perf_counter() - started
            request = VmRequest(
                name="x",
                vcenter="bench",
                cluster="gpu-01",
                source=VmSource(guest_id="ubuntu64Guest"),
                gpus=(DynamicGpu(model="A100"),),
            )
            started = time.perf_counter()
            for cluster in fleet.clusters:
                place(fleet, request.model_copy(update={"cluster": cluster.name}))
            place_s = time.perf_counter() - started
            peer = _attribute_by_attribute(si)
    print(f"look of ReconcileFleet: {look.hosts} hosts, {look.gpus} GPUs, {VMS + GPU_VMS} VMs, {look.vms} with GPUs")
    print(f"  {look_s:.1f} s with {look.snapshots} snapshots kept and {sum(look.counts.values())} findings")
    print(f"  {look.calls} vCenter calls; peak memory {look_mib:.0f} MiB, {before_mib:.0f} MiB before it")
    print(f"fleet: {len(fleet.hosts)} hosts, {VMS + GPU_VMS} VMs of which {len(fleet.vms)} with GPUs")
    print(f"  read {whole_s:.1f} s, one cluster {cluster_s:.2f} s, placement in every cluster {place_s:.2f} s")
    print(f"  peak memory of this process {_peak_mib():.0f} MiB")
    slowly = "attribute by attribute, a sample scaled up"
    for name, unit, value, other, against in (
        ("fleet_read_s", "s", whole_s, peer.seconds, slowly),
        ("fleet_look_s", "s", look_s, peer.seconds, slowly),
        ("fleet_look_calls", "calls", look.calls, peer.calls, slowly),
        ("fleet_look_peak_rss_mib", "MiB", look_mib, before_mib, "the process before the look"),
    ):
        keep(name, value=value, unit=unit, peer=other, against=against, higher_is_better=False)


async def _look(pool: SessionPool, folder: Path) -> tuple[FleetLook, float]:
    """A look at the whole fleet, as a worker does it, and its seconds."""
    queues = TaskQueues("bench")
    fleet = VCenterFleetActivities({pool.name: pool}, RulesFile(), queues.main)
    async with temporal_server(folder, print) as (address, _):
        client = await connect(TemporalSettings(address=address))
        (worker,) = build_workers(client, queues, Parts(workflows=[ClusterSnapshots]))
        async with worker:
            started = time.perf_counter()
            look = await ActivityEnvironment(client).run(fleet.look_at_fleet, LookAtFleet(vcenter=pool.name))
            return look, time.perf_counter() - started


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class _Cost(NamedTuple):
    seconds: float
    calls: int


def _attribute_by_attribute(si: vim.ServiceInstance) -> _Cost:
    """For all hosts and VMs, from a sample of each."""
    hosts = _each(si, vim.HostSystem, CLUSTERS * HOSTS, _host)
    vms = _each(si, vim.VirtualMachine, VMS + GPU_VMS, _vm)
    return _Cost(hosts.seconds + vms.seconds, hosts.calls + vms.calls)


def _each(si: vim.ServiceInstance, kind: Any, total: int, read: Any) -> _Cost:
    view = content(si).viewManager.CreateContainerView(content(si).rootFolder, [kind], True)
    objects = view.view[:: max(1, total // SAMPLE)][:SAMPLE]
    started, before = time.perf_counter(), calls_made()
    for found in objects:
        read(found)
    share = total / len(objects)
    cost = _Cost((time.perf_counter() - started) * share, round((calls_made() - before) * share))
    view.DestroyView()
    return cost


def _host(host: Any) -> tuple[Any, ...]:
    config, runtime = host.config, host.runtime
    return (
        host.name,
        host.parent,
        host.summary.hardware.uuid,
        runtime.connectionState,
        runtime.inMaintenanceMode,
        config.graphicsInfo,
        config.pciPassthruInfo,
        config.assignableHardwareBinding,
        host.hardware.pciDevice,
    )


def _vm(vm: Any) -> tuple[Any, ...]:
    return vm.name, vm.runtime.host, vm.runtime.powerState, vm.config.hardware.device, vm.config.instanceUuid


if __name__ == "__main__":
    main()
