"""What a cluster's configuration says about its GPU VMs: HA's settings, mandatory rules, and what DRS recommends.

Sources: `ClusterConfigInfoEx`, `ClusterDasVmConfigInfo`, `ClusterVmHostRuleInfo` and `ClusterRecommendation` of the
vSphere Web Services API reference. `configurationEx` is read whole: groups are in it only, and its declared type has
none of these, so that paths below it are not documented.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim

from contracts.fleet import FleetCluster, FleetRecommendation, FleetVm
from vsphere.properties import Read

__all__ = ["CLUSTER_PATHS", "ClusterPolicy", "cluster_policy", "fleet_cluster", "power_on_recommendations"]

CLUSTER_PATHS = ("name", "configurationEx", "recommendation")
_DEFAULT_PRIORITY: str = FleetVm.model_fields["restart_priority"].default
_DEFAULT_ISOLATION: str = FleetVm.model_fields["isolation_response"].default
_INHERITS = ("", "clusterRestartPriority", "clusterIsolationResponse")
"""Values of a VM's own settings that mean its cluster's."""


@dataclass(frozen=True)
class _Rule:
    vms: frozenset[str]
    hosts: frozenset[str]
    affine: bool


@dataclass(frozen=True)
class ClusterPolicy:
    """What a cluster wants done with its VMs."""

    restart_priority: str = _DEFAULT_PRIORITY
    isolation_response: str = _DEFAULT_ISOLATION
    priorities: dict[str, str] = field(default_factory=dict)
    """By moid: VMs with a restart priority of their own."""
    responses: dict[str, str] = field(default_factory=dict)
    """By moid: VMs with an isolation response of their own."""
    rules: tuple[_Rule, ...] = ()
    automation: str = ""
    """Of DRS; empty where it is off."""
    automations: dict[str, str] = field(default_factory=dict)
    """By moid: VMs with an automation level of their own, or `disabled`."""

    def automation_of(self, vm_moid: str) -> str:
        """What DRS may do with the VM; empty where DRS is off."""
        return self.automations.get(vm_moid, self.automation) if self.automation else ""

    def priority_of(self, vm_moid: str) -> str:
        """The VM's restart priority, its own or the cluster's."""
        return self.priorities.get(vm_moid, self.restart_priority)

    def response_of(self, vm_moid: str) -> str:
        """The VM's isolation response, its own or the cluster's."""
        return self.responses.get(vm_moid, self.isolation_response)

    def barred(self, vm_moid: str, host_moids: Iterable[str]) -> tuple[str, ...]:
        """Those of the hosts that mandatory rules keep the VM off."""
        binding = [rule for rule in self.rules if vm_moid in rule.vms]
        return tuple(
            moid for moid in sorted(host_moids) if any((moid in rule.hosts) != rule.affine for rule in binding)
        )


def cluster_policy(config: Any) -> ClusterPolicy:
    """What `configurationEx` says; the defaults where it says nothing (None: it was not read)."""
    if config is None:
        return ClusterPolicy()
    default = config.dasConfig.defaultVmSettings if config.dasConfig is not None else None
    priorities, responses = {}, {}
    for entry in config.dasVmConfig or ():
        priority, response = _own(entry)
        if priority not in _INHERITS:
            priorities[entry.key._moId] = priority
        if response not in _INHERITS:
            responses[entry.key._moId] = response
    return ClusterPolicy(
        restart_priority=str(default.restartPriority or _DEFAULT_PRIORITY) if default else _DEFAULT_PRIORITY,
        isolation_response=str(default.isolationResponse or _DEFAULT_ISOLATION) if default else _DEFAULT_ISOLATION,
        priorities=priorities,
        responses=responses,
        rules=_mandatory(config.group or (), config.rule or ()),
        automation=_automation(config.drsConfig),
        automations={
            entry.key._moId: "disabled" if entry.enabled is False else str(entry.behavior)
            for entry in config.drsVmConfig or ()
            if entry.enabled is False or entry.behavior
        },
    )


def _automation(drs: Any) -> str:
    return str(drs.defaultVmBehavior or "") if drs is not None and drs.enabled else ""


def _own(entry: Any) -> tuple[str, str]:
    """A VM's restart priority and isolation response; `dasSettings` replaced the two fields beside it in 2.5."""
    settings = entry.dasSettings
    priority = str((settings.restartPriority if settings else None) or entry.restartPriority or "")
    response = str((settings.isolationResponse if settings else None) or "")
    if settings is None and entry.powerOffOnIsolation is not None:
        response = "powerOff" if entry.powerOffOnIsolation else "none"
    return priority, response


def _mandatory(groups: Sequence[Any], rules: Sequence[Any]) -> tuple[_Rule, ...]:
    vms = {group.name: _moids(group.vm) for group in groups if isinstance(group, vim.cluster.VmGroup)}
    hosts = {group.name: _moids(group.host) for group in groups if isinstance(group, vim.cluster.HostGroup)}
    found = []
    for rule in rules:
        if not isinstance(rule, vim.cluster.VmHostRuleInfo) or not rule.enabled or not rule.mandatory:
            continue
        for name, affine in ((rule.affineHostGroupName, True), (rule.antiAffineHostGroupName, False)):
            if name in hosts and rule.vmGroupName in vms:
                found.append(_Rule(vms[rule.vmGroupName], hosts[name], affine))
    return tuple(found)


def _moids(references: Iterable[Any] | None) -> frozenset[str]:
    return frozenset(reference._moId for reference in references or ())


def power_on_recommendations(recommendations: Iterable[Any] | None) -> tuple[FleetRecommendation, ...]:
    """Those that place a VM that is to be powered on (`ClusterInitialPlacementAction`); DRS recommends moves too."""
    return tuple(
        FleetRecommendation(
            key=found.key,
            vm_moid=action.target._moId,
            host_moid=action.targetHost._moId,
            reason=str(found.reasonText or found.reason or ""),
        )
        for found in recommendations or ()
        for action in found.action or ()
        if isinstance(action, vim.cluster.InitialPlacementAction) and action.target is not None
    )


def fleet_cluster(moid: str, read: Read) -> FleetCluster:
    """The cluster as `CLUSTER_PATHS` of it say."""
    config = read.get("configurationEx")
    drs, das = (config.drsConfig, config.dasConfig) if config is not None else (None, None)
    return FleetCluster(
        moid=moid,
        name=str(read.get("name")),
        drs_enabled=bool(drs.enabled) if drs is not None else False,
        drs_automation=str(drs.defaultVmBehavior or "") if drs is not None else "",
        ha_enabled=bool(das.enabled) if das is not None else False,
        ha_host_monitoring=str(das.hostMonitoring or "enabled") != "disabled" if das is not None else True,
        ha_admission_control=bool(das.admissionControlEnabled) if das is not None else False,
        recommendations=power_on_recommendations(read.get("recommendation")),
    )
