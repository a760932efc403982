"""Following long vCenter operations by push, with heartbeats and a deadline."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pyVmomi import vim

from contracts.errors import BadRequest, Busy, GpuwrightError, NeedsHuman
from contracts.host import HostRef
from vsphere.faults import translate, translated, words
from vsphere.properties import TargetGone, read_properties, traversal, watching
from vsphere.sessions import vcenter_name

__all__ = ["HostRuntime", "TaskOutcome", "await_host", "await_task", "running_task", "running_tasks"]

Heartbeat = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TaskOutcome:
    """How a task ended. `expired`: vCenter forgot it (it does after some minutes), so look at the object's state."""

    state: Literal["success", "error", "expired"]
    error: str = ""
    """The fault in its own words; empty unless `state` is `error`."""
    cause: GpuwrightError | None = field(default=None, compare=False)
    """What the fault means; None unless `state` is `error`."""
    result: Any = field(default=None, compare=False)
    """`TaskInfo.result`, e.g. the VM that a clone made."""


@dataclass(frozen=True)
class HostRuntime:
    """The leaf values of `HostSystem.runtime` that change in maintenance and reboots."""

    connection_state: str
    power_state: str
    in_maintenance: bool
    boot_time: datetime | None


def await_task(
    si: vim.ServiceInstance, task_moid: str, heartbeat: Heartbeat, timeout_s: float, max_wait_s: int = 10
) -> TaskOutcome:
    """Wait for a task's end. `heartbeat` gets `{"task", "state", "progress"}` at least every `max_wait_s` seconds.

    Raises `Busy` when it still runs after `timeout_s`, and `Unreachable` when vCenter does not answer; either way
    the task goes on and can be awaited again. What `heartbeat` raises is passed on.
    """
    task = vim.Task(task_moid, si._stub)

    def beat(values: dict[str, Any]) -> None:
        # `info.progress` is unset before the first report and after the end.
        state, progress = values.get("info.state"), values.get("info.progress")
        heartbeat({"task": task_moid, "state": state and str(state), "progress": progress})

    with translated(f"follow task {task_moid} on {vcenter_name(si)}"):
        try:
            with watching(si, task, ["info.state", "info.progress", "info.error", "info.result"]) as watch:
                ended = watch.until(
                    lambda values: values.get("info.state") in ("success", "error"), beat, timeout_s, max_wait_s
                )
                if not ended:
                    raise Busy(
                        f"task {task_moid} on {vcenter_name(si)} is still {watch.values.get('info.state')} after "
                        f"{timeout_s:g} s (progress {watch.values.get('info.progress') or 0} %); see it in vCenter"
                    )
                if watch.values["info.state"] == "success":
                    return TaskOutcome("success", result=watch.values.get("info.result"))
                fault = watch.values.get("info.error")
                if fault is None:
                    reason = "vCenter gave no reason"
                    return TaskOutcome("error", reason, NeedsHuman(f"task {task_moid} failed: {reason}"))
                return TaskOutcome("error", words(fault), translate(f"task {task_moid}", fault))
        except TargetGone:
            return TaskOutcome("expired")


def await_host(
    si: vim.ServiceInstance,
    host: HostRef,
    done: Callable[[HostRuntime], bool],
    heartbeat: Heartbeat,
    timeout_s: float,
    max_wait_s: int = 10,
) -> HostRuntime:
    """Wait until `done(runtime)` holds. `heartbeat` gets the runtime's values at least every `max_wait_s` seconds.

    Raises `NeedsHuman` with the host's state after `timeout_s`, `BadRequest` when the host left the inventory, and
    `Unreachable` when vCenter does not answer.
    """
    paths = ["runtime.connectionState", "runtime.powerState", "runtime.inMaintenanceMode", "runtime.bootTime"]

    def runtime(values: dict[str, Any]) -> HostRuntime:
        boot_time = values.get("runtime.bootTime")
        return HostRuntime(
            connection_state=str(values.get("runtime.connectionState", "disconnected")),
            power_state=str(values.get("runtime.powerState", "unknown")),
            in_maintenance=bool(values.get("runtime.inMaintenanceMode")),
            boot_time=boot_time if isinstance(boot_time, datetime) else None,
        )

    def beat(values: dict[str, Any]) -> None:
        now = runtime(values)
        boot_time = now.boot_time.isoformat() if now.boot_time else None
        heartbeat({"host": host.name, "connection_state": now.connection_state, "boot_time": boot_time})

    with translated(f"wait for host {host.name} on {host.vcenter}"):
        try:
            with watching(si, vim.HostSystem(host.moid, si._stub), paths) as watch:
                if watch.until(lambda values: done(runtime(values)), beat, timeout_s, max_wait_s):
                    return runtime(watch.values)
                now = runtime(watch.values)
                raise NeedsHuman(
                    f"host {host.name} on {host.vcenter} is {now.connection_state}, power {now.power_state}, "
                    f"boot time {now.boot_time}, after {timeout_s:g} s of waiting; look at its console"
                )
        except TargetGone:
            raise BadRequest(
                f"host {host.name} ({host.moid}) is no longer in the inventory of {host.vcenter}"
            ) from None


def running_tasks(
    si: vim.ServiceInstance, entity: Any, *fragments: str, since: datetime | None = None
) -> tuple[str, ...]:
    """Queued or running tasks of an entity whose `descriptionId` has one of the fragments, the longest under way first.

    Letter case is ignored; `since` leaves out what was queued before, by vCenter's clock.
    """
    found = read_properties(
        si, entity, {vim.Task: ["info"]}, [traversal(vim.ManagedEntity, "recentTask")], skip_start=True
    )
    infos = [info for read in found.values() if (info := read.get("info")) is not None]
    return tuple(
        str(info.task._moId)
        for info in sorted(infos, key=lambda info: info.queueTime)
        if info.state in ("queued", "running")
        and (since is None or info.queueTime >= since)
        and any(fragment in (info.descriptionId or "").casefold() for fragment in fragments)
    )


def running_task(si: vim.ServiceInstance, entity: Any, *fragments: str) -> str | None:
    """The first of `running_tasks`."""
    return next(iter(running_tasks(si, entity, *fragments)), None)
