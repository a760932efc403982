"""Can the host be emptied? What stays, why, and what is to be told about it."""

from contracts.host import HostState, HostVm, VmKind
from contracts.plan import Blocker

__all__ = ["evacuation_blockers", "evacuation_notes", "running_workloads"]


def running_workloads(state: HostState) -> list[HostVm]:
    """Powered-on VMs that somebody has to move: vCLS and agent VMs look after themselves."""
    return [vm for vm in state.vms if vm.powered_on and vm.kind is VmKind.WORKLOAD]


def evacuation_blockers(state: HostState) -> list[Blocker]:
    """What keeps the host from entering maintenance mode now."""
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
    stuck = [vm for vm in running if not vm.can_move or vm.passthrough]
    if stuck:
        said = "; ".join(f"{vm.name} ({vm.stays_because or 'it holds a host device'})" for vm in stuck)
        found.append(
            Blocker(
                code="vms-cannot-move",
                text=f"VMs that cannot be moved while on: {said}",
                fix="shut these VMs down; the run goes on by itself",
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


def _drs_moves(state: HostState, vm: HostVm) -> bool:
    cluster = state.cluster
    return cluster is not None and cluster.drs_enabled and cluster.drs_fully_automated and vm.drs_override is None
