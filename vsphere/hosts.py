"""Maintenance mode and reboots. Each operation looks first and returns its task's reference, or None if not needed."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pyVmomi import vim

from contracts.errors import Conflict
from contracts.host import HostRef
from vsphere.faults import translated, words
from vsphere.properties import Read, read_properties, traversal
from vsphere.sessions import content

__all__ = [
    "ENTER_MAINTENANCE",
    "EXIT_MAINTENANCE",
    "REBOOT",
    "RecentTask",
    "current_time",
    "enter_maintenance",
    "exit_maintenance",
    "find_recent_reboot",
    "find_recent_tasks",
    "reboot",
    "rebooted",
    "running_task",
]

ENTER_MAINTENANCE = "HostSystem.enterMaintenanceMode"
EXIT_MAINTENANCE = "HostSystem.exitMaintenanceMode"
REBOOT = "HostSystem.reboot"
"""`TaskInfo.descriptionId`s."""

_BOOT_TIME_JITTER = timedelta(seconds=1)


@dataclass(frozen=True)
class RecentTask:
    """A task that vCenter still knows. Times are vCenter's."""

    moid: str
    description_id: str
    state: str
    """`queued`, `running`, `success` or `error`."""
    queued: datetime
    error: str = ""


def current_time(si: vim.ServiceInstance) -> datetime:
    """vCenter's clock, UTC."""
    with translated("read vCenter's time"):
        return si.CurrentTime()


def enter_maintenance(si: vim.ServiceInstance, host: HostRef, timeout_s: int) -> str | None:
    """Start entering maintenance mode, or return the task that already does; None when the host is in it.

    vCenter gives up after `timeout_s` (0 would wait for ever). vSAN data stays accessible but may lose redundancy
    meanwhile; running VMs are moved by DRS where it can.
    """
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    with translated(f"enter maintenance mode on host {host.name} of {host.vcenter}"):
        system = vim.HostSystem(host.moid, si._stub)
        if _read(si, host, "runtime.inMaintenanceMode").get("runtime.inMaintenanceMode"):
            return None
        if (running := _running(si, host, ENTER_MAINTENANCE)) is not None:
            return running
        vsan = vim.vsan.host.DecommissionMode(objectAction="ensureObjectAccessibility")
        spec = vim.host.MaintenanceSpec(vsanMode=vsan)
        return str(system.EnterMaintenanceMode_Task(timeout_s, False, spec)._moId)


def exit_maintenance(si: vim.ServiceInstance, host: HostRef, timeout_s: int) -> str | None:
    """Start leaving maintenance mode, or return the task that already does; None when the host is not in it."""
    with translated(f"exit maintenance mode on host {host.name} of {host.vcenter}"):
        system = vim.HostSystem(host.moid, si._stub)
        if not _read(si, host, "runtime.inMaintenanceMode").get("runtime.inMaintenanceMode"):
            return None
        if (running := _running(si, host, EXIT_MAINTENANCE)) is not None:
            return running
        return str(system.ExitMaintenanceMode_Task(timeout_s)._moId)


def reboot(si: vim.ServiceInstance, host: HostRef, boot_time_before: datetime | None, since: datetime) -> str | None:
    """Reboot a host once: None when it has rebooted since `boot_time_before`.

    Returns the task of a reboot submitted at or after `since` (vCenter's clock) if there is one that did not fail.
    Raises `Conflict` when the host is not in maintenance mode or not connected, and `Unreachable` when it is unknown
    whether the reboot was submitted: then call again.
    """
    with translated(f"reboot host {host.name} of {host.vcenter}"):
        state = _read(si, host, "runtime.bootTime", "runtime.inMaintenanceMode", "runtime.connectionState")
        boot_time = state.get("runtime.bootTime")
        if rebooted(boot_time_before, boot_time):
            return None
        if (earlier := find_recent_reboot(si, host, since)) is not None and earlier.state != "error":
            return earlier.moid
        connection = str(state.get("runtime.connectionState"))
        if connection != "connected":
            raise Conflict(f"host {host.name} of {host.vcenter} is {connection}; a reboot cannot be ordered now")
        if not state.get("runtime.inMaintenanceMode"):
            raise Conflict(f"host {host.name} of {host.vcenter} is not in maintenance mode, so it is not rebooted")
        return str(vim.HostSystem(host.moid, si._stub).RebootHost_Task(False)._moId)


def rebooted(before: datetime | None, now: datetime | None) -> bool:
    """Whether two values of `runtime.bootTime` are of different boots; vCenter computes it, so it is off a little."""
    return before is not None and now is not None and abs(now - before) > _BOOT_TIME_JITTER


def find_recent_reboot(si: vim.ServiceInstance, host: HostRef, since: datetime) -> RecentTask | None:
    """The newest reboot of the host that was submitted at or after `since` (vCenter's clock)."""
    return next(iter(find_recent_tasks(si, host, REBOOT, since)), None)


def find_recent_tasks(si: vim.ServiceInstance, host: HostRef, description_id: str, since: datetime) -> list[RecentTask]:
    """The host's tasks of one kind submitted at or after `since` (vCenter's clock), newest first.

    Looks at `recentTask` and at vCenter's task history, because either may lack a task: the one forgets soon, the
    other may lag.
    """
    with translated(f"look for recent tasks of host {host.name} on {host.vcenter}"):
        infos = {info.key: info for info in _recent(si, host)}
        infos.update((info.key, info) for info in _history(si, host, since))
    found = [
        RecentTask(
            moid=info.task._moId,
            description_id=info.descriptionId,
            state=str(info.state),
            queued=info.queueTime,
            error=words(info.error) if info.error is not None else "",
        )
        for info in infos.values()
        if info.descriptionId == description_id and info.queueTime >= since
    ]
    return sorted(found, key=lambda task: task.queued, reverse=True)


def running_task(si: vim.ServiceInstance, host: HostRef, *fragments: str) -> str | None:
    """A queued or running task of the host whose `descriptionId` has all these fragments; letter case is ignored."""
    for info in _recent(si, host):
        said = (info.descriptionId or "").casefold()
        if info.state in ("queued", "running") and all(fragment in said for fragment in fragments):
            return str(info.task._moId)
    return None


def _read(si: vim.ServiceInstance, host: HostRef, *paths: str) -> Read:
    return read_properties(si, vim.HostSystem(host.moid, si._stub), {vim.HostSystem: paths})[host.moid]


def _recent(si: vim.ServiceInstance, host: HostRef) -> list[vim.TaskInfo]:
    found = read_properties(
        si,
        vim.HostSystem(host.moid, si._stub),
        {vim.Task: ["info"]},
        [traversal(vim.ManagedEntity, "recentTask")],
        skip_start=True,
    )
    return [read.values["info"] for read in found.values() if "info" in read.values]


def _history(si: vim.ServiceInstance, host: HostRef, since: datetime) -> list[vim.TaskInfo]:
    spec = vim.TaskFilterSpec(
        entity=vim.TaskFilterSpec.ByEntity(entity=vim.HostSystem(host.moid, si._stub), recursion="self"),
        time=vim.TaskFilterSpec.ByTime(timeType="queuedTime", beginTime=since),
    )
    collector = content(si).taskManager.CreateCollectorForTasks(spec)
    infos: list[vim.TaskInfo] = []
    try:
        while page := collector.ReadNextTasks(100):
            infos.extend(page)
    finally:
        collector.DestroyCollector()
    return infos


def _running(si: vim.ServiceInstance, host: HostRef, description_id: str) -> str | None:
    for info in _recent(si, host):
        if info.descriptionId == description_id and info.state in ("queued", "running"):
            return str(info.task._moId)
    return None
