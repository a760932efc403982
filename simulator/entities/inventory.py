"""Folders, datacenters, resource pools, datastores and networks as vSphere shows them."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.core import Call, Managed, method, prop
from simulator.entities.base import Entity, resolve
from simulator.laws import adding, drs, machines, registration
from simulator.world import Cluster, Datacenter, Datastore, Folder, Network, ResourcePool

__all__ = ["DatacenterEntity", "DatastoreEntity", "FolderEntity", "NetworkEntity", "ResourcePoolEntity"]


class FolderEntity(Entity):
    vim_type = vim.Folder
    state: Folder

    @prop("parent")
    def parent(self) -> Any:
        return self.registry.objects[self.state.parent].ref() if self.state.parent else None

    @prop("childType")
    def child_type(self) -> list[str]:
        return list(self.state.child_types)

    @prop("childEntity")
    def child_entity(self) -> list[Any]:
        return [self.registry.objects[moid].ref() for moid in self.state.children]

    @method("CreateFolder")
    def create_folder(self, call: Call, name: str) -> Managed:
        for moid in self.state.children:
            if self.registry.objects[moid].read("name") == name:
                raise vim.fault.DuplicateName(
                    name=name, object=self.registry.objects[moid].ref(), msg=f"The name '{name}' already exists."
                )
        return self.world.managed(adding.new_folder(self.world, name, self.state, self.state.child_types))

    @method("AddStandaloneHost_Task")
    def add_standalone_host(
        self, call: Call, spec: Any, addConnected: bool, compResSpec: Any = None, license: str | None = None
    ) -> Managed:
        work = adding.add_standalone_host(self.world, self.state, spec.hostName, addConnected)
        return self.registry.tasks.start(self, "Folder.addStandaloneHost", work)

    @method("CreateVM_Task")
    def create_vm(self, call: Call, config: Any, pool: Any, host: Any = None) -> Managed:
        pool_state = resolve(self.world, pool, vim.ResourcePool)
        host_state = resolve(self.world, host, vim.HostSystem) if host is not None else None
        work = machines.create(self.world, self.state, config, pool_state, host_state)
        return self.registry.tasks.start(self, "Folder.createVm", work)

    @method("RegisterVM_Task")
    def register_vm(
        self,
        call: Call,
        path: str,
        asTemplate: bool,
        name: str | None = None,
        pool: Any = None,
        host: Any = None,
    ) -> Managed:
        pool_state = resolve(self.world, pool, vim.ResourcePool) if pool is not None else None
        host_state = resolve(self.world, host, vim.HostSystem) if host is not None else None
        work = registration.register(self.world, self.state, path, name, asTemplate, pool_state, host_state)
        return self.registry.tasks.start(self, "Folder.registerVm", work)


class DatacenterEntity(Entity):
    vim_type = vim.Datacenter
    state: Datacenter

    @prop("parent")
    def parent(self) -> Any:
        return self.world.ref(self.state.parent)

    @prop("vmFolder")
    def vm_folder(self) -> Any:
        return self.world.ref(self.state.vm_folder)

    @prop("hostFolder")
    def host_folder(self) -> Any:
        return self.world.ref(self.state.host_folder)

    @prop("datastoreFolder")
    def datastore_folder(self) -> Any:
        return self.world.ref(self.state.datastore_folder)

    @prop("networkFolder")
    def network_folder(self) -> Any:
        return self.world.ref(self.state.network_folder)

    @prop("datastore")
    def datastore(self) -> list[Any]:
        return [self.world.ref(store) for store in self.state.datastores]

    @prop("network")
    def network(self) -> list[Any]:
        return [self.world.ref(network) for network in self.state.networks]

    @prop("configuration")
    def configuration(self) -> Any:
        return vim.Datacenter.ConfigInfo(defaultHardwareVersionKey="vmx-20")

    @method("PowerOnMultiVM_Task")
    def power_on_multi_vm(self, call: Call, vm: list[Any], option: list[Any] | None = None) -> Managed:
        states = [resolve(self.world, ref, vim.VirtualMachine) for ref in vm]
        work = drs.power_on_many(self.world, states, option)
        return self.registry.tasks.start(self, "Datacenter.powerOnVm", work)


class ResourcePoolEntity(Entity):
    vim_type = vim.ResourcePool
    state: ResourcePool

    @prop("parent")
    def parent(self) -> Any:
        return self.world.ref(self.state.parent or self.state.compute)

    @prop("owner")
    def owner(self) -> Any:
        return self.world.ref(self.state.compute)

    @prop("vm")
    def vm(self) -> list[Any]:
        return [self.world.ref(vm) for vm in self.state.vms.values()]

    @prop("resourcePool")
    def resource_pool(self) -> list[Any]:
        return [self.world.ref(pool) for pool in self.state.children]

    @method("CreateResourcePool")
    def create_resource_pool(self, call: Call, name: str, spec: Any) -> Managed:
        if any(pool.name == name for pool in self.state.children):
            raise vim.fault.DuplicateName(name=name, object=self.ref(), msg=f"The name '{name}' already exists.")
        return self.world.managed(adding.new_pool(self.world, self.state.compute, name, self.state))

    @prop("config")
    def config(self) -> Any:
        return vim.ResourceConfigSpec(
            entity=self.ref(),
            cpuAllocation=_allocation(_cpu_mhz(self.state.compute)),
            memoryAllocation=_allocation(_memory_bytes(self.state.compute) // 2**20),
        )

    @prop("runtime")
    def runtime(self) -> Any:
        return vim.ResourcePool.RuntimeInfo(
            memory=_usage(_memory_bytes(self.state.compute)),
            cpu=_usage(_cpu_mhz(self.state.compute)),
            overallStatus="green",
        )

    @prop("summary")
    def summary(self) -> Any:
        return vim.ResourcePool.Summary(name=self.state.name, config=self.config(), runtime=self.runtime())


def _allocation(limit: int) -> Any:
    return vim.ResourceAllocationInfo(
        reservation=limit,
        expandableReservation=False,
        limit=limit,
        shares=vim.SharesInfo(shares=4000, level="normal"),
    )


def _usage(total: int) -> Any:
    return vim.ResourcePool.ResourceUsage(
        reservationUsed=0,
        reservationUsedForVm=0,
        unreservedForPool=total,
        unreservedForVm=total,
        overallUsage=0,
        maxUsage=total,
    )


def _cpu_mhz(cluster: Cluster) -> int:
    return sum(host.cpu_mhz * host.cpu_cores for host in cluster.hosts.values())


def _memory_bytes(cluster: Cluster) -> int:
    return sum(host.memory_bytes for host in cluster.hosts.values())


class DatastoreEntity(Entity):
    vim_type = vim.Datastore
    state: Datastore

    @prop("parent")
    def parent(self) -> Any:
        return self.world.ref(next(iter(self.world.datacenters.values())).datastore_folder)

    @property
    def url(self) -> str:
        return f"ds:///vmfs/volumes/{self.state.uuid}/"

    @prop("summary")
    def summary(self) -> Any:
        return vim.Datastore.Summary(
            datastore=self.ref(),
            name=self.state.name,
            url=self.url,
            capacity=self.state.capacity_bytes,
            freeSpace=self.state.free_bytes,
            uncommitted=0,
            accessible=True,
            multipleHostAccess=len(self.state.hosts) > 1,
            type="VMFS",
            maintenanceMode="normal",
        )

    @prop("info")
    def info(self) -> Any:
        return vim.host.VmfsDatastoreInfo(
            name=self.state.name,
            url=self.url,
            freeSpace=self.state.free_bytes,
            maxFileSize=64 * 2**40,
            maxMemoryFileSize=64 * 2**40,
            maxPhysicalRDMFileSize=64 * 2**40,
            maxVirtualRDMFileSize=64 * 2**40,
        )

    @prop("capability")
    def capability(self) -> Any:
        return vim.Datastore.Capability(
            directoryHierarchySupported=True,
            rawDiskMappingsSupported=True,
            perFileThinProvisioningSupported=True,
            storageIORMSupported=True,
            nativeSnapshotSupported=False,
        )

    @prop("host")
    def host(self) -> list[Any]:
        mounted = {"accessMode": "readWrite", "mounted": True, "accessible": True}
        return [
            vim.Datastore.HostMount(key=self.world.ref(host), mountInfo=vim.host.MountInfo(**mounted))
            for host in self.state.hosts.values()
        ]

    @prop("vm")
    def vm(self) -> list[Any]:
        return [self.world.ref(vm) for vm in self.state.vms.values()]


class NetworkEntity(Entity):
    vim_type = vim.Network
    state: Network

    @prop("parent")
    def parent(self) -> Any:
        return self.world.ref(next(iter(self.world.datacenters.values())).network_folder)

    @prop("summary")
    def summary(self) -> Any:
        return vim.Network.Summary(network=self.ref(), name=self.state.name, accessible=True, ipPoolName="")

    @prop("host")
    def host(self) -> list[Any]:
        return [self.world.ref(host) for host in self.state.hosts.values()]

    @prop("vm")
    def vm(self) -> list[Any]:
        return [self.world.ref(vm) for vm in self.state.vms.values()]
