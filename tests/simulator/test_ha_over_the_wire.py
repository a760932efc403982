"""What HA does, as an unmodified pyVmomi sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyVmomi import vim

from tests.support.simulator import SimulatorProcess


@pytest.fixture(scope="module")
def site() -> Iterator[SimulatorProcess]:
    """Three hosts with a GPU each, one of them with a GPU VM; a minute in 0.1 s."""
    with SimulatorProcess(clusters=1, hosts=3, gpus=1, vms=0, gpu_vms=3, time_scale=600) as running:
        yield running


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about within a minute"
        time.sleep(0.02)


def ended(task: Any) -> Any:
    until(lambda: task.info.state in ("success", "error"))
    return task.info


def test_a_failure_its_events_and_the_vm_that_is_registered_elsewhere(site: SimulatorProcess) -> None:
    si = site.connect()
    content = si.content
    cluster = content.rootFolder.childEntity[0].hostFolder.childEntity[0]
    hosts = {host.name: host for host in cluster.host}
    vms = {vm.name: vm for host in hosts.values() for vm in host.vm}
    (static,) = [vm for name, vm in vms.items() if name.startswith("static")]
    dynamic = next(vm for name, vm in vms.items() if name.startswith("train"))
    instance, lost, pinned_to = static.config.instanceUuid, dynamic.runtime.host, static.runtime.host

    settings = vim.cluster.DasVmSettings(restartPriority="high", isolationResponse="powerOff")
    spec = vim.cluster.DasVmConfigSpec(
        operation="add", info=vim.cluster.DasVmConfigInfo(key=dynamic, dasSettings=settings)
    )
    changed = cluster.ReconfigureComputeResource_Task(vim.cluster.ConfigSpecEx(dasVmConfigSpec=[spec]), True)
    assert ended(changed).state == "success"
    (own,) = cluster.configurationEx.dasVmConfig
    assert (own.key, own.dasSettings.restartPriority) == (dynamic, "high")

    site.act("set_ha", cluster=cluster.name, new_events=True)
    site.act("fail_hosts", hosts=[lost.name, pinned_to.name])
    until(lambda: any(isinstance(event, vim.event.VmFailoverFailed) for event in events_of(content)))
    found = events_of(content)
    (gave_up, *_) = [event for event in found if isinstance(event, vim.event.VmFailoverFailed)]
    assert gave_up.vm.vm == dynamic
    assert isinstance(gave_up.reason, vim.fault.InsufficientResourcesFault)
    assert "label" in gave_up.reason.msg
    down = [event for event in found if getattr(event, "eventTypeId", "") == "com.vmware.vc.ha.DasHostFailedEvent"]
    assert {event.host.name for event in down} == {lost.name, pinned_to.name}
    assert lost.runtime.dasHostState.state == "hostDown"
    assert (static.runtime.powerState, static.runtime.connectionState) == ("poweredOn", "disconnected")

    path, folder = static.config.files.vmPathName, static.parent
    assert isinstance(ended(static.PowerOnVM_Task()).error, vim.fault.InvalidHostConnectionState)
    static.UnregisterVM()
    (alive,) = [host for host in hosts.values() if host.runtime.connectionState == "connected"]
    made = ended(folder.RegisterVM_Task(path=path, name=None, asTemplate=False, pool=None, host=alive))
    assert made.state == "success", made.error
    assert (made.result.config.instanceUuid, made.result.runtime.host) == (instance, alive)
    assert made.result != static
    site.disconnect(si)


def events_of(content: Any) -> list[Any]:
    return list(content.eventManager.QueryEvents(vim.event.EventFilterSpec()))
