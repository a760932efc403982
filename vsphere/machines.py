"""VMs that cannot be moved while on: shut down by their guest, and moved cold. Power is never cut here."""

from collections.abc import Callable
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Conflict, NeedsHuman
from contracts.host import HostRef
from vsphere.faults import translated
from vsphere.properties import Read, TargetGone, read_properties, watching
from vsphere.tasks import running_task

__all__ = ["await_off", "migrate_cold", "power_on", "shut_down_guest"]

_PATHS = [
    "name",
    "config.managedBy",
    "guest.toolsRunningStatus",
    "resourcePool",
    "runtime.host",
    "runtime.powerState",
    "runtime.question",
]
_ON_ITS_WAY = ["runtime.powerState", "runtime.question"]


def shut_down_guest(si: vim.ServiceInstance, vcenter: str, vm_moid: str) -> bool:
    """Ask the guest to shut down; False when the VM is off already. It takes its time: look at the power state.

    Raises `NeedsHuman` when VMware Tools do not run, or a question waits; `Conflict` for a VM that a vCenter
    extension owns.
    """
    what = f"shut down VM {vm_moid} of {vcenter}"
    with translated(what):
        machine, read = _read(si, vm_moid)
        what = f"shut down VM {read.get('name')} of {vcenter}"
        if read.get("runtime.powerState") == "poweredOff":
            return False
        _check_ours(what, read)
        if (question := read.get("runtime.question")) is not None:
            raise NeedsHuman(f"{what}: it waits for an answer: {question.text}")
        if read.get("guest.toolsRunningStatus") != "guestToolsRunning":
            raise NeedsHuman(
                f"{what}: VMware Tools do not run in it, and gpuwright does not cut power; shut it down from inside"
            )
        try:
            machine.ShutdownGuest()
        except vim.fault.InvalidPowerState:
            # It went off between the look and the call.
            return False
    return True


def await_off(
    si: vim.ServiceInstance,
    vcenter: str,
    vm_moid: str,
    heartbeat: Callable[[dict[str, Any]], None],
    timeout_s: float,
    max_wait_s: int = 10,
) -> None:
    """Wait until a VM is off. `heartbeat` gets its power state at least every `max_wait_s` seconds.

    Raises `NeedsHuman` when it is still on after `timeout_s`, or waits for an answer meanwhile; `BadRequest` when it
    left the inventory.
    """
    with translated(f"wait for VM {vm_moid} of {vcenter} to be off"):
        try:
            with watching(si, vim.VirtualMachine(vm_moid, si._stub), ["name", *_ON_ITS_WAY]) as watch:
                ended = watch.until(
                    lambda values: (
                        values.get("runtime.powerState") == "poweredOff" or values.get("runtime.question") is not None
                    ),
                    lambda values: heartbeat({"vm": vm_moid, "power_state": str(values.get("runtime.powerState"))}),
                    timeout_s,
                    max_wait_s,
                )
        except TargetGone:
            raise BadRequest(f"there is no VM {vm_moid} any more; look at the host again") from None
    name, question = watch.values.get("name"), watch.values.get("runtime.question")
    if question is not None and watch.values.get("runtime.powerState") != "poweredOff":
        raise NeedsHuman(f"VM {name} of {vcenter} was asked to shut down and waits for an answer: {question.text}")
    if not ended:
        raise NeedsHuman(
            f"VM {name} of {vcenter} was asked to shut down and is still on after {timeout_s:.0f} s; "
            "see its console, and shut it down from inside"
        )


def migrate_cold(si: vim.ServiceInstance, vcenter: str, vm_moid: str, target: HostRef) -> str | None:
    """Start moving a powered-off VM to another host, its disks staying; None when it is there already.

    Returns the task, a running one's included. The VM goes to the root resource pool of the target's cluster unless
    its pool serves the target too. Raises `Conflict` for a VM that is on, or that an extension owns.
    """
    what = f"move VM {vm_moid} of {vcenter} to host {target.name}"
    with translated(what):
        machine, read = _read(si, vm_moid)
        what = f"move VM {read.get('name')} of {vcenter} to host {target.name}"
        here = read.get("runtime.host")
        if here is not None and here._moId == target.moid:
            return None
        if read.get("runtime.powerState") != "poweredOff":
            raise Conflict(f"{what}: it is {read.get('runtime.powerState')}; only a VM that is off is moved cold")
        _check_ours(what, read)
        if (running := running_task(si, machine, "relocate")) is not None:
            return running
        spec = vim.vm.RelocateSpec(host=vim.HostSystem(target.moid, si._stub))
        if (pool := _pool_for(si, read, target)) is not None:
            spec.pool = pool
        return str(machine.RelocateVM_Task(spec, "defaultPriority")._moId)


def power_on(si: vim.ServiceInstance, vcenter: str, vm_moid: str) -> str | None:
    """Start powering a VM on where it is; None when it is on. Returns the task, a running one's included."""
    with translated(f"power on VM {vm_moid} of {vcenter}"):
        machine, read = _read(si, vm_moid)
        if read.get("runtime.powerState") == "poweredOn":
            return None
        _check_ours(f"power on VM {read.get('name')} of {vcenter}", read)
        if (running := running_task(si, machine, "poweron")) is not None:
            return running
        return str(machine.PowerOnVM_Task(None)._moId)


def _read(si: vim.ServiceInstance, moid: str) -> tuple[vim.VirtualMachine, Read]:
    machine = vim.VirtualMachine(moid, si._stub)
    try:
        return machine, read_properties(si, machine, {vim.VirtualMachine: _PATHS})[moid]
    except vmodl.fault.ManagedObjectNotFound as fault:
        raise BadRequest(f"there is no VM {moid} any more; look at the host again") from fault


def _check_ours(what: str, read: Read) -> None:
    owner = read.get("config.managedBy")
    if owner is not None and owner.extensionKey:
        raise Conflict(f"{what}: the extension {owner.extensionKey} owns it; use that product's own tools")


def _pool_for(si: vim.ServiceInstance, read: Read, target: HostRef) -> vim.ResourcePool | None:
    """The root pool of the target's cluster where the VM's own pool belongs to another; None to stay in its pool."""
    host = vim.HostSystem(target.moid, si._stub)
    compute = read_properties(si, host, {vim.HostSystem: ["parent"]})[target.moid].get("parent")
    root = read_properties(si, compute, {vim.ComputeResource: ["resourcePool"]})[compute._moId].get("resourcePool")
    pool = read.get("resourcePool")
    if pool is not None:
        owner = read_properties(si, pool, {vim.ResourcePool: ["owner"]})[pool._moId].get("owner")
        if owner is not None and owner._moId == compute._moId:
            return None
    return root
