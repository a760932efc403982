"""What rules start: the workflow, its ID, its input, and how events reach a run of it that is live already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts import ids, names
from contracts.audit import HaRecoveryAuditInput, IncidentEvents
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.incidents import Meaning, meaning_of
from contracts.prepare import HostEvents, PrepareGpuHostInput
from contracts.provision import ProvisionGpuVmInput
from contracts.rules import Rule, RuledVm
from contracts.throttles import ThrottledTarget
from contracts.vms import VmRequest
from vsphere.event_xml import RawEvent
from vsphere.incident_events import incident_event
from vsphere.inventory import IndexedHost

__all__ = [
    "HostToPrepare",
    "IncidentToAudit",
    "Target",
    "ThrottledRun",
    "VmToProvision",
    "keys_of",
    "target_of",
    "throttled_run",
]

_BEGIN_NOTHING = frozenset(
    {
        Meaning.HOST_BACK,
        Meaning.MAINTENANCE_BEGINS,
        Meaning.MAINTENANCE_ENDS,
        Meaning.STANDBY_BEGINS,
        Meaning.STANDBY_ENDS,
        Meaning.VM_ON,
        Meaning.VM_OFF,
        Meaning.VM_MOVED,
        Meaning.VM_GONE,
        Meaning.VM_MADE,
        Meaning.VM_CHANGED,
    }
)
"""They belong to an incident that began otherwise, and happen every day without one."""


def keys_of(epoch: str, events: Sequence[RawEvent]) -> tuple[EventKey, ...]:
    """The identities of these events."""
    return tuple(EventKey(epoch=epoch, key=event.key) for event in events)


@dataclass(frozen=True, slots=True)
class HostToPrepare:
    """`PrepareGpuHost`: a live run is given further events by signal, because they tell it to look again."""

    host: HostRef
    profile: str

    workflow_type = names.PREPARE_GPU_HOST
    input_type = PrepareGpuHostInput
    join_signal = names.HOST_EVENTS
    join_type = HostEvents

    @property
    def workflow_id(self) -> str:
        """One live run a host, whatever rules and events led there."""
        return ids.prepare_gpu_host(self.host.vcenter, self.host.key)

    @property
    def summary(self) -> str:
        """What is to be done, in words."""
        return f"Prepare {self.host.name} as {self.profile}"

    def starts_for(self, event: RawEvent) -> bool:
        """Every event that the rule names starts a run."""
        return True

    def order(self, requester: str, reason: str, epoch: str, events: Sequence[RawEvent]) -> PrepareGpuHostInput:
        """The run's input."""
        return PrepareGpuHostInput(
            host=self.host, profile=self.profile, requester=requester, reason=reason, events=keys_of(epoch, events)
        )

    def joining(self, epoch: str, events: Sequence[RawEvent]) -> HostEvents:
        """What a live run is told."""
        return HostEvents(events=keys_of(epoch, events))


@dataclass(frozen=True, slots=True)
class IncidentToAudit:
    """`HaRecoveryAudit`: the events of one incident, whoever they are about, make one run a cluster."""

    vcenter: str
    cluster_moid: str = ""
    """Empty for a host that is in no cluster."""
    cluster_name: str = ""
    host: HostRef | None = None
    """The host, where it is in no cluster."""

    workflow_type = names.HA_RECOVERY_AUDIT
    input_type = HaRecoveryAuditInput
    join_signal = names.INCIDENT_EVENTS
    join_type = IncidentEvents

    @property
    def workflow_id(self) -> str:
        """One live run a cluster, or a host that is in none."""
        return ids.ha_recovery_audit(self.vcenter, self.cluster_moid or (self.host.key if self.host else ""))

    @property
    def summary(self) -> str:
        """What is to be done, in words."""
        name = self.cluster_name or (self.host.name if self.host else self.cluster_moid)
        return f"Account for the GPU VMs of {name}"

    def starts_for(self, event: RawEvent) -> bool:
        """Hosts that come back and VMs that are powered on begin no incident: they join the live run of one."""
        return meaning_of(event.type_name) not in _BEGIN_NOTHING

    def order(self, requester: str, reason: str, epoch: str, events: Sequence[RawEvent]) -> HaRecoveryAuditInput:
        """The run's input."""
        return HaRecoveryAuditInput(
            vcenter=self.vcenter,
            cluster_moid=self.cluster_moid,
            cluster_name=self.cluster_name,
            host=self.host,
            requester=requester,
            reason=reason,
            incident=tuple(incident_event(event, epoch) for event in events),
        )

    def joining(self, epoch: str, events: Sequence[RawEvent]) -> IncidentEvents:
        """What a live run is told."""
        return IncidentEvents(incident=tuple(incident_event(event, epoch) for event in events))


@dataclass(frozen=True, slots=True)
class VmToProvision:
    """`ProvisionGpuVm`: a live run makes the VM that further events ask for too, so there is nothing to tell it."""

    request: VmRequest
    prefer_host: HostRef | None = None

    workflow_type = names.PROVISION_GPU_VM
    input_type = ProvisionGpuVmInput
    join_signal = None
    join_type = None

    @property
    def workflow_id(self) -> str:
        """One live run a VM name, whoever asked for it."""
        return ids.provision_gpu_vm(self.request.vcenter, self.request.name)

    @property
    def summary(self) -> str:
        """What is to be done, in words."""
        return f"Provision {self.request.name} in {self.request.cluster}"

    def starts_for(self, event: RawEvent) -> bool:
        """Every event that the rule names starts a run."""
        return True

    def order(self, requester: str, reason: str, epoch: str, events: Sequence[RawEvent]) -> ProvisionGpuVmInput:
        """The run's input."""
        return ProvisionGpuVmInput(
            request=self.request,
            requester=requester,
            reason=reason,
            prefer_host=self.prefer_host,
            events=keys_of(epoch, events),
        )

    def joining(self, epoch: str, events: Sequence[RawEvent]) -> None:
        """Nothing."""


Target = HostToPrepare | IncidentToAudit | VmToProvision


@dataclass(frozen=True, slots=True)
class ThrottledRun:
    """A target that went through a throttle: its order is made already."""

    target: ThrottledTarget
    kind: type[HostToPrepare] | type[IncidentToAudit] | type[VmToProvision]
    joining: HostEvents | IncidentEvents | None
    """What a live run is told."""

    @property
    def workflow_id(self) -> str:
        """The target's."""
        return self.target.workflow_id

    @property
    def input_type(self) -> type[PrepareGpuHostInput] | type[HaRecoveryAuditInput] | type[ProvisionGpuVmInput]:
        """Of the run's order."""
        return self.kind.input_type

    @property
    def join_signal(self) -> str | None:
        """By which a live run is told."""
        return self.kind.join_signal

    @property
    def join_type(self) -> type[HostEvents] | type[IncidentEvents] | None:
        """Of `joining`."""
        return self.kind.join_type


def throttled_run(target: ThrottledTarget) -> ThrottledRun:
    """How the run is started or joined."""
    if target.audit is not None:
        return ThrottledRun(target, IncidentToAudit, IncidentEvents(incident=target.audit.incident))
    if target.prepare is not None:
        return ThrottledRun(target, HostToPrepare, HostEvents(events=target.keys))
    return ThrottledRun(target, VmToProvision, None)


def target_of(
    vcenter: str, rule: Rule, event: RawEvent, host: IndexedHost | None, vms: Mapping[str, RuledVm]
) -> Target | None:
    """What the rule starts for an event of this vCenter and host; None where nobody can tell.

    Without a known host only an audit has a target: the cluster that the event names itself. Raises `ValueError` where
    the host gives a VM no name.
    """
    if rule.start == names.HA_RECOVERY_AUDIT:
        return _incident(vcenter, event, host)
    if host is None:
        return None
    if rule.with_.request is None:
        return HostToPrepare(host.ref, str(rule.with_.profile))
    vm = vms[rule.with_.request]
    request = vm.request(vcenter, host.ref.name)
    # Who names a VM after the host wants it there; a host of another vCenter is no place for it.
    return VmToProvision(request, host.ref if vm.of_each_host and request.vcenter == vcenter else None)


def _incident(vcenter: str, event: RawEvent, host: IndexedHost | None) -> IncidentToAudit | None:
    if host is not None and host.cluster_moid:
        return IncidentToAudit(vcenter, host.cluster_moid, host.cluster_name)
    if host is not None:
        return IncidentToAudit(vcenter, host=host.ref)
    if event.cluster_type == "ClusterComputeResource":
        return IncidentToAudit(vcenter, event.cluster_moid, event.cluster_name)
    return None
