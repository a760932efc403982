"""What rules start: the workflow, its ID, its input, and how events reach a run of it that is live already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts import ids, names
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.prepare import PrepareGpuHostInput
from contracts.provision import ProvisionGpuVmInput
from contracts.rules import Rule, RuledVm
from contracts.vms import VmRequest

__all__ = ["HostToPrepare", "Target", "VmToProvision", "target_of"]


@dataclass(frozen=True, slots=True)
class HostToPrepare:
    """`PrepareGpuHost`: a live run is given further events by signal, because they tell it to look again."""

    host: HostRef
    profile: str

    workflow_type = names.PREPARE_GPU_HOST
    input_type = PrepareGpuHostInput
    join_signal = names.HOST_EVENTS

    @property
    def workflow_id(self) -> str:
        """One live run a host, whatever rules and events led there."""
        return ids.prepare_gpu_host(self.host.vcenter, self.host.key)

    @property
    def summary(self) -> str:
        """What is to be done, in words."""
        return f"Prepare {self.host.name} as {self.profile}"

    def order(self, requester: str, reason: str, events: Sequence[EventKey]) -> PrepareGpuHostInput:
        """The run's input."""
        return PrepareGpuHostInput(
            host=self.host, profile=self.profile, requester=requester, reason=reason, events=tuple(events)
        )


@dataclass(frozen=True, slots=True)
class VmToProvision:
    """`ProvisionGpuVm`: a live run makes the VM that further events ask for too, so there is nothing to tell it."""

    request: VmRequest
    prefer_host: HostRef | None = None

    workflow_type = names.PROVISION_GPU_VM
    input_type = ProvisionGpuVmInput
    join_signal = None

    @property
    def workflow_id(self) -> str:
        """One live run a VM name, whoever asked for it."""
        return ids.provision_gpu_vm(self.request.vcenter, self.request.name)

    @property
    def summary(self) -> str:
        """What is to be done, in words."""
        return f"Provision {self.request.name} in {self.request.cluster}"

    def order(self, requester: str, reason: str, events: Sequence[EventKey]) -> ProvisionGpuVmInput:
        """The run's input."""
        return ProvisionGpuVmInput(
            request=self.request,
            requester=requester,
            reason=reason,
            prefer_host=self.prefer_host,
            events=tuple(events),
        )


Target = HostToPrepare | VmToProvision


def target_of(rule: Rule, host: HostRef, vms: Mapping[str, RuledVm]) -> Target:
    """What the rule starts for an event of this host; raises `ValueError` where that host gives the VM no name."""
    if rule.with_.request is None:
        return HostToPrepare(host, str(rule.with_.profile))
    vm = vms[rule.with_.request]
    request = vm.request(host.vcenter, host.name)
    # Who names a VM after the host wants it there; a host of another vCenter is no place for it.
    return VmToProvision(request, host if vm.of_each_host and request.vcenter == host.vcenter else None)
