"""Workers may die at any point while a VM is made, changed, undone or retired: one VM, and the same end."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyVmomi import vim
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError

from contracts.host import HostRef
from contracts.machine import VmRef
from contracts.names import TaskQueues
from contracts.provision import VmOutcome, VmStage, VmWork
from contracts.vms import Customization, DriverKind, DriverPackage, DriverPolicy, GuestDriver, VmRequest, VmSource
from simulator.installers import INSTALLERS
from tests.support.deaths import Life, dying_workers, stage_of, stop
from tests.support.lab import A100, KEY, Lab, vcenter_settings
from tests.support.simulator import SimulatorProcess
from tests.support.vms import TEMPLATE, VmHandle, VmLab
from vsphere.inventory import read_host
from vsphere.passthrough import set_passthrough
from vsphere.sessions import SessionPool
from workers.temporal_server import DevServer
from workflows.provision_gpu_vm import ProvisionGpuVm
from workflows.retire_gpu_vm import RetireGpuVm

DRIVER = "NVIDIA-Linux-x86_64-550.54.14.run"
LOOK = "look_and_plan_vm"


def at(name: str, *whens: str) -> list[Life]:
    """Deaths at the first of the activities of that name, or at the one whose number follows the name."""
    label = name if name[-1].isdigit() else f"{name} 1"
    return [{"at": label, "when": when} for when in whens or ("before", "after", "reported")]


def call(sent: str, when: str = "after") -> Life:
    """Death at a call to vCenter: beside the start of a task it is unknown whether it was started."""
    return {"call": "vsphere.connection:GatewayStub.InvokeMethod", "sent": sent, "when": when}


def rest(sent: str, when: str = "after") -> Life:
    return {"call": "vsphere.rest.call", "sent": sent, "when": when}


# What one life of a worker can end with, in the order of the run. Each run loses few workers, far from each other.
CLONE = [
    *at(LOOK, "after"),
    *at("create_vm"),
    *at("await_task VM 1", "after"),
    *at("configure_vm"),
    *at("set_vm_gpus"),
    *at("power_on_gpu_vm"),
    *at("await_power_on", "after"),
    *at("inspect_guest", "after"),
    *at("install_guest_driver"),
]
_SHARERS = 6
CASES: list[tuple[str, list[Life]]] = [
    *(("clone", CLONE[number::_SHARERS]) for number in range(_SHARERS)),
    ("clone", [call("CloneVM_Task", "during"), call("PowerOnMultiVM_Task"), call("(?s)StartProgram.*driver.run")]),
    ("ovf", [rest("POST .*action=deploy"), *at("create_vm", "before", "reported")]),
    ("vm-template", [rest("POST .*action=deploy", "during"), call("CustomizeVM_Task"), *at("create_vm", "after")]),
    ("empty", at("create_vm")),
    ("change", [*at("shut_down_gpu_vm", "before", "reported"), *at("set_vm_gpus", "after")]),
    ("change", [*at("shut_down_gpu_vm", "after"), *at("set_vm_gpus", "before"), *at("power_on_gpu_vm", "after")]),
    ("retire", [*at("shut_down_gpu_vm", "after"), *at("set_vm_gpus", "after"), *at("delete_vm", "reported")]),
    ("retire", [*at("set_vm_gpus", "before", "reported"), *at("delete_vm", "after")]),
    ("retire", [*at("await_vm_off", "after"), *at("delete_vm", "before")]),
    ("undo", [*at("await_guest", "after"), *at("delete_vm", "before", "reported")]),
    ("undo", [*at(f"{LOOK} 6", "after"), call("PowerOffVM_Task"), *at("delete_vm", "after")]),
    ("cancel", [*at("create_vm", "after"), *at("delete_vm", "after")]),
]
"""How many workers die in a run: not many more could be lost one after the other without a minute passing."""


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    """A cluster for each run: a look reads a whole one."""
    with SimulatorProcess(clusters=len(CASES), hosts=1, gpus=0, vms=0, time_scale=120) as simulator:
        simulator.act("add_template", name=TEMPLATE, host="esx-01-01.gpu.test")
        for kind in ("ovf", "vm-template"):
            simulator.act("add_library_item", library="golden", name=kind, kind=kind, source=TEMPLATE)
        yield simulator


@dataclass
class Run:
    """Work on one VM, and where its workers die."""

    kind: str
    lives: list[Life]
    vms: VmLab
    cluster: str
    host: HostRef = field(init=False)
    request: VmRequest = field(init=False)
    theirs: VmRef | None = None
    """The VM that is there before the run."""

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def queue(self) -> str:
        return self.vms.lab.queues.base

    def set_up(self) -> None:
        """A host with two GPUs for this run alone; one is in use by a VM of others, named like the run's."""
        simulator = self.vms.lab.simulator
        self.host = self.vms.lab.add_host(cluster=self.cluster, gpus=[A100] * 2, rebind_without_reboot=True)
        with self.vms.lab.pool.session() as si:
            for graphics in read_host(si, self.host).graphics:
                assert set_passthrough(si, self.host, graphics.sbdf, True, self.queue, apply_now=True)
        self.request = self.vms.dynamic(self.queue, cluster=self.cluster, source=self.source(), **self.wishes())
        taken = self.vms.sbdfs(self.host)[0]
        simulator.act("add_vm", host=self.host.name, name=f"{self.name}-2", gpu="static", device=taken)
        if self.kind == "undo":
            simulator.act("no_tools", vm=self.name)
        if self.kind in ("change", "retire"):
            gpu = {"gpu": "dynamic", "label": self.queue} if self.kind == "retire" else {}
            moid = simulator.act("add_vm", host=self.host.name, name=self.name, **gpu)
            seen = next(vm for vm in simulator.act("list_vms", prefix=self.name) if vm["moid"] == moid)
            self.theirs = VmRef(
                vcenter=self.vms.lab.vcenter, instance_uuid=seen["instance_uuid"], moid=moid, name=self.name
            )

    def source(self) -> VmSource:
        if self.kind == "empty":
            return VmSource(guest_id="ubuntu64Guest", disk_gib=16)
        if self.kind in ("ovf", "vm-template"):
            return VmSource(library_item=f"golden/{self.kind}")
        return VmSource(template=TEMPLATE)

    def wishes(self) -> dict[str, Any]:
        if self.kind in ("ovf", "vm-template"):
            return {"customization": Customization(host_name="from-library")}
        if self.kind != "clone":
            return {}
        simulator, found = self.vms.lab.simulator, INSTALLERS[DRIVER]
        package = DriverPackage(
            kind=DriverKind.DATA_CENTER,
            version=found.driver.version,
            url=f"https://{simulator.host}:{simulator.port}/simulator/drivers/{DRIVER}",
            sha256=found.sha256,
        )
        return {"driver": GuestDriver(policy=DriverPolicy.INSTALL, credentials="ubuntu", package=package)}

    def told(self, folder: Path) -> dict[str, Any]:
        """What the workers of this run are told; tasks are followed under the VM's name."""
        lives = [{**life, "at": life.get("at", "").replace("VM", self.name)} for life in self.lives]
        return {
            "name": self.queue,
            "lives": lives,
            "workflows": [ProvisionGpuVm.__name__, RetireGpuVm.__name__],
            "vm_limits": {"guest_timeout_s": 4 if self.kind == "undo" else 60},
            "guests": {"ubuntu": {"user": "root", "password_file": str(folder / "guest")}},
        }

    async def problems(self) -> list[str]:
        """Do it while the workers die; what is not as it should be."""
        before = await asyncio.to_thread(self.seen)
        handle = await self.started()
        if self.kind in ("change", "retire"):
            await stage_of(handle, VmStage.AWAITING_APPROVAL)
            await self.vms.lab.decide(handle, await self.vms.asked(handle))  # type: ignore[arg-type]
        if self.kind == "cancel":
            await self.vm_made()
            await handle.cancel()
        await stage_of(handle, VmStage.FINISHED)
        status = await self.ended(handle)
        report = await handle.query("report", result_type=ProvisionGpuVm.report.__annotations__["return"])
        after = await asyncio.to_thread(self.seen)
        facts = {
            f"ended as {status}": status is self.end[1],
            f"{self.end[0]}, not {report.outcome}: {report.detail}": report.outcome is self.end[0],
        }
        facts |= self.facts(before, after, await asyncio.to_thread(self.done))
        return [fact for fact, holds in facts.items() if not holds]

    async def started(self) -> VmHandle:
        if self.kind == "retire":
            assert self.theirs
            return await self.vms.retire(self.theirs)
        return await self.vms.provision(self.request, VmWork.CHANGE if self.kind == "change" else VmWork.PROVISION)

    async def vm_made(self) -> None:
        """Until the VM is there, while the worker that asked for it is dead."""
        deadline = asyncio.get_running_loop().time() + 60
        while not await asyncio.to_thread(self.vms.seen, self.name):
            assert asyncio.get_running_loop().time() < deadline, f"no VM {self.name} within 60 s"
            await asyncio.sleep(0.1)

    async def ended(self, handle: VmHandle) -> WorkflowExecutionStatus:
        with suppress(WorkflowFailureError):
            await handle.result()
        return (await handle.describe()).status or WorkflowExecutionStatus.RUNNING

    @property
    def end(self) -> tuple[VmOutcome, WorkflowExecutionStatus]:
        done, failed = WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED
        ends = {
            "change": (VmOutcome.CHANGED, done),
            "retire": (VmOutcome.RETIRED, done),
            "undo": (VmOutcome.UNDONE, failed),
            "cancel": (VmOutcome.UNDONE, WorkflowExecutionStatus.CANCELED),
        }
        return ends.get(self.kind, (VmOutcome.PROVISIONED, done))

    def seen(self) -> list[dict[str, Any]]:
        """The VMs whose names begin like this run's."""
        return list(self.vms.lab.simulator.act("list_vms", prefix=self.name))

    def done(self) -> Counter[str]:
        """The tasks of vCenter on this run's VM that went well."""
        si = self.vms.lab.simulator.connect()
        try:
            collector = si.content.taskManager.CreateCollectorForTasks(vim.TaskFilterSpec())
            tasks: list[Any] = []
            while page := collector.ReadNextTasks(1000):
                tasks += page
        finally:
            self.vms.lab.simulator.disconnect(si)
        return Counter(
            info.descriptionId.partition(".")[2]
            for info in tasks
            if info.entityName == self.name and info.state == "success"
        )

    def facts(self, before: list[dict[str, Any]], after: list[dict[str, Any]], done: Counter[str]) -> dict[str, bool]:
        lab = self.vms.lab
        ledger = [
            entry["what"] for entry in lab.simulator.act("vm_ledger", prefix=self.name) if entry["name"] == self.name
        ]
        gone = self.kind in ("retire", "undo", "cancel")
        came = ["added", *["driver installed"] * (self.kind == "clone"), *["removed"] * gone]
        # Their guests may have come up meanwhile.
        touched = ("name", "moid", "host", "power_state", "gpus")
        others = [
            [[vm[key] for key in touched] for vm in world if vm["name"] != self.name] for world in (before, after)
        ]
        facts = {
            f"VMs and drivers came and went: {ledger}": ledger == came,
            f"others' VMs are as before: {others}": len(others[0]) == 1 and others[0] == others[1],
        }
        mine = [vm for vm in after if vm["name"] == self.name]
        if gone:
            return facts | {
                f"nothing is left: {mine}": not mine,
                f"deleted once: {done}": done["destroy"] == 1,
            }
        gpus = [gpu["assigned_id"] for vm in mine for gpu in vm["gpus"]]
        driver = "datacenter 550.54.14" if self.kind == "clone" else None
        return facts | {
            f"one VM is on: {mine}": [vm["power_state"] for vm in mine] == ["poweredOn"],
            f"it has the free GPU, not {gpus}": gpus == [self.vms.sbdfs(self.host)[1]],
            f"its driver is {driver}": [vm["driver"] for vm in mine] == [driver],
            f"powered on once: {done}": done["powerOn"] == 1,
        }


@pytest.mark.timeout(240)
async def test_killed_at_every_boundary_a_run_about_a_vm_ends_the_same_with_one_vm(
    vcenter: SimulatorProcess, temporal_server: DevServer, temporal_client: Client, tmp_path: Path
) -> None:
    settings = vcenter_settings(vcenter, tmp_path, name="vm-kills")
    (tmp_path / "guest").write_text("simulator")
    with SessionPool(settings) as pool:
        runs = [
            Run(
                kind,
                lives,
                VmLab(Lab(vcenter, temporal_client, TaskQueues(f"vm-death-{number}"), pool)),
                f"gpu-{number:02d}",
            )
            for number, (kind, lives) in enumerate(CASES, 1)
        ]
        for run in runs:
            await asyncio.to_thread(run.set_up)
        queues = [run.told(tmp_path) for run in runs]
        order: dict[str, object] = {
            "address": temporal_server.address,
            "vcenter": settings.model_dump(mode="json", exclude_none=True),
            "public_key": KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            "profiles": [],
            "queues": queues,
        }
        with dying_workers(order) as process:
            ends = await asyncio.gather(*(run.problems() for run in runs), return_exceptions=True)
            died = await asyncio.to_thread(stop, process)
    problems = [f"{run.kind} killed at {run.lives}: {end!r}" for run, end in zip(runs, ends, strict=True) if end]
    assert not problems, "\n".join(problems)
    assert died == {queue["name"]: len(queue["lives"]) for queue in queues}, "each worker died where it was told to"
