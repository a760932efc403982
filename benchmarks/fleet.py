"""How long it takes to know where a GPU VM could run, at the size of a whole vCenter.

2,500 hosts with four GPUs each and 40,000 VMs, 2,000 of them with a GPU, in the project's simulator. The peer is what
scripts usually do: the same facts attribute by attribute through pyVmomi, measured over a sample of hosts and VMs and
scaled up, in the same run against the same simulator. `make bench` runs it.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from pyVmomi import vim

from benchmarks.results import keep
from contracts.vms import DynamicGpu, VmRequest, VmSource
from planning.placement import place
from tests.support.simulator import SimulatorProcess
from vsphere.fleet import read_fleet
from vsphere.sessions import SessionPool, content
from vsphere.settings import VCenterSettings

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
            peer_s = _attribute_by_attribute(si)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"fleet: {len(fleet.hosts)} hosts, {VMS + GPU_VMS} VMs of which {len(fleet.vms)} with GPUs")
    print(f"  read {whole_s:.1f} s, one cluster {cluster_s:.2f} s, placement in every cluster {place_s:.2f} s")
    print(f"  attribute by attribute, a sample scaled up: {peer_s:.0f} s, {peer_s / whole_s:.0f} times as long")
    print(f"  peak memory of this process {peak:.0f} MiB")
    keep("fleet_read_s", value=whole_s, unit="s", peer=peer_s, higher_is_better=False)


def _attribute_by_attribute(si: vim.ServiceInstance) -> float:
    """Seconds for all hosts and VMs, from a sample of each."""
    return _each(si, vim.HostSystem, CLUSTERS * HOSTS, _host) + _each(si, vim.VirtualMachine, VMS + GPU_VMS, _vm)


def _each(si: vim.ServiceInstance, kind: Any, total: int, read: Any) -> float:
    view = content(si).viewManager.CreateContainerView(content(si).rootFolder, [kind], True)
    objects = view.view[:: max(1, total // SAMPLE)][:SAMPLE]
    started = time.perf_counter()
    for found in objects:
        read(found)
    taken = time.perf_counter() - started
    view.DestroyView()
    return taken / len(objects) * total


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
