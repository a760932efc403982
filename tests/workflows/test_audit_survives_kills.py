"""Workers may die at any point while GPU VMs are accounted for and brought back: the same verdicts, nothing twice."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyVmomi import vim
from temporalio.client import Client

from contracts import ids
from contracts.audit import AuditOutcome, AuditStage, HaRecoveryAuditReport
from contracts.incidents import Meaning
from contracts.names import HA_RECOVERY_AUDIT, TaskQueues
from contracts.plan import StepKind
from contracts.prepare import StepStatus
from contracts.reconcile import FindingKind, FleetStage, LookAfterGap, Proposal, ReconcileFleetInput
from contracts.verdicts import Recovery
from tests.support.audits import AuditHandle, asked, decide
from tests.support.deaths import Life, dying_workers, stage_of, stop
from tests.support.drift import eventually
from tests.support.failures import FailureLab
from tests.support.gap import AfterGap
from tests.support.ha_spec import SLOTS, Cluster, Device, Gpu, Host, Vm
from tests.support.lab import A100, KEY, Lab, vcenter_settings
from tests.support.simulator import SimulatorProcess
from vsphere.sessions import SessionPool
from workers.temporal_server import DevServer
from workflows.cluster_snapshots import ClusterSnapshots
from workflows.ha_recovery_audit import HaRecoveryAudit
from workflows.reconcile_fleet import ReconcileFleet

LABEL, WHOLE, HALF = "Training", "grid_a100-40c", "grid_a100-20c"
LIMITS = {"quiet_s": 2, "settle_s": 60, "linger_s": 1, "host_wait_s": 600, "look_s": 6, "task_timeout_s": 60}
_LONG_S = 240
CONVERT, POWER_ON, TASK = "convert_lost_vm", "power_on_lost_vm", "await_task VM"


def at(name: str, *whens: str) -> list[Life]:
    """Deaths at the first of the activities of that name, or at the one whose number follows the name."""
    label = name if name[-1].isdigit() else f"{name} 1"
    return [{"at": label, "when": when} for when in whens]


def call(sent: str, when: str = "after") -> Life:
    """Death at a call to vCenter: beside the start of a task it is unknown whether it was started."""
    return {"call": "vsphere.connection:GatewayStub.InvokeMethod", "sent": sent, "when": when}


# What one life of a worker can end with. Each run loses few workers, far from each other; one that dies after a step
# acted leaves no task to be followed.
CASES: list[tuple[str, list[Life]]] = [
    ("convert", [*at("identify_victims", "before"), *at("register_lost_vm", "reported"), *at(CONVERT, "reported")]),
    ("convert", [*at("identify_victims", "after"), *at("configure_lost_vm", "before"), *at(f"{TASK} 2", "after")]),
    ("convert", [*at("identify_victims", "reported"), *at("configure_lost_vm", "after"), *at(POWER_ON, "before")]),
    ("convert", [*at("look_at_incident", "before"), *at("configure_lost_vm", "reported"), *at(f"{TASK} 3", "after")]),
    ("convert", [*at("look_at_incident", "after"), *at(f"{TASK} 1", "before"), *at(POWER_ON, "after")]),
    ("convert", [*at("look_at_incident", "reported"), *at(f"{TASK} 1", "after"), *at(POWER_ON, "reported")]),
    ("convert", [*at("register_lost_vm", "before"), *at(CONVERT, "before"), *at(f"{TASK} 3", "reported")]),
    ("convert", [*at("register_lost_vm", "after"), *at(CONVERT, "after")]),
    ("convert", at(f"{TASK} 2", "reported")),
    ("convert", [call("UnregisterVM"), call("RegisterVM_Task", "during"), call("PowerOnVM_Task")]),
    ("convert", [call("UnregisterVM", "before"), call("RegisterVM_Task"), call("ReconfigVM_Task", "during")]),
    *(
        ("home", [*at("recall_profiles", when), *at(POWER_ON, when), *at("await_power_on", when)])
        for when in ("before", "reported")
    ),
    ("home", [*at("recall_profiles", "after"), *at("await_power_on", "after")]),
    ("home", at(POWER_ON, "after")),
    ("recommended", at("apply_recommendation", "before", "reported")),
    ("recommended", at("apply_recommendation", "after")),
    ("recommended", [call("ApplyRecommendation")]),
    ("suspend", at("suspend_vm", "before", "reported")),
    ("suspend", [*at("suspend_vm", "after"), *at("register_lost_vm", "after")]),
    ("suspend", at("await_task LOW 1", "after")),
    ("move", at("move_vm", "before", "reported")),
    ("move", [*at("move_vm", "after"), *at(POWER_ON, "after")]),
    ("move", at("await_task LOW 1", "after")),
    ("automatic", [*at("grant_automatically", "before"), *at("register_lost_vm", "after")]),
    ("automatic", [*at("grant_automatically", "after"), *at(f"{TASK} 1", "before")]),
    ("automatic", [*at("grant_automatically", "reported"), *at(f"{TASK} 1", "reported")]),
    ("fleet", [*at("look_at_fleet", "before", "reported"), *at(HA_RECOVERY_AUDIT, "before")]),
    (
        "fleet",
        [
            *at("look_at_fleet", "after"),
            {"call": "activities.snapshots.keep", "when": "during"},
            *at(HA_RECOVERY_AUDIT, "after"),
        ],
    ),
    *(("gap", at("look_after_gap", when)) for when in ("before", "after", "reported")),
]


def whole(number: int = 0) -> Gpu:
    return Gpu(SLOTS[number], A100, "passthrough", LABEL)


def shared() -> Gpu:
    return Gpu(SLOTS[0], A100, "vgpu")


def dynamic() -> Device:
    return Device("dynamic", allowed=(A100,), label=LABEL)


def static(number: int = 0) -> Device:
    return Device("static", address=SLOTS[number])


def share(profile: str) -> Device:
    return Device("vgpu", profile=profile)


@dataclass
class Run:
    """An audit of one incident in a cluster of its own, and where its workers die."""

    kind: str
    lives: list[Life]
    lab: Lab
    failures: FailureLab = field(init=False)

    @property
    def name(self) -> str:
        return self.lab.queues.base

    @property
    def vm(self) -> str:
        """The VM that is brought back."""
        return f"{self.name}-vm"

    @property
    def low(self) -> str:
        """A VM that makes room."""
        return f"{self.name}-low"

    @property
    def lost(self) -> str:
        return f"{self.name}-lost.gpu.test"

    @property
    def spare(self) -> str:
        return f"{self.name}-spare.gpu.test"

    @property
    def by_look(self) -> bool:
        """The audit is started by a look at the fleet."""
        return self.kind in ("fleet", "gap")

    def cluster(self) -> Cluster:
        """What the run is about, before the failure."""
        lost, spare, drs = Host(self.lost, gpus=(whole(),)), Host(self.spare, gpus=(whole(),)), "fullyAutomated"
        more: tuple[Host, ...] = ()
        match self.kind:
            case "convert":
                lost, spare = (Host(each, gpus=(whole(0), whole(1))) for each in (self.lost, self.spare))
                # One that HA takes care of, and one that lacks its reservation too.
                vms = [
                    Vm(f"{self.name}-ha", self.lost, (dynamic(),)),
                    Vm(self.vm, self.lost, (static(1),), reserved=False),
                ]
            case "home":
                vms, spare = [Vm(self.vm, self.lost, (static(),))], Host(self.spare, gpus=(Gpu(SLOTS[0], A100),))
            case "suspend" | "move":
                lost, spare = Host(self.lost, gpus=(shared(),)), Host(self.spare, gpus=(shared(),))
                vms = [
                    Vm(self.vm, self.lost, (share(WHOLE),), restart_priority="high"),
                    Vm(self.low, self.spare, (share(HALF),), restart_priority="low"),
                ]
                if self.kind == "move":
                    more = (Host(f"{self.name}-third.gpu.test", gpus=(shared(),)),)
                    vms += [Vm(f"{self.name}-other", more[0].name, (share(HALF),), restart_priority="highest")]
            case "automatic":
                vms = [Vm(self.vm, self.lost, (dynamic(),), protected=False)]
            case _:
                vms = [Vm(self.vm, self.lost, (dynamic(),))]
                drs = "manual" if self.kind == "recommended" else drs
        return Cluster(self.name, (lost, spare, *more), tuple(vms), drs=drs)

    def told(self) -> dict[str, Any]:
        """What the workers of this run are told; tasks are followed under the names of the VMs."""
        names = {"VM": self.vm, "LOW": self.low}
        lives = [
            {**each, "at": " ".join(names.get(word, word) for word in each.get("at", "").split())}
            for each in self.lives
        ]
        rule = {
            "name": "found",
            "on": ["gpuwright.HostDown"],
            "where": {"cluster": self.name},
            "start": HA_RECOVERY_AUDIT,
        }
        needed: list[type] = [HaRecoveryAudit, ClusterSnapshots, *[ReconcileFleet, AfterGap][: 2 * self.by_look]]
        return {
            "name": self.name,
            "lives": lives,
            "vcenter": {"name": self.lab.vcenter},
            "workflows": [each.__name__ for each in needed],
            "audit_limits": LIMITS,
            "remedy_policy": {"make_room": self.kind} if self.kind in ("suspend", "move") else {},
            "terms": {"automatic": self.kind == "automatic"},
            "rules": [rule] if self.by_look else [],
        }

    async def set_up(self) -> None:
        self.failures = FailureLab(self.lab, self.name)
        await self.failures.remember()

    async def problems(self) -> list[str]:
        """Fail the host while the workers die; what is not as it should be."""
        simulator, host = self.lab.simulator, await asyncio.to_thread(self.lab.find, self.lost)
        await asyncio.to_thread(self.failures.fail, host)
        events = await self.failures.told(host)
        if self.kind == "home":
            await self.failures.back(host)
            await eventually(self.is_back)
        facts: dict[str, bool] = {}
        if self.by_look:
            handle, facts = await self.looked()
        else:
            handle = await self.failures.audit(*events)
        if not self.by_look and self.kind != "automatic":
            await stage_of(handle, AuditStage.AWAITING_APPROVAL, timeout_s=_LONG_S)
            await decide(handle, await asked(handle))
        await stage_of(handle, AuditStage.FINISHED, timeout_s=_LONG_S)
        report = await handle.result()
        runs = await self.lab.client.count_workflows(f"WorkflowId = '{handle.id}'")
        seen = {each["name"]: each for each in await asyncio.to_thread(simulator.act, "list_vms", prefix=self.name)}
        facts |= self.facts(report, seen)
        facts[f"one audit, not {runs.count}"] = runs.count == 1
        return [fact for fact, holds in facts.items() if not holds]

    async def is_back(self) -> bool:
        """vCenter tells that the host is back."""
        return any(each.meaning is Meaning.HOST_BACK for each in await asyncio.to_thread(self.failures.happened))

    async def looked(self) -> tuple[AuditHandle, dict[str, bool]]:
        """Have the fleet looked at; the audit that comes of it."""
        client, vcenter = self.lab.client, self.lab.vcenter
        look_id, facts = ids.reconcile_fleet(vcenter), dict[str, bool]()
        if self.kind == "gap":
            gap = LookAfterGap(vcenter=vcenter, reason="events were purged")
            said = await client.execute_workflow(
                AfterGap.run, gap, id=f"{self.name}-gap", task_queue=self.lab.queues.main
            )
            facts[f"somebody looks: {said}"] = look_id in said
        else:
            order = ReconcileFleetInput(vcenter=vcenter, propose=False)
            await client.start_workflow(ReconcileFleet.run, order, id=look_id, task_queue=self.lab.queues.main)
        look = client.get_workflow_handle_for(ReconcileFleet.run, look_id)
        await stage_of(look, FleetStage.FINISHED, timeout_s=_LONG_S)
        report = await look.result()
        found = [
            each
            for each in (report.fleet.findings if report.fleet else ())
            if each.kind is FindingKind.HOST_DOWN and each.host and each.host.name == self.lost
        ]
        actions = [each.action for each in found]
        # A second look, after an answer that was lost, finds the audit of the first one.
        facts[f"the host was found down and is audited: {actions}, {report.fleet_trouble}"] = len(
            actions
        ) == 1 and actions[0] in (Proposal.STARTED, Proposal.OPEN, Proposal.DECLINED)
        subject = self.failures.cluster.moid
        return client.get_workflow_handle_for(HaRecoveryAudit.run, ids.ha_recovery_audit(vcenter, subject)), facts

    def facts(self, report: HaRecoveryAuditReport, seen: dict[str, dict[str, Any]]) -> dict[str, bool]:
        """What has to hold in the end: everybody is back, proven, and nothing was done twice."""
        cluster = self.cluster()
        lost = {vm.name for vm in cluster.vms if vm.host == self.lost}
        verdicts = {each.name: each for each in report.verdicts}
        back = self.lost if self.kind == "home" else self.spare
        facts = {
            f"all recovered, not {report.outcome}: {report.detail}": report.outcome is AuditOutcome.ALL_RECOVERED,
            f"verdicts of {sorted(verdicts)}": verdicts.keys() == lost and len(report.verdicts) == len(lost),
            f"steps {[(each.step.kind, each.status, each.text) for each in report.steps]}": [
                (each.step.kind, each.status) for each in report.steps
            ]
            == [(kind, StepStatus.DONE) for kind in self.steps],
        }
        for name in lost:
            now, told = seen[name], verdicts.get(name)
            facts[f"{name} runs on {back}: {now}"] = (now["power_state"], now["host"]) == ("poweredOn", back)
            facts[f"{name} is told so: {told}"] = told is not None and (told.recovery, told.now_on) == (
                Recovery.RECOVERED,
                back,
            )
        done = Counter((each.vm_name, each.type_name) for each in self.failures.happened())
        for kind, type_name in _EVENTS.items():
            told_of = {name: done[name, type_name] for name in (self.vm, self.low)}
            wanted = {
                self.vm: self.steps.count(kind) if kind not in _ON_LOW else 0,
                self.low: self.steps.count(kind) * (kind in _ON_LOW),
            }
            facts[f"{type_name}: {told_of}, not {wanted}"] = told_of == wanted
        return facts

    @property
    def steps(self) -> list[StepKind]:
        """The steps that bring the VM back."""
        register = [StepKind.REGISTER_VM, StepKind.POWER_ON_VM]
        return {
            "convert": [StepKind.REGISTER_VM, StepKind.CONFIGURE_VM, StepKind.SET_VM_GPUS, StepKind.POWER_ON_VM],
            "home": [StepKind.POWER_ON_VM],
            "recommended": [StepKind.APPLY_RECOMMENDATION],
            "suspend": [StepKind.SUSPEND_VM, *register],
            "move": [StepKind.MOVE_VM, *register],
            "automatic": register,
        }.get(self.kind, [])


_EVENTS = {
    StepKind.REGISTER_VM: "VmRegisteredEvent",
    StepKind.SUSPEND_VM: "VmSuspendedEvent",
    StepKind.MOVE_VM: "VmMigratedEvent",
}
"""What vCenter logs when such a step is done."""
_ON_LOW = (StepKind.SUSPEND_VM, StepKind.MOVE_VM)
_TASKS = {
    StepKind.CONFIGURE_VM: "reconfigure",
    StepKind.SET_VM_GPUS: "reconfigure",
    StepKind.POWER_ON_VM: "powerOn",
    StepKind.APPLY_RECOMMENDATION: "powerOn",
}
"""What vCenter's task for it is called."""


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=0, hosts=0, vms=0, time_scale=120) as simulator:
        yield simulator


def tasks_of(simulator: SimulatorProcess) -> Counter[tuple[str, str]]:
    """vCenter's tasks, whatever came of them, by the name of their VM and what they do."""
    si = simulator.connect()
    try:
        collector = si.content.taskManager.CreateCollectorForTasks(vim.TaskFilterSpec())
        tasks: list[Any] = []
        while page := collector.ReadNextTasks(1000):
            tasks += page
    finally:
        simulator.disconnect(si)
    return Counter((str(info.entityName), info.descriptionId.partition(".")[2]) for info in tasks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kinds", ["convert", "home recommended", "suspend move automatic", "fleet gap"])
async def test_killed_at_every_boundary_an_audit_ends_the_same_with_nothing_done_twice(
    kinds: str, vcenter: SimulatorProcess, temporal_server: DevServer, temporal_client: Client, tmp_path: Path
) -> None:
    settings = vcenter_settings(vcenter, tmp_path, name="audit-kills")
    with SessionPool(settings) as pool:
        runs = [
            Run(kind, lives, Lab(vcenter, temporal_client, TaskQueues(f"audit-death-{number:02d}"), pool))
            for number, (kind, lives) in enumerate(CASES, 1)
            if kind in kinds.split()
        ]
        for run in runs:
            if run.by_look:
                # A look is about a whole vCenter, and there is one at a time.
                run.lab.pool = SessionPool(settings.model_copy(update={"name": run.name}))
        vcenter.act("build_clusters", spec=[asdict(run.cluster()) for run in runs])
        vcenter.act("set_vcenter_option", key="vgpu.hotmigrate.enabled", value=True)
        for run in runs:
            await run.set_up()
        queues = [run.told() for run in runs]
        order: dict[str, object] = {
            "address": temporal_server.address,
            "vcenter": settings.model_dump(mode="json", exclude_none=True),
            "public_key": KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            "profiles": [],
            "queues": queues,
        }
        with dying_workers(order) as process:
            ends = await asyncio.gather(*(run.problems() for run in runs), return_exceptions=True)
            died = await asyncio.to_thread(stop, process)
        for run in runs:
            if run.by_look:
                run.lab.pool.close()
    problems = [f"{run.kind} killed at {run.lives}: {end!r}" for run, end in zip(runs, ends, strict=True) if end]
    tasks = await asyncio.to_thread(tasks_of, vcenter)
    for run in runs:
        wanted = Counter(_TASKS[kind] for kind in run.steps if kind in _TASKS)
        done = Counter({what: tasks[run.vm, what] for what in ("reconfigure", "powerOn") if tasks[run.vm, what]})
        if done != wanted:
            problems.append(f"{run.kind} killed at {run.lives}: vCenter ran {done}, not {wanted}")
    assert not problems, "\n".join(problems)
    assert died == {queue["name"]: len(queue["lives"]) for queue in queues}, "each worker died where it was told to"
