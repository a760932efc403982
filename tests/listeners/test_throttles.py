"""Rules with throttles, from vCenter's events to the runs they start, and what people see of them."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
from pyVmomi import vim
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.host import HostRef
from contracts.rules import Rule
from contracts.throttles import ThrottleInput, ThrottleStatus
from contracts.watch import Redrive, RedriveResult, WatchInput
from listeners import throttling
from listeners.rules import Match, group_by_target
from listeners.throttling import throttle_group
from tests.listeners.conftest import Watched, rules, until
from tests.listeners.test_metrics import Endpoint
from tests.listeners.test_simulated_vcenter import CREATED, KEY, USER, act, post_raw
from tests.support.recording import FINISH
from tests.support.throttled import quiet_for
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost
from workers.client import connect
from workers.settings import TemporalSettings

HostAdded = vim.event.HostAddedEvent


def throttled(**throttles: Any) -> dict[str, Any]:
    """The usual rule for hosts that are added, with throttles, and one without for those that connect again."""
    document = rules()
    [rule] = document["rules"]
    other = {**rule, "name": "unthrottled", "on": ["HostConnectedEvent"]}
    return document | {"rules": [{**rule, **throttles}, other]}


async def throttle_of(watched: Watched, rule: str = "prepare") -> ThrottleStatus | None:
    """How the rule's throttle stands; None where there is none."""
    handle = watched.client.get_workflow_handle(ids.throttle(watched.vcenter, rule))
    try:
        return await handle.query(names.QUERY_STATUS, result_type=ThrottleStatus)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


async def begin_throttle(watched: Watched) -> None:
    """Before its first event, so that it looks for room more often."""
    await watched.client.start_workflow(
        names.RULE_THROTTLE,
        ThrottleInput(vcenter=watched.vcenter, rule="prepare", room_s=1),
        id=ids.throttle(watched.vcenter, "prepare"),
        task_queue=watched.queues.main,
    )


async def told(watched: Watched, wanted: Any) -> ThrottleStatus:
    """The throttle as soon as it is as wanted."""
    status = await until(lambda: throttle_of(watched), lambda status: status is not None and wanted(status), 60)
    assert status is not None
    return status


async def test_hosts_beyond_max_concurrent_wait_and_everybody_sees_it(watched: Watched) -> None:
    endpoint = Endpoint(watched.vcenter)
    client = await connect(TemporalSettings(address=watched.address), runtime=endpoint.runtime)
    document = throttled(max_concurrent=1, group_by="vcenter")
    async with watched.workers(document, client=client):
        await watched.start()
        await watched.begun()
        await begin_throttle(watched)
        first, second, third = watched.hosts[:3]
        await watched.post(HostAdded, first)
        await until(lambda: watched.keys(first), bool)
        await watched.post(HostAdded, second, third, first)
        status = await told(watched, lambda status: len(status.groups) == 1 and len(status.waiting) == 2)
        assert [each.target.workflow_id for each in status.waiting] == [
            watched.workflow_id(second),
            watched.workflow_id(third),
        ]
        # The live run has its second event at once.
        assert len(await until(lambda: watched.keys(first), lambda keys: len(keys) == 2)) == 2
        assert not await watched.exists(second)

        seen = await until(
            watched.status,
            lambda status: (
                bool(status.throttles) and (status.throttles[0].waiting, status.throttles[0].counters.joined) == (2, 1)
            ),
            60,
        )
        counters = (await until(watched.status, lambda status: status.counters.throttled == 4, 60)).counters
        assert counters.started == counters.joined == 0
        [rule] = seen.throttles
        assert (rule.rule, rule.terms, rule.running) == ("prepare", "at most 1 open a vcenter", 1)
        assert rule.why == f"{watched.vcenter}: 1 of 1 runs are open (max_concurrent)"
        metadata = str(await watched.watch.query("__temporal_workflow_metadata"))
        assert "throttled rule" in metadata
        assert "1 of 1 runs are open" in metadata
        scraped = await endpoint.scraped(lambda seen: seen("rule_waiting", rule="prepare") == 2)
        assert scraped("groups_throttled_total", rule="prepare") == 4
        assert scraped("runs_started_total", rule="prepare") == 1
        assert scraped("rule_suppressed_total", rule="prepare") == 0

        await watched.client.get_workflow_handle(watched.workflow_id(first)).signal(FINISH)
        await until(lambda: watched.exists(second), bool, 60)
        assert len(await until(lambda: watched.keys(second), bool)) == 1
        assert not await watched.exists(third)
        await endpoint.scraped(lambda seen: seen("rule_waiting", rule="prepare") == 1)


async def test_what_comes_soon_after_a_start_is_suppressed_on_purpose_and_counted(watched: Watched) -> None:
    endpoint = Endpoint(watched.vcenter)
    client = await connect(TemporalSettings(address=watched.address), runtime=endpoint.runtime)
    async with watched.workers(throttled(once_within="1h", group_by="cluster"), client=client):
        await watched.start()
        await watched.begun()
        # Of vcsim's four hosts one is in no cluster.
        clustered, neighbour, alone = watched.hosts[0], watched.hosts[1], watched.hosts[-1]
        assert clustered.parent.name == neighbour.parent.name != alone.parent.name
        await watched.post(HostAdded, clustered)
        await until(lambda: watched.keys(clustered), bool)
        await watched.post(HostAdded, neighbour, neighbour, alone)
        status = await told(watched, lambda status: status.told.counters.suppressed == 1)
        assert (status.told.counters.started, status.told.counters.suppressed_events) == (2, 2)
        assert await watched.exists(alone)
        assert not await watched.exists(neighbour)
        await endpoint.scraped(lambda seen: seen("rule_suppressed_total", rule="prepare") == 2)
        seen = await until(
            watched.status, lambda status: bool(status.throttles) and status.throttles[0].counters.suppressed, 60
        )
        assert seen.quarantined == ()


async def test_rules_without_throttles_pay_nothing_and_share_no_group(watched: Watched) -> None:
    host = watched.hosts[0]
    async with watched.workers(throttled(quiet=quiet_for(3600))):
        await watched.start()
        await watched.begun()
        await watched.post(vim.event.HostConnectedEvent, host)
        await until(lambda: watched.keys(host), bool)
        status = await watched.status()
        assert await throttle_of(watched) is None
        assert await throttle_of(watched, "unthrottled") is None
        assert status.throttles == ()
        # An event for the other rule, in one page with one of the throttled rule: neither waits for the other.
        other = watched.hosts[1]

        def both() -> None:
            watched.server.post(HostAdded, other)
            watched.server.post(vim.event.HostConnectedEvent, other)

        await asyncio.to_thread(both)
        assert len(await until(lambda: watched.keys(other), bool)) >= 1
        await until(watched.status, lambda status: status.counters.throttled == 1)


async def test_quiet_hours_are_waited_out(watched: Watched) -> None:
    host = watched.hosts[0]
    async with watched.workers(throttled(quiet=quiet_for(12))):
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, host)
        status = await told(watched, lambda status: bool(status.groups))
        assert not await watched.exists(host)
        assert status.told.next_at is not None
        assert status.told.why.endswith("quiet hours")
        await watched.post(HostAdded, host)
        await until(lambda: watched.exists(host), bool, 60)
        assert len(await until(lambda: watched.keys(host), bool)) == 2
        described = await watched.client.get_workflow_handle(watched.workflow_id(host)).describe()
        assert described.start_time >= status.told.next_at


async def test_pages_that_are_read_again_change_nothing(watched: Watched) -> None:
    first, second = watched.hosts[:2]
    async with watched.workers(throttled(max_concurrent=1, group_by="vcenter")):
        await watched.start()
        begun = await watched.begun()
        await watched.post(HostAdded, first)
        await until(lambda: watched.keys(first), bool)
        await watched.post(HostAdded, second, first)
        before = await told(watched, lambda status: status.told.counters.joined == 1 and bool(status.groups))
        # Another watch, which begins where the first one began: it reads everything once more.
        await watched.watch.terminate()
        await watched.client.start_workflow(
            names.WATCH_VCENTER,
            WatchInput(vcenter=watched.vcenter, cursor=begun.cursor),
            id=watched.watch.id,
            task_queue=watched.queues.main,
        )
        await until(watched.status, lambda status: status.counters.throttled >= 2, 60)
        await watched.post(HostAdded, second)
        after = await told(watched, lambda status: len(status.waiting[0].target.keys) == 2)
        assert after.told.counters == before.told.counters
        assert len(await watched.keys(first)) == 2
        assert len(await watched.runs(first)) == 1


@pytest.mark.timeout(240)
async def test_what_waits_survives_a_killed_worker(watched: Watched) -> None:
    document = throttled(max_concurrent=1, group_by="vcenter")
    process = await watched.worker_process(document)
    await watched.start()
    await watched.begun()
    await begin_throttle(watched)
    first, second, third = watched.hosts[:3]
    await watched.post(HostAdded, first)
    await until(lambda: watched.exists(first), bool, 60)
    await watched.post(HostAdded, second)
    await told(watched, lambda status: len(status.waiting) == 1)
    os.kill(process.pid, signal.SIGKILL)
    await watched.post(HostAdded, third)
    await watched.worker_process(document)
    status = await told(watched, lambda status: len(status.waiting) == 2)
    assert [each.target.workflow_id for each in status.waiting] == [
        watched.workflow_id(second),
        watched.workflow_id(third),
    ]
    assert [run.workflow_id for run in status.runs] == [watched.workflow_id(first)]
    for ended, begins in ((first, second), (second, third)):
        await watched.client.get_workflow_handle(watched.workflow_id(ended)).signal(FINISH)
        await until(lambda host=begins: watched.exists(host), bool, 60)  # type: ignore[misc]
        assert len(await until(lambda host=begins: watched.keys(host), bool, 60)) == 1  # type: ignore[misc]


async def test_a_person_who_redrives_an_event_is_not_throttled(simulated: Watched) -> None:
    document = throttled(quiet=quiet_for(3600))
    document["rules"].pop()
    cluster = str(simulated.hosts[0].parent.name)
    async with simulated.workers(document), simulated.redriver(document):
        await simulated.start()
        await simulated.begun()
        moid = await asyncio.to_thread(act, simulated, "add_host", cluster=cluster, name="esx-before")
        later = f"host-{int(moid.rpartition('-')[2]) + 1}"
        fields = f'<host><name>esx-after</name><host type="HostSystem">{later}</host></host>'
        await asyncio.to_thread(post_raw, simulated, "HostAddedEvent", KEY, CREATED, USER, fields)
        await until(simulated.status, lambda status: bool(status.quarantined))
        for number in range(20):
            if later == await asyncio.to_thread(
                act, simulated, "add_host", cluster=cluster, name=f"esx-after-{number}"
            ):
                break
        [host] = [host for host in simulated.server.hosts() if host._moId == later]
        await until(lambda: throttle_of(simulated), lambda status: status is not None and len(status.waiting) >= 2, 60)
        assert not await simulated.exists(host)
        result: RedriveResult = await simulated.watch.execute_update(
            names.REDRIVE, Redrive(), result_type=RedriveResult
        )
        assert [(each.settled, each.text) for each in result.events] == [
            (True, f"started {simulated.workflow_id(host)}")
        ]
        assert await simulated.exists(host)


@pytest.mark.parametrize(
    ("group_by", "host", "expected"),
    [
        (None, "host-1", ("prepare-gpu-host/v/uuid-1", "Prepare esx-1 as p")),
        ("host", "host-1", ("host/uuid-1", "esx-1")),
        ("cluster", "host-1", ("cluster/c-7", "gpu-7")),
        ("cluster", "host-2", ("host/uuid-2", "esx-2")),
        ("vcenter", "host-1", ("vcenter", "v")),
    ],
)
def test_runs_are_counted_by_what_the_rule_says(group_by: str | None, host: str, expected: tuple[str, str]) -> None:
    there = {
        "host-1": IndexedHost(HostRef(vcenter="v", key="uuid-1", moid="host-1", name="esx-1"), "c-7", "gpu-7"),
        "host-2": IndexedHost(HostRef(vcenter="v", key="uuid-2", moid="host-2", name="esx-2")),
    }
    rule = Rule.model_validate(
        {"name": "r", "on": ["HostAddedEvent"], "start": "PrepareGpuHost", "with": {"profile": "p"}, "once_within": 60}
        | ({"group_by": group_by} if group_by else {})
    )
    event = RawEvent(key=1, created=datetime.now(UTC), type_name="HostAddedEvent", host_moid=host)
    [group], _ = group_by_target("v", [Match(rule, event)], there)
    assert throttle_group(group, there) == expected


def test_an_incident_is_counted_by_the_event_that_begins_it_and_very_many_events_are_told_in_parts() -> None:
    there = {
        f"host-{n}": IndexedHost(HostRef(vcenter="v", key=f"uuid-{n}", moid=f"host-{n}", name=f"esx-{n}"), "c-7", "gpu")
        for n in (1, 2)
    }
    document = {"name": "r", "on": ["HostConnectedEvent"], "start": "HaRecoveryAudit", "once_within": 60}
    rule = Rule.model_validate(document | {"group_by": "host"})
    kinds = [("HostConnectedEvent", "host-1")] + [("HostConnectionLostEvent", "host-2")] * 900
    events = [
        RawEvent(key=n, created=datetime.now(UTC), type_name=kind, host_moid=host)
        for n, (kind, host) in enumerate(kinds, 1)
    ]
    [group], _ = group_by_target("v", [Match(rule, event) for event in events], there)
    assert throttle_group(group, there) == ("host/uuid-2", "esx-2")
    parts = list(throttling._targets(group, there, "e.0"))
    assert [len(part.keys) for part in parts] == [400, 400, 101]
    assert [key.key for part in parts for key in part.keys] == list(range(1, 902))
    assert [len(some) for some in throttling._signals(parts)] == [1, 1, 1]
    few = [part.shortened(3) for part in parts for _ in range(50)]
    assert [len(some) for some in throttling._signals(few)] == [100, 50]
