"""Audits of incidents that a test tells look by look, on the real Temporal server; and how they are watched."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowHandle

from contracts import ids
from contracts.activities import AuditActivities
from contracts.approvals import Approval, ApprovalState, ApprovalTerms
from contracts.audit import (
    AuditLimits,
    HaRecoveryAuditInput,
    HaRecoveryAuditReport,
    IdentifyVictims,
    IncidentLook,
    LookAtIncident,
    RecalledProfile,
    RecalledProfiles,
    RecallProfiles,
    VictimsFound,
)
from contracts.errors import GpuwrightError
from contracts.events import EventKey
from contracts.fleet import FleetVm
from contracts.host import HostRef
from contracts.incidents import HostDown, IncidentEvent
from contracts.names import TaskQueues
from contracts.packing import packed
from contracts.plan import Plan, Risk, Step, StepKind, plan_hash
from contracts.signing import Keyring, trust
from contracts.verdicts import (
    Findings,
    HostStanding,
    IncidentHost,
    Reason,
    Recovery,
    Victim,
    Victims,
    VmVerdict,
)
from tests.support.lab import KEY, signed
from workers.assembly import Parts, build_workers
from workflows.ha_recovery_audit import HaRecoveryAudit

__all__ = ["QUICK", "AuditHandle", "Script", "asked", "decide", "event_of", "scripted", "until"]

AuditHandle = WorkflowHandle[Any, HaRecoveryAuditReport]
QUICK = AuditLimits(quiet_s=1, settle_s=60, linger_s=1, host_wait_s=60, look_s=1)


def event_of(host: HostRef, key: int, kind: str = "DasHostFailedEvent", at: datetime | None = None) -> IncidentEvent:
    """An event about a host, as the listener hands it over."""
    return IncidentEvent(
        key=EventKey(epoch="epoch.0", key=key),
        type_name=kind,
        created=at or datetime.now(UTC),
        host_moid=host.moid,
        host_name=host.name,
    )


async def until(
    handle: AuditHandle,
    holds: Callable[[HaRecoveryAuditReport], Any],
    timeout_s: float = 60,
    *,
    recheck: bool = False,
) -> HaRecoveryAuditReport:
    """The report, as soon as `holds(report)`; raises `AssertionError` with the last one otherwise.

    With `recheck` the audit is told to look again all the time, instead of when it is due.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        report = await handle.query(HaRecoveryAudit.report)
        if holds(report):
            return report
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s} s; the audit says: {report.stage}: {report.detail}")
        if recheck and report.outcome is None:
            await handle.signal(HaRecoveryAudit.recheck)
        await asyncio.sleep(0.3 if recheck else 0.1)


async def asked(handle: AuditHandle) -> Approval:
    """The question that waits for an answer."""
    report = await until(
        handle, lambda report: report.approvals and report.approvals[-1].state is ApprovalState.PENDING
    )
    return report.approvals[-1]


async def decide(handle: AuditHandle, approval: Approval, **changes: Any) -> Approval:
    """Answer it; `changes` are other claims than those of a yes."""
    decision, nonce = signed(approval, **changes)
    return await handle.execute_update(HaRecoveryAudit.decide, decision, id=nonce)


class Script(AuditActivities):
    """An incident of a cluster as a test tells it. Each host has one GPU VM, `vm of HOST`."""

    def __init__(self, limits: AuditLimits = QUICK, terms: ApprovalTerms | None = None) -> None:
        self.limits, self.terms = limits, terms or ApprovalTerms()
        self.vcenter = f"script-{uuid.uuid4().hex[:8]}"
        self.recovery = Recovery.RESTARTING
        self.standing = HostStanding.DOWN
        self.steps: tuple[Step, ...] = ()
        self.planned: set[str] = set()
        self.prepared: set[str] = set()
        self.also_down: tuple[HostDown, ...] = ()
        self.trouble: GpuwrightError | None = None
        self.identified: list[tuple[str, ...]] = []
        self.looks = 0

    def host(self, name: str = "esx-1") -> HostRef:
        """A host of the cluster; events know its moid only."""
        return HostRef(vcenter=self.vcenter, key=f"uuid-{name}", moid=f"host-{name}", name=name)

    def step(self, name: str, **params: str) -> Step:
        """A remedy for a VM."""
        return Step(
            kind=StepKind.POWER_ON_VM,
            target=name,
            reason="a GPU is free",
            change="powered on",
            risk=Risk.DISRUPTIVE,
            params={"vm": name, "moid": "vm-1", "for": name, **params},
        )

    @activity.defn(name="identify_victims")
    async def identify_victims(self, order: IdentifyVictims) -> VictimsFound:
        """Everybody was there whose host was not taken down on purpose."""
        self.identified.append(tuple(down.host.name for down in order.hosts))
        refs = [
            down.model_copy(update={"host": self.host(down.host.name)})
            for down in order.hosts
            if down.host.name not in self.planned
        ]
        vms = [self._victim(down) for down in refs]
        return VictimsFound(
            victims=packed(Victims(vms=tuple(vms))),
            count=len(vms),
            hosts=tuple(refs),
            planned=tuple(f"{down.host.name}: maintenance" for down in order.hosts if down.host.name in self.planned),
        )

    @staticmethod
    def _victim(down: HostDown) -> Victim:
        name = f"vm of {down.host.name}"
        vm = FleetVm(moid=name, instance_uuid=name, name=name, host_moid=down.host.moid, powered_on=True)
        return Victim(vm=vm, host=down.host, lost_at=down.at)

    @activity.defn(name="look_at_incident")
    def look_at_incident(self, order: LookAtIncident) -> IncidentLook:
        """Every VM is as the test says."""
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble
        now = datetime.now(UTC)
        back = now if self.standing is HostStanding.BACK else None
        hosts = [
            IncidentHost(host=down.host, standing=self.standing, lost_at=down.at, back_at=back) for down in order.hosts
        ]
        verdicts = tuple(self._verdict(down) for down in order.hosts)
        plan = Plan(steps=self.steps)
        subject = f"{order.vcenter}/{order.subject}"
        findings, bound = packed(Findings(verdicts=verdicts)), plan_hash(subject, plan)
        same = order.known == findings + bound
        return IncidentLook(
            at=now,
            findings="" if same else findings,
            counts={self.recovery: len(verdicts)} if verdicts else {},
            hosts=tuple(hosts),
            also_down=tuple(
                each for each in self.also_down if each.host.moid not in {down.host.moid for down in order.hosts}
            ),
            last_event_at=max((down.at for down in order.hosts), default=None),
            plan=Plan() if same else plan,
            plan_hash=bound,
            plan_subject=subject,
            digest=findings + bound,
            same=same,
            terms=self.terms,
            limits=self.limits,
            offers=bool(self.prepared),
        )

    def _verdict(self, down: HostDown) -> VmVerdict:
        reason = Reason.STATIC_PINNED if self.recovery is Recovery.NOT_RESTARTED else Reason.NONE
        name = f"vm of {down.host.name}"
        return VmVerdict(
            moid=name,
            instance_uuid=name,
            name=name,
            was_on=down.host.name,
            recovery=self.recovery,
            reason=reason,
            text=f"{name} is {self.recovery}",
            lost_at=down.at,
            recovered_at=down.at + timedelta(seconds=42) if self.recovery is Recovery.RECOVERED else None,
        )

    @activity.defn(name="recall_profiles")
    async def recall_profiles(self, order: RecallProfiles) -> RecalledProfiles:
        """What the test says was prepared."""
        return RecalledProfiles(
            hosts=tuple(
                RecalledProfile(host=host, profile="training") for host in order.hosts if host.name in self.prepared
            )
        )

    async def start(self, client: Client, queues: TaskQueues, *events: IncidentEvent) -> AuditHandle:
        """Start the audit of the cluster."""
        order = HaRecoveryAuditInput(
            vcenter=self.vcenter,
            cluster_moid="domain-c1",
            cluster_name="gpu-01",
            requester="rule:test",
            incident=events,
        )
        workflow_id = ids.ha_recovery_audit(self.vcenter, order.subject)
        return await client.start_workflow(HaRecoveryAudit.run, order, id=workflow_id, task_queue=queues.main)


@asynccontextmanager
async def scripted(
    client: Client, queues: TaskQueues, script: Script, more: Sequence[Callable[..., Any]] = ()
) -> AsyncIterator[Script]:
    """Workers that run audits by the script."""
    trust(Keyring.of(KEY.public_key()))
    activities = [script.identify_victims, script.look_at_incident, script.recall_profiles, *more]
    parts = Parts(workflows=[HaRecoveryAudit], wait=activities)
    main, wait = build_workers(client, queues, parts)
    async with main, wait:
        yield script
