"""A host as vSphere shows it: its properties, and the operations that clients call on it."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator import esxcli_types
from simulator.core import Call, Managed, method, prop
from simulator.entities import host_graphics as graphics
from simulator.entities import host_hardware as hardware
from simulator.entities.base import Entity
from simulator.entities.host_access import service_info
from simulator.hardware import default_advanced_settings
from simulator.laws import adding, ha_settings, hosts, maintenance, standby
from simulator.world import Host

__all__ = ["HostEntity"]

_SUPPORTED = {
    "recursiveResourcePoolsSupported", "cpuMemoryResourceConfigurationSupported", "rebootSupported",
    "shutdownSupported", "vmotionSupported", "sanSupported", "nfsSupported", "iscsiSupported",
    "vlanTaggingSupported", "nicTeamingSupported", "highGuestMemSupported", "maintenanceModeSupported",
    "suspendedRelocateSupported", "perVmSwapFiles", "storageVMotionSupported", "assignableHardwareSupported",
    "vmotionWithStorageVMotionSupported", "featureCapabilitiesSupported", "latencySensitivitySupported",
}  # fmt: skip


class HostEntity(Entity):
    vim_type = vim.HostSystem
    state: Host

    @prop("parent")
    def parent(self) -> Any:
        return self.world.ref(self.state.compute)

    @prop("overallStatus")
    def overall_status(self) -> str:
        return {"connected": "green", "disconnected": "gray"}.get(self.state.connection_state, "red")

    @prop("vm")
    def vm(self) -> list[Any]:
        return [self.world.ref(vm) for vm in self.state.vms.values()]

    @prop("datastore")
    def datastore(self) -> list[Any]:
        return [self.world.ref(store) for store in self.state.compute.datastores]

    @prop("network")
    def network(self) -> list[Any]:
        return [self.world.ref(network) for network in self.state.compute.networks]

    # runtime: leaf paths have readers of their own, since whole fleets are watched through them

    @prop("runtime.connectionState")
    def connection_state(self) -> str:
        return self.state.connection_state

    @prop("runtime.powerState")
    def power_state(self) -> str:
        known = self.state.connection_state == "connected" or self.state.standby_mode == "in"
        return self.state.power_state if known else "unknown"

    @prop("runtime.inMaintenanceMode")
    def in_maintenance_mode(self) -> bool:
        return self.state.in_maintenance

    @prop("runtime.bootTime")
    def boot_time(self) -> Any:
        return self.state.boot_time

    @prop("runtime.standbyMode")
    def standby_mode(self) -> str:
        return self.state.standby_mode

    @prop("runtime.dasHostState")
    def das_host_state(self) -> Any:
        state = ha_settings.host_state(self.state)
        return vim.cluster.DasFdmHostState(state=state) if state else None

    @prop("runtime")
    def runtime(self) -> Any:
        return vim.host.RuntimeInfo(
            connectionState=self.connection_state(),
            powerState=self.power_state(),
            standbyMode=self.standby_mode(),
            inMaintenanceMode=self.in_maintenance_mode(),
            inQuarantineMode=False,
            bootTime=self.boot_time(),
            dasHostState=self.das_host_state(),
            cryptoState="incapable",
        )

    # summary

    @prop("summary.rebootRequired")
    def reboot_required(self) -> bool:
        return self.state.reboot_required

    @prop("summary.managementServerIp")
    def management_server_ip(self) -> str:
        return "10.20.0.1"

    @prop("summary.hardware")
    def summary_hardware(self) -> Any:
        host = self.state
        return vim.host.Summary.HardwareSummary(
            vendor=host.vendor,
            model=host.model,
            uuid=host.uuid,
            memorySize=host.memory_bytes,
            cpuModel=host.cpu_model,
            cpuMhz=host.cpu_mhz,
            numCpuPkgs=host.cpu_packages,
            numCpuCores=host.cpu_cores,
            numCpuThreads=host.cpu_cores * 2,
            numNics=len(hardware.nics(host)),
            numHBAs=2 if host.usb_boot else 1,
        )

    @prop("summary.config")
    def summary_config(self) -> Any:
        return vim.host.Summary.ConfigSummary(
            name=self.state.name,
            port=443,
            product=hardware.product(self.state),
            vmotionEnabled=True,
            faultToleranceEnabled=False,
        )

    @prop("summary")
    def summary(self) -> Any:
        running = [vm for vm in self.state.vms.values() if vm.power_state == "poweredOn"]
        return vim.host.Summary(
            host=self.ref(),
            hardware=self.summary_hardware(),
            runtime=self.runtime(),
            config=self.summary_config(),
            quickStats=vim.host.Summary.QuickStats(
                overallCpuUsage=sum(vm.cpus for vm in running) * 120,
                overallMemoryUsage=sum(vm.memory_mib for vm in running),
                uptime=int((self.registry.clock.now() - self.state.boot_time).total_seconds()),
            ),
            overallStatus=self.overall_status(),
            rebootRequired=self.state.reboot_required,
            managementServerIp=self.management_server_ip(),
        )

    # hardware and config

    @prop("hardware.pciDevice")
    def pci_device(self) -> list[Any]:
        return [hardware.pci_device(function) for function in self.state.pci.values()]

    @prop("hardware.systemInfo")
    def system_info(self) -> Any:
        return hardware.system_info(self.state)

    @prop("hardware")
    def hardware(self) -> Any:
        return hardware.hardware_info(self.state)

    @prop("config.pciPassthruInfo")
    def pci_passthru_info(self) -> list[Any]:
        return graphics.passthru_info(self.state)

    @prop("config.graphicsInfo")
    def graphics_info(self) -> list[Any]:
        return graphics.graphics_info(self.world, self.state)

    @prop("config.graphicsConfig")
    def graphics_config(self) -> Any:
        return graphics.graphics_config(self.state)

    @prop("config.sharedPassthruGpuTypes")
    def shared_passthru_gpu_types(self) -> list[str]:
        return graphics.offered_profiles(self.state)

    @prop("config.sharedGpuCapabilities")
    def shared_gpu_capabilities(self) -> list[Any]:
        return graphics.profile_capabilities(self.state)

    @prop("config.assignableHardwareBinding")
    def assignable_hardware_binding(self) -> list[Any]:
        return graphics.hardware_bindings(self.world, self.state)

    @prop("config.lockdownMode")
    def lockdown_mode(self) -> str:
        return self.state.lockdown_mode

    @prop("config.service")
    def service(self) -> Any:
        return service_info(self.state)

    @prop("config.vsanHostConfig")
    def vsan_host_config(self) -> Any:
        return vim.vsan.host.ConfigInfo(enabled=self.state.compute.vsan_enabled)

    @prop("config.certificate")
    def certificate(self) -> list[int]:
        """Guest files come from the simulator's own port, so hosts have its certificate. `byte` is signed."""
        return [byte - 256 if byte > 127 else byte for byte in self.world.certificate]

    @prop("config.product")
    def config_product(self) -> Any:
        return hardware.product(self.state)

    @prop("config.storageDevice")
    def storage_device(self) -> Any:
        return hardware.storage_device_info(self.state)

    @prop("config.network")
    def config_network(self) -> Any:
        return hardware.network_info(self.state)

    @prop("config.option")
    def option(self) -> list[Any]:
        settings = default_advanced_settings() | self.state.advanced
        return [vim.option.OptionValue(key=key, value=value) for key, value in sorted(settings.items())]

    @prop("config")
    def config(self) -> Any:
        return vim.host.ConfigInfo(
            host=self.ref(),
            product=self.config_product(),
            storageDevice=self.storage_device(),
            network=self.config_network(),
            option=self.option(),
            lockdownMode=self.state.lockdown_mode,
            adminDisabled=self.state.lockdown_mode != "lockdownDisabled",
            pciPassthruInfo=self.pci_passthru_info(),
            graphicsInfo=self.graphics_info(),
            graphicsConfig=self.graphics_config(),
            sharedPassthruGpuTypes=self.shared_passthru_gpu_types(),
            sharedGpuCapabilities=self.shared_gpu_capabilities(),
            assignableHardwareBinding=self.assignable_hardware_binding(),
            service=self.service(),
            vsanHostConfig=self.vsan_host_config(),
        )

    @prop("capability.deviceRebindWithoutRebootSupported")
    def device_rebind_without_reboot_supported(self) -> bool:
        return self.state.rebind_without_reboot

    def _uefi_secure_boot(self) -> bool | None:
        """Releases before 8.0.3 do not say."""
        return self.state.secure_boot if self.state.release >= (8, 0, 3) else None

    @prop("capability")
    def capability(self) -> Any:
        info = vim.host.Capability(
            deviceRebindWithoutRebootSupported=self.state.rebind_without_reboot, uefiSecureBoot=self._uefi_secure_boot()
        )
        for field in info._GetPropertyList():
            flag = field.type is bool and field.name.endswith(("Supported", "SwapFiles", "Capable"))
            if flag and field.name != "deviceRebindWithoutRebootSupported":
                setattr(info, field.name, field.name in _SUPPORTED)
        return info

    @prop("configManager")
    def config_manager(self) -> Any:
        number = self.moid.removeprefix("host-")
        return vim.host.ConfigManager(
            pciPassthruSystem=vim.host.PciPassthruSystem(f"pciPassthruSystem-{number}"),
            graphicsManager=vim.host.GraphicsManager(f"graphicsManager-{number}"),
            imageConfigManager=vim.host.ImageConfigManager(f"imageConfigManager-{number}"),
            advancedOption=vim.option.OptionManager(f"EsxHostAdvSettings-{number}"),
            storageSystem=vim.host.StorageSystem(f"storageSystem-{number}"),
            networkSystem=vim.host.NetworkSystem(f"networkSystem-{number}"),
            patchManager=vim.host.PatchManager(f"ha-host-patch-manager-{number}"),
            serviceSystem=vim.host.ServiceSystem(f"serviceSystem-{number}"),
            hostAccessManager=vim.host.HostAccessManager(f"hostAccessManager-{number}"),
        )

    # operations

    @method("DisconnectHost_Task")
    def disconnect(self, call: Call) -> Managed:
        return self.registry.tasks.start(self, "HostSystem.disconnect", hosts.disconnect(self.world, self.state))

    @method("ReconnectHost_Task")
    def reconnect(self, call: Call, cnxSpec: Any = None, reconnectSpec: Any = None) -> Managed:
        return self.registry.tasks.start(self, "HostSystem.reconnect", hosts.reconnect(self.world, self.state))

    @method("Destroy_Task")
    def destroy(self, call: Call) -> Managed:
        return self.registry.tasks.start(self, "HostSystem.destroy", adding.remove_host(self.world, self.state))

    @method("EnterMaintenanceMode_Task")
    def enter_maintenance_mode(
        self,
        call: Call,
        timeout: int,
        evacuatePoweredOffVms: bool | None = None,
        maintenanceSpec: Any = None,
    ) -> Managed:
        mode = maintenanceSpec.vsanMode if maintenanceSpec is not None else None
        vsan_mode = mode.objectAction if mode is not None else None
        work = maintenance.enter(self.world, self.state, timeout, bool(evacuatePoweredOffVms), vsan_mode)
        return self.registry.tasks.start(self, "HostSystem.enterMaintenanceMode", work, cancelable=True)

    @method("ExitMaintenanceMode_Task")
    def exit_maintenance_mode(self, call: Call, timeout: int) -> Managed:
        work = maintenance.leave(self.world, self.state)
        return self.registry.tasks.start(self, "HostSystem.exitMaintenanceMode", work)

    @method("RebootHost_Task")
    def reboot(self, call: Call, force: bool) -> Managed:
        return self.registry.tasks.start(self, "HostSystem.reboot", hosts.reboot(self.world, self.state, force))

    @method("ShutdownHost_Task")
    def shutdown(self, call: Call, force: bool) -> Managed:
        return self.registry.tasks.start(self, "HostSystem.shutdown", hosts.shut_down(self.world, self.state, force))

    @method("PowerDownHostToStandBy_Task")
    def enter_standby(self, call: Call, timeoutSec: int, evacuatePoweredOffVms: bool | None = None) -> Managed:
        work = standby.enter(self.world, self.state, bool(evacuatePoweredOffVms))
        return self.registry.tasks.start(self, "HostSystem.enterStandbyMode", work)

    @method("PowerUpHostFromStandBy_Task")
    def exit_standby(self, call: Call, timeoutSec: int) -> Managed:
        return self.registry.tasks.start(self, "HostSystem.exitStandbyMode", standby.leave(self.world, self.state))

    @method("RetrieveManagedMethodExecuter")
    def retrieve_managed_method_executer(self, call: Call) -> Any:
        return esxcli_types.ManagedMethodExecuter(f"ManagedMethodExecuter-{self.moid.removeprefix('host-')}")

    @method("RetrieveDynamicTypeManager")
    def retrieve_dynamic_type_manager(self, call: Call) -> Any:
        return esxcli_types.DynamicTypeManager(f"DynamicTypeManager-{self.moid.removeprefix('host-')}")
