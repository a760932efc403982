"""Random cases carried out in a simulated vCenter, read over SOAP and judged as an audit judges them."""

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyVmomi import vim

from contracts.audit import AuditLimits
from contracts.fleet import GpuFleet
from contracts.forecast import HostForecast
from contracts.incidents import INCIDENT_BEGINS, HostDown
from contracts.verdicts import VmVerdict
from planning import capacity, presence
from planning.incident import standings
from planning.snapshots import by_subject
from planning.verdicts import Sight, judge
from tests.support.ha_cases import random_case
from tests.support.ha_model import Model
from tests.support.ha_spec import Case
from tests.support.simulator import SimulatorProcess
from vsphere.fleet import read_fleet
from vsphere.hosts import current_time
from vsphere.incident_events import read_incident_events
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from vsphere.tasks import await_task

__all__ = ["Found", "carried_out"]

_AT_ONCE = 25
"""Clusters in one request of the control API."""
_TIME_SCALE = 200
_LATER = timedelta(hours=2)
_LIMITS = AuditLimits()


@dataclass(frozen=True)
class Found:
    """A case, what the model says of it, and what was found in the simulated vCenter."""

    case: Case
    model: Model
    early: dict[str, VmVerdict]
    late: dict[str, VmVerdict]
    forecasts: dict[str, HostForecast]
    """By host, made before the failure."""
    refused: dict[str, str] = field(default_factory=dict)
    """What people could not do with VMs of the case, though by the model they could, by name."""


def carried_out(seed: int, clusters: int) -> list[Found]:
    """As many random cases, all in one vCenter."""
    rng = random.Random(seed)
    cases = [random_case(rng, f"c{seed}-{number:03d}") for number in range(clusters)]
    with (
        TemporaryDirectory(prefix="ha-lab-") as folder,
        SimulatorProcess(
            clusters=0, hosts=0, vms=0, time_scale=_TIME_SCALE, seed=seed, api_version="8.0.3.0"
        ) as simulator,
    ):
        password = Path(folder) / "password"
        password.write_text(simulator.password)
        settings = VCenterSettings(
            name="vc",
            url=f"https://{simulator.host}:{simulator.port}",
            user=simulator.user,
            password_file=password,
            ca_file=simulator.ca_file,
        )
        for first in range(0, len(cases), _AT_ONCE):
            spec = [asdict(case.cluster) for case in cases[first : first + _AT_ONCE]]
            simulator.act("build_clusters", spec=spec)
        with SessionPool(settings) as pool, pool.session() as si:
            return _compared(simulator, si, cases)


def _compared(simulator: SimulatorProcess, si: vim.ServiceInstance, cases: list[Case]) -> list[Found]:
    """What became of all of them, one after another in the same vCenter."""
    before = read_fleet(si, "vc")
    moids = {vm.name: vm.moid for vm in before.vms}
    names = {cluster.name: cluster.moid for cluster in before.clusters}
    parts = by_subject(before)
    off = {name: vim.VirtualMachine(moids[name], si._stub) for case in cases for name in case.before}
    assert _ended(si, {name: vm.PowerOffVM_Task() for name, vm in off.items()}) == {}
    for first in range(0, len(cases), _AT_ONCE):
        together = cases[first : first + _AT_ONCE]
        steps = [[call for case in together for call in calls(case)] for calls in (_blows, _returns)]
        simulator.act("act_together", steps=steps)
    _rest(simulator)
    refused = _people(simulator, si, cases, moids)
    _rest(simulator)
    victims = {moids[name] for case in cases for name in Model(case).follow().victims}
    after, at = by_subject(read_fleet(si, "vc", also=victims)), current_time(si)
    found = [_one(si, case, parts[names[case.cluster.name]], after[names[case.cluster.name]], at) for case in cases]
    return [
        replace(each, refused={vm.name: refused[vm.name] for vm in each.case.cluster.vms if vm.name in refused})
        for each in found
    ]


def _blows(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """The actions by which the case's hosts are lost."""
    actions = {"power": "fail_host", "isolation": "isolate_host", "cut-off": "disconnect_host"}
    for kind, host in case.failures:
        yield actions[kind], {"host": host}


def _returns(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those by which hosts come back between HA's first and last attempt, 20 s and 260 s after it noticed."""
    for host in case.early:
        yield "slow_reboot", {"host": host, "seconds": 140}
        yield "restore_host", {"host": host}


def _people(
    simulator: SimulatorProcess, si: vim.ServiceInstance, cases: list[Case], moids: dict[str, str]
) -> dict[str, str]:
    """What people do in the end; by VM what vCenter refused, as it is not in the state that the model says."""
    done: dict[str, list[str]] = {}
    for case in cases:
        for what, name in case.after:
            done.setdefault(what, []).append(name)
    for host in done.get("return", ()):
        simulator.act("restore_host", host=host)
    _rest(simulator)

    def machines(*kinds: str) -> dict[str, Any]:
        return {name: vim.VirtualMachine(moids[name], si._stub) for what in kinds for name in done.get(what, ())}

    refused = _ended(si, {name: vm.PowerOffVM_Task() for name, vm in machines("power-off", "remove").items()})
    refused |= _ended(si, {name: vm.Destroy_Task() for name, vm in machines("remove").items()})
    refused |= _ended(si, {name: vm.SuspendVM_Task() for name, vm in machines("suspend").items()})
    for what, state in (("orphan", "orphaned"), ("lose-files", "inaccessible")):
        for name in done.get(what, ()):
            simulator.act("set_vm_connection", vm=name, state=state)
    return refused


def _ended(si: vim.ServiceInstance, tasks: dict[str, Any]) -> dict[str, str]:
    """Wait for each; the errors of those that failed."""
    outcomes = {name: await_task(si, task._moId, lambda _: None, 60) for name, task in tasks.items()}
    return {name: outcome.error for name, outcome in outcomes.items() if outcome.state != "success"}


def _rest(simulator: SimulatorProcess) -> None:
    """Wait until HA is through and guests have booted."""
    deadline = time.monotonic() + 200
    while not simulator.act("is_quiet"):
        assert time.monotonic() < deadline, simulator.log()
        time.sleep(0.05)


def _one(si: vim.ServiceInstance, case: Case, before: GpuFleet, now: GpuFleet, at: datetime) -> Found:
    """The way of an audit, with the snapshot from before, looked at twice."""
    assert before.read_at is not None
    moid = before.clusters[0].moid
    events, note = read_incident_events(si, "vc", cluster_moid=moid, host_moids=(), since=before.read_at)
    assert note == ""
    refs = {host.ref.moid: host.ref for host in now.hosts}
    downs = [
        HostDown(host=refs[event.host_moid], at=event.created) for event in events if event.meaning in INCIDENT_BEGINS
    ]
    lost, planned = presence.lost_hosts(downs, events, now)
    assert (planned, {down.host.name for down in lost}) == ((), {host for _, host in case.failures}), case
    victims = presence.victims_of(lost, before, before.read_at, events, now)
    hosts = {each.host.key: each for each in standings(lost, events, now)}
    looks = [
        {verdict.name: verdict for verdict in judge(victims, Sight(now, events, hosts, when, _LIMITS))}
        for when in (at, at + _LATER)
    ]
    forecasts = {down.host.name: capacity.forecast(before, moid, down.host.key) for down in lost}
    return Found(case, Model(case).follow(), looks[0], looks[1], forecasts)
