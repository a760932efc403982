"""vSphere HA's settings: of a cluster, of single VMs, and what they amount to for a host and a VM."""

from __future__ import annotations

from typing import Any

from pyVmomi import vmodl

from simulator.world import Cluster, Host, VirtualMachine, World

__all__ = [
    "AS_CLUSTER",
    "ISOLATION_RESPONSES",
    "PRIORITIES",
    "acts",
    "host_state",
    "is_protected",
    "isolation_response",
    "reconfigure",
    "restart_priority",
    "set_for_cluster",
    "set_for_vm",
    "urgency",
]

PRIORITIES = ("highest", "high", "medium", "low", "lowest", "disabled")
"""`ClusterDasVmSettings.restartPriority`, the most urgent first."""
ISOLATION_RESPONSES = ("none", "powerOff", "shutdown")
AS_CLUSTER = {"restart_priority": "clusterRestartPriority", "isolation_response": "clusterIsolationResponse"}
"""The words for a VM that has no setting of its own."""
_KNOWN = {"restart_priority": PRIORITIES, "isolation_response": ISOLATION_RESPONSES}


def restart_priority(vm: VirtualMachine) -> str:
    return vm.restart_priority or vm.host.compute.restart_priority


def isolation_response(vm: VirtualMachine) -> str:
    return vm.isolation_response or vm.host.compute.isolation_response


def urgency(vm: VirtualMachine) -> tuple[int, int]:
    """VMs are restarted in this order: by priority, and equal ones by moid."""
    return PRIORITIES.index(restart_priority(vm)), int(vm.moid.removeprefix("vm-"))


def acts(cluster: Cluster) -> bool:
    """HA does something when hosts fail."""
    return cluster.ha_enabled and cluster.host_monitoring


def is_protected(vm: VirtualMachine) -> bool:
    """`runtime.dasVmProtection.dasProtected`: HA would restart the VM."""
    return vm.host.compute.ha_enabled and vm.protected and restart_priority(vm) != "disabled"


def host_state(host: Host) -> str | None:
    """`runtime.dasHostState.state`; none where HA has nothing to do with the host.

    A host that vCenter alone has lost stays what it was: the hosts of the cluster see it. The first of those that
    take part is the master.
    """
    if not _takes_part(host):
        return None
    if host.ha_view:
        return host.ha_view
    others = (other for other in host.compute.hosts.values() if _takes_part(other) and not other.ha_view)
    return "master" if next(others) is host else "connectedToMaster"


def _takes_part(host: Host) -> bool:
    away = host.in_maintenance or host.standby_mode == "in" or host.connection_state == "disconnected"
    return host.compute.ha_enabled and not away


def set_for_cluster(cluster: Cluster, name: str, value: str) -> None:
    """Set a default, `restart_priority` or `isolation_response`; raises `ValueError` for an unknown value."""
    setattr(cluster, name, _known(name, value))


def set_for_vm(vm: VirtualMachine, name: str, value: str) -> None:
    """Set a VM's own, or its cluster's with the word for that; raises `ValueError` for an unknown value."""
    setattr(vm, name, None if value == AS_CLUSTER[name] else _known(name, value, AS_CLUSTER[name]))


def _known(name: str, value: str, *more: str) -> str:
    if value not in _KNOWN[name]:
        raise ValueError(f"{name}: {value!r} is none of {', '.join((*_KNOWN[name], *more))}")
    return value


def reconfigure(world: World, cluster: Cluster, das: Any | None, vms: list[Any]) -> None:
    """The HA part of `ReconfigureComputeResource_Task`: `dasConfig` and `dasVmConfigSpec`.

    Raises `InvalidArgument` for unknown values, for adding settings of a VM that has some, and for changing or
    removing them where there are none.
    """
    try:
        if das is not None:
            _configure(cluster, das)
        for spec in vms:
            _configure_vm(world, cluster, spec)
    except ValueError as wrong:
        raise vmodl.fault.InvalidArgument(invalidProperty="spec.dasConfig", msg=str(wrong)) from None
    world.changed(
        cluster, *cluster.hosts.values(), *(vm for host in cluster.hosts.values() for vm in host.vms.values())
    )


def _configure(cluster: Cluster, das: Any) -> None:
    settings = _settings(das.defaultVmSettings)
    if das.enabled is not None:
        cluster.ha_enabled = das.enabled
    if das.admissionControlEnabled is not None:
        cluster.admission_control = das.admissionControlEnabled
    if (level := getattr(das.admissionControlPolicy, "failoverLevel", None)) is not None:
        cluster.failover_level = level
    if das.hostMonitoring:
        cluster.host_monitoring = das.hostMonitoring == "enabled"
    for name, value in settings:
        set_for_cluster(cluster, name, value)


def _configure_vm(world: World, cluster: Cluster, spec: Any) -> None:
    ref = spec.removeKey if spec.operation == "remove" else spec.info.key
    vm = world.vms.get(ref._moId)
    if vm is None or vm.host.compute is not cluster:
        raise ValueError(f"{ref._moId} is no VM of {cluster.name}")
    has = vm.restart_priority is not None or vm.isolation_response is not None
    if has == (spec.operation == "add"):
        raise ValueError(f"{vm.name} has {'settings' if has else 'no settings'} of its own: cannot {spec.operation}")
    settings = _settings(spec.info.dasSettings, of_vm=True) if spec.operation != "remove" else []
    vm.restart_priority = vm.isolation_response = None
    for name, value in settings:
        set_for_vm(vm, name, value)


def _settings(settings: Any | None, *, of_vm: bool = False) -> list[tuple[str, str]]:
    """What a client sent, checked before anything is changed."""
    if settings is None:
        return []
    sent = (("restart_priority", settings.restartPriority), ("isolation_response", settings.isolationResponse))
    found = [(name, str(value)) for name, value in sent if value]
    for name, value in found:
        if not (of_vm and value == AS_CLUSTER[name]):
            _known(name, value)
    return found
