"""HA's admission control by slots: how many hosts may still fail with room for every VM that is on.

vSphere Availability, "Slot policy": a slot is what the most demanding powered-on VM reserves, 32 MHz at least; a host
has as many as fit into both its CPU and its memory. The failover level is the number of hosts, the largest ones first,
that can go while the slots of the others are still enough. GPUs do not count.
"""

from __future__ import annotations

from typing import NamedTuple

from pyVmomi import vim

from simulator.world import Cluster, Host, VirtualMachine

__all__ = ["Slot", "admit", "failover_level", "good_hosts", "running", "slot", "slots"]

_LEAST_MHZ = 32
_OVERHEAD_MIB = 64
"""What a VM takes of its host's memory besides what it reserves."""


class Slot(NamedTuple):
    """What one VM counts for."""

    cpu_mhz: int
    memory_mib: int


def good_hosts(cluster: Cluster) -> list[Host]:
    """Those that could restart VMs now."""
    return [host for host in cluster.hosts.values() if host.up and not host.in_maintenance]


def running(cluster: Cluster) -> list[VirtualMachine]:
    """The VMs that each take a slot."""
    return [vm for host in cluster.hosts.values() for vm in host.vms.values() if vm.power_state == "poweredOn"]


def slot(cluster: Cluster, more: VirtualMachine | None = None) -> Slot:
    """The size that every VM fits into, with one `more` that is not on yet."""
    vms = [*running(cluster), more] if more is not None else running(cluster)
    reserved = [vm.memory_mib if vm.memory_reserved_all else vm.memory_reservation_mib for vm in vms]
    return Slot(_LEAST_MHZ, max(reserved, default=0) + _OVERHEAD_MIB)


def slots(host: Host, size: Slot) -> int:
    """How many slots the host has."""
    return min(host.cpu_mhz * host.cpu_cores // size.cpu_mhz, host.memory_bytes // 2**20 // size.memory_mib)


def failover_level(cluster: Cluster, more: VirtualMachine | None = None) -> int:
    """The host failures that HA can make up for now, or with one VM `more`.

    There is always one host needed to restart anything.
    """
    size, needed = slot(cluster, more), len(running(cluster)) + (more is not None)
    each = sorted((slots(host, size) for host in good_hosts(cluster)), reverse=True)
    level = 0
    while level + 1 < len(each) and sum(each[level + 1 :]) >= needed:
        level += 1
    return level


def admit(vm: VirtualMachine) -> None:
    """Somebody powers the VM on; HA's own restarts are not asked for.

    Raises `InsufficientFailoverResourcesFault` when that takes a failover level that the cluster is to keep.
    """
    cluster = vm.host.compute
    if not (cluster.ha_enabled and cluster.admission_control and cluster.strict_admission):
        return
    level = failover_level(cluster, vm)
    if level < cluster.failover_level:
        raise vim.fault.InsufficientFailoverResourcesFault(
            msg=f"Insufficient resources to satisfy the configured failover level of {cluster.name} for vSphere HA: "
            f"with {vm.name} on, {level} hosts could fail and {cluster.failover_level} must be able to."
        )
