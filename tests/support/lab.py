"""A lab for whole workflows: a simulated vCenter, the shared Temporal server, and workers in this process."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyVmomi import vim
from temporalio.client import Client, WorkflowHandle

from activities.audit import VCenterAuditActivities
from activities.cluster import VCenterClusterActivities
from activities.fleet import VCenterFleetActivities
from activities.gate import VCenterGateActivities
from activities.guest import VCenterGuestActivities
from activities.host import VCenterHostActivities
from activities.machine import VCenterVmActivities
from activities.packages import VCenterPackageActivities
from activities.reconcile import VCenterReconcileActivities
from activities.remedies import VCenterRemedyActivities
from contracts import ids
from contracts.approvals import Approval, ApprovalTerms, Decision, DecisionClaims, Verdict
from contracts.audit import AuditLimits, RemedyPolicy
from contracts.gate import GateLimits
from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import HostLimits, PrepareGpuHostInput, PrepareGpuHostReport, Stage
from contracts.profiles import GpuMode, GpuWanted, Profile
from contracts.provision import VmLimits
from contracts.rules import Rule, RulesFile
from contracts.signing import Keyring, sign, trust
from contracts.windows import Window
from tests.support.simulator import SimulatorProcess
from vsphere.inventory import find_host
from vsphere.sessions import SessionPool
from vsphere.settings import BmcSettings, GuestCredentials, SshSettings, VCenterSettings
from workers.assembly import Parts, audit_activities, build_workers, machine_activities, preparation_activities
from workflows.cluster_gate import ClusterGate
from workflows.cluster_snapshots import ClusterSnapshots
from workflows.ha_recovery_audit import HaRecoveryAudit
from workflows.prepare_gpu_cluster import PrepareGpuCluster
from workflows.prepare_gpu_host import PrepareGpuHost
from workflows.provision_gpu_vm import ProvisionGpuVm
from workflows.provision_gpu_vms import ProvisionGpuVms
from workflows.reconcile_fleet import ReconcileFleet
from workflows.retire_gpu_vm import RetireGpuVm

__all__ = [
    "A100",
    "KEY",
    "TRAINING",
    "VCENTER",
    "Handle",
    "Lab",
    "host_parts",
    "open_lab",
    "signed",
    "vcenter_settings",
]

A100 = "10de:20f1"
VCENTER = "lab"
KEY = Ed25519PrivateKey.generate()
TRAINING = Profile(name="training", gpus=(GpuWanted(match=A100, mode=GpuMode.PASSTHROUGH, label="Training"),))
Handle = WorkflowHandle[PrepareGpuHost, PrepareGpuHostReport]


def vcenter_settings(simulator: SimulatorProcess, folder: Path, **changes: Any) -> VCenterSettings:
    """Settings for the simulator, with its password in a file."""
    password = folder / "vcenter-password"
    password.write_text(simulator.password)
    fields = {
        "name": VCENTER,
        "url": f"https://{simulator.host}:{simulator.port}",
        "user": simulator.user,
        "password_file": password,
        "ca_file": simulator.ca_file,
    }
    return VCenterSettings.model_validate(fields | changes)


def signed(approval: Approval, key: Ed25519PrivateKey = KEY, **changes: Any) -> tuple[Decision, str]:
    """A decision about it, approving unless `changes` say otherwise, and its nonce; `changes` are other claims."""
    now = datetime.now(UTC)
    claims: dict[str, Any] = {
        "workflow_id": approval.workflow_id,
        "run_id": approval.run_id,
        "plan_hash": approval.plan_hash,
        "verdict": Verdict.APPROVE,
        "approver": "cli:approver",
        "nonce": uuid.uuid4().hex,
        "decided_at": now,
        "expires_at": now + timedelta(hours=1),
    }
    decision = DecisionClaims.model_validate(claims | changes)
    return Decision(token=sign(decision, key)), decision.nonce


@dataclass
class Lab:
    """What a test of a whole workflow needs; each test adds hosts of its own."""

    simulator: SimulatorProcess
    client: Client
    queues: TaskQueues
    pool: SessionPool

    def add_host(self, **options: Any) -> HostRef:
        """Add a host with one A100 (or as `options` of the simulator's action say) and find it."""
        name = f"esx-{uuid.uuid4().hex[:8]}.gpu.test"
        self.simulator.act("add_host", name=name, **({"cluster": "gpu-01", "gpus": [A100]} | options))
        return self.find(name)

    def find(self, name: str) -> HostRef:
        """The host of that name."""
        with self.pool.session() as si:
            return find_host(si, self.pool.name, name)

    @property
    def vcenter(self) -> str:
        """The vCenter's configured name."""
        return self.pool.name

    async def start(self, host: HostRef, profile: str = "training", requester: str = "rule:test") -> Handle:
        """Start a preparation."""
        order = PrepareGpuHostInput(host=host, profile=profile, requester=requester)
        workflow_id = ids.prepare_gpu_host(host.vcenter, host.key)
        return await self.client.start_workflow(PrepareGpuHost.run, order, id=workflow_id, task_queue=self.queues.main)

    async def until(
        self, handle: Handle, holds: Callable[[PrepareGpuHostReport], bool], timeout_s: float = 40
    ) -> PrepareGpuHostReport:
        """The report, as soon as `holds(report)`; raises `AssertionError` with the last one otherwise."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            report = await handle.query(PrepareGpuHost.report)
            if holds(report):
                return report
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"not within {timeout_s} s; the run says: {report.stage}: {report.detail}")
            await asyncio.sleep(0.1)

    async def asked(self, handle: Handle, timeout_s: float = 40) -> Approval:
        """The approval that the run waits for."""
        report = await self.until(handle, lambda report: report.stage is Stage.AWAITING_APPROVAL, timeout_s)
        return report.approvals[-1]

    async def decide(
        self, handle: Handle, approval: Approval, key: Ed25519PrivateKey = KEY, **changes: Any
    ) -> Approval:
        """Give a signed decision; `changes` are other claims."""
        decision, nonce = signed(approval, key, **changes)
        return await handle.execute_update(PrepareGpuHost.decide, decision, id=nonce)

    async def prepare(self, host: HostRef) -> PrepareGpuHostReport:
        """Prepare a host to the end, approving what is asked."""
        handle = await self.start(host)
        await self.decide(handle, await self.asked(handle))
        return await handle.result()

    def vcenter_events(self, host: HostRef, kind: type) -> list[Any]:
        """The events of a type that vCenter recorded for a host."""
        si = self.simulator.connect()
        try:
            entity = vim.event.EventFilterSpec.ByEntity(entity=vim.HostSystem(host.moid, si._stub), recursion="self")
            found = si.content.eventManager.QueryEvents(vim.event.EventFilterSpec(entity=entity))
            return [event for event in found if isinstance(event, kind)]
        finally:
            self.simulator.disconnect(si)

    def system(self, host: HostRef, si: Any) -> Any:
        """The host as plain pyVmomi sees it: a witness that is not ours."""
        return vim.HostSystem(host.moid, si._stub)

    def witness(self, host: HostRef) -> dict[str, Any]:
        """What unmodified pyVmomi sees of the host's first GPU and its state."""
        si = self.simulator.connect()
        try:
            system = self.system(host, si)
            gpu = system.config.graphicsInfo[0].pciId
            info = next(info for info in system.config.pciPassthruInfo if info.id == gpu)
            return {
                "enabled": info.passthruEnabled,
                "active": info.passthruActive,
                "label": info.hardwareLabel or None,
                "maintenance": system.runtime.inMaintenanceMode,
                "connection": str(system.runtime.connectionState),
                "boot_time": system.runtime.bootTime,
                "gpu": gpu,
            }
        finally:
            self.simulator.disconnect(si)

    def reboots(self, host: HostRef) -> int:
        """How many reboots vCenter was ordered for the host."""
        si = self.simulator.connect()
        try:
            entity = vim.TaskFilterSpec.ByEntity(entity=self.system(host, si), recursion="self")
            collector = si.content.taskManager.CreateCollectorForTasks(vim.TaskFilterSpec(entity=entity))
            return sum(info.descriptionId == "HostSystem.reboot" for info in collector.ReadNextTasks(1000))
        finally:
            self.simulator.disconnect(si)


def host_parts(
    pool: SessionPool,
    keyring: Keyring,
    profiles: tuple[Profile, ...] = (TRAINING,),
    *,
    terms: ApprovalTerms | None = None,
    limits: HostLimits | None = None,
    gate_limits: GateLimits | None = None,
    windows: tuple[Window, ...] = (),
    ssh: SshSettings | None = None,
    bmcs: tuple[BmcSettings, ...] = (),
    vm_limits: VmLimits | None = None,
    ask_for_vms: bool = False,
    guests: Mapping[str, GuestCredentials] | None = None,
    rules: tuple[Rule, ...] = (),
    audit_limits: AuditLimits | None = None,
    remedy_policy: RemedyPolicy | None = None,
    queue: str = TaskQueues().main,
) -> Parts:
    """The workflows and the activities about hosts and VMs, with waits that suit tests."""
    trust(keyring)
    limits = limits or HostLimits(blocked_recheck_s=1, maintenance_timeout_s=60, reboot_timeout_s=60)
    file = RulesFile(rules=rules, profiles={profile.name: profile for profile in profiles})
    host = VCenterHostActivities(
        {pool.name: pool},
        file,
        keyring,
        terms=terms or ApprovalTerms(),
        limits=limits,
        windows=windows,
        ssh=ssh is not None,
        bmcs=bmcs,
        signing_key=KEY,
    )
    package = VCenterPackageActivities({pool.name: pool}, file, keyring, limits=limits, ssh=ssh, bmcs=bmcs)
    gate = VCenterGateActivities(
        {pool.name: pool}, gate_limits or GateLimits(hosts_down=64, sweep_s=1, holder_grace_s=2)
    )
    cluster = VCenterClusterActivities({pool.name: pool}, host.look_and_plan_host, terms or ApprovalTerms())
    reconcile = VCenterReconcileActivities({pool.name: pool}, file, host.look_and_plan_host)
    fleet = VCenterFleetActivities({pool.name: pool}, file, queue)
    vm = VCenterVmActivities(
        {pool.name: pool},
        keyring,
        terms=terms or ApprovalTerms(),
        limits=vm_limits or VmLimits(),
        ask_always=ask_for_vms,
        credentials=guests or {},
    )
    guest = VCenterGuestActivities({pool.name: pool}, keyring, guests, ask_always=ask_for_vms)
    audit = VCenterAuditActivities(
        {pool.name: pool},
        terms=terms or ApprovalTerms(),
        limits=audit_limits or AuditLimits(quiet_s=2, settle_s=30, linger_s=1, host_wait_s=60, look_s=1),
        policy=remedy_policy or RemedyPolicy(),
    )
    main, wait = preparation_activities(host, package, gate, cluster)
    vm_main, vm_wait = machine_activities(vm, guest)
    return Parts(
        workflows=[
            PrepareGpuHost,
            PrepareGpuCluster,
            ProvisionGpuVm,
            ProvisionGpuVms,
            RetireGpuVm,
            ReconcileFleet,
            ClusterGate,
            ClusterSnapshots,
            HaRecoveryAudit,
        ],
        main=[*main, *vm_main],
        wait=[
            *wait,
            *vm_wait,
            reconcile.recall_preparations,
            reconcile.look_for_drift,
            fleet.look_at_fleet,
            fleet.look_after_gap,
            *audit_activities(audit, VCenterRemedyActivities({pool.name: pool}, keyring)),
        ],
    )


@asynccontextmanager
async def open_lab(
    simulator: SimulatorProcess,
    client: Client,
    queues: TaskQueues,
    folder: Path,
    *,
    terms: ApprovalTerms | None = None,
    limits: HostLimits | None = None,
    profiles: tuple[Profile, ...] = (TRAINING,),
    vcenter: VCenterSettings | None = None,
    gate_limits: GateLimits | None = None,
    windows: tuple[Window, ...] = (),
    ssh: SshSettings | None = None,
    bmcs: tuple[BmcSettings, ...] = (),
    vm_limits: VmLimits | None = None,
    ask_for_vms: bool = False,
    guests: Mapping[str, GuestCredentials] | None = None,
    rules: tuple[Rule, ...] = (),
    audit_limits: AuditLimits | None = None,
    remedy_policy: RemedyPolicy | None = None,
) -> AsyncIterator[Lab]:
    """Workers for the lab's queues, as the service builds them, until the block ends."""
    # A name of its own: gates and runs of one lab's vCenter must not meet those of another lab.
    name = re.sub("[^a-z0-9-]", "-", queues.base)
    settings = vcenter or vcenter_settings(simulator, folder)
    pool = SessionPool(settings.model_copy(update={"name": name}))
    parts = host_parts(
        pool,
        Keyring.of(KEY.public_key()),
        profiles,
        terms=terms,
        limits=limits,
        gate_limits=gate_limits,
        windows=windows,
        ssh=ssh,
        bmcs=bmcs,
        vm_limits=vm_limits,
        ask_for_vms=ask_for_vms,
        guests=guests,
        rules=rules,
        audit_limits=audit_limits,
        remedy_policy=remedy_policy,
        queue=queues.main,
    )
    try:
        async with AsyncExitStack() as stack:
            for worker in build_workers(client, queues, parts):
                await stack.enter_async_context(worker)
            yield Lab(simulator, client, queues, pool)
    finally:
        await asyncio.to_thread(pool.close)
