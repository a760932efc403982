"""Clusters, and compute resources of standalone hosts, as vSphere shows them."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.core import Call, Managed, method, prop
from simulator.entities.base import Entity
from simulator.entities.cluster_ha import das_config, das_vm_config
from simulator.laws import adding, admission, drs, ha_settings
from simulator.world import Cluster, World

__all__ = ["ClusterEntity", "StandaloneEntity"]


class StandaloneEntity(Entity):
    vim_type = vim.ComputeResource
    state: Cluster

    def __init__(self, world: World, state: Cluster) -> None:
        super().__init__(world, state)
        self.browser = f"envbrowser-{state.moid.removeprefix('domain-')}"

    @prop("parent")
    def parent(self) -> Any:
        return self.world.ref(self.state.folder)

    @prop("host")
    def host(self) -> list[Any]:
        return [self.world.ref(host) for host in self.state.hosts.values()]

    @prop("datastore")
    def datastore(self) -> list[Any]:
        return [self.world.ref(store) for store in self.state.datastores]

    @prop("network")
    def network(self) -> list[Any]:
        return [self.world.ref(network) for network in self.state.networks]

    @prop("resourcePool")
    def resource_pool(self) -> Any:
        return self.world.ref(self.state.pool)

    @prop("environmentBrowser")
    def environment_browser(self) -> Any:
        return vim.EnvironmentBrowser(self.browser)

    @prop("lifecycleManaged")
    def lifecycle_managed(self) -> bool:
        return self.state.lifecycle_managed

    @prop("configManagerEnabled")
    def config_manager_enabled(self) -> bool:
        return self.state.config_manager_enabled

    @prop("configurationEx")
    def configuration_ex(self) -> Any:
        return vim.ComputeResource.ConfigInfo(vmSwapPlacement="vmDirectory", defaultHardwareVersionKey="vmx-20")

    @prop("summary")
    def summary(self) -> Any:
        return vim.ComputeResource.Summary(**self.totals())

    @prop("overallStatus")
    def overall_status(self) -> str:
        return "green" if all(host.connection_state == "connected" for host in self.state.hosts.values()) else "red"

    def totals(self) -> dict[str, Any]:
        """What the hosts add up to; `effective…` counts those that may run VMs now."""
        hosts = list(self.state.hosts.values())
        usable = [host for host in hosts if host.up and not host.in_maintenance]
        return {
            "totalCpu": sum(host.cpu_mhz * host.cpu_cores for host in hosts),
            "totalMemory": sum(host.memory_bytes for host in hosts),
            "numCpuCores": sum(host.cpu_cores for host in hosts),
            "numCpuThreads": sum(host.cpu_cores * 2 for host in hosts),
            "effectiveCpu": sum(host.cpu_mhz * host.cpu_cores for host in usable),
            "effectiveMemory": sum(host.memory_bytes for host in usable) // 2**20,
            "numHosts": len(hosts),
            "numEffectiveHosts": len(usable),
            "overallStatus": self.overall_status(),
        }


class ClusterEntity(StandaloneEntity):
    vim_type = vim.ClusterComputeResource

    @prop("configuration")
    def configuration(self) -> Any:
        return vim.cluster.ConfigInfo(
            dasConfig=das_config(self.state),
            dasVmConfig=das_vm_config(self.world, self.state),
            drsConfig=self._drs_config(),
            drsVmConfig=self._drs_vm_config(),
            rule=self._rules(),
        )

    @prop("configurationEx")
    def configuration_ex(self) -> Any:
        return vim.cluster.ConfigInfoEx(
            vmSwapPlacement="vmDirectory",
            defaultHardwareVersionKey="vmx-20",
            dasConfig=das_config(self.state),
            dasVmConfig=das_vm_config(self.world, self.state),
            drsConfig=self._drs_config(),
            dpmConfigInfo=vim.cluster.DpmConfigInfo(enabled=self.state.dpm_enabled),
            drsVmConfig=self._drs_vm_config(),
            group=self._groups(),
            rule=self._rules(),
            vsanConfigInfo=vim.vsan.cluster.ConfigInfo(enabled=self.state.vsan_enabled),
        )

    @prop("summary")
    def summary(self) -> Any:
        level = admission.failover_level(self.state)
        info = vim.cluster.FailoverLevelAdmissionControlInfo(currentFailoverLevel=level)
        return vim.ClusterComputeResource.Summary(
            **self.totals(),
            currentFailoverLevel=level,
            admissionControlInfo=info if self.state.ha_enabled and self.state.admission_control else None,
            numVmotions=0,
        )

    @method("RetrieveDasAdvancedRuntimeInfo")
    def das_advanced_runtime_info(self, call: Call) -> Any:
        if not self.state.ha_enabled:
            return None
        state, size = self.state, admission.slot(self.state)
        hosts = [(host, admission.slots(host, size)) for host in admission.good_hosts(state)]
        total, used = sum(slots for _, slots in hosts), len(admission.running(state))
        return vim.cluster.DasFailoverLevelAdvancedRuntimeInfo(
            slotInfo=vim.cluster.DasFailoverLevelAdvancedRuntimeInfo.SlotInfo(
                numVcpus=1, cpuMHz=size.cpu_mhz, memoryMB=size.memory_mib
            ),
            totalSlots=total,
            usedSlots=used,
            unreservedSlots=max(0, total - used),
            totalVms=used,
            totalHosts=len(state.hosts),
            totalGoodHosts=len(hosts),
            hostSlots=[
                vim.cluster.DasFailoverLevelAdvancedRuntimeInfo.HostSlots(host=self.world.ref(host), slots=slots)
                for host, slots in hosts
            ],
        )

    @prop("recommendation")
    def recommendation(self) -> list[Any]:
        return [drs.shown(self.world, found) for found in self.state.recommendations.values()]

    @method("ApplyRecommendation")
    def apply_recommendation(self, call: Call, key: str) -> None:
        drs.apply(self.world, self.state, key)

    @method("CancelRecommendation")
    def cancel_recommendation(self, call: Call, key: str) -> None:
        drs.cancel(self.world, self.state, key)

    def _drs_vm_config(self) -> list[Any]:
        return [
            vim.cluster.DrsVmConfigInfo(
                key=self.world.ref(vm),
                enabled=vm.drs_override != "disabled",
                behavior=vm.drs_override if vm.drs_override != "disabled" else None,
            )
            for host in self.state.hosts.values()
            for vm in host.vms.values()
            if vm.drs_override is not None
        ]

    def _groups(self) -> list[Any]:
        ref = self.world.ref
        return [
            *(
                vim.cluster.HostGroup(name=name, userCreated=True, host=[ref(host) for host in hosts])
                for name, hosts in self.state.host_groups.items()
            ),
            *(
                vim.cluster.VmGroup(name=name, userCreated=True, vm=[ref(vm) for vm in vms])
                for name, vms in self.state.vm_groups.items()
            ),
        ]

    def _rules(self) -> list[Any]:
        return [
            vim.cluster.VmHostRuleInfo(
                key=key,
                name=rule.name,
                enabled=True,
                mandatory=rule.mandatory,
                userCreated=True,
                inCompliance=True,
                vmGroupName=rule.vm_group,
                affineHostGroupName=rule.host_group if rule.affine else None,
                antiAffineHostGroupName=None if rule.affine else rule.host_group,
            )
            for key, rule in enumerate(self.state.vm_host_rules, 1)
        ]

    def _drs_config(self) -> Any:
        return vim.cluster.DrsConfigInfo(
            enabled=self.state.drs_enabled,
            enableVmBehaviorOverrides=True,
            defaultVmBehavior=self.state.drs_behavior,
            vmotionRate=3,
            option=[vim.option.OptionValue(key=key, value=value) for key, value in self.state.drs_options.items()],
        )

    @method("AddHost_Task")
    def add_host(
        self, call: Call, spec: Any, asConnected: bool, resourcePool: Any = None, license: str | None = None
    ) -> Managed:
        work = adding.add_host_by_spec(self.world, self.state, spec.hostName, asConnected)
        return self.registry.tasks.start(self, "ClusterComputeResource.addHost", work)

    @method("ReconfigureComputeResource_Task")
    def reconfigure(self, call: Call, spec: Any, modify: bool) -> Managed:
        return self.registry.tasks.start(self, "ComputeResource.reconfigureEx", self._reconfigured(spec))

    async def _reconfigured(self, spec: Any) -> None:
        state = self.state
        das, drs = getattr(spec, "dasConfig", None), getattr(spec, "drsConfig", None)
        ha_settings.reconfigure(self.world, state, das, getattr(spec, "dasVmConfigSpec", None) or [])
        if drs is not None:
            state.drs_enabled = state.drs_enabled if drs.enabled is None else drs.enabled
            state.drs_behavior = drs.defaultVmBehavior or state.drs_behavior
            state.drs_options.update({option.key: option.value for option in drs.option or []})
        self.world.changed(state, *state.hosts.values())
