"""The search index: objects by inventory path, UUID, DNS name and IP address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, Registry, method
from simulator.wire.traversal import children

__all__ = ["SearchIndex"]


class SearchIndex(Managed):
    """Linear searches, through the narrowest property that tells."""

    vim_type = vim.SearchIndex

    def __init__(self, registry: Registry, root: Managed) -> None:
        super().__init__(registry, "SearchIndex")
        self.root = root

    @method("FindByInventoryPath")
    def find_by_inventory_path(self, call: Call, inventoryPath: str) -> Managed | None:
        found: Managed | None = self.root
        for part in inventoryPath.strip("/").split("/"):
            if found is not None and part:
                found = self._child(found, unquote(part))
        return found

    @method("FindChild")
    def find_child(self, call: Call, entity: Any, name: str) -> Managed | None:
        parent = self.registry.objects.get(entity._moId)
        if parent is None:
            raise vmodl.fault.ManagedObjectNotFound(obj=entity, msg=f"There is no {entity._moId}.")
        return self._child(parent, name)

    @method("FindByUuid")
    def find_by_uuid(
        self, call: Call, datacenter: Any, uuid: str, vmSearch: bool, instanceUuid: bool | None
    ) -> Managed | None:
        return next(self._by_uuid(datacenter, uuid, vmSearch, instanceUuid), None)

    @method("FindAllByUuid")
    def find_all_by_uuid(
        self, call: Call, datacenter: Any, uuid: str, vmSearch: bool, instanceUuid: bool | None
    ) -> list[Managed]:
        return list(self._by_uuid(datacenter, uuid, vmSearch, instanceUuid))

    @method("FindByDnsName")
    def find_by_dns_name(self, call: Call, datacenter: Any, dnsName: str, vmSearch: bool) -> Managed | None:
        return next(self._by_dns_name(datacenter, dnsName, vmSearch), None)

    @method("FindAllByDnsName")
    def find_all_by_dns_name(self, call: Call, datacenter: Any, dnsName: str, vmSearch: bool) -> list[Managed]:
        return list(self._by_dns_name(datacenter, dnsName, vmSearch))

    @method("FindByIp")
    def find_by_ip(self, call: Call, datacenter: Any, ip: str, vmSearch: bool) -> Managed | None:
        path = "guest.ipAddress" if vmSearch else "name"
        return next((obj for obj in self._all(datacenter, vmSearch) if obj.read(path) == ip), None)

    def _by_uuid(self, datacenter: Any, uuid: str, vm_search: bool, instance_uuid: bool | None) -> Iterator[Managed]:
        vm_path = "config.instanceUuid" if instance_uuid else "config.uuid"
        path = vm_path if vm_search else "hardware.systemInfo.uuid"
        wanted = uuid.casefold()
        return (obj for obj in self._all(datacenter, vm_search) if str(_read(obj, path)).casefold() == wanted)

    def _by_dns_name(self, datacenter: Any, name: str, vm_search: bool) -> Iterator[Managed]:
        path = "guest.hostName" if vm_search else "name"
        wanted = name.casefold()
        return (obj for obj in self._all(datacenter, vm_search) if str(obj.read(path)).casefold() == wanted)

    def _all(self, datacenter: Any, vm_search: bool) -> Iterator[Managed]:
        kind = vim.VirtualMachine if vm_search else vim.HostSystem
        found = (obj for obj in tuple(self.registry.objects.values()) if issubclass(obj.vim_type, kind))
        if datacenter is None:
            return found
        return (obj for obj in found if self._within(obj, datacenter._moId))

    def _within(self, obj: Managed, moid: str) -> bool:
        at: Managed | None = obj
        while at is not None and at.moid != moid:
            parent = at.read("parent")
            at = self.registry.objects.get(parent._moId) if parent is not None else None
        return at is not None

    def _child(self, parent: Managed, name: str) -> Managed | None:
        below = children(parent, self.registry.objects.get)
        return next((child for child in below if unquote(str(child.read("name"))) == name), None)


def _read(obj: Managed, path: str) -> Any:
    """UUIDs are in the summary too, which is cheaper to build than the whole `config` or `hardware`."""
    if path in obj.readers:
        return obj.read(path)
    summary = {"config": "summary.config", "hardware.systemInfo": "summary.hardware"}
    head, _, leaf = path.rpartition(".")
    return obj.read(f"{summary[head]}.{leaf}")
