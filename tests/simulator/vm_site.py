"""A simulated vCenter with one host in passthrough and one with vGPUs, driven by unmodified pyVmomi over TLS."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from tests.support.simulator import SimulatorProcess

__all__ = ["GPU_SETTINGS", "PASSTHROUGH", "PASSWORD", "PLAIN", "PROFILE", "ROOT", "VGPU", "VmSite"]

PLAIN, VGPU, PASSTHROUGH = (f"esx-01-0{number}.gpu.test" for number in (1, 2, 3))
MANAGER = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"
PROFILE = "grid_a100-20c"
PASSWORD = "simulator"
ROOT = vim.vm.guest.NamePasswordAuthentication(username="root", password=PASSWORD, interactiveSession=False)
GPU_SETTINGS = [
    vim.option.OptionValue(key="pciPassthru.use64bitMMIO", value="TRUE"),
    vim.option.OptionValue(key="pciPassthru.64bitMMIOSizeGB", value="128"),
]


class VmSite:
    """`simulator` runs with `clusters=1, hosts=3, gpus=4, gpu_vms=1`: the last host is in passthrough, "Training"."""

    def __init__(self, simulator: SimulatorProcess) -> None:
        self.simulator = simulator
        self.act = simulator.act
        self.si = simulator.connect()
        self.content = self.si.content
        self.ops = self.content.guestOperationsManager
        self.datacenter = self.content.rootFolder.childEntity[0]
        self.cluster = self.datacenter.hostFolder.childEntity[0]
        self.hosts = {host.name: host for host in self.cluster.host}
        manager = self.hosts[VGPU].configManager.graphicsManager
        types = [
            vim.host.GraphicsConfig.DeviceType(deviceId=gpu.pciId, graphicsType="sharedDirect")
            for gpu in self.hosts[VGPU].config.graphicsInfo
        ]
        manager.UpdateGraphicsConfig(
            vim.host.GraphicsConfig(
                hostDefaultGraphicsType="sharedDirect", sharedPassthruAssignmentPolicy="performance", deviceType=types
            )
        )
        self.act("set_package", host=VGPU, depot=MANAGER)
        self.act("add_template", name="ubuntu", host=PLAIN)

    def close(self) -> None:
        self.simulator.disconnect(self.si)

    def vm(self, moid: str) -> Any:
        return vim.VirtualMachine(moid, self.si._stub)

    def named(self, name: str) -> Any:
        return self.content.searchIndex.FindByInventoryPath(f"DC0/vm/{name}")

    def add(self, name: str, host: str = PASSTHROUGH, gpu: str = "dynamic", on: bool = True, **more: Any) -> Any:
        """A VM made right for its GPUs; with `on` its guest is up."""
        if gpu == "vgpu":
            more = {"profile": PROFILE} | more
        vm = self.vm(self.act("add_vm", host=host, name=name, gpu=gpu, on=on, **more))
        if on:
            self.until(lambda: vm.guest.guestOperationsReady)
        return vm

    def clone(self, name: str, source: str = "templates/ubuntu", **spec: Any) -> Any:
        """The task's info of a clone that has ended."""
        location = spec.pop("location", None) or vim.vm.RelocateSpec(pool=self.cluster.resourcePool)
        wanted = vim.vm.CloneSpec(**{"location": location, "template": False, "powerOn": False} | spec)
        return self.ended(self.named(source).CloneVM_Task(self.datacenter.vmFolder, name, wanted))

    def remove(self, vm: Any) -> None:
        if vm.runtime.powerState != "poweredOff":
            self.ended(vm.PowerOffVM_Task())
        assert self.ended(vm.Destroy_Task()).state == "success"

    def ended(self, task: Any) -> Any:
        self.until(lambda: task.info.state in ("success", "error"))
        return task.info

    @staticmethod
    def until(condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it did not come about within a minute"
            time.sleep(0.01)

    def run(self, vm: Any, line: str) -> tuple[int, str]:
        """A command line in the guest: its exit status, and what it wrote."""
        spec = vim.vm.guest.ProcessManager.ProgramSpec(programPath="/bin/sh", arguments=f"-c '{line}' > /root/out 2>&1")
        pid = self.ops.processManager.StartProgramInGuest(vm, ROOT, spec)
        self.until(lambda: self.process(vm, pid).endTime)
        _, _, content = self.get(self.ops.fileManager.InitiateFileTransferFromGuest(vm, ROOT, "/root/out").url)
        return self.process(vm, pid).exitCode, content.decode()

    def process(self, vm: Any, pid: int) -> Any:
        return self.ops.processManager.ListProcessesInGuest(vm, ROOT, [pid])[0]

    def get(self, url: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        """GET, or with a body PUT: status, URL and content."""
        request = urllib.request.Request(url, data=body, method="GET" if body is None else "PUT")  # noqa: S310
        try:
            with urllib.request.urlopen(request, context=self.simulator.ssl_context(), timeout=30) as answer:  # noqa: S310
                return answer.status, url, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, url, refused.read()

    def put(self, vm: Any, path: str, content: bytes, mode: int = 0o644) -> int:
        """Upload a file; the HTTP status."""
        attributes = vim.vm.guest.FileManager.PosixFileAttributes(permissions=mode)
        url = self.ops.fileManager.InitiateFileTransferToGuest(vm, ROOT, path, attributes, len(content), True)
        return self.get(url, content)[0]

    def install(self, vm: Any, name: str) -> tuple[int, str]:
        """Fetch a driver, upload it and run it."""
        url = f"https://{self.simulator.host}:{self.simulator.port}/simulator/drivers/{name}"
        assert self.put(vm, "/root/driver.run", self.get(url)[2]) == 200
        return self.run(vm, "sh /root/driver.run --silent")
