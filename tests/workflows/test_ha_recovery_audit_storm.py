"""Five hosts with 400 GPU VMs fail together while events are shuffled, doubled and lost: every VM is accounted for."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from contracts import ids
from contracts.audit import AuditLimits, AuditOutcome
from contracts.incidents import INCIDENT_BEGINS, INCIDENT_TYPES, meaning_of
from contracts.names import TaskQueues
from contracts.packing import unpacked
from contracts.plan import StepKind
from contracts.prepare import StepStatus
from contracts.rules import RulesFile
from contracts.verdicts import (
    Findings,
    Reason,
    Recovery,
    VmVerdict,
)
from listeners.hand_over import HandOver
from listeners.rules import RuleBook, group_by_target
from tests.support.audits import AuditHandle, asked, decide
from tests.support.drift import eventually
from tests.support.failures import FailureLab
from tests.support.ha_spec import Cluster, Device, Gpu, Host, Vm
from tests.support.lab import open_lab
from tests.support.simulator import SimulatorProcess
from vsphere.events import EventReader, RawEvent
from vsphere.inventory import IndexedHost, host_index
from workflows.ha_recovery_audit import HaRecoveryAudit

SEED = 20300101
CLUSTER = "storm"
A100_80 = "10de:20b5"
PROFILE = "grid_a100d-8c"
"""Ten of them share a card."""
SLOTS = [
    f"0000:{bus:02x}:00.0"
    for bus in (0x81, 0xE2, 0x3B, 0xAF, 0x5F, 0xC3, 0xD8, 0xF1, 0x41, 0x61, 0x9B, 0xA1, 0xB1, 0xCA, 0xD1, 0xE9)
]
"""Where the simulated machines have their GPUs."""
SHARED, WHOLE = SLOTS[:8], SLOTS[8:]
LOST = [f"lost-{number}.gpu.test" for number in range(5)]
LEFT = [f"left-{number:02d}.gpu.test" for number in range(11)]
UNTOLD = LOST[3]
"""Nothing that says that this host is gone reaches the audit."""
PAGE, DROPPED = 60, 0.1
LARGEST_PAYLOAD = 512 * 1024
LIMITS = AuditLimits(quiet_s=2, settle_s=60, linger_s=1, host_wait_s=5, look_s=1)
RULES: dict[str, Any] = {"rules": [{"name": "audit", "on": list(INCIDENT_TYPES), "start": "HaRecoveryAudit"}]}


def vm(name: str, on: str, gpu: Device, **more: Any) -> Vm:
    return Vm(name, on, (gpu,), memory_gib=4, **more)


def dynamic(label: str) -> Device:
    return Device("dynamic", allowed=(A100_80,), label=label)


def lost_vms(name: str) -> Iterator[tuple[Vm, tuple[Recovery, Reason] | None]]:
    """The 80 VMs of a host that fails, and what HA makes of each; None where it depends on the room that is left."""
    number = name[5]
    for index in range(72):
        yield vm(f"share-{number}-{index:02d}", name, Device("vgpu", profile=PROFILE)), None
    for index in range(5):
        yield vm(f"whole-{number}-{index}", name, dynamic("Training")), None
    static = vm(f"static-{number}", name, Device("static", address=WHOLE[5]))
    yield static, (Recovery.NOT_RESTARTED, Reason.STATIC_PINNED)
    unprotected = vm(f"unprotected-{number}", name, dynamic("Spare"), protected=False)
    yield unprotected, (Recovery.NOT_RESTARTED, Reason.UNPROTECTED)
    disabled = vm(f"disabled-{number}", name, dynamic("Spare"), restart_priority="disabled")
    yield disabled, (Recovery.NOT_RESTARTED, Reason.UNPROTECTED)


def host(name: str, shared: Sequence[str], whole: Sequence[str], spare: Sequence[str]) -> Host:
    gpus = [
        *(Gpu(slot, A100_80, "vgpu") for slot in shared),
        *(Gpu(slot, A100_80, label="Training") for slot in whole),
        *(Gpu(slot, A100_80, label="Spare") for slot in spare),
    ]
    return Host(name, memory_gib=1024, gpus=tuple(gpus))


def cluster() -> Cluster:
    """Room for 330 of 360 shares, for 22 of 25 whole GPUs, and for those ten that HA leaves alone."""
    left = [host(name, SLOTS[:3], SLOTS[3:5], SLOTS[5:6] if name != LEFT[0] else ()) for name in LEFT]
    lost = [host(name, SHARED, WHOLE[:6], WHOLE[6:]) for name in LOST]
    return Cluster(CLUSTER, (*left, *lost), tuple(each for name in LOST for each, _ in lost_vms(name)))


@dataclass
class Storm:
    """vCenter's events as they might reach an audit: late, in no order, doubled, and not all of them."""

    lab: FailureLab
    hosts: dict[str, IndexedHost]
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    happened: list[RawEvent] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    """Keys of events that never come."""
    held: list[RawEvent] = field(default_factory=list)
    """On their way."""
    told: set[int] = field(default_factory=set)
    pages: int = 0

    def __post_init__(self) -> None:
        self._book = RuleBook(self.lab.lab.vcenter, RulesFile.model_validate(RULES).rules)
        self._hand_over = HandOver(self.lab.lab.client, self.lab.lab.queues.main)
        self._epoch = ""

    async def follow(self, stop: asyncio.Event) -> None:
        """Read events from vCenter and hand over what comes through, until there is no more to come."""
        pool = self.lab.lab.pool
        with pool.session() as si:
            reader = EventReader(si)
            self._epoch = f"{reader.instance_uuid}.0"
            await asyncio.to_thread(reader.open, self.lab.began)
            while not (stop.is_set() and not self.held):
                ends = stop.is_set()
                for event in await asyncio.to_thread(reader.read_page):
                    self._happens(event)
                self.rng.shuffle(self.held)
                # The later ones of a page may be much older than the first ones of the next.
                left = 0 if ends else len(self.held) // 3
                while len(self.held) > left:
                    page, self.held = self.held[:PAGE], self.held[PAGE:]
                    await self._deliver(page)
                await asyncio.sleep(0.2)
            reader.close()

    def _happens(self, event: RawEvent) -> None:
        if event.created < self.lab.began or not self._book.cares(event):
            return
        self.happened.append(event)
        meaning = meaning_of(event.type_name)
        untold = meaning in INCIDENT_BEGINS and self.hosts[event.host_moid].ref.name == UNTOLD
        if untold or self.rng.random() < DROPPED:
            self.lost.add(event.key)
        else:
            self.held += [event, event]

    async def is_over(self) -> bool:
        """Nothing goes on in vCenter any more."""
        return bool(self.lab.lab.simulator.act("is_quiet"))

    async def _deliver(self, page: Sequence[RawEvent]) -> None:
        matches = [match for event in page for match in self._book.matches(event)]
        groups, unresolved = group_by_target(self.lab.lab.vcenter, matches, self.hosts)
        assert not unresolved
        for group in groups:
            await self._hand_over.deliver(group, self._epoch, maybe_repeated=False, still_here=lambda: None)
            self.told |= {event.key for event in group.events}
            self.pages += 1


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    """A vCenter where HA tries again after half a second."""
    with SimulatorProcess(clusters=0, hosts=0, vms=0, time_scale=120) as simulator:
        simulator.act("build_clusters", spec=[asdict(cluster())])
        yield simulator


@pytest.mark.timeout(240)
async def test_five_hosts_with_400_gpu_vms_are_accounted_for_whatever_reaches_the_audit(
    vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    ends = {each.name: end for name in LOST for each, end in lost_vms(name)}
    assert len(ends) == 400
    async with open_lab(vcenter, temporal_client, queues, tmp_path, audit_limits=LIMITS) as lab:
        failures = FailureLab(lab, CLUSTER)
        before = world(vcenter)
        await failures.remember()
        with lab.pool.session() as si:
            hosts = dict(host_index(si, lab.vcenter).by_moid)
        storm, quiet = Storm(failures, hosts), asyncio.Event()
        vcenter.act("fail_hosts", hosts=LOST)
        following = asyncio.create_task(storm.follow(quiet))
        await eventually(storm.is_over)
        quiet.set()
        await following
        handle: AuditHandle = temporal_client.get_workflow_handle_for(
            HaRecoveryAudit.run, ids.ha_recovery_audit(lab.vcenter, failures.cluster.moid)
        )
        # HA left it alone and there is room: powered on once somebody says so.
        approval = await asked(handle)
        assert {step.kind for step in approval.plan.steps} == {StepKind.REGISTER_VM, StepKind.POWER_ON_VM}
        helped = {step.target for step in approval.plan.steps}
        assert helped == {name for name, end in ends.items() if end == (Recovery.NOT_RESTARTED, Reason.UNPROTECTED)}
        await decide(handle, approval)
        report = await handle.result()
        after = world(vcenter)
        runs = await temporal_client.count_workflows(f"WorkflowId = '{handle.id}'")
        history = [event async for event in handle.fetch_history_events()]

    lost = len(storm.lost) / len(storm.happened)
    assert 0.07 < lost < 0.15
    assert storm.pages >= 10
    assert runs.count == 1
    # What comes twice counts once.
    assert 0 < report.events <= len(storm.told)

    verdicts = unpacked(Findings, report.findings).verdicts
    assert Counter(verdict.name for verdict in verdicts) == dict.fromkeys(ends, 1)
    assert {each.host.name for each in report.hosts} == set(LOST)
    wrong = [
        f"{verdict}: {why}"
        for verdict in verdicts
        if (
            why := mistake(
                verdict,
                before[verdict.name],
                after[verdict.name],
                None if verdict.name in helped else ends[verdict.name],
            )
        )
    ]
    assert not wrong, "\n".join(wrong)
    running = [each for each in after.values() if each["power_state"] == "poweredOn"]
    assert len(running) == 330 + 22 + 10
    assert report.counts == {Recovery.RECOVERED: len(running), Recovery.NOT_RESTARTED: 400 - len(running)}
    assert Counter(each.reason for each in verdicts if each.recovery is Recovery.NOT_RESTARTED) == {
        Reason.NO_PROFILE_ROOM: 30,
        Reason.NO_FREE_GPU: 3,
        Reason.STATIC_PINNED: 5,
    }
    assert {each.status for each in report.steps} == {StepStatus.DONE}
    assert report.outcome is AuditOutcome.NOT_ALL_RECOVERED

    sizes = [event.ByteSize() for event in history]
    print(
        f"{len(storm.happened)} events, {lost:.0%} of them lost, the others twice in {storm.pages} pages; "
        f"a history of {len(history)} events and {sum(sizes) / 2**20:.1f} MiB, the largest {max(sizes) / 2**10:.0f} KiB"
    )
    assert max(sizes) < LARGEST_PAYLOAD


def world(simulator: SimulatorProcess) -> dict[str, dict[str, Any]]:
    """The VMs as the simulated world has them, by name."""
    seen = simulator.act("list_vms")
    found = {each["name"]: each for each in seen}
    assert len(found) == len(seen)
    return found


def mistake(
    verdict: VmVerdict, before: dict[str, Any], now: dict[str, Any], end: tuple[Recovery, Reason] | None
) -> str:
    """What is wrong with a verdict; empty: nothing."""
    if verdict.instance_uuid != now["instance_uuid"] or verdict.was_on != before["host"]:
        return "another VM is meant"
    if [gpu.sbdf for gpu in verdict.held] != [gpu["assigned_id"] for gpu in before["gpus"]]:
        return f"it held {before['gpus']}"
    if not verdict.evidence or not verdict.text:
        return "nothing proves it"
    if end is not None and (verdict.recovery, verdict.reason) != end:
        return f"{end} is right"
    if now["power_state"] == "poweredOn":
        runs = (Recovery.RECOVERED, Reason.NONE, now["host"], [gpu["assigned_id"] for gpu in now["gpus"]])
        told = (verdict.recovery, verdict.reason, verdict.now_on, [gpu.sbdf for gpu in verdict.holds])
        return "" if told == runs and now["host"] in LEFT else f"{runs} is right"
    off = verdict.recovery is Recovery.NOT_RESTARTED and verdict.reason not in (Reason.NONE, Reason.NOT_KNOWN)
    return "" if off else "it is off, and nobody says why"
