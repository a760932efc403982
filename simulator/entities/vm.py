"""A VM as vSphere shows it, and the operations that clients call on it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from pyVmomi import vim

from simulator.core import Call, Managed, method, prop
from simulator.entities.base import Entity, resolve
from simulator.entities.vm_devices import extra_config, hardware_devices
from simulator.entities.vm_guest import guest_family, guest_info, question_info
from simulator.entities.vm_snapshots import snapshot_info
from simulator.laws import cloning, ha_settings, machines, power, registration, snapshots
from simulator.laws.guests import host_name
from simulator.world import VirtualMachine

__all__ = ["VirtualMachineEntity"]

GUEST_NAMES = {
    "ubuntu64Guest": "Ubuntu Linux (64-bit)",
    "rhel9_64Guest": "Red Hat Enterprise Linux 9 (64-bit)",
    "otherGuest": "Other (32-bit)",
    "otherGuest64": "Other (64-bit)",
}


class VirtualMachineEntity(Entity):
    vim_type = vim.VirtualMachine
    state: VirtualMachine

    @prop("parent")
    def parent(self) -> Any:
        return self.world.ref(self.state.folder)

    @prop("resourcePool")
    def resource_pool(self) -> Any:
        return self.world.ref(self.state.pool) if self.state.pool is not None else None

    @prop("environmentBrowser")
    def environment_browser(self) -> Any:
        return self.world.managed(self.state.host.compute).read("environmentBrowser")

    @prop("datastore")
    def datastore(self) -> list[Any]:
        return [self.world.ref(store) for store in self.state.datastores]

    @prop("network")
    def network(self) -> list[Any]:
        return [self.world.ref(network) for network in self.state.networks]

    # runtime

    @prop("runtime.host")
    def host(self) -> Any:
        return self.world.ref(self.state.host)

    @prop("runtime.powerState")
    def power_state(self) -> str:
        return self.state.shown_power_state

    @prop("runtime.connectionState")
    def connection_state(self) -> str:
        if self.state.host.connection_state != "connected":
            return "disconnected"
        return self.state.stray or "connected"

    @prop("runtime.question")
    def question(self) -> Any:
        return question_info(self.state)

    @prop("runtime.dasVmProtection")
    def das_vm_protection(self) -> Any:
        if not self.state.host.compute.ha_enabled:
            return None
        return vim.vm.RuntimeInfo.DasProtectionState(dasProtected=ha_settings.is_protected(self.state))

    @prop("runtime.bootTime")
    def boot_time(self) -> Any:
        return self.state.boot_time

    @prop("runtime.faultToleranceState")
    def fault_tolerance_state(self) -> str:
        if not self.state.fault_tolerant:
            return "notConfigured"
        return "running" if self.state.power_state == "poweredOn" else "disabled"

    @prop("runtime")
    def runtime(self) -> Any:
        return vim.vm.RuntimeInfo(
            host=self.host(),
            connectionState=self.connection_state(),
            powerState=self.power_state(),
            faultToleranceState=self.fault_tolerance_state(),
            dasVmProtection=self.das_vm_protection(),
            toolsInstallerMounted=False,
            bootTime=self.boot_time(),
            question=self.question(),
            maxCpuUsage=self.state.cpus * self.state.host.cpu_mhz,
            maxMemoryUsage=self.state.memory_mib,
            numMksConnections=0,
            recordReplayState="inactive",
            onlineStandby=False,
            consolidationNeeded=False,
        )

    # guest

    @prop("guest.toolsRunningStatus")
    def tools_running_status(self) -> str:
        return "guestToolsRunning" if self.state.booted else "guestToolsNotRunning"

    @prop("guest.ipAddress")
    def ip_address(self) -> str | None:
        return self.state.ip_address

    @prop("guest.hostName")
    def host_name(self) -> str | None:
        return host_name(self.state) if self.state.booted else None

    @prop("guest.guestOperationsReady")
    def guest_operations_ready(self) -> bool:
        return self.state.booted

    @prop("guest.guestFamily")
    def guest_family(self) -> str | None:
        return guest_family(self.state) if self.state.booted else None

    @prop("guest")
    def guest(self) -> Any:
        return guest_info(self.state, self._guest_name())

    @prop("guestHeartbeatStatus")
    def guest_heartbeat_status(self) -> str:
        return "green" if self.state.booted else "gray"

    # config

    @prop("config.hardware")
    def hardware(self) -> Any:
        return vim.vm.VirtualHardware(
            numCPU=self.state.cpus,
            numCoresPerSocket=1,
            memoryMB=self.state.memory_mib,
            device=self.devices(),
        )

    # Readers of their own: fleet reads ask every VM for these, and its whole `config` is large.

    @prop("config.hardware.device")
    def devices(self) -> list[Any]:
        return hardware_devices(self.state)

    @prop("config.hardware.numCPU")
    def num_cpu(self) -> int:
        return self.state.cpus

    @prop("config.hardware.memoryMB")
    def memory_mb(self) -> int:
        return self.state.memory_mib

    @prop("config.memoryAllocation")
    def memory_allocation(self) -> Any:
        vm = self.state
        reserved = vm.memory_mib if vm.memory_reserved_all else vm.memory_reservation_mib
        return vim.ResourceAllocationInfo(reservation=reserved, expandableReservation=False, limit=-1)

    @prop("config.extraConfig")
    def extra_config(self) -> list[Any]:
        return extra_config(self.state)

    @prop("config.files")
    def files(self) -> Any:
        vmx = self.state.vmx
        return vim.vm.FileInfo(vmPathName=vmx, logDirectory=vmx.rpartition("/")[0] + "/")

    @prop("config.annotation")
    def annotation(self) -> str:
        return self.state.annotation

    @prop("config.guestId")
    def guest_id(self) -> str:
        return self.state.guest_id

    @prop("config.template")
    def template(self) -> bool:
        return self.state.template

    @prop("config.uuid")
    def uuid(self) -> str:
        return self.state.uuid

    @prop("config.instanceUuid")
    def instance_uuid(self) -> str:
        return self.state.instance_uuid

    @prop("config.firmware")
    def firmware(self) -> str:
        return self.state.firmware

    @prop("config.version")
    def version(self) -> str:
        return f"vmx-{self.state.hardware_version}"

    @prop("config.memoryReservationLockedToMax")
    def memory_reservation_locked_to_max(self) -> bool:
        return self.state.memory_reserved_all

    @prop("config.managedBy")
    def managed_by(self) -> Any:
        if self.state.managed_by is None:
            return None
        extension, kind = self.state.managed_by
        return vim.ext.ManagedByInfo(extensionKey=extension, type=kind)

    @prop("config.bootOptions")
    def boot_options(self) -> Any:
        return vim.vm.BootOptions(efiSecureBootEnabled=self.state.secure_boot)

    @prop("config.changeVersion")
    def change_version(self) -> str:
        return str(self.state.change_version)

    @prop("config")
    def config(self) -> Any:
        vm = self.state
        return vim.vm.ConfigInfo(
            changeVersion=str(vm.change_version),
            modified=vm.created,
            createDate=vm.created,
            name=vm.name,
            guestFullName=self._guest_name(),
            version=self.version(),
            uuid=vm.uuid,
            instanceUuid=vm.instance_uuid,
            template=vm.template,
            guestId=vm.guest_id,
            alternateGuestName="",
            annotation=vm.annotation,
            files=self.files(),
            flags=vim.vm.FlagInfo(),
            defaultPowerOps=vim.vm.DefaultPowerOpInfo(powerOffType="soft", suspendType="hard", resetType="soft"),
            hardware=self.hardware(),
            cpuAllocation=vim.ResourceAllocationInfo(reservation=0, expandableReservation=False, limit=-1),
            memoryAllocation=self.memory_allocation(),
            extraConfig=self.extra_config(),
            firmware=vm.firmware,
            managedBy=self.managed_by(),
            memoryReservationLockedToMax=vm.memory_reserved_all,
            bootOptions=self.boot_options(),
        )

    @prop("summary")
    def summary(self) -> Any:
        vm = self.state
        devices = hardware_devices(vm) if vm.devices is not None else None
        disks = 1 if devices is None else sum(isinstance(found, vim.vm.device.VirtualDisk) for found in devices)
        cards = (
            len(vm.networks[:1])
            if devices is None
            else sum(isinstance(found, vim.vm.device.VirtualEthernetCard) for found in devices)
        )
        return vim.vm.Summary(
            vm=self.ref(),
            runtime=self.runtime(),
            guest=vim.vm.Summary.GuestSummary(
                toolsStatus="toolsOk" if vm.booted else "toolsNotRunning",
                toolsRunningStatus=self.tools_running_status(),
                hostName=self.host_name(),
                ipAddress=vm.ip_address,
            ),
            config=vim.vm.Summary.ConfigSummary(
                name=vm.name,
                template=vm.template,
                vmPathName=vm.vmx,
                memorySizeMB=vm.memory_mib,
                cpuReservation=0,
                memoryReservation=vm.memory_mib if vm.memory_reserved_all else vm.memory_reservation_mib,
                numCpu=vm.cpus,
                numEthernetCards=cards,
                numVirtualDisks=disks,
                uuid=vm.uuid,
                instanceUuid=vm.instance_uuid,
                guestId=vm.guest_id,
                guestFullName=self._guest_name(),
                annotation=vm.annotation,
                managedBy=self.managed_by(),
            ),
            storage=vim.vm.Summary.StorageSummary(
                committed=vm.committed_bytes, uncommitted=vm.disk_gib * 2**29, unshared=0, timestamp=vm.created
            ),
            quickStats=vim.vm.Summary.QuickStats(
                guestHeartbeatStatus=self.guest_heartbeat_status(),
                overallCpuUsage=vm.cpus * 120 if vm.power_state == "poweredOn" else 0,
                hostMemoryUsage=vm.memory_mib if vm.power_state == "poweredOn" else 0,
            ),
            overallStatus="green",
        )

    def _guest_name(self) -> str:
        return GUEST_NAMES.get(self.state.guest_id, self.state.guest_id)

    # operations

    def _start(self, operation: str, work: Coroutine[Any, Any, Any]) -> Managed:
        return self.registry.tasks.start(self, f"VirtualMachine.{operation}", work)

    @method("PowerOnVM_Task")
    def power_on(self, call: Call, host: Any = None) -> Managed:
        wanted = resolve(self.world, host, vim.HostSystem) if host is not None else None
        return self._start("powerOn", power.power_on(self.world, self.state, wanted))

    @method("PowerOffVM_Task")
    def power_off(self, call: Call) -> Managed:
        return self._start("powerOff", power.power_off(self.world, self.state))

    @method("ResetVM_Task")
    def reset(self, call: Call) -> Managed:
        return self._start("reset", power.reset(self.world, self.state))

    @method("SuspendVM_Task")
    def suspend(self, call: Call) -> Managed:
        return self._start("suspend", power.suspend(self.world, self.state))

    @method("ShutdownGuest")
    def shutdown_guest(self, call: Call) -> None:
        power.shut_down_guest(self.world, self.state)

    @method("RebootGuest")
    def reboot_guest(self, call: Call) -> None:
        power.reboot_guest(self.world, self.state)

    @method("ReconfigVM_Task")
    def reconfigure(self, call: Call, spec: Any) -> Managed:
        return self._start("reconfigure", machines.reconfigure(self.world, self.state, spec))

    @method("CloneVM_Task")
    def clone(self, call: Call, folder: Any, name: str, spec: Any) -> Managed:
        target = resolve(self.world, folder, vim.Folder)
        return self._start("clone", cloning.clone(self.world, self.state, target, name, spec))

    def _moved(self, host: Any, pool: Any) -> Coroutine[Any, Any, None]:
        target = resolve(self.world, host, vim.HostSystem) if host is not None else None
        within = resolve(self.world, pool, vim.ResourcePool) if pool is not None else None
        return machines.relocate(self.world, self.state, target, within)

    @method("MigrateVM_Task")
    def migrate(
        self, call: Call, priority: str, pool: Any = None, host: Any = None, state: str | None = None
    ) -> Managed:
        return self._start("migrate", self._moved(host, pool))

    @method("RelocateVM_Task")
    def relocate(self, call: Call, spec: Any, priority: str | None = None) -> Managed:
        return self._start("relocate", self._moved(spec.host, spec.pool))

    @method("Destroy_Task")
    def destroy(self, call: Call) -> Managed:
        return self._start("destroy", machines.destroy(self.world, self.state))

    @method("UnregisterVM")
    def unregister(self, call: Call) -> None:
        registration.unregister(self.world, self.state)

    @method("MarkAsTemplate")
    def mark_as_template(self, call: Call) -> None:
        machines.mark_as_template(self.world, self.state)

    @method("MarkAsVirtualMachine")
    def mark_as_virtual_machine(self, call: Call, pool: Any, host: Any = None) -> None:
        target = resolve(self.world, host, vim.HostSystem) if host is not None else None
        machines.mark_as_vm(self.world, self.state, resolve(self.world, pool, vim.ResourcePool), target)

    @method("UpgradeVM_Task")
    def upgrade(self, call: Call, version: str | None = None) -> Managed:
        return self._start("upgradeVirtualHardware", machines.upgrade_hardware(self.world, self.state, version))

    @method("AnswerVM")
    def answer(self, call: Call, questionId: str, answerChoice: str) -> None:
        power.answer(self.world, self.state, questionId, answerChoice)

    @method("CustomizeVM_Task")
    def customize(self, call: Call, spec: Any) -> Managed:
        async def customized() -> None:
            cloning.customize(self.state, spec)
            self.touch()

        return self._start("customize", customized())

    @prop("snapshot")
    def snapshot(self) -> Any:
        return snapshot_info(self.world, self.state)

    @prop("rootSnapshot")
    def root_snapshot(self) -> list[Any]:
        return [self.world.ref(found) for found in self.state.snapshots[:1]]

    @method("CreateSnapshot_Task")
    def create_snapshot(
        self, call: Call, name: str, memory: bool, quiesce: bool, description: str | None = None
    ) -> Managed:
        work = snapshots.create(self.world, self.state, name, description or "", memory=memory, quiesce=quiesce)
        return self._start("createSnapshot", work)

    @method("RemoveAllSnapshots_Task")
    def remove_all_snapshots(self, call: Call, consolidate: bool | None = None) -> Managed:
        return self._start("removeAllSnapshots", snapshots.remove(self.world, self.state, self.state.snapshots))
