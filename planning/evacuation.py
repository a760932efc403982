"""Can the host be emptied? What stays, why, and what is to be told about it."""

from contracts.evacuation import StuckVms
from contracts.host import HostState, HostVm, VmKind
from contracts.plan import Blocker

__all__ = ["cannot_be_stopped", "evacuation_blockers", "evacuation_notes", "running_workloads", "stuck_vms"]


def running_workloads(state: HostState) -> list[HostVm]:
    """Powered-on VMs that somebody has to move: vCLS and agent VMs look after themselves."""
    return [vm for vm in state.vms if vm.powered_on and vm.kind is VmKind.WORKLOAD]


def stuck_vms(state: HostState) -> list[HostVm]:
    """Powered-on VMs that cannot be moved while on, by moid."""
    return sorted((vm for vm in running_workloads(state) if not vm.can_move or vm.passthrough), key=lambda vm: vm.moid)


def cannot_be_stopped(vm: HostVm, *, manager_goes: bool = False) -> str:
    """Why its guest cannot be shut down for the work, and the VM be powered on afterwards; empty where it can."""
    if vm.managed_by:
        return f"the extension {vm.managed_by} owns it"
    if vm.fault_tolerant:
        return "fault tolerance would start it elsewhere"
    if vm.question:
        return f"it waits for an answer: {vm.question}"
    if not vm.tools_running:
        return "VMware Tools do not run in it"
    if manager_goes and vm.vgpu_profiles:
        return "it could not be powered on again without the vGPU Manager, which is removed"
    return ""


def evacuation_blockers(
    state: HostState,
    policy: StuckVms = StuckVms.WAIT,
    stopping: frozenset[str] = frozenset(),
    *,
    manager_goes: bool = False,
) -> list[Blocker]:
    """What keeps the host from entering maintenance mode now; `stopping`: moids of VMs that the plan shuts down."""
    if state.in_maintenance:
        return []
    found = []
    if state.standby_mode != "none":
        found.append(
            Blocker(
                code="in-standby",
                text=f"DPM has {state.ref.name} in standby ({state.standby_mode})",
                fix="power the host on, or exclude it from DPM; the run goes on by itself",
            )
        )
    if state.vsan_resyncing_objects:
        found.append(
            Blocker(
                code="vsan-resync",
                text=f"vSAN rebuilds {state.vsan_resyncing_objects} objects; another host away could lose data",
                fix="wait for the resync; the run goes on by itself",
            )
        )
    running = running_workloads(state)
    stuck = stuck_vms(state)
    if staying := [vm for vm in stuck if vm.moid not in stopping]:
        by_run = policy is not StuckVms.WAIT
        said = []
        for vm in staying:
            why_not = cannot_be_stopped(vm, manager_goes=manager_goes) if by_run else ""
            said.append(f"{vm.name} ({'; '.join(filter(None, (_stays(vm), why_not)))})")
        by_itself = "" if by_run else " (with `stuck_vms` in the profile, the plan shuts them down)"
        found.append(
            Blocker(
                code="vms-cannot-move",
                text=f"VMs that cannot be moved while on: {'; '.join(said)}",
                fix=f"shut these VMs down; the run goes on by itself{by_itself}",
            )
        )
    unmanaged = [vm for vm in running if vm not in stuck and not _drs_moves(state, vm)]
    if unmanaged:
        found.append(
            Blocker(
                code="no-evacuation",
                text="DRS does not move these VMs by itself: "
                + "; ".join(f"{vm.name}{f' ({vm.drs_override})' if vm.drs_override else ''}" for vm in unmanaged),
                fix="move or shut down these VMs, or set DRS to fully automated; the run goes on by itself",
            )
        )
    cluster = state.cluster
    if running and cluster and cluster.ha_admission_control and cluster.ha_current_failover_level == 0:
        found.append(
            Blocker(
                code="ha-capacity",
                text=f"cluster {cluster.name} has no failover capacity left (HA admission control, level 0)",
                fix="bring hosts back or free capacity; the run goes on by itself",
            )
        )
    return found


def evacuation_notes(state: HostState) -> list[str]:
    """What the approver should know of the VMs."""
    notes = []
    running = running_workloads(state)
    if running:
        notes.append(f"powered-on VMs on this host: {', '.join(sorted(vm.name for vm in running))}")
    if state.vsan_enabled:
        notes.append("vSAN data stays accessible, with less redundancy while the host is away")
    if state.affinity_rules:
        rules = ", ".join(sorted(rule.name for rule in state.affinity_rules))
        notes.append(f"DRS rules tie VMs of this host to host groups: {rules}")
    return notes


def _stays(vm: HostVm) -> str:
    return vm.stays_because or "it holds a host device"


def _drs_moves(state: HostState, vm: HostVm) -> bool:
    cluster = state.cluster
    return cluster is not None and cluster.drs_enabled and cluster.drs_fully_automated and vm.drs_override is None
