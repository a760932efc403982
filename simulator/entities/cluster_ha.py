"""A cluster's HA configuration as vSphere shows it."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.laws.ha_settings import AS_CLUSTER
from simulator.world import Cluster, World

__all__ = ["das_config", "das_vm_config"]


def das_config(cluster: Cluster) -> Any:
    return vim.cluster.DasConfigInfo(
        enabled=cluster.ha_enabled,
        hostMonitoring="enabled" if cluster.host_monitoring else "disabled",
        vmMonitoring="vmMonitoringDisabled",
        vmComponentProtecting="disabled",
        failoverLevel=cluster.failover_level,
        admissionControlEnabled=cluster.admission_control,
        admissionControlPolicy=vim.cluster.FailoverLevelAdmissionControlPolicy(failoverLevel=cluster.failover_level),
        defaultVmSettings=vim.cluster.DasVmSettings(
            restartPriority=cluster.restart_priority, isolationResponse=cluster.isolation_response
        ),
    )


def das_vm_config(world: World, cluster: Cluster) -> list[Any]:
    """The VMs with settings of their own; what they leave to the cluster is said so."""
    return [
        vim.cluster.DasVmConfigInfo(
            key=world.ref(vm),
            dasSettings=vim.cluster.DasVmSettings(
                restartPriority=vm.restart_priority or AS_CLUSTER["restart_priority"],
                isolationResponse=vm.isolation_response or AS_CLUSTER["isolation_response"],
            ),
        )
        for host in cluster.hosts.values()
        for vm in host.vms.values()
        if vm.restart_priority is not None or vm.isolation_response is not None
    ]
