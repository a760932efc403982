"""Actions on VMs and their guests that no API call causes: for tests and for the demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.guests import GuestDriver, Quirks
from simulator.laws import adding, libraries
from simulator.laws.guests import guest_of, host_name
from simulator.laws.placement import held
from simulator.laws.power import power_on, start_on
from simulator.laws.thieves import new_vm, static_gpu
from simulator.world import Host, VmGpu, World

__all__ = ["vm_knobs"]

_AUTOMATION = ("manual", "partiallyAutomated", "fullyAutomated")


def vm_knobs(world: World) -> dict[str, Callable[..., Any]]:
    """The actions; hosts, clusters, VMs and devices are told by name or moid. They raise `KeyError`, `ValueError`.

    How a VM misbehaves can be said before it exists, by its name; clones inherit it from their source.
    """

    def quirks_of(vm: str) -> Quirks:
        found = next((found for found in world.vms.values() if vm in (found.name, found.moid)), None)
        return found.quirks if found is not None else world.quirks.setdefault(vm, Quirks())

    async def add_vm(host: str, name: str, gpu: str = "none", device: str | None = None, label: str = "",
                     profile: str = "", managed_by: str = "", on: bool = True, count: int = 1,
                     firmware: str = "efi") -> str:  # fmt: skip
        """Add a VM to a host and, with `on`, power it on; returns its moid.

        `gpu` is `none`, `static` (`device`), `dynamic` (any card like `device`, with `label`) or `vgpu` (`profile`).
        """
        found = world.host_named(host)
        vm = new_vm(world, found, name, [
            _gpu(found, gpu, device, label, profile, 13000 + index) for index in range(count if gpu != "none" else 0)
        ])  # fmt: skip
        vm.managed_by = (managed_by, "agent") if managed_by else None
        vm.firmware = firmware
        adding.put_vm(world, vm)
        if on:
            await power_on(world, vm, found)
        return vm.moid

    async def add_template(name: str, host: str, firmware: str = "efi", hardware_version: int = 20,
                           guest_id: str = "ubuntu64Guest", folder: str = "templates", disk_gib: int = 40,
                           gpu: str = "none") -> str:  # fmt: skip
        """Add a template with an installed Linux; returns its moid."""
        moid = await add_vm(host, name, gpu=gpu, on=False, firmware=firmware)
        vm = world.vms[moid]
        vm.hardware_version, vm.guest_id, vm.disk_gib = hardware_version, guest_id, disk_gib
        above = next((found for found in world.folders.values() if found.name == folder), None)
        if above is None:
            raise KeyError(f"no folder is named {folder!r}")
        del vm.folder.children[vm.moid]
        world.changed(vm.folder)
        vm.folder = above
        above.children[vm.moid] = None
        vm.memory_reserved_all, vm.extra_config = False, {}
        if vm.pool is not None:
            vm.pool.vms.pop(vm.moid, None)
            vm.pool = None
        vm.template = True
        world.changed(vm, above)
        return moid

    def add_library_item(library: str, name: str, kind: str, source: str) -> str:
        """An item (`vm-template` or `ovf`) with a copy of a VM or template; returns its id."""
        return libraries.add_item(world, library, name, kind, world.vm_named(source)).id

    def install_os(vm: str) -> None:
        """Somebody has installed a Linux with VMware Tools on the VM's empty disk."""
        world.vm_named(vm).blank = False

    def set_question(vm: str, text: str, choices: list[str] | None = None) -> None:
        """The VM asks this when it is powered on; the answer `Cancel` ends the power-on."""
        quirks_of(vm).question = (text, tuple(choices or ("Cancel", "Continue")))

    def no_tools(vm: str, on: bool = True) -> None:
        """VMware Tools never come up in the guest."""
        quirks_of(vm).no_tools = on

    def fail_customization(vm: str, reason: str = "The customization script failed.") -> None:
        quirks_of(vm).customization_error = reason

    def steal_gpu(vm: str) -> None:
        """When this VM is powered on, others take the GPUs that it was to get, after it was placed."""
        quirks_of(vm).robbed = True

    def take_gpu(host: str, device: str | None = None) -> str:
        """Somebody else's VM runs with this device, or with the host's first free one; returns its name."""
        found = world.host_named(host)
        free = [each.id for each in found.pci.values() if each.passthru_active and each.id not in held(found)]
        if device is None and not free:
            raise ValueError(f"{found.name} has no free device in passthrough")
        thief = new_vm(world, found, f"thief-{len(world.vms) + 1:04d}", [static_gpu(found, device or free[0])])
        adding.put_vm(world, thief)
        start_on(world, thief, found)
        return thief.name

    def relabel(host: str, device: str, label: str) -> None:
        """The hardware label of a device is another one, behind everybody's back."""
        found = world.host_named(host)
        if device not in found.pci:
            raise KeyError(f"{found.name} has no PCI device {device!r}")
        found.pci[device].hardware_label = label
        world.changed(found)

    def set_managed_by(vm: str, extension: str, kind: str = "agent") -> None:
        found = world.vm_named(vm)
        found.managed_by = (extension, kind) if extension else None
        world.changed(found)

    def set_drs(cluster: str, behavior: str, enabled: bool = True) -> None:
        """DRS automation: `manual`, `partiallyAutomated` or `fullyAutomated`."""
        if behavior not in _AUTOMATION:
            raise ValueError(f"{behavior!r} is no automation level: use one of {', '.join(_AUTOMATION)}")
        found = world.cluster_named(cluster)
        found.drs_behavior, found.drs_enabled = behavior, enabled
        world.changed(found)

    def set_names_small_mmio(host: str, on: bool = True) -> None:
        """The host's release refuses a VM with too little MMIO space, where others start it and it does not boot."""
        world.host_named(host).names_small_mmio = on

    def set_free_space(datastore: str, free_gib: float) -> None:
        found = world.datastore_named(datastore)
        found.free_bytes = min(found.capacity_bytes, int(free_gib * 2**30))
        world.changed(found)

    def set_guest_login(vm: str, user: str, password: str) -> None:
        guest_of(world, world.vm_named(vm)).logins[user] = password

    def set_guest_driver(vm: str, kind: str | None, version: str = "550.54.14") -> None:
        """A driver (`datacenter` or `grid`) is installed in the guest; none, without a kind."""
        guest_of(world, world.vm_named(vm)).driver = _driver(kind, version)

    def kubernetes_node(vm: str, version: str = "550.54.14", kind: str = "grid") -> None:
        """The guest is a Kubernetes node whose GPU Operator has loaded a driver of its own."""
        guest_of(world, world.vm_named(vm)).operator_driver = _driver(kind, version)

    def list_vms(prefix: str = "") -> list[dict[str, Any]]:
        """The VMs whose names begin so: where they are, what they hold, what their guests are."""
        return [
            {
                "name": vm.name,
                "moid": vm.moid,
                "instance_uuid": vm.instance_uuid,
                "host": vm.host.name,
                "folder": vm.folder.name,
                "pool": vm.pool.name if vm.pool is not None else None,
                "datastores": [store.name for store in vm.datastores],
                "networks": [network.name for network in vm.networks],
                "power_state": vm.power_state,
                "template": vm.template,
                "tools_running": vm.booted,
                "host_name": host_name(vm),
                "ip_address": vm.ip_address,
                "gpus": [
                    {"kind": gpu.kind, "profile": gpu.profile, "label": gpu.label, "assigned_id": gpu.assigned_id}
                    for gpu in vm.gpus
                ],
                "driver": f"{vm.guest.driver.kind} {vm.guest.driver.version}" if vm.guest and vm.guest.driver else None,
            }
            for vm in world.vms.values()
            if vm.name.startswith(prefix)
        ]

    def vm_ledger(prefix: str = "") -> list[dict[str, str]]:
        """Each VM that came (`added`) or went (`removed`) since the world was built, in order, and each run of an
        installer in a guest that went well (`driver installed`)."""
        return [entry for entry in world.ledger if entry["name"].startswith(prefix)]

    return {
        action.__name__: action
        for action in (
            add_vm, add_template, add_library_item, install_os, set_question, no_tools, fail_customization, steal_gpu,
            take_gpu, relabel, set_managed_by, set_drs, set_names_small_mmio, set_free_space, set_guest_login,
            set_guest_driver, kubernetes_node, list_vms, vm_ledger,
        )
    }  # fmt: skip


def _driver(kind: str | None, version: str) -> GuestDriver | None:
    if kind not in (None, "datacenter", "grid"):
        raise ValueError(f"{kind!r} is no driver: use datacenter or grid")
    if not version.replace(".", "").isdigit():
        raise ValueError(f"{version!r} is no driver version such as 550.54.14")
    return GuestDriver(kind, version) if kind else None


def _gpu(host: Host, kind: str, device: str | None, label: str, profile: str, key: int) -> VmGpu:
    if kind == "vgpu":
        return VmGpu(key, "vgpu", profile=profile)
    found = static_gpu(host, device or next(iter(host.gpus), ""), key)
    if kind == "dynamic":
        return VmGpu(key, "dynamic", allowed=((found.vendor_id, found.device_id),), label=label)
    if kind != "static":
        raise ValueError(f"{kind!r} is no kind of GPU: use none, static, dynamic or vgpu")
    return found
