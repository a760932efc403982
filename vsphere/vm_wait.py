"""Waiting for a VM: for its power-on to end, and for its guest to answer. A question that it asks ends either wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pyVmomi import vim, vmodl

from contracts.errors import GpuwrightError
from contracts.machine import VmRef
from vsphere.faults import translate, translated, words
from vsphere.properties import TargetGone, read_properties, watching

__all__ = ["GuestEnd", "PowerOnOutcome", "await_guest", "await_power_on"]

Heartbeat = Callable[[dict[str, Any]], None]
GuestEnd = Literal["up", "question", "off", "gone", "silent"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 3.0
_POWER, _QUESTION = "runtime.powerState", "runtime.question"
_TOOLS, _READY = "guest.toolsRunningStatus", "guest.guestOperationsReady"


@dataclass(frozen=True)
class PowerOnOutcome:
    """How a power-on's task ended; `expired`: vCenter forgot it, `late`: it still runs when the time is over."""

    state: Literal["on", "failed", "question", "expired", "late"]
    text: str = ""
    cause: GpuwrightError | None = None


def await_power_on(
    si: vim.ServiceInstance, ref: VmRef, task_moid: str, heartbeat: Heartbeat, timeout_s: float
) -> PowerOnOutcome:
    """Follow a power-on's task. It does not end while the VM waits for an answer, so the VM is looked at as well."""
    what = f"power on VM {ref.name} of {ref.vcenter}"
    until, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    task, machine = vim.Task(task_moid, si._stub), vim.VirtualMachine(ref.moid, si._stub)
    while True:
        with translated(what):
            try:
                info = read_properties(si, task, {vim.Task: ["info"]})[task_moid].get("info")
                question = read_properties(si, machine, {vim.VirtualMachine: [_QUESTION]})[ref.moid].get(_QUESTION)
            except vmodl.fault.ManagedObjectNotFound:
                return PowerOnOutcome("expired")
        if info is not None and info.state == "success":
            return PowerOnOutcome("on")
        if info is not None and info.state == "error":
            fault = info.error
            if fault is None:
                return PowerOnOutcome("failed", f"{what}: vCenter gave no reason")
            return PowerOnOutcome("failed", f"{what}: {words(fault)}", translate(what, fault))
        if question is not None:
            return PowerOnOutcome("question", str(question.text))
        if time.monotonic() >= until:
            return PowerOnOutcome("late", f"{what}: its task {task_moid} still runs after {timeout_s:.0f} s")
        heartbeat({"task": task_moid, "state": str(info.state) if info is not None else ""})
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def await_guest(
    si: vim.ServiceInstance,
    ref: VmRef,
    heartbeat: Heartbeat,
    timeout_s: float,
    *,
    operations: bool = False,
    max_wait_s: int = 10,
) -> tuple[GuestEnd, str]:
    """Wait until VMware Tools answer, and with `operations` until the guest lets programs be run.

    Returns how it ended, with the text of the question if there is one; `silent` when the time is over.
    """

    def up(values: dict[str, Any]) -> bool:
        return values.get(_TOOLS) == "guestToolsRunning" and (not operations or bool(values.get(_READY)))

    def over(values: dict[str, Any]) -> bool:
        return up(values) or values.get(_QUESTION) is not None or values.get(_POWER) != "poweredOn"

    def beat(values: dict[str, Any]) -> None:
        heartbeat({"vm": ref.moid, "tools": str(values.get(_TOOLS))})

    with translated(f"wait for the guest of VM {ref.name} of {ref.vcenter}"):
        try:
            machine = vim.VirtualMachine(ref.moid, si._stub)
            with watching(si, machine, [_POWER, _QUESTION, _TOOLS, _READY]) as watch:
                ended = watch.until(over, beat, timeout_s, max_wait_s)
                values = dict(watch.values)
        except TargetGone:
            return "gone", ""
    if not ended:
        # Tools that run without guest operations are an answer of a kind: the look inside says what is wrong.
        return ("up" if values.get(_TOOLS) == "guestToolsRunning" else "silent"), ""
    if up(values):
        return "up", ""
    question = values.get(_QUESTION)
    return ("question", str(question.text)) if question is not None else ("off", "")
