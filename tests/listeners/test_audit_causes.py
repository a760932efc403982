"""From the simulator's events to an audit, or to none because what happened was done on purpose."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from pyVmomi import vim
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.audit import HaRecoveryAuditInput
from contracts.gate import GateInput, Lease, LeaseRequest
from contracts.host import HostRef
from listeners import progress, purposes
from tests.listeners.conftest import Watched, until
from tests.listeners.posting import PostingSimulator
from tests.listeners.test_audit_rules import RULES
from tests.support.recording import FINISH, RecordingHaRecoveryAudit

Lost, Connected = vim.event.HostConnectionLostEvent, vim.event.HostConnectedEvent
RULED = {**RULES, "rules": [{**rule, "on": [*rule["on"], "HostAddedEvent"]} if rule["name"] == "prepare" else rule
                            for rule in RULES["rules"]]}  # fmt: skip


@pytest.fixture(autouse=True)
def _told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_TURN_S", 0.1)


def audit(simulated: Watched) -> WorkflowHandle[Any, Any]:
    """That of the cluster in which the hosts are."""
    return simulated.client.get_workflow_handle(
        ids.ha_recovery_audit(simulated.vcenter, simulated.hosts[0].parent._moId)
    )


async def incident(simulated: Watched) -> list[tuple[str, str]]:
    """Type and host of each event that the audit was told of; empty while there is none."""
    try:
        order: HaRecoveryAuditInput = await audit(simulated).query(RecordingHaRecoveryAudit.order)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return []
    return [(event.type_name, event.host_moid) for event in order.incident]


async def counted(simulated: Watched, **wanted: int) -> None:
    """Wait until the watch has counted so much."""

    async def look() -> dict[str, int]:
        counters = (await simulated.status()).counters.model_dump()
        return {name: counters[name] for name in wanted}

    await until(look, lambda seen: seen == wanted, 60)


async def maintain(simulated: Watched, host: Any, on: bool) -> None:
    assert isinstance(simulated.server, PostingSimulator)
    await asyncio.to_thread(simulated.server.act, "set_maintenance", host=host.name, on=on)


@pytest.mark.parametrize("narrowed", [True, False], ids=["narrowed", "everything"])
async def test_classic_types_and_event_ids_in_any_letter_case_make_one_audit(
    simulated: Watched, narrowed: bool
) -> None:
    # A vCenter that is asked for some types only shows what it calls so itself, in both ways.
    spelled = "com.vmware.vc.ha.DasHostFailedEvent" if narrowed else "com.VMware.VC.ha.dasHOSTfailedEvent"
    host, server = simulated.hosts[0], simulated.server
    assert isinstance(server, PostingSimulator)
    argument = f'<name>{host.name}</name><host type="HostSystem">{host._moId}</host>'
    cluster = host.parent
    named = f'<name>{cluster.name}</name><computeResource type="ClusterComputeResource">{cluster._moId}'
    head = "<key>{key}</key><chainId>1</chainId><createdTime>{created}</createdTime><userName/>"
    raw = [
        ("DasHostFailedEvent", f"<failedHost>{argument}</failedHost>"),
        ("EventEx", f"<computeResource>{named}</computeResource></computeResource>"
         f"<eventTypeId>{spelled}</eventTypeId>"),
        ("EventEx", "<eventTypeId>com.vmware.vc.HA.DasHostFailedEvent</eventTypeId>"
         f"<objectId>{host._moId}</objectId><objectType>HostSystem</objectType>"),
    ]  # fmt: skip
    async with simulated.workers(RULED, narrow_events="ids" if narrowed else "types"):
        await simulated.start()
        await simulated.begun()
        for kind, fields in raw:
            await asyncio.to_thread(server.act, "post_raw_events", wsdl_type=kind, fields=head + fields, count=1)
        await simulated.post(Lost, host)
        told = await until(lambda: incident(simulated), lambda told: len(told) == 4, 60)
        assert [moid for _, moid in told] == [host._moId, "", host._moId, host._moId]
        assert {name.casefold() for name, _ in told} == {
            "dashostfailedevent", "com.vmware.vc.ha.dashostfailedevent", "hostconnectionlostevent",
        }  # fmt: skip
        await counted(simulated, started=1, matched=4, quarantined=0, on_purpose=0)


@pytest.mark.parametrize("seen", [True, False], ids=["events", "inventory"])
async def test_a_host_in_maintenance_mode_starts_and_joins_no_audit(simulated: Watched, seen: bool) -> None:
    """Known from the event, or, where the reader begins after it, from vCenter."""
    host, other = simulated.hosts[:2]
    try:
        if not seen:
            await maintain(simulated, host, on=True)
        async with simulated.workers(RULED):
            await simulated.start()
            await simulated.begun()
            if seen:
                await maintain(simulated, host, on=True)
            await simulated.post(Lost, host)
            await counted(simulated, on_purpose=1)
            assert await incident(simulated) == []
            await simulated.post(Lost, other)
            await until(lambda: incident(simulated), bool, 60)
            await simulated.post(Connected, host)
            await counted(simulated, on_purpose=2)
            assert await incident(simulated) == [("HostConnectionLostEvent", other._moId)]
            await maintain(simulated, host, on=False)
            await simulated.post(Lost, host)
            await until(lambda: incident(simulated), lambda told: len(told) == 2, 60)
            # Connected again, it is prepared all the same.
            assert len(await until(lambda: simulated.keys(host), bool, 60)) == 1
    finally:
        await maintain(simulated, host, on=False)


async def test_a_host_in_standby_starts_none(simulated: Watched) -> None:
    host = simulated.hosts[0]
    async with simulated.workers(RULED):
        await simulated.start()
        await simulated.begun()
        await simulated.post(vim.event.DrsEnteringStandbyModeEvent, host)
        await simulated.post(Lost, host)
        await simulated.post(vim.event.DrsEnteredStandbyModeEvent, host)
        await counted(simulated, on_purpose=1)
        await simulated.post(Connected, host)
        await simulated.post(vim.event.DrsExitedStandbyModeEvent, host)
        await counted(simulated, on_purpose=2)
        assert await incident(simulated) == []
        await simulated.post(Lost, host)
        await until(lambda: incident(simulated), bool, 60)


async def lease(simulated: Watched, host: Any, queue: str = "") -> None:
    """A gate that leases this host to its preparation."""
    cluster = host.parent
    request = LeaseRequest(
        token="t",
        workflow_id=simulated.workflow_id(host),
        first_run_id="r",
        host=HostRef(vcenter=simulated.vcenter, key="k", moid=host._moId, name=host.name),
        cluster_moid=cluster._moId,
        cluster_name=cluster.name,
        requested_at=datetime.now(UTC),
    )
    await simulated.client.start_workflow(
        names.CLUSTER_GATE,
        GateInput(
            vcenter=simulated.vcenter,
            cluster_moid=cluster._moId,
            cluster_name=cluster.name,
            leases=(Lease(request=request, granted_at=datetime.now(UTC)),),
        ),
        id=ids.cluster_gate(simulated.vcenter, cluster._moId),
        task_queue=queue or simulated.queues.main,
    )


async def test_events_of_a_leased_host_go_to_the_run_that_works_on_it(simulated: Watched) -> None:
    host, other = simulated.hosts[:2]
    async with simulated.workers(RULED):
        await simulated.start()
        await simulated.begun()
        await simulated.post(vim.event.HostAddedEvent, host)
        await until(lambda: simulated.keys(host), bool, 60)
        await lease(simulated, host)
        await simulated.post(Lost, host)
        await until(lambda: simulated.keys(host), lambda keys: len(keys) == 2, 60)
        await counted(simulated, on_purpose=1)
        assert await incident(simulated) == []
        await simulated.post(Lost, other)
        assert await until(lambda: incident(simulated), bool, 60) == [("HostConnectionLostEvent", other._moId)]
        assert await simulated.keys(other) == []
        # A run that ended works on nothing, whatever the gate still believes.
        run = simulated.client.get_workflow_handle(simulated.workflow_id(host))
        await run.signal(FINISH)
        await run.result()
        await simulated.post(Lost, host)
        assert (await until(lambda: incident(simulated), lambda told: len(told) == 2, 60))[1][1] == host._moId
        assert (await run.describe()).status is WorkflowExecutionStatus.COMPLETED


async def test_a_gate_that_does_not_answer_keeps_no_audit_from_starting(
    simulated: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purposes, "_GATE_S", 0.5)
    host = simulated.hosts[0]
    async with simulated.workers(RULED):
        await simulated.start()
        await simulated.begun()
        await lease(simulated, host, queue=f"{simulated.queues.main}-unserved")
        await simulated.post(Lost, host)
        await until(lambda: incident(simulated), bool, 60)
    await simulated.client.get_workflow_handle(ids.cluster_gate(simulated.vcenter, host.parent._moId)).terminate(
        "the test is over"
    )
