"""Workers may die at any point of any change: the end is the same, and nothing was done twice."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyVmomi import vim
from temporalio.client import Client

from contracts.cluster import ClusterOutcome, ClusterStage
from contracts.host import HostRef
from contracts.names import PREPARE_GPU_HOST, TaskQueues
from contracts.prepare import Outcome, Stage
from contracts.profiles import GpuMode, GpuWanted, Profile, VgpuManager
from tests.support.deaths import Life, dying_workers, stage_of, stop
from tests.support.lab import A100, KEY, TRAINING, Lab, vcenter_settings
from tests.support.rollouts import Site, asked, decide
from tests.support.simulator import SimulatorProcess
from vsphere.services import SSH
from vsphere.sessions import SessionPool
from vsphere.vlcm import lifecycle_manager
from workers.temporal_server import DevServer
from workflows.cluster_gate import ClusterGate
from workflows.prepare_gpu_cluster import PrepareGpuCluster
from workflows.prepare_gpu_host import PrepareGpuHost

A40 = "10de:2235"
NAME, VERSION = "NVD-AIE_ESXi_8.0.0_Driver", "550.54.16-1OEM.800.1.0.20613240"
BUNDLE, VIB = f"NVD-AIE-800_{VERSION}", f"NVD_bootbank_{NAME}_{VERSION}"
LOOK = "look_and_plan_host"
HOST_WORKFLOWS = [PrepareGpuHost.__name__, ClusterGate.__name__]
# Every activity of a preparation that needs all of them, in order; the test checks that it is true. `await_task` tells
# after the fact which task it followed.
CHAIN = [
    LOOK,
    "inspect_depot",
    LOOK,
    LOOK,
    "request_lease",
    LOOK,
    "enter_maintenance",
    "await_task enter-maintenance",
    LOOK,
    "set_bios",
    LOOK,
    "install_vgpu_manager",
    "await_task install-vgpu-manager",
    LOOK,
    "set_host_graphics",
    LOOK,
    "enable_passthrough",
    LOOK,
    "set_graphics_type",
    LOOK,
    "reboot",
    "await_task reboot",
    "await_host_back",
    LOOK,
    "set_mig",
    LOOK,
    "exit_maintenance",
    "await_task exit-maintenance",
    LOOK,
]
DONE_ONCE = ["bios SriovGlobalEnable=Enabled", f"install {VIB}", "boot", "mig on 0000:e2:00.0"]
"""All that the chain does to a host, by the host's own account."""
READS = {LOOK, "inspect_depot", "request_lease", "await_host_back"}


def boundaries() -> list[Life]:
    """Before, after and once reported of each activity that changes something.

    What only looks or waits can be lost in one way, and the way of one look is that of all.
    """
    seen: Counter[str] = Counter()
    lives: list[Life] = []
    for name in CHAIN:
        seen[name] += 1
        waits = name in READS or name.startswith("await_task")
        if name != LOOK or seen[name] == 1:
            ways = ("after",) if waits else ("before", "after", "reported")
            lives += [{"at": f"{name} {seen[name]}", "when": when} for when in ways]
    return lives


def in_order(names: list[str]) -> list[str]:
    """What ran, without what may differ: a look is repeated while a BMC is slow to answer, and what was done already
    when it was asked for again has no task to follow.
    """
    told = [name for name in names if not name.startswith("await_task")]
    return [name for name, before in zip(told, ["", *told], strict=False) if name != before]


def rest(sent: str, when: str = "after") -> Life:
    return {"call": "vsphere.rest.call", "sent": sent, "when": when}


def ssh(running: bool, when: str) -> Life:
    return {"call": "vsphere.services.set_service", "sent": f"{SSH} {running}", "when": when}


def nvidia_smi(sent: str) -> Life:
    return {"call": "vsphere.host_ssh._run", "sent": sent, "when": "after"}


_SHARERS = 12
"""Runs that share the chain's boundaries: each loses several workers, far from each other."""
CASES: list[tuple[str, list[Life]]] = [
    *(("chain", boundaries()[number::_SHARERS]) for number in range(_SHARERS)),
    # SSH was opened; MIG was ordered; MIG is in force and SSH still open.
    ("chain", [ssh(True, "after"), nvidia_smi("-mig 1"), ssh(False, "before")]),
    ("chain, SSH is kept open", [ssh(True, "after"), nvidia_smi("-mig 1"), nvidia_smi("--gpu-reset")]),
    # The BMC has the order; the card was reset; SSH was closed.
    ("chain", [rest("PATCH .*/Bios/Settings"), nvidia_smi("--gpu-reset"), ssh(False, "after")]),
    ("esxcli", [{"at": "install_vgpu_manager 1", "when": "before"}, {"at": "install_vgpu_manager 1", "when": "after"}]),
    (
        "esxcli",
        [
            {"call": "vsphere.connection:GatewayStub.InvokeMethod", "sent": "ExecuteSoap .*install", "when": "during"},
            {"at": "install_vgpu_manager 1", "when": "reported"},
        ],
    ),
    ("image", [rest("POST .*drafts$"), rest("POST .*=commit", "during"), rest("POST .*=apply")]),
    ("image", [rest("PATCH .*components"), rest("POST .*=commit"), rest("POST .*=apply", "before")]),
    ("image", [rest("POST .*=validate"), rest("POST .*=scan"), {"at": "remediate_image 1", "when": "after"}]),
    ("image, boots slowly", [rest("POST .*=apply")]),
]
ROLLOUTS: list[list[Life]] = [
    [
        {"at": "look_and_plan_cluster 1", "when": "before"},
        {"at": f"{PREPARE_GPU_HOST} 1", "when": "before"},
        {"at": f"{PREPARE_GPU_HOST} 1", "when": "reported"},
    ],
    [
        {"at": "look_and_plan_cluster 1", "when": "after"},
        {"at": f"{PREPARE_GPU_HOST} 1", "when": "after"},
        {"at": f"{PREPARE_GPU_HOST} 2", "when": "after"},
    ],
    [
        {"at": "look_and_plan_cluster 1", "when": "reported"},
        {"at": f"{PREPARE_GPU_HOST} 2", "when": "before"},
        {"at": f"{PREPARE_GPU_HOST} 2", "when": "reported"},
    ],
]


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    """A vCenter with empty clusters: each run takes one, so that no run waits for another's gate."""
    with SimulatorProcess(clusters=len(CASES) + len(ROLLOUTS), hosts=0, gpus=0, vms=0, time_scale=120) as simulator:
        yield simulator


@dataclass
class Run:
    """A preparation of one host, and where its workers die."""

    kind: str
    lives: list[Life]
    lab: Lab
    cluster: str
    folder: Path
    host: HostRef = field(init=False)

    @property
    def name(self) -> str:
        return self.lab.queues.base

    def add_host(self) -> None:
        simulator = self.lab.simulator
        self.host = self.lab.add_host(cluster=self.cluster, gpus=[A100] if self.image else [A40, A100])
        if self.image:
            simulator.act("set_lifecycle_managed", cluster=self.cluster, on=True)
        else:
            simulator.act("set_sriov", host=self.host.name, on=False)
        if "slowly" in self.kind:
            # Longer than it takes to notice that the worker is gone: the next one comes while the host is away.
            simulator.act("slow_reboot", host=self.host.name, seconds=20 * 120)
        si = simulator.connect()
        try:
            manager = self.lab.system(self.host, si).configManager
            if self.kept_open:
                manager.serviceSystem.UpdateServicePolicy(SSH, "on")
                manager.serviceSystem.StartService(SSH)
            if self.kind == "esxcli":
                simulator.add_fault(
                    method="InstallHostPatchV2_Task", object=manager.patchManager._moId, error="NotSupported"
                )
        finally:
            simulator.disconnect(si)

    @property
    def image(self) -> bool:
        return self.kind.startswith("image")

    @property
    def kept_open(self) -> bool:
        return "open" in self.kind

    @property
    def profile(self) -> str:
        return "shares" if self.image else "all"

    def queue(self) -> dict[str, Any]:
        """What the workers of this run are told."""
        door = self.lab.simulator.control("GET", f"/simulator/hosts/{self.host.name}/ssh")
        known_hosts = self.folder / f"known_hosts-{self.name}"
        known_hosts.write_text(f"[{door['address']}]:{door['port']} {door['host_key']}\n")
        password = str(self.folder / "vcenter-password")
        login = {"password_file": password, "known_hosts_file": str(known_hosts)}
        bmc = {
            "hosts": ["*.gpu.test"],
            "url": f"https://{self.lab.simulator.host}:{self.lab.simulator.port}",
            "user": self.lab.simulator.user,
            "password_file": password,
            "ca_file": str(self.lab.simulator.ca_file),
        }
        return {
            "name": self.name,
            "lives": self.lives,
            "workflows": HOST_WORKFLOWS,
            "ssh": {"address": door["address"], "port": door["port"], **login},
            "bmcs": [bmc],
        }

    async def problems(self) -> list[str]:
        """Prepare the host while its workers die; what is not as it should be."""
        handle = await self.lab.start(self.host, self.profile)
        await stage_of(handle, Stage.AWAITING_APPROVAL)
        await self.lab.decide(handle, await self.lab.asked(handle))
        stage = await stage_of(handle, Stage.FINISHED, Stage.AWAITING_RESOLUTION)
        report = await handle.query(PrepareGpuHost.report)
        facts = {f"prepared, not {stage}: {report.detail}": report.outcome is Outcome.PREPARED}
        facts |= await asyncio.to_thread(self.facts)
        if not self.image:
            ran = [
                event.activity_task_scheduled_event_attributes.activity_type.name
                async for event in handle.fetch_history_events()
                if event.HasField("activity_task_scheduled_event_attributes")
            ]
            facts[f"the activities are {ran}"] = in_order(ran) == in_order(CHAIN)
        return [fact for fact, holds in facts.items() if not holds]

    def facts(self) -> dict[str, bool]:
        simulator, host = self.lab.simulator, self.host
        done = simulator.act("ledger", host=host.name)
        entered = len(self.lab.vcenter_events(host, vim.event.EnteredMaintenanceModeEvent))
        once = ["remediate", f"install {VIB}", "boot"] if self.image else DONE_ONCE
        si = simulator.connect()
        try:
            system = self.lab.system(host, si)
            services = {service.key: service.running for service in system.config.service.service}
            cards = sorted(info.graphicsType for info in system.config.graphicsInfo)
            offered = set(system.config.sharedPassthruGpuTypes or ())
            away = system.runtime.inMaintenanceMode
        finally:
            simulator.disconnect(si)
        facts = {
            f"done once, not {done}": done == once,
            f"maintenance entered once, not {entered} times": entered == 1,
            "out of maintenance": not away,
            "SSH as it was": services[SSH] is self.kept_open,
            f"cards {cards}": cards == (["sharedDirect"] if self.image else ["direct", "sharedDirect"]),
            f"profiles {offered}": ("grid_a100-40c" if self.image else "grid_a100-3-20c") in offered,
        }
        ordered = self.lab.reboots(host)
        facts[f"reboots ordered by hand: {ordered}"] = ordered == (0 if self.image else 1)
        if self.image:
            with lifecycle_manager(self.lab.pool.settings) as manager:
                moid = host_cluster(self.lab, host)
                drafts = manager._send("GET", f"/api/esx/settings/clusters/{moid}/software/drafts")
                tasks = manager._send("GET", "/api/cis/tasks").values()
            applied = [
                task for task in tasks if (task["operation"], task.get("target", {}).get("id")) == ("apply", moid)
            ]
            facts[f"no draft is left: {drafts}"] = not drafts
            facts[f"one remediation, not {len(applied)}"] = len(applied) == 1
        return facts


def host_cluster(lab: Lab, host: HostRef) -> str:
    si = lab.simulator.connect()
    try:
        return str(lab.system(host, si).parent._moId)
    finally:
        lab.simulator.disconnect(si)


@pytest.mark.timeout(420)
async def test_killed_at_every_boundary_a_preparation_ends_the_same_with_nothing_done_twice(
    vcenter: SimulatorProcess, temporal_server: DevServer, temporal_client: Client, tmp_path: Path
) -> None:
    settings = vcenter_settings(vcenter, tmp_path, name="kills")
    depot = vcenter.control("GET", "/simulator/depots")["depots"][BUNDLE]
    manager = VgpuManager(
        name=NAME,
        version=">=550",
        depot=f"https://{vcenter.host}:{vcenter.port}{depot['url']}",
        sha256=depot["sha256"],
    )
    mig = GpuWanted(match=A100, mode=GpuMode.VGPU_MIG)
    whole = GpuWanted(match=A40, mode=GpuMode.PASSTHROUGH, label="Whole")
    profiles = (
        Profile(name="all", gpus=(whole, mig), vgpu_manager=manager),
        Profile(name="shares", gpus=(GpuWanted(match=A100, mode=GpuMode.VGPU),), vgpu_manager=manager),
        TRAINING,
    )
    with SessionPool(settings) as pool:
        labs = [
            Lab(vcenter, temporal_client, TaskQueues(f"death-{number}"), pool)
            for number in range(len(CASES) + len(ROLLOUTS))
        ]
        runs = [
            Run(kind, lives, lab, f"gpu-{number:02d}", tmp_path)
            for number, (lab, (kind, lives)) in enumerate(zip(labs, CASES, strict=False), 1)
        ]
        for run in runs:
            await asyncio.to_thread(run.add_host)
        rollouts = [
            await asyncio.to_thread(new_site, lab, f"gpu-{number:02d}")
            for number, lab in enumerate(labs[len(CASES) :], len(CASES) + 1)
        ]
        queues = [run.queue() for run in runs]
        queues += [
            {"name": each.lab.queues.base, "lives": lives, "workflows": [PrepareGpuCluster.__name__, *HOST_WORKFLOWS]}
            for each, lives in zip(rollouts, ROLLOUTS, strict=True)
        ]
        order = {
            "address": temporal_server.address,
            "vcenter": settings.model_dump(mode="json", exclude_none=True),
            "public_key": KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            "profiles": [profile.model_dump(mode="json", exclude_none=True) for profile in profiles],
            "queues": queues,
        }
        with dying_workers(order) as process:
            ends = await asyncio.gather(
                *(run.problems() for run in runs), *map(problems_of, rollouts), return_exceptions=True
            )
            died = await asyncio.to_thread(stop, process)
    problems = [f"killed at {queue['lives']}: {end!r}" for queue, end in zip(queues, ends, strict=True) if end]
    assert not problems, "\n".join(problems)
    assert died == {queue["name"]: len(queue["lives"]) for queue in queues}, "each worker died where it was told to"


def new_site(lab: Lab, cluster: str) -> Site:
    hosts = [lab.add_host(cluster=cluster) for _ in range(2)]
    return Site(lab, cluster, host_cluster(lab, hosts[0]), hosts)


async def problems_of(rollout: Site) -> list[str]:
    """Prepare a cluster while the worker that serves it dies."""
    run = await rollout.start()
    await stage_of(run, ClusterStage.AWAITING_APPROVAL)
    await decide(run, await asked(run))
    await stage_of(run, ClusterStage.FINISHED)
    report = await run.query(PrepareGpuCluster.report)
    facts = {f"prepared, not {report.outcome}: {report.detail}": report.outcome is ClusterOutcome.PREPARED}
    for host in rollout.hosts:
        lab = rollout.lab
        done = await asyncio.to_thread(lab.simulator.act, "ledger", host=host.name)
        seen = await asyncio.to_thread(lab.witness, host)
        entered = await asyncio.to_thread(lab.vcenter_events, host, vim.event.EnteredMaintenanceModeEvent)
        own = [each async for each in lab.client.list_workflows(f"WorkflowId = '{rollout.child(host).id}'")]
        facts |= {
            f"{host.name} booted once, not {done}": done == ["boot"],
            f"{host.name} entered maintenance once, not {len(entered)} times": len(entered) == 1,
            f"{host.name} is right, not {seen}": (seen["active"], seen["maintenance"]) == (True, False),
            f"{host.name} was prepared by one run, not {len(own)}": len(own) == 1,
        }
    return [fact for fact, holds in facts.items() if not holds]
