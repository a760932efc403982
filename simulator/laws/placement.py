"""Which devices a VM gets on a host, and which hosts can take a VM."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.laws.profiles import Profile, offered, profiles_of
from simulator.world import Host, VirtualMachine, VmGpu, World

__all__ = ["Fit", "fit", "free_memory_mib", "held", "hosts_for", "obstacle"]


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
    `consolidation`, the emptiest under `performance`. Several vGPUs in one VM must each be a whole time-sliced card.
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
            first = next(
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
            if first is None:
                return Fit(missing="no free device is allowed and has the label that the VM asks for")
            devices[gpu.key] = first
    vgpus = [gpu for gpu in vm.gpus if gpu.kind == "vgpu"]
    if len(vgpus) > 1 and (partial := _partial(host, vgpus)):
        return Fit(missing=f"only whole-card profiles can be combined in one VM, and {partial} is a part of a card")
    running = {pci_id: _running(host, pci_id, vm) for pci_id in host.gpus}
    for gpu in vgpus:
        free = {
            pci_id: left for pci_id in host.gpus if (left := _left(host, pci_id, running[pci_id], gpu.profile)) >= 0
        }
        if not free:
            return Fit(missing=_why_no_card(host, gpu.profile))
        pick = min if host.assignment_policy == "consolidation" else max
        card = pick(free, key=lambda pci_id: free[pci_id])
        running[card].append(profiles_of(host, card)[gpu.profile])
        devices[gpu.key] = card
    return Fit(devices)


def _partial(host: Host, vgpus: list[VmGpu]) -> str:
    """A profile among these that is not all of a time-sliced card, empty when there is none."""
    whole = {
        name
        for pci_id, card in host.gpus.items()
        for name, profile in profiles_of(host, pci_id).items()
        if profile.framebuffer_mib >= card.framebuffer_mib and not profile.slices
    }
    return next((gpu.profile for gpu in vgpus if gpu.profile not in whole and gpu.profile in offered(host)), "")


def _why_no_card(host: Host, profile: str) -> str:
    if profile not in offered(host):
        return f"no card offers profile {profile}"
    return f"no card has room for profile {profile}"


def _running(host: Host, pci_id: str, but: VirtualMachine) -> list[Profile]:
    """The vGPUs that run on a card."""
    profiles = profiles_of(host, pci_id)
    return [
        profiles[gpu.profile]
        for vm in host.vms.values()
        if vm is not but and vm.power_state == "poweredOn"
        for gpu in vm.gpus
        if gpu.kind == "vgpu" and gpu.assigned_id == pci_id and gpu.profile in profiles
    ]


def _left(host: Host, pci_id: str, running: list[Profile], name: str) -> int:
    """The framebuffer in MiB that a card has left besides one more vGPU of a profile; negative when it cannot be.

    Time-sliced vGPUs of a card all have one size while any runs there (`sameSize`), unless the card is in
    `mixedSize`, from ESXi 8.0.3 on. MIG-backed ones take slices, of which a card has as many as its largest profile.
    """
    card, profiles = host.gpus[pci_id], profiles_of(host, pci_id)
    profile = profiles.get(name)
    if profile is None:
        return -1
    if profile.slices:
        slices = max(found.slices for found in profiles.values())
        if profile.slices + sum(found.slices for found in running) > slices:
            return -1
    elif any(found.framebuffer_mib != profile.framebuffer_mib for found in running) and not _mixes(host, pci_id):
        return -1
    used = sum(found.framebuffer_mib for found in running)
    return card.framebuffer_mib - used - profile.framebuffer_mib


def _mixes(host: Host, pci_id: str) -> bool:
    return host.gpus[pci_id].active_vgpu_mode == "mixedSize" and host.release >= (8, 0, 3)


def hosts_for(world: World, vm: VirtualMachine, *, without: Host | None = None) -> list[Host]:
    """Hosts of the VM's cluster that could run it now, the emptiest first; its own host before all when it can."""
    usable = [host for host in vm.host.compute.hosts.values() if host is not without and not obstacle(host, vm)]
    return sorted(usable, key=lambda host: (host is not vm.host, -free_memory_mib(host)))


def obstacle(host: Host, vm: VirtualMachine) -> str:
    """Why the host could not run the VM now; empty when it could."""
    if not host.up:
        return "the host does not answer or is in standby"
    if host.in_maintenance or host.entering_maintenance:
        return "the host is in maintenance mode"
    if _ruled_out(host, vm):
        return "a mandatory VM-host rule keeps it off the host"
    if free_memory_mib(host) < vm.memory_mib:
        return "the host has too little free memory"
    return fit(host, vm).missing


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
