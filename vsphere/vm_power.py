"""VMs are powered on where DRS places them, and deleted by who made them. What vCenter did not do is told as an error.

`Datacenter.PowerOnMultiVM_Task` succeeds with a VM that it did not attempt, or for which DRS only recommends a host:
its result is read, and what follows is the VM's own power-on task.
"""

from collections.abc import Callable
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Busy, Conflict, NeedsHuman
from contracts.machine import VmRef
from vsphere.faults import translate, translated
from vsphere.properties import Read, read_properties, traversal
from vsphere.tasks import await_task, running_task
from vsphere.vm_change import check_ours, read_same
from vsphere.vm_state import mark_of

__all__ = ["delete_vm", "power_on_placed"]

_PLACE_S = 300
_POWER_OFF_S = 120
Heartbeat = Callable[[dict[str, Any]], None]


def power_on_placed(
    si: vim.ServiceInstance, ref: VmRef, host_moid: str = "", heartbeat: Heartbeat = lambda _: None
) -> str | None:
    """Start powering the VM on where DRS places it, or on `host_moid`; None when it is on. Beats while DRS places.

    Returns the VM's own power-on task, a running one's included. Raises `Conflict` when DRS finds no host that has
    what the VM needs or its state forbids it, `NeedsHuman` when DRS only recommends or vCenter refuses, with its words,
    `Busy` while DRS is still at it, and `Unreachable` when it is unknown whether it started: then call again.
    """
    what = f"power on VM {ref.name} of {ref.vcenter}"
    with translated(what):
        machine, read = read_same(si, ref, ["runtime.host", "runtime.question"], what)
        question = read.get("runtime.question")
        if question is not None:
            raise NeedsHuman(f"{what}: it waits for an answer: {question.text}")
        if read.get("runtime.powerState") == "poweredOn":
            return None
        check_ours(read, what)
        if (running := running_task(si, machine, "poweron")) is not None:
            return running
        if host_moid:
            return str(machine.PowerOnVM_Task(vim.HostSystem(host_moid, si._stub))._moId)
        datacenter = _datacenter(si, machine) if _drs(si, machine, read) else None
        if datacenter is None:
            return str(machine.PowerOnVM_Task(None)._moId)
        placing = str(datacenter.PowerOnMultiVM_Task([machine], None)._moId)
        end = await_task(si, placing, heartbeat, _PLACE_S)
        if end.cause is not None:
            raise end.cause
        if end.state == "expired":
            raise Busy(f"{what}: vCenter forgot task {placing}; look whether the VM is on")
        return _attempted(si, machine, end.result, what)


def _drs(si: vim.ServiceInstance, machine: Any, read: Read) -> bool:
    """DRS is on in the VM's cluster, and not switched off for this VM."""
    host = read.get("runtime.host")
    if host is None:
        return False
    paths: dict[Any, Any] = {
        vim.ClusterComputeResource: ["configuration.drsConfig.enabled", "configuration.drsVmConfig"]
    }
    found = read_properties(si, host, paths, [traversal(vim.HostSystem, "parent")], skip_start=True)
    for cluster in found.values():
        overrides = cluster.get("configuration.drsVmConfig") or ()
        off = any(each.key._moId == machine._moId and each.enabled is False for each in overrides)
        return bool(cluster.get("configuration.drsConfig.enabled")) and not off
    return False


def _datacenter(si: vim.ServiceInstance, machine: Any) -> Any:
    """The VM's datacenter; None for a VM that is in none that the service account may see."""
    above = traversal(vim.ManagedEntity, "parent", vmodl.query.PropertyCollector.SelectionSpec(name="above"))
    above.name = "above"
    found = read_properties(si, machine, {vim.Datacenter: ["name"]}, [above], skip_start=True)
    return next((read.obj for read in found.values() if isinstance(read.obj, vim.Datacenter)), None)


def _attempted(si: vim.ServiceInstance, machine: Any, result: Any, what: str) -> str | None:
    """The VM's own task from a `ClusterPowerOnVmResult`; raises what vCenter says where there is none."""
    for each in getattr(result, "attempted", None) or ():
        if each.vm._moId == machine._moId:
            return str(each.task._moId) if each.task is not None else running_task(si, machine, "poweron")
    for each in getattr(result, "notAttempted", None) or ():
        if each.vm._moId == machine._moId:
            if (running := running_task(si, machine, "poweron")) is not None:
                # An earlier try, whose answer was lost, is at it.
                return running
            paths: dict[Any, Any] = {vim.VirtualMachine: ["runtime.powerState"]}
            if read_properties(si, machine, paths)[machine._moId].get("runtime.powerState") == "poweredOn":
                # It has ended well meanwhile.
                return None
            raise translate(f"{what}: DRS did not attempt it", each.fault)
    advised = getattr(result, "recommendations", None) or ()
    if advised:
        said = "; ".join(filter(None, (each.reasonText for each in advised))) or "power on"
        raise NeedsHuman(
            f"{what}: DRS only recommends it ({said}), because its automation is manual for the cluster or the VM; "
            "apply the recommendation in vCenter, or set the automation to partially or fully automated"
        )
    raise NeedsHuman(f"{what}: vCenter neither attempted it nor says why; power it on in vCenter and see its tasks")


def delete_vm(
    si: vim.ServiceInstance, ref: VmRef, only_made_by: str | None, heartbeat: Heartbeat = lambda _: None
) -> str | None:
    """Start deleting a VM with its disks; None when it is gone. Returns the task, a running one's included.

    With `only_made_by` it must have that run's mark, and is powered off if it is on (beats meanwhile); without, it
    must be off. Raises `Conflict` otherwise, and for a VM that an extension owns, and a template.
    """
    what = f"delete VM {ref.name} of {ref.vcenter}"
    with translated(what):
        try:
            return _delete(si, ref, only_made_by, heartbeat, what)
        except vmodl.fault.ManagedObjectNotFound:
            return None


def _delete(
    si: vim.ServiceInstance, ref: VmRef, only_made_by: str | None, heartbeat: Heartbeat, what: str
) -> str | None:
    try:
        machine, read = read_same(si, ref, ["config.extraConfig", "config.annotation"], what)
    except BadRequest:
        return None
    check_ours(read, what)
    made_by = mark_of(read)[0]
    if only_made_by is not None and (not only_made_by or made_by != only_made_by):
        raise Conflict(f"{what}: run {only_made_by} did not make it ({made_by or 'no run did'}), so it stays")
    if (running := running_task(si, machine, "destroy")) is not None:
        return running
    if read.get("runtime.powerState") != "poweredOff":
        if only_made_by is None:
            raise Conflict(f"{what}: it is {read.get('runtime.powerState')}; shut it down first")
        _power_off(si, machine, heartbeat)
    return str(machine.Destroy_Task()._moId)


def _power_off(si: vim.ServiceInstance, machine: Any, heartbeat: Heartbeat) -> None:
    task = running_task(si, machine, "poweroff") or str(machine.PowerOffVM_Task()._moId)
    end = await_task(si, task, heartbeat, _POWER_OFF_S)
    if end.cause is not None and "InvalidPowerState" not in end.error:
        raise end.cause
