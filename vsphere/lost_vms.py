"""What brings GPU VMs back after a failure: each effect looks first, acts once, and its lost answer is followed.

A VM of a dead host is registered again where it can run. vCenter shows it as it was last seen, so the host's own state
decides: only one that HA says is down is taken for dead, because on any other the VM may run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Busy, Conflict, NeedsHuman, NotSupported, Unreachable
from contracts.fleet import VmGpu
from contracts.machine import VmRef
from vsphere.faults import translate, translated, words
from vsphere.fleet import vm_gpus
from vsphere.properties import Read, read_properties
from vsphere.sessions import content
from vsphere.tasks import await_task, running_task, running_tasks
from vsphere.vm_change import check_ours, read_same, set_gpus
from vsphere.vm_power import power_on_placed
from vsphere.vm_state import ref_of
from vsphere.vm_target import hardware_version

__all__ = [
    "Goal",
    "Registration",
    "apply_recommendation",
    "check_hardware",
    "convert",
    "find_by_uuid",
    "move",
    "power_on",
    "register",
    "suspend",
]

Heartbeat = Callable[[dict[str, Any]], None]
_HOST_PATHS = ("name", "parent", "datastore", "runtime.connectionState", "runtime.inMaintenanceMode")
_DISPLACED = ("config.hardware.device", "runtime.question")
_HOST_DOWN = "hostDown"


@dataclass(frozen=True)
class Goal:
    """A host that a VM is to go to, as it was approved."""

    moid: str
    name: str
    cluster_moid: str = ""
    """The cluster that it has to be in; empty for a host in none."""


@dataclass(frozen=True)
class Registration:
    """Where a VM is registered again."""

    path: str
    """`config.files.vmPathName`."""
    name: str
    folder_moid: str
    pool_moid: str
    old_host: Goal
    goal: Goal


def find_by_uuid(si: vim.ServiceInstance, vcenter: str, instance_uuid: str) -> VmRef | None:
    """The VM with an instance UUID, by which it is known however often it is registered; None when there is none.

    Raises `Conflict` when there are several.
    """
    what = f"find the VM with instance UUID {instance_uuid} on {vcenter}"
    if not instance_uuid:
        raise BadRequest(f"{what}: it is empty")
    with translated(what):
        found = list(content(si).searchIndex.FindAllByUuid(None, instance_uuid, True, True) or [])
        if not found:
            return None
        if len(found) > 1:
            raise Conflict(f"{what}: {', '.join(sorted(each._moId for each in found))} have it; give each its own")
        paths: dict[Any, Sequence[str]] = {vim.VirtualMachine: ["name", "config.instanceUuid"]}
        return ref_of(vcenter, read_properties(si, found[0], paths)[found[0]._moId])


def register(
    si: vim.ServiceInstance,
    vcenter: str,
    instance_uuid: str,
    order: Registration,
    heartbeat: Heartbeat,
    timeout_s: float,
) -> bool:
    """Register a VM of a dead host on another one and wait for it; False when it is there already.

    One that is not in the inventory counts as taken out by an earlier try that did not come further. Raises `Conflict`
    where the old host is not down or the new one is not as approved, `NeedsHuman` with the path when it was taken out
    and could not be registered, and `Unreachable` when that is unknown: then call again.
    """
    ref = find_by_uuid(si, vcenter, instance_uuid)
    what = f"register VM {order.name} of {vcenter} on {order.goal.name}"
    with translated(what):
        if ref is not None:
            machine, read = read_same(si, ref, ["runtime.host", "config.files.vmPathName"], what)
            here = read.get("runtime.host")
            if here is not None and here._moId == order.goal.moid:
                return False
            check_ours(read, what)
            if here is None or here._moId != order.old_host.moid:
                raise Conflict(f"{what}: it is on another host than {order.old_host.name} now; look again")
            if read.get("config.files.vmPathName") != order.path:
                raise Conflict(f"{what}: its file is {read.get('config.files.vmPathName')}, not {order.path}")
        _check_dead(si, order.old_host, what)
        goal = _check_goal(si, order.goal, what)
        _check_reaches(si, goal, order.path, what)
        folder = vim.Folder(order.folder_moid, si._stub)
        if ref is not None:
            machine.UnregisterVM()
        else:
            for other in running_tasks(si, folder, "registervm"):
                # One of them may be ours, of a try whose answer was lost.
                await_task(si, other, heartbeat, timeout_s)
            if _is_at(si, find_by_uuid(si, vcenter, instance_uuid), order.goal):
                return True
        pool, host = vim.ResourcePool(order.pool_moid, si._stub), vim.HostSystem(order.goal.moid, si._stub)
        try:
            task = str(folder.RegisterVM_Task(order.path, order.name, False, pool, host)._moId)
        except (vmodl.MethodFault, vmodl.RuntimeFault) as fault:
            if isinstance(translate(what, fault), Unreachable | Busy):
                raise
            raise NeedsHuman(_left_out(what, words(fault), order.path)) from fault
        end = await_task(si, task, heartbeat, timeout_s)
        if _is_at(si, find_by_uuid(si, vcenter, instance_uuid), order.goal):
            return True
    if end.state == "expired":
        raise Unreachable(f"{what}: vCenter forgot task {task}, and the VM is not there; try again")
    raise NeedsHuman(_left_out(what, end.error or "its file has another instance UUID", order.path)) from end.cause


def _left_out(what: str, why: str, path: str) -> str:
    return f"{what}: {why}; it is no longer in the inventory: register {path} by hand, then look again"


def _is_at(si: vim.ServiceInstance, ref: VmRef | None, goal: Goal) -> bool:
    if ref is None:
        return False
    machine = vim.VirtualMachine(ref.moid, si._stub)
    host = read_properties(si, machine, {vim.VirtualMachine: ["runtime.host"]})[ref.moid].get("runtime.host")
    return host is not None and str(host._moId) == goal.moid


def power_on(si: vim.ServiceInstance, ref: VmRef, goal: Goal, heartbeat: Heartbeat = lambda _: None) -> str | None:
    """Start powering a VM that is off on, on the host that has room for it; None when it is on. Returns its task.

    Raises `Conflict` for a VM that is suspended, a host that is not as approved, and what `power_on_placed` raises.
    """
    what = f"power on VM {ref.name} of {ref.vcenter} on {goal.name}"
    with translated(what):
        _, read = read_same(si, ref, [], what)
        if read.get("runtime.powerState") == "poweredOn":
            return None
        if read.get("runtime.powerState") != "poweredOff":
            raise Conflict(f"{what}: it is {read.get('runtime.powerState')} now; look again")
        _check_goal(si, goal, what)
    return power_on_placed(si, ref, goal.moid, heartbeat)


def check_hardware(si: vim.ServiceInstance, ref: VmRef, at_least: int) -> None:
    """Raise `NotSupported` for a VM whose hardware version cannot have Dynamic DirectPath I/O."""
    what = f"convert the static devices of VM {ref.name} of {ref.vcenter}"
    with translated(what):
        _, read = read_same(si, ref, ["config.version"], what)
    version = hardware_version(read.get("config.version"))
    if version < at_least:
        raise NotSupported(
            f"{what}: Dynamic DirectPath I/O needs hardware version {at_least}, and it has {version}; upgrade it in "
            "vCenter (there is no way back), or wait for its host"
        )


def convert(si: vim.ServiceInstance, ref: VmRef, wanted: Sequence[VmGpu], at_least: int) -> str | None:
    """Start replacing static devices by dynamic ones, all in one change; None when that is done. Returns the task.

    Each of `wanted` has the address of the static device that it replaces (`sbdf`). Raises `NotSupported` below
    hardware version `at_least`, `Conflict` when the VM has other devices than were approved, and what `set_gpus`
    raises.
    """
    what = f"convert the static devices of VM {ref.name} of {ref.vcenter}"
    check_hardware(si, ref, at_least)
    with translated(what):
        _, read = read_same(si, ref, ["config.hardware.device"], what)
        has = [gpu for gpu in vm_gpus(read.get("config.hardware.device") or (), ref.moid) if gpu.kind != "other"]
    static = {gpu.sbdf: gpu for gpu in has if gpu.kind == "static"}
    dynamic = [gpu.model_copy(update={"sbdf": "", "key": 0}) for gpu in wanted]
    if not static:
        there = [(gpu.allowed, gpu.label) for gpu in has if gpu.kind == "dynamic"]
        for gpu in dynamic:
            if (gpu.allowed, gpu.label) not in there:
                raise Conflict(f"{what}: it has neither its static devices nor what was to replace them; look again")
            there.remove((gpu.allowed, gpu.label))
        return None
    if set(static) != {gpu.sbdf for gpu in wanted}:
        raise Conflict(f"{what}: its static devices are {', '.join(sorted(static))} now; look again")
    kept = [gpu for gpu in has if gpu.kind != "static"]
    return set_gpus(si, ref, [*kept, *dynamic], str(read.get("config.changeVersion") or ""))


def apply_recommendation(
    si: vim.ServiceInstance, ref: VmRef, cluster_moid: str, key: str, goal: Goal
) -> tuple[bool, str | None]:
    """Apply DRS's recommendation to power the VM on: whether it was applied now, and the VM's power-on task if it runs.

    Raises `Conflict` when DRS no longer recommends just that.
    """
    what = f"apply recommendation {key} of DRS for VM {ref.name} of {ref.vcenter}"
    with translated(what):
        if _is_on(si, ref, what):
            return False, None
        machine, read = read_same(si, ref, [], what)
        check_ours(read, what)
        if (running := running_task(si, machine, "poweron")) is not None:
            return False, running
        _check_goal(si, goal, what)
        cluster = vim.ClusterComputeResource(cluster_moid, si._stub)
        paths: dict[Any, Sequence[str]] = {vim.ClusterComputeResource: ["recommendation"]}
        known = read_properties(si, cluster, paths)[cluster_moid].get("recommendation") or ()
        advice = next((each for each in known if each.key == key), None)
        if advice is None or not _advises(advice, ref, goal):
            if _is_on(si, ref, what):
                # An earlier try, whose answer was lost, has ended well since the look above.
                return False, None
            raise Conflict(f"{what}: DRS no longer recommends that; look again")
        cluster.ApplyRecommendation(key)
        return True, running_task(si, machine, "poweron")


def _is_on(si: vim.ServiceInstance, ref: VmRef, what: str) -> bool:
    """It runs: what vCenter shows of a VM whose host is lost is how it was."""
    _, read = read_same(si, ref, ["runtime.connectionState"], what)
    return read.get("runtime.connectionState") == "connected" and read.get("runtime.powerState") == "poweredOn"


def _advises(advice: Any, ref: VmRef, goal: Goal) -> bool:
    """It powers on that VM, on that host, and does nothing else."""
    actions = list(advice.action or ())
    return len(actions) == 1 and all(
        isinstance(each, vim.cluster.InitialPlacementAction)
        and each.target is not None
        and each.target._moId == ref.moid
        and each.targetHost._moId == goal.moid
        for each in actions
    )


def move(si: vim.ServiceInstance, ref: VmRef, goal: Goal) -> str | None:
    """Start moving a running vGPU VM to another host (vMotion); None when it is there. Returns its task.

    Raises `Conflict` for a VM that is off, has whole GPUs, or waits for an answer, and a host not as approved.
    """
    what = f"move VM {ref.name} of {ref.vcenter} to {goal.name}"
    with translated(what):
        machine, read = read_same(si, ref, ["runtime.host", *_DISPLACED], what)
        here = read.get("runtime.host")
        if here is not None and here._moId == goal.moid:
            return None
        _check_displaceable(read, ref, what)
        if (running := running_task(si, machine, "relocate", "migrate")) is not None:
            return running
        _check_goal(si, goal, what)
        spec = vim.vm.RelocateSpec(host=vim.HostSystem(goal.moid, si._stub))
        return str(machine.RelocateVM_Task(spec, "defaultPriority")._moId)


def suspend(si: vim.ServiceInstance, ref: VmRef) -> str | None:
    """Start suspending a running vGPU VM; None when it is suspended. Returns its task. Raises what `move` raises."""
    what = f"suspend VM {ref.name} of {ref.vcenter}"
    with translated(what):
        machine, read = read_same(si, ref, _DISPLACED, what)
        if read.get("runtime.powerState") == "suspended":
            return None
        _check_displaceable(read, ref, what)
        if (running := running_task(si, machine, "suspend")) is not None:
            return running
        return str(machine.SuspendVM_Task()._moId)


def _check_displaceable(read: Read, ref: VmRef, what: str) -> None:
    check_ours(read, what)
    if read.get("runtime.powerState") != "poweredOn":
        raise Conflict(f"{what}: it is {read.get('runtime.powerState')} now; look again")
    if (question := read.get("runtime.question")) is not None:
        raise NeedsHuman(f"{what}: it waits for an answer: {question.text}")
    kinds = {gpu.kind for gpu in vm_gpus(read.get("config.hardware.device") or (), ref.moid)}
    if kinds != {"vgpu"}:
        raise Conflict(
            f"{what}: only a VM whose GPUs are vGPUs makes room; it has {', '.join(sorted(kinds)) or 'none'}"
        )


def _check_dead(si: vim.ServiceInstance, old: Goal, what: str) -> None:
    """Raise `Conflict` unless HA says that the VM's host is down."""
    host = vim.HostSystem(old.moid, si._stub)
    paths: dict[Any, Sequence[str]] = {vim.HostSystem: ["runtime.connectionState", "runtime.dasHostState"]}
    try:
        read = read_properties(si, host, paths)[old.moid]
    except vmodl.fault.ManagedObjectNotFound as fault:
        raise Conflict(f"{what}: {old.name} is no longer in the inventory; look again") from fault
    state, standing = str(read.get("runtime.connectionState")), read.get("runtime.dasHostState")
    said = str(standing.state) if standing is not None else ""
    if state == "connected" or said != _HOST_DOWN:
        raise Conflict(
            f"{what}: {old.name} is {state}, and HA says {said or 'nothing'} of it, so the VM may run there; look again"
        )


def _check_goal(si: vim.ServiceInstance, goal: Goal, what: str) -> Read:
    """The new host's properties; raises `Conflict` unless it is the one that was approved, and could run a VM."""
    host = vim.HostSystem(goal.moid, si._stub)
    try:
        read = read_properties(si, host, {vim.HostSystem: _HOST_PATHS})[goal.moid]
    except vmodl.fault.ManagedObjectNotFound as fault:
        raise Conflict(f"{what}: {goal.name} is no longer in the inventory; look again") from fault
    parent = read.get("parent")
    cluster = parent._moId if isinstance(parent, vim.ClusterComputeResource) else ""
    if read.get("name") != goal.name or cluster != goal.cluster_moid:
        raise Conflict(
            f"{what}: {goal.moid} is {read.get('name')} in {cluster or 'no cluster'}, and {goal.name} in "
            f"{goal.cluster_moid or 'no cluster'} was approved"
        )
    if read.get("runtime.connectionState") != "connected" or read.get("runtime.inMaintenanceMode"):
        raise Conflict(f"{what}: {goal.name} is not connected, or in maintenance mode; look again")
    return read


def _check_reaches(si: vim.ServiceInstance, goal: Read, path: str, what: str) -> None:
    """Raise `Conflict` unless the new host has the VM's datastore: checked before the VM leaves the inventory."""
    wanted = path.removeprefix("[").partition("]")[0]
    stores = list(goal.get("datastore") or ())
    names = [str(read_properties(si, each, {vim.Datastore: ["name"]})[each._moId].get("name")) for each in stores]
    if wanted not in names:
        raise Conflict(
            f"{what}: it does not reach datastore {wanted}; it has {', '.join(sorted(names)) or 'none'}. Mount it there"
        )
