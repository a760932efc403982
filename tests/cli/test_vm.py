"""GPU VMs from the command line: planned, made, listed, given other GPUs and retired, or refused with the reason."""

import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyVmomi import vim

from tests.cli.conftest import Installation
from vsphere.inventory import find_host
from vsphere.passthrough import set_passthrough

L40S = "10de:26b9"
"""No other test of the installation has such GPUs."""
CLUSTER = "gpu-02"


@dataclass
class Rack:
    """Two hosts with two GPUs each in passthrough, a template, and a name for the VMs of one test."""

    installation: Installation
    hosts: tuple[str, str]
    label: str
    template: str

    def request(self, **changes: Any) -> dict[str, Any]:
        """A request for one of the GPUs."""
        gpus = [{"model": "L40S", "label": self.label}]
        name = f"vm-{uuid.uuid4().hex[:8]}"
        source = {"template": self.template}
        return {"name": name, "cluster": CLUSTER, "source": source, "memory_mib": 8192, "gpus": gpus} | changes

    def listed(self, name: str) -> dict[str, Any]:
        rows = self.installation.json("vm", "list", "--cluster", CLUSTER)
        return dict(next((row for row in rows if row["name"] == name), {}))

    def made(self, prefix: str) -> list[dict[str, Any]]:
        return list(self.installation.simulator.act("list_vms", prefix=prefix))


@pytest.fixture(scope="module")
def rack(installation: Installation) -> Rack:
    return built(installation)


def built(installation: Installation) -> Rack:
    """A rack with a label and a template of its own."""
    number = uuid.uuid4().hex[:6]
    label = f"L{number}"
    hosts = [installation.add_host(cluster=CLUSTER, gpus=[L40S, L40S], rebind_without_reboot=True) for _ in range(2)]
    si = installation.simulator.connect()
    try:
        for host in hosts:
            ref = find_host(si, "vc", host)
            for gpu in _gpus(si, ref.moid):
                assert set_passthrough(si, ref, gpu, True, label, apply_now=True)
    finally:
        installation.simulator.disconnect(si)
    installation.simulator.act("add_template", name=f"golden-{number}", host=hosts[0])
    return Rack(installation, (hosts[0], hosts[1]), label, f"golden-{number}")


def _gpus(si: Any, moid: str) -> list[str]:
    return [info.pciId for info in vim.HostSystem(moid, si._stub).config.graphicsInfo]


def piped(rack: Rack, request: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that reads the request from standard input."""
    return rack.installation.gpuwright(*arguments, "-", given=yaml.safe_dump(request))


def test_a_plan_shows_where_it_could_run_and_why_not_elsewhere_and_makes_nothing(rack: Rack) -> None:
    request = rack.request()
    shown = piped(rack, request, "plan", "vm")
    assert shown.returncode == 2, shown.stderr
    for host in rack.hosts:
        assert host in shown.stdout
    assert "it has no L40S; its GPUs: " in shown.stdout
    assert "Room for 4 such VMs now." in shown.stdout
    for word in ("create-vm", "configure-vm", "set-vm-gpus", "power-on-vm", "await-guest", "64bitMMIOSizeGB = 128"):
        assert word in shown.stdout, word
    assert "What such a VM cannot do:" in shown.stdout
    assert "no vMotion" in shown.stdout
    assert rack.made(request["name"]) == []
    look = json.loads(piped(rack, request, "plan", "vm", "--json").stdout)
    assert [fit["host"]["name"] for fit in look["placement"]["hosts"] if fit["fits"]] == sorted(rack.hosts)


def test_a_plan_that_cannot_be_is_refused_with_the_reasons_and_a_fix(rack: Rack) -> None:
    request = rack.request(gpus=[{"match": L40S, "label": "Elsewhere"}])
    shown = piped(rack, request, "plan", "vm")
    assert shown.returncode == 1
    assert "none of them has the label 'Elsewhere'" in shown.stdout
    assert "In the way:" in shown.stdout
    assert "fix:" in shown.stdout
    installation = rack.installation
    told = installation.gpuwright(
        "plan", "vm", "--name", "x", "--cluster", CLUSTER, "--template", rack.template[:-1], "--gpu", "L40S",
        "--network", "nowhere",
    )  # fmt: skip
    assert told.returncode == 1
    assert rack.template in told.stderr
    assert "nowhere" in told.stderr


def test_everything_wrong_with_a_request_is_told_at_once(rack: Rack, tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text("name: x\nclutser: y\ngpus:\n  - {model: L40Z}\n")
    told = rack.installation.gpuwright("vm", "provision", str(file), "--memory", "lots")
    assert told.returncode == 1
    for line in (
        f"{file}:2: clutser: is not a known key; did you mean 'cluster'?",
        f"{file}:4: gpus[0].model: no GPU model is called 'L40Z'; did you mean 'L40'?",
        "--memory lots: is no size",
        "source: is missing; add it, or give --template",
    ):
        assert line in told.stderr
    gone = rack.installation.gpuwright("vm", "provision", str(tmp_path / "none.yaml"))
    assert gone.returncode == 1
    assert "cannot be read" in gone.stderr


def test_a_vm_is_made_listed_changed_and_retired(rack: Rack, tmp_path: Path) -> None:
    installation, request = rack.installation, rack.request()
    name, file = request["name"], tmp_path / "vm.yaml"
    file.write_text(yaml.safe_dump(request))
    made = installation.gpuwright("vm", "provision", str(file), "--cpus", "2", "--reason", "a test")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "provisioned" in made.stdout
    assert "is bound to it" in made.stdout
    assert "✔ power-on-vm" in made.stdout
    assert f"Looking at {name}" in made.stderr or "create-vm" in made.stderr
    listed = rack.listed(name)
    assert (listed["power"], listed["gpus"], len(listed["assigned"])) == (
        "on",
        [f"dynamic {L40S},label={rack.label}"],
        1,
    )
    assert listed["host"] in rack.hosts
    table = installation.gpuwright("vm", "list")
    assert f"{name}\t" in table.stdout
    planned = installation.gpuwright("plan", "vm", str(file), "--cpus", "2")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert installation.json("vm", "provision", str(file), "--cpus", "2")["outcome"] == "already-right"
    again = installation.gpuwright("vm", "provision", str(file))
    assert again.returncode == 1
    assert "gpuwright vm change" in again.stderr

    changing = installation.start("vm", "change", name, "--gpu", f"L40S,label={rack.label},count=2")
    assert changing.stderr is not None
    assert any("awaiting-approval" in line for line in changing.stderr)
    approval = installation.approval(name)
    assert "shut-down-guest" in {step["kind"] for step in approval["plan"]["steps"]}
    installation.json("approvals", "approve", name, "--hash", approval["plan_hash"], user="bob")
    out, told = changing.communicate(timeout=90)
    assert changing.returncode == 0, told
    assert "changed" in out
    assert len(rack.listed(name)["assigned"]) == 2

    listed = rack.listed(name)
    started = installation.json("vm", "retire", listed["instance_uuid"], "--no-wait", "--reason", "done")
    retirement = installation.approval(name)
    assert (retirement["workflow_id"], retirement["reason"]) == (started["workflow_id"], "done")
    rows = installation.json("runs", "list")
    assert (started["workflow_id"], name) in {(row["workflow_id"], row["vm"]) for row in rows}
    assert "delete-vm" in installation.gpuwright("runs", "show", started["workflow_id"]).stdout
    installation.json("approvals", "approve", name, "--hash", retirement["plan_hash"], user="bob")
    ended = installation.gpuwright("vm", "retire", name)
    # It may be gone before this is asked.
    gone = (f"VM '{name}' is not in", f"VM {name} has just gone")
    assert ended.returncode == 0 or any(words in ended.stderr for words in gone)
    installation.until("end", lambda: installation.json("runs", "show", started["workflow_id"])["outcome"])
    shown = installation.gpuwright("runs", "show", started["workflow_id"])
    assert "retired" in shown.stdout
    assert "Given back:" in shown.stdout
    assert rack.made(name) == []


def test_a_mistyped_vm_is_named_with_what_there_is(rack: Rack) -> None:
    installation = rack.installation
    for command in (("vm", "retire"), ("vm", "change", "--gpu", "A100")):
        wrong = installation.gpuwright(*command, rack.template[:-1])
        assert wrong.returncode == 1
        assert rack.template in wrong.stderr
    unsaid = installation.gpuwright("vm", "change", rack.template)
    assert unsaid.returncode == 1
    assert "gpus: is missing; add it, or give --gpu, --vgpu or --static" in unsaid.stderr
    nowhere = installation.gpuwright("vm", "list", "--cluster", "gpu-99")
    assert nowhere.returncode == 1
    assert "gpu-01" in nowhere.stderr


def test_several_vms_are_asked_for_at_once_and_each_that_has_no_room_says_why(
    installation: Installation, tmp_path: Path
) -> None:
    rack = built(installation)
    request = rack.request(gpus=[{"model": "L40S", "label": rack.label, "count": 2}])
    name, file = request["name"], tmp_path / "vm.yaml"
    file.write_text(yaml.safe_dump(request))
    told = installation.gpuwright("vm", "provision", str(file), "--count", "3", "--packed", "--at-once", "2")
    assert told.returncode == 1, told.stderr
    assert f"3 VMs {name}-…" in told.stdout
    assert "2 of 3 VMs are as asked for" in told.stdout
    for number in (1, 2):
        assert rack.listed(f"{name}-0{number}")["host"] in rack.hosts
    assert f"{name}-03" in told.stdout
    assert "by vm-" in told.stdout
    assert rack.made(f"{name}-03") == []
    run = f"provision-gpu-vms/{next(row['vcenter'] for row in installation.json('vm', 'list'))}/{name}"
    assert run in {row["workflow_id"] for row in installation.json("runs", "list", "--all")}
    assert f"{name}-02" in installation.gpuwright("runs", "show", run).stdout
    again = installation.json("vm", "provision", str(file), "--count", "2")
    assert again["outcome"] == "provisioned"


def test_what_several_vms_cannot_share_is_told_before_anything_is_started(rack: Rack) -> None:
    request = rack.request(gpus=[{"host": rack.hosts[0], "sbdf": "0000:81:00.0"}])
    told = piped(rack, request, "vm", "provision", "--count", "2")
    assert told.returncode == 1
    assert "--count 2: gpus: a static device is in one VM at most" in told.stderr
    told = piped(rack, rack.request(), "vm", "provision", "--packed")
    assert told.returncode == 1
    assert "give --count too" in told.stderr
