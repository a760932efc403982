"""A plain script that prepares GPU hosts with pyVmomi alone: what preparation costs without durability.

Nothing is planned, approved, leased, recorded or retried; the calls that change a host, their order and the waiting by
push are those of gpuwright. It takes an order as JSON on standard input and prints what it needed as JSON:
`{"seconds": …, "cpu_s": …, "peak_rss_mib": …}`, from the first call after the logins to the end of the last host.
"""

from __future__ import annotations

import json
import resource
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

PC = vmodl.query.PropertyCollector
_RUNTIME = ["runtime.bootTime", "runtime.connectionState", "runtime.inMaintenanceMode"]
_LIMIT_S = 600
_DONE = ("success", "error")


def prepare(si: Any, job: dict[str, Any]) -> None:
    """One host, from its first look to the proof; raises `RuntimeError` when it is not as wanted in the end."""
    host = vim.HostSystem(job["host"], si._stub)
    first = _read(si, host, [*_RUNTIME, "config.graphicsInfo", "config.graphicsConfig", "configManager"])
    managers, gpu = first["configManager"], first["config.graphicsInfo"][0].pciId
    vsan = vim.vsan.host.DecommissionMode(objectAction="ensureObjectAccessibility")
    _follow(si, host.EnterMaintenanceMode_Task(_LIMIT_S, False, vim.host.MaintenanceSpec(vsanMode=vsan)))
    if depot := job["depot"]:
        _follow(si, managers.patchManager.InstallHostPatchV2_Task(bundleUrls=[depot]))
        config = first["config.graphicsConfig"]
        config.hostDefaultGraphicsType = "sharedDirect"
        for device in config.deviceType:
            device.graphicsType = "sharedDirect"
        managers.graphicsManager.UpdateGraphicsConfig(config)
    else:
        wanted = vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True, hardwareLabel="Training", applyNow=True)
        managers.pciPassthruSystem.UpdatePassthruConfig([wanted])
    _follow(si, host.RebootHost_Task(False))
    before = first["runtime.bootTime"]
    _until(
        si,
        host,
        _RUNTIME,
        lambda now: now["runtime.connectionState"] == "connected" and now["runtime.bootTime"] != before,
    )
    _follow(si, host.ExitMaintenanceMode_Task(_LIMIT_S))
    proof = _read(si, host, [*_RUNTIME, "config.graphicsInfo", "config.pciPassthruInfo"])
    active = next(info for info in proof["config.pciPassthruInfo"] if info.id == gpu).passthruActive
    shared = proof["config.graphicsInfo"][0].graphicsType == "sharedDirect" if job["depot"] else active
    if proof["runtime.inMaintenanceMode"] or not shared:
        raise RuntimeError(f"{job['host']} is not as wanted in the end")


def _read(si: Any, target: Any, paths: list[str]) -> dict[str, Any]:
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=target)], propSet=[PC.PropertySpec(type=type(target), pathSet=paths)]
    )
    result = si.content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions())
    return {change.name: change.val for change in result.objects[0].propSet}


def _follow(si: Any, task: Any) -> None:
    end = _until(si, task, ["info.state", "info.error"], lambda now: now["info.state"] in _DONE)
    if end["info.state"] == "error":
        raise RuntimeError(end["info.error"].msg)


def _until(si: Any, target: Any, paths: list[str], done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait by push, in a collector of its own."""
    collector = si.content.propertyCollector.CreatePropertyCollector()
    try:
        spec = PC.FilterSpec(
            objectSet=[PC.ObjectSpec(obj=target)], propSet=[PC.PropertySpec(type=type(target), pathSet=paths)]
        )
        collector.CreateFilter(spec, partialUpdates=False)
        version, now = "", dict.fromkeys(paths)
        while not done(now):
            update = collector.WaitForUpdatesEx(version, PC.WaitOptions(maxWaitSeconds=10))
            if update is not None:
                version = update.version
                now.update((change.name, change.val) for change in update.filterSet[0].objectSet[0].changeSet)
        return now
    finally:
        collector.DestroyPropertyCollector()


def main() -> None:
    """Read the order, log in, run, tell."""
    order = json.load(sys.stdin)
    context = ssl.create_default_context(cafile=order["ca_file"])
    sessions = [
        SmartConnect(
            host=order["host"], port=order["port"], user=order["user"], pwd=order["password"], sslContext=context
        )
        for _ in range(order["width"])
    ]
    free = list(sessions)

    def one(job: dict[str, Any]) -> None:
        si = free.pop()
        try:
            prepare(si, job)
        finally:
            free.append(si)

    began, cpu_before = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(order["width"]) as pool:
        list(pool.map(one, order["jobs"]))
    seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu_before
    for si in sessions:
        Disconnect(si)
    peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_rss_mib": peak_rss_mib}))


if __name__ == "__main__":
    main()
