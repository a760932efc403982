"""What DRS may move while a host is being emptied, and what it has to leave."""

from __future__ import annotations

from simulator.laws.profiles import offered
from simulator.world import Host, VirtualMachine, World

__all__ = ["can_migrate", "evacuates", "reserve_is_kept"]

HOT_MIGRATE = "vgpu.hotmigrate.enabled"
MAINTENANCE_TIMEOUT = "VgpuMMAutomationTimeoutSecs"


def can_migrate(world: World, vm: VirtualMachine) -> bool:
    """vMotion can take the running VM: no DirectPath device, no fault tolerance, and its vGPUs can migrate.

    A vGPU can when vCenter's `vgpu.hotmigrate.enabled` is true and the host says so of its profile.
    """
    if vm.passthrough or vm.fault_tolerant:
        return False
    if not vm.gpus:
        return True
    profiles = offered(vm.host)
    movable = all(gpu.profile in profiles and profiles[gpu.profile].migrates for gpu in vm.gpus)
    return movable and str(world.registry.settings.get(HOT_MIGRATE, False)).casefold() == "true"


def evacuates(world: World, vm: VirtualMachine) -> bool:
    """DRS moves the VM by itself, so that its host can enter maintenance mode.

    DRS must be fully automated for it, and for a vGPU VM its option `VgpuMMAutomationTimeoutSecs` must be -1.
    """
    cluster = vm.host.compute
    automated = (vm.drs_override or cluster.drs_behavior) == "fullyAutomated"
    patient = not vm.gpus or cluster.drs_options.get(MAINTENANCE_TIMEOUT) == "-1"
    return cluster.drs_enabled and automated and patient and can_migrate(world, vm)


def reserve_is_kept(host: Host) -> bool:
    """HA's admission control lets the host go: what its VMs reserve fits beside the reserve for failed hosts."""
    cluster = host.compute
    if not (cluster.ha_enabled and cluster.admission_control):
        return True
    others = [other for other in cluster.hosts.values() if other is not host and other.up and not other.in_maintenance]
    sizes = sorted(other.memory_bytes // 2**20 for other in others)
    room = sum(sizes[: max(0, len(sizes) - cluster.failover_level)])
    reserved = sum(
        vm.memory_mib if vm.memory_reserved_all else vm.memory_reservation_mib
        for each in (host, *others)
        for vm in each.vms.values()
        if vm.power_state == "poweredOn" and not vm.passthrough
    )
    return reserved <= room
