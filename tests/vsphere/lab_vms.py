"""VMs made through the gateway in either world, and removed at the end."""

from __future__ import annotations

from itertools import count
from typing import Any

from pyVmomi import vim

from contracts.errors import GpuwrightError
from contracts.fleet import VmGpu
from contracts.machine import VmRef, VmState, VmTarget
from contracts.vms import DynamicGpu, VmRequest, VmSource
from tests.support.govc import govc_json
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from tests.vsphere.targets import GPU, OTHER_GPU, Target
from vsphere.graphics import set_graphics_type, set_host_graphics
from vsphere.passthrough import set_passthrough
from vsphere.properties import read_properties, watching
from vsphere.tasks import TaskOutcome, await_task
from vsphere.vm_build import create_vm
from vsphere.vm_power import delete_vm
from vsphere.vm_state import find_made_by, read_vm
from vsphere.vm_target import resolve_target

__all__ = ["A100", "Lab", "dynamic", "passthrough_host", "vgpu_host"]

A100 = "10de:20f1"
_NUMBERS = count(1)


class Lab:
    """Requests, runs and VMs of one test."""

    def __init__(self, si: vim.ServiceInstance, world: World) -> None:
        self.si, self.world = si, world
        self.number = next(_NUMBERS)
        self.run = f"provision-gpu-vm/{world.name}/{self.number}/first"
        self.vms: list[tuple[VmRef, str]] = []
        self.templates: list[vim.VirtualMachine] = []

    def request(self, **changes: Any) -> VmRequest:
        """A request that fits the world, for an empty VM with a Dynamic DirectPath I/O device."""
        fields: dict[str, Any] = {
            "name": f"lab-{self.number:03}",
            "vcenter": self.world.name,
            "cluster": self.world.cluster,
            "source": VmSource(guest_id="ubuntu64Guest", disk_gib=8),
            "cpus": 2,
            "memory_mib": 4096,
            "gpus": (DynamicGpu(match=A100),),
        }
        return VmRequest(**{**fields, **changes})

    def target(self, request: VmRequest) -> VmTarget:
        return resolve_target(self.si, request)

    def finish(self, task: str | None) -> TaskOutcome:
        assert task is not None
        return await_task(self.si, task, lambda _: None, 60)

    def done(self, task: str | None) -> None:
        end = self.finish(task)
        assert end == TaskOutcome("success"), end

    def find(self, request: VmRequest, target: VmTarget, run: str = "") -> VmRef | None:
        """The VM that this test's run has made; it is removed at the end."""
        found = find_made_by(self.si, self.world.name, run or self.run, target.folder, request.name)
        if found is not None:
            self.vms.append((found, run or self.run))
        return found

    def make(self, request: VmRequest | None = None, **more: Any) -> VmRef:
        """A finished VM."""
        request = request or self.request()
        target = self.target(request)
        task = create_vm(self.si, request, target, self.run, **more)
        self.done(task)
        found = self.find(request, target)
        assert found is not None
        return found

    def state(self, ref: VmRef) -> VmState:
        found = read_vm(self.si, ref)
        assert found is not None
        return found

    def await_guest(self, ref: VmRef) -> None:
        """Wait until VMware Tools answer."""
        with watching(self.si, vim.VirtualMachine(ref.moid, self.si._stub), ["guest.toolsRunningStatus"]) as watch:
            assert watch.until(
                lambda values: values.get("guest.toolsRunningStatus") == "guestToolsRunning", lambda _: None, 60
            )

    def await_question(self, ref: VmRef) -> None:
        """Wait until the VM asks something."""
        with watching(self.si, vim.VirtualMachine(ref.moid, self.si._stub), ["runtime.question"]) as watch:
            assert watch.until(lambda values: values.get("runtime.question") is not None, lambda _: None, 60)

    def read(self, ref: VmRef, path: str) -> Any:
        machine = vim.VirtualMachine(ref.moid, self.si._stub)
        return read_properties(self.si, machine, {vim.VirtualMachine: [path]})[ref.moid].get(path)

    def add_template(self, simulator: SimulatorProcess, **more: Any) -> str:
        """A template with an installed Linux in the simulated world; returns its name. It is removed at the end."""
        name = f"golden-{next(_NUMBERS):03}"
        moid = simulator.act("add_template", name=name, host=self.world.hosts[0], **more)
        self.templates.append(vim.VirtualMachine(moid, self.si._stub))
        return name

    def as_template(self, ref: VmRef) -> None:
        """The VM is a template from now on."""
        machine = vim.VirtualMachine(ref.moid, self.si._stub)
        machine.MarkAsTemplate()
        self.vms = [(each, run) for each, run in self.vms if each.moid != ref.moid]
        self.templates.append(machine)

    def govc(self, *arguments: str) -> Any:
        world = self.world
        trusted = world.server_cert_file or world.ca_file
        assert trusted is not None
        password = world.password_file.read_text().strip()
        return govc_json(f"https://{world.host}:{world.port}/sdk", world.user, password, trusted, *arguments)

    def clean_up(self) -> None:
        for ref, run in self.vms:
            try:
                task = delete_vm(self.si, ref, run)
            except GpuwrightError as error:
                raise AssertionError(f"{ref.name} stays behind: {error}") from error
            if task is not None:
                self.done(task)
        for machine in self.templates:
            self.done(str(machine.Destroy_Task()._moId))


def passthrough_host(simulator: SimulatorProcess, si: vim.ServiceInstance, label: str, **more: Any) -> Target:
    """A fresh host of the simulated cluster whose two GPUs are in passthrough with a label."""
    made = Target(simulator, si, rebind_without_reboot=True, **more)
    for sbdf in (GPU, OTHER_GPU):
        assert set_passthrough(si, made.ref, sbdf, True, label, apply_now=True)
    return made


def vgpu_host(simulator: SimulatorProcess, si: vim.ServiceInstance, depot: str) -> Target:
    """A fresh host of the simulated cluster whose two GPUs are shared by a vGPU Manager."""
    made = Target(simulator, si)
    for sbdf in (GPU, OTHER_GPU):
        set_graphics_type(si, made.ref, sbdf, "sharedDirect")
    set_host_graphics(si, made.ref, "sharedDirect")
    simulator.act("set_package", host=made.ref.name, depot=depot)
    return made


def dynamic(label: str = "", vendor_device: str = A100) -> VmGpu:
    return VmGpu(key=0, kind="dynamic", allowed=(vendor_device,), label=label)
