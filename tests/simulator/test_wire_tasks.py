from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.simulator.small_world import USER, RunningSimulator


def host(client: Any, number: int = 0) -> Any:
    return vim.HostSystem(f"host-{100 + number}", client._stub)


def ended(task: Any) -> Any:
    deadline = time.monotonic() + 10
    while (info := task.info).state in ("queued", "running"):
        assert time.monotonic() < deadline, info
        time.sleep(0.02)
    return info


def test_a_task_runs_from_queued_to_success_and_is_found_everywhere(wire: RunningSimulator, client: Any) -> None:
    before = wire.world.hosts[0].reboots
    task = host(client).RebootHost_Task(force=False)
    info = task.info
    assert info.state in ("queued", "running")
    assert (info.descriptionId, info.name.info.wsdlName) == ("HostSystem.reboot", "RebootHost_Task")
    assert (info.entity._moId, info.reason.userName) == ("host-100", USER)
    assert task in list(host(client).recentTask)
    assert task in list(client.content.taskManager.recentTask)
    done = ended(task)
    assert (done.state, done.completeTime >= done.startTime >= done.queueTime) == ("success", True)
    assert wire.world.hosts[0].reboots == before + 1
    events = client.content.eventManager.QueryEvents(
        vim.event.EventFilterSpec(eventTypeId=["TaskEvent"], eventChainId=info.eventChainId)
    )
    assert [event.info.key for event in events] == [info.key]


def test_a_fault_of_the_law_is_the_error_of_its_task(client: Any) -> None:
    info = ended(host(client).RebootHost_Task(force=True))
    assert info.state == "error"
    assert isinstance(info.error, vim.fault.InvalidState)
    assert info.error.msg == "Not by force."


def test_a_cancelled_task_ends_with_request_canceled(wire: RunningSimulator, client: Any) -> None:
    before = wire.world.hosts[2].reboots
    task = host(client, 2).RebootHost_Task(force=False)
    task.CancelTask()
    info = ended(task)
    assert (info.state, info.cancelled) == ("error", True)
    assert isinstance(info.error, vmodl.fault.RequestCanceled)
    assert wire.world.hosts[2].reboots == before
    with pytest.raises(vim.fault.InvalidState):
        task.CancelTask()


def test_a_collector_finds_the_tasks_of_an_entity_since_a_time(client: Any) -> None:
    earlier = ended(host(client, 1).RebootHost_Task(force=True))
    since = client.CurrentTime()
    later = ended(host(client, 1).RebootHost_Task(force=True))
    ended(host(client, 2).RebootHost_Task(force=True))

    def found(**spec: Any) -> list[str]:
        collector = client.content.taskManager.CreateCollectorForTasks(vim.TaskFilterSpec(**spec))
        infos = collector.ReadNextTasks(1000)
        assert list(collector.ReadNextTasks(1000)) == []
        collector.DestroyCollector()
        return [info.key for info in infos]

    def place(kind: Any, moid: str, recursion: str) -> Any:
        return vim.TaskFilterSpec.ByEntity(entity=kind(moid), recursion=recursion)

    def after(moment: Any) -> Any:
        return vim.TaskFilterSpec.ByTime(timeType="queuedTime", beginTime=moment)

    on_host = place(vim.HostSystem, "host-101", "self")
    assert {earlier.key, later.key} <= set(found(entity=on_host))
    assert found(entity=on_host, time=after(since)) == [later.key]
    assert found(entity=on_host, time=after(since + timedelta(hours=1))) == []
    assert len(found(entity=place(vim.ClusterComputeResource, "domain-c5", "all"), time=after(since))) == 2
    assert found(entity=on_host, state=["success"]) == []


def test_a_task_expires_and_is_not_found_any_more() -> None:
    with RunningSimulator(task_ttl_s=0.2) as wire:
        client = wire.connect()
        task = host(client).RebootHost_Task(force=True)
        ended(task)
        time.sleep(0.4)
        assert list(host(client).recentTask) == []
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            _ = task.info
