"""Which devices a VM gets on a host, and which hosts can take a VM."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.laws.profiles import profiles_of
from simulator.world import Host, VirtualMachine, World

__all__ = ["Fit", "fit", "held", "hosts_for"]


@dataclass(frozen=True, slots=True)
class Fit:
    """The devices for a VM on a host, by virtual device key; `missing` says why there are none, empty when it fits."""

    devices: dict[int, str] = field(default_factory=dict)
    missing: str = ""
    static_conflict: bool = False


def held(host: Host, but: VirtualMachine | None = None) -> set[str]:
    """The whole devices that running VMs of the host hold."""
    return {
        gpu.assigned_id
        for vm in host.vms.values()
        if vm is not but and vm.power_state == "poweredOn"
        for gpu in vm.passthrough
        if gpu.assigned_id
    }


def fit(host: Host, vm: VirtualMachine) -> Fit:
    """Find each of the VM's GPU devices on the host.

    A static device is that very device, active and not in use. A dynamic one is any free active device that is
    allowed and has the wanted label. A vGPU takes a profile on offer and room on a card: a full card first under
    `consolidation`, the emptiest under `performance`.
    """
    if not vm.gpus:
        return Fit()
    taken = held(host, vm)
    devices: dict[int, str] = {}
    for gpu in vm.passthrough:
        if gpu.kind == "static":
            function = host.pci.get(gpu.pci_id)
            if function is None or not function.passthru_active:
                return Fit(missing=f"device {gpu.pci_id} is not available for passthrough", static_conflict=True)
            if gpu.pci_id in taken or gpu.pci_id in devices.values():
                return Fit(missing=f"device {gpu.pci_id} is already in use", static_conflict=True)
            devices[gpu.key] = gpu.pci_id
    for gpu in vm.passthrough:
        if gpu.kind == "dynamic":
            free = next(
                (
                    function.id
                    for function in host.pci.values()
                    if function.passthru_active
                    and function.id not in taken
                    and function.id not in devices.values()
                    and (function.vendor_id, function.device_id) in gpu.allowed
                    and (not gpu.label or function.hardware_label == gpu.label)
                ),
                None,
            )
            if free is None:
                return Fit(missing="no free device is allowed and has the label that the VM asks for")
            devices[gpu.key] = free
    room = {pci_id: card.framebuffer_mib - _used_mib(host, pci_id, vm) for pci_id, card in host.gpus.items()}
    for gpu in vm.gpus:
        if gpu.kind == "vgpu":
            size = {
                pci_id: profile.framebuffer_mib
                for pci_id in host.gpus
                if (profile := profiles_of(host, pci_id).get(gpu.profile)) is not None
            }
            cards = [pci_id for pci_id, need in size.items() if room[pci_id] >= need]
            if not cards:
                return Fit(missing=f"no card has room for profile {gpu.profile}")
            pick = min if host.assignment_policy == "consolidation" else max
            card = pick(cards, key=lambda pci_id: room[pci_id])
            room[card] -= size[card]
            devices[gpu.key] = card
    return Fit(devices)


def _used_mib(host: Host, pci_id: str, but: VirtualMachine) -> int:
    profiles = profiles_of(host, pci_id)
    return sum(
        profiles[gpu.profile].framebuffer_mib
        for vm in host.vms.values()
        if vm is not but and vm.power_state == "poweredOn"
        for gpu in vm.gpus
        if gpu.kind == "vgpu" and gpu.assigned_id == pci_id and gpu.profile in profiles
    )


def hosts_for(world: World, vm: VirtualMachine, *, without: Host | None = None) -> list[Host]:
    """Hosts of the VM's cluster that could run it now, the emptiest first; its own host before all when it can."""
    usable = [
        host
        for host in vm.host.compute.hosts.values()
        if host is not without
        and host.up
        and not host.in_maintenance
        and not host.entering_maintenance
        and not _ruled_out(host, vm)
        and free_memory_mib(host) >= vm.memory_mib
        and not fit(host, vm).missing
    ]
    return sorted(usable, key=lambda host: (host is not vm.host, -free_memory_mib(host)))


def _ruled_out(host: Host, vm: VirtualMachine) -> bool:
    """A mandatory VM-host rule keeps the VM off the host; nobody breaks such a rule, HA included."""
    cluster = host.compute
    return any(
        (host in cluster.host_groups[rule.host_group]) != rule.affine
        for rule in cluster.vm_host_rules
        if rule.mandatory and vm in cluster.vm_groups[rule.vm_group]
    )


def free_memory_mib(host: Host) -> int:
    """Memory that no running VM is configured with; the world does not overcommit."""
    running = sum(vm.memory_mib for vm in host.vms.values() if vm.power_state == "poweredOn")
    return host.memory_bytes // 2**20 - running
