"""Hosts with GPU VMs that fail in a simulated cluster of their own, and the audits that account for them."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from activities.snapshots import keep
from contracts import ids
from contracts.audit import HaRecoveryAuditInput, HaRecoveryAuditReport
from contracts.fleet import FleetCluster
from contracts.host import HostRef
from contracts.incidents import INCIDENT_BEGINS, IncidentEvent
from contracts.verdicts import VmVerdict
from planning.snapshots import by_subject, snapshot_of
from tests.support.audits import AuditHandle
from tests.support.drift import eventually
from tests.support.lab import Lab
from tests.support.vms import VmLab
from vsphere.fleet import read_fleet
from vsphere.hosts import current_time
from vsphere.incident_events import read_incident_events
from workflows.ha_recovery_audit import HaRecoveryAudit

__all__ = ["FailureLab", "verdict"]


def verdict(report: HaRecoveryAuditReport, name: str) -> VmVerdict:
    """What the report says about a VM."""
    return next(each for each in report.verdicts if each.name == name)


@dataclass
class FailureLab:
    """A cluster of the lab, which no other test uses."""

    lab: Lab
    name: str

    def __post_init__(self) -> None:
        self.cluster: FleetCluster = self._found()
        with self.lab.pool.session() as si:
            self.began: datetime = current_time(si)

    def _found(self) -> FleetCluster:
        with self.lab.pool.session() as si:
            found = read_fleet(si, self.lab.vcenter, self.name).cluster(self.name)
        assert found is not None
        return found

    def host(self, label: str = "Training", gpus: int = 1) -> HostRef:
        """A host whose GPUs are in passthrough with this label."""
        return VmLab(self.lab).ready_host(label, gpus, self.name)

    def vm(self, host: HostRef, gpu: str = "dynamic", label: str = "Training") -> str:
        """A running VM with a GPU there; its name."""
        name = f"vm-{uuid.uuid4().hex[:8]}"
        # Static ones take the last, so that a dynamic VM finds the first.
        device = VmLab(self.lab).sbdfs(host)[-1 if gpu == "static" else 0]
        self.lab.simulator.act("add_vm", host=host.name, name=name, gpu=gpu, device=device, label=label)
        return name

    def seen(self, name: str) -> dict[str, Any]:
        """The VM as the simulated world has it."""
        found = VmLab(self.lab).seen(name)
        assert found is not None
        return found

    async def remember(self) -> None:
        """Keep a snapshot of the cluster, once the guests of its VMs are up."""

        async def up() -> bool:
            with self.lab.pool.session() as si:
                return all(vm.tools_running for vm in read_fleet(si, self.lab.vcenter, self.name).vms if vm.powered_on)

        await eventually(up)
        with self.lab.pool.session() as si:
            part = by_subject(read_fleet(si, self.lab.vcenter, self.name))[self.cluster.moid]
        await keep(self.lab.client, self.lab.queues.main, snapshot_of(part, self.cluster.moid))

    def fail(self, *hosts: HostRef) -> None:
        """These hosts lose their power; only what happens from now on is `told`."""
        with self.lab.pool.session() as si:
            self.began = current_time(si)
        for host in hosts:
            self.lab.simulator.act("fail_host", host=host.name)

    def happened(self) -> tuple[IncidentEvent, ...]:
        """The cluster's events of this test."""
        with self.lab.pool.session() as si:
            return read_incident_events(
                si, self.lab.vcenter, cluster_moid=self.cluster.moid, host_moids=[], since=self.began
            )[0]

    async def told(self, host: HostRef, times: int = 1) -> tuple[IncidentEvent, ...]:
        """The events that say that the host is gone, as the listener would hand them over."""

        async def found() -> tuple[IncidentEvent, ...]:
            events = [
                each for each in self.happened() if each.meaning in INCIDENT_BEGINS and each.host_moid == host.moid
            ]
            return tuple(events) if len(events) >= times else ()

        events: tuple[IncidentEvent, ...] = await eventually(found)
        return events

    async def audit(self, *events: IncidentEvent, requester: str = "rule:test") -> AuditHandle:
        """Start the cluster's audit."""
        order = HaRecoveryAuditInput(
            vcenter=self.lab.vcenter,
            cluster_moid=self.cluster.moid,
            cluster_name=self.name,
            requester=requester,
            incident=events,
        )
        workflow_id = ids.ha_recovery_audit(self.lab.vcenter, order.subject)
        return await self.lab.client.start_workflow(
            HaRecoveryAudit.run, order, id=workflow_id, task_queue=self.lab.queues.main
        )

    async def back(self, host: HostRef) -> None:
        """The host comes back."""
        self.lab.simulator.act("restore_host", host=host.name)
