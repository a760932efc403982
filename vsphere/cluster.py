"""How a cluster stands: which hosts are up, and what HA could still make up for. One read."""

from collections.abc import Sequence
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, NeedsHuman
from contracts.gate import ClusterState, GateHost
from vsphere.faults import translated
from vsphere.hosts import ENTER_MAINTENANCE, REBOOT
from vsphere.properties import Read, read_properties, traversal

__all__ = ["cluster_state", "read_cluster"]

_AGENT_EXTENSION = "com.vmware.vim.eam"
"""VMs that this extension manages, vCLS among them, are not moved or restarted but left to their agency."""
_TAKES_DOWN = {ENTER_MAINTENANCE, REBOOT, "HostSystem.shutdown", "HostSystem.powerDownToStandBy"}

_PATHS: dict[Any, Sequence[str]] = {
    vim.ClusterComputeResource: ("name", "configuration.dasConfig", "configuration.drsConfig", "summary"),
    vim.HostSystem: (
        "name",
        "runtime.connectionState",
        "runtime.inMaintenanceMode",
        "runtime.standbyMode",
        "summary.hardware",
        "recentTask",
        "vm",
    ),
    vim.VirtualMachine: ("runtime.powerState", "config.managedBy"),
    vim.Task: ("info.descriptionId", "info.state"),
}


def read_cluster(si: vim.ServiceInstance, moid: str) -> ClusterState:
    """The cluster and its hosts now, in one `RetrievePropertiesEx` and its continuations.

    Raises `BadRequest` when there is no such cluster, `NeedsHuman` when its settings are hidden, `Unreachable` when
    vCenter does not answer.
    """
    steps = [
        traversal(
            vim.ComputeResource, "host", traversal(vim.HostSystem, "vm"), traversal(vim.ManagedEntity, "recentTask")
        )
    ]
    with translated(f"read cluster {moid}"):
        try:
            found = read_properties(si, vim.ClusterComputeResource(moid, si._stub), _PATHS, steps)
        except vmodl.fault.ManagedObjectNotFound as fault:
            raise BadRequest(f"cluster {moid} is no longer in the inventory") from fault
    return cluster_state(moid, found)


def cluster_state(moid: str, found: dict[str, Read]) -> ClusterState:
    """The state that one read's objects make."""
    cluster = found[moid]
    name = str(cluster.get("name", moid))
    das, drs = cluster.get("configuration.dasConfig"), cluster.get("configuration.drsConfig")
    summary = cluster.get("summary")
    if das is None or drs is None or summary is None:
        lacks = "; ".join(f"{path}: {why}" for path, why in cluster.missing.items()) or "they are unset"
        raise NeedsHuman(
            f"cluster {name} does not show its HA and DRS settings ({lacks}); "
            "grant the service account System.Read on the cluster"
        )
    info = summary.admissionControlInfo
    level, cpu, memory, ready = summary.currentFailoverLevel, None, None, None
    if isinstance(info, vim.cluster.FailoverLevelAdmissionControlInfo):
        level = info.currentFailoverLevel
    elif isinstance(info, vim.cluster.FailoverResourcesAdmissionControlInfo):
        cpu, memory = info.currentCpuFailoverResourcesPercent, info.currentMemoryFailoverResourcesPercent
    elif isinstance(info, vim.cluster.FailoverHostAdmissionControlInfo):
        ready = tuple(status.host._moId for status in info.hostStatus if str(status.status) == "green")
    return ClusterState(
        moid=moid,
        name=name,
        hosts=tuple(_host(read, found) for read in found.values() if isinstance(read.obj, vim.HostSystem)),
        ha_enabled=bool(das.enabled),
        admission_control=bool(das.admissionControlEnabled),
        failover_level=level,
        free_cpu_percent=cpu,
        free_memory_percent=memory,
        failover_hosts=ready,
        drs_enabled=bool(drs.enabled),
        drs_behavior=str(drs.defaultVmBehavior or ""),
    )


def _host(host: Read, found: dict[str, Read]) -> GateHost:
    hardware = host.get("summary.hardware")
    vms = [found[vm._moId] for vm in host.get("vm") or () if vm._moId in found]
    tasks = [found[task._moId] for task in host.get("recentTask") or () if task._moId in found]
    return GateHost(
        moid=host.obj._moId,
        name=str(host.get("name", host.obj._moId)),
        uuid=str(hardware.uuid or "").lower() if hardware is not None else "",
        # What the service account cannot see counts as down, not as up.
        connection_state=str(host.get("runtime.connectionState", "not shown to the service account")),
        in_maintenance=bool(host.get("runtime.inMaintenanceMode")),
        standby=str(host.get("runtime.standbyMode") or "none") != "none",
        going_down=next((str(task.get("info.descriptionId")) for task in tasks if _takes_down(task)), ""),
        running_vms=sum(vm.get("runtime.powerState") == "poweredOn" and not _is_agent(vm) for vm in vms),
        cpu_mhz=hardware.cpuMhz * hardware.numCpuCores if hardware is not None else 0,
        memory_mib=hardware.memorySize // 2**20 if hardware is not None else 0,
    )


def _takes_down(task: Read) -> bool:
    running = str(task.get("info.state")) in ("queued", "running")
    return running and task.get("info.descriptionId") in _TAKES_DOWN


def _is_agent(vm: Read) -> bool:
    managed_by = vm.get("config.managedBy")
    return managed_by is not None and managed_by.extensionKey == _AGENT_EXTENSION
