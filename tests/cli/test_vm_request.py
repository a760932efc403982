"""Requests for GPU VMs as operators give them: by file, by options, by both, and wrong."""

import re
from pathlib import Path

import pytest

from cli.vm_request import GpuOptions, VmOptions, change_request, vm_request
from contracts.errors import BadRequest
from contracts.machine import VmRef, VmState
from contracts.vms import DriverPolicy, DynamicGpu, StaticGpu, VgpuGpu
from workers.vm_requests import Known

FILE = """\
name: train-01
cluster: gpu-01
source: {template: ubuntu}
cpus: 8
memory_mib: 32768
folder: teams/ai
gpus:
  - {model: A100, label: Training, count: 2}
driver: {policy: verify, credentials: ubuntu}
"""


LAB = Known(["lab"], ["ubuntu"])
TWO = Known(["lab", "east"], ["ubuntu"])


def asked(text: str | None = None, *, known: Known = LAB, **options: object) -> list[str]:
    """The lines of what is wrong with a request."""
    with pytest.raises(BadRequest) as wrong:
        vm_request(Path("vm.yaml") if text is not None else None, text, VmOptions(**options), known)  # type: ignore[arg-type]
    return str(wrong.value).splitlines()


def test_a_file_alone_is_a_request() -> None:
    request = vm_request(Path("vm.yaml"), FILE, VmOptions(), LAB)
    assert (request.name, request.vcenter, request.cpus, request.memory_mib) == ("train-01", "lab", 8, 32768)
    assert request.gpus == (DynamicGpu(model="A100", label="Training", count=2),)
    assert request.driver.policy is DriverPolicy.VERIFY


def test_options_alone_are_a_request() -> None:
    options = VmOptions(
        name="train-02",
        cluster="gpu-01",
        guest_id="ubuntu64Guest",
        disk="1T",
        gpu=["A100", "10de:20F1,label=Training,count=2"],
        memory="64 GiB",
        pool="prod",
        keep_on_failure=True,
    )
    request = vm_request(None, None, options, LAB)
    assert request.gpus == (DynamicGpu(model="A100"), DynamicGpu(match="10de:20f1", label="Training", count=2))
    assert (request.source.guest_id, request.source.disk_gib) == ("ubuntu64Guest", 1024)
    assert (request.memory_mib, request.resource_pool, request.keep_on_failure) == (65536, "prod", True)


def test_options_win_over_the_file_and_leave_the_rest() -> None:
    options = VmOptions(name="infer-01", library_item="images/ubuntu", vgpu=["nvidia_a40-24c,count=2"], cpus=2)
    request = vm_request(Path("vm.yaml"), FILE, options, LAB)
    assert (request.name, request.cpus, request.folder) == ("infer-01", 2, "teams/ai")
    assert (request.source.template, request.source.library_item) == (None, "images/ubuntu")
    assert request.gpus == (VgpuGpu(profile="nvidia_a40-24c", count=2),)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{model: L40S}", DynamicGpu(model="L40S")),
        ("{match: '10de:20f1'}", DynamicGpu(match="10de:20f1")),
        ("{profile: nvidia_a40-24c}", VgpuGpu(profile="nvidia_a40-24c")),
        ("{host: esx-1, sbdf: '0000:81:00.0'}", StaticGpu(host="esx-1", sbdf="0000:81:00.0")),
        ("{kind: vgpu, profile: nvidia_a40-24c}", VgpuGpu(profile="nvidia_a40-24c")),
    ],
)
def test_a_file_needs_no_kind_of_a_gpu(written: str, meant: DynamicGpu | StaticGpu | VgpuGpu) -> None:
    text = re.sub(r"  - \{.*\}", f"  - {written}", FILE)
    assert vm_request(Path("vm.yaml"), text, VmOptions(), LAB).gpus == (meant,)


def test_the_same_static_device_by_option() -> None:
    request = vm_request(Path("vm.yaml"), FILE, VmOptions(static=["esx-1.lab/0000:81:00.0"]), LAB)
    assert request.gpus == (StaticGpu(host="esx-1.lab", sbdf="0000:81:00.0"),)


def test_everything_wrong_in_a_file_is_told_at_once_with_line_key_and_fix() -> None:
    told = asked(
        """\
name: a/b
clusterr: gpu-01
source: {template: u, guest_id: z}
memory_mib: 3001
gpus:
  - {model: A10O}
  - {profile: nvidia_a40-24c, count: 0}
  - {sbdf: "81:00.0", hst: x}
  - {kind: vgpuu, profile: x}
driver: {policy: verifi}
"""
    )
    wrong = {line.split(": ")[1]: (line.split(": ")[0], line) for line in told}
    assert {key: where for key, (where, _) in wrong.items()} == {
        "name": "vm.yaml:1",
        "clusterr": "vm.yaml:2",
        "cluster": "vm.yaml:1",
        "source": "vm.yaml:3",
        "gpus[0].model": "vm.yaml:6",
        "gpus[1].count": "vm.yaml:7",
        "gpus[2].host": "vm.yaml:8",
        "gpus[2].sbdf": "vm.yaml:8",
        "gpus[2].hst": "vm.yaml:8",
        "gpus[3]": "vm.yaml:9",
        "memory_mib": "vm.yaml:4",
        "driver.policy": "vm.yaml:10",
    }
    hints = {
        "clusterr": "did you mean 'cluster'?",
        "cluster": "or give --cluster",
        "gpus[0].model": "did you mean 'A10'?",
        "gpus[2].hst": "did you mean 'host'? the keys here are: kind, host, sbdf",
        "gpus[3]": "kind 'vgpuu' is not possible; did you mean 'vgpu'?",
        "driver.policy": "did you mean 'verify'?",
    }
    assert [key for key, hint in hints.items() if hint not in wrong[key][1]] == []


def test_everything_wrong_in_options_is_told_at_once_by_option() -> None:
    told = asked(gpu=["A100,cuont=3", "10de:20f,count=two"], static=["0000:81:00.0"], memory="16Q", disk="1M")
    assert told == [
        "--memory 16Q: is no size in whole MiB; write it like '16G'",
        "--disk 1M: is no size in whole GiB; write it like '16G'",
        "--gpu A100,cuont=3: 'cuont=3' is not known; did you mean 'count'? write label or count with '='",
        "--static 0000:81:00.0: names no device; write it like 'esx-01/0000:81:00.0'",
        "options: name: is missing; add it, or give --name",
        "options: cluster: is missing; add it, or give --cluster",
        "options: source: give exactly one of 'template', 'library_item' and 'guest_id' (an empty VM)",
        "--gpu 10de:20f,count=two: gpus[1].match: '10de:20f' is not a PCI vendor:device pair; write it like "
        "'10de:20f1' (see `lspci -n`)",
        "--gpu 10de:20f,count=two: gpus[1].count: input should be a valid integer, unable to parse string as an "
        "integer, not 'two'",
    ]


def test_what_contradicts_itself_is_told_beside_wrong_fields() -> None:
    told = asked(FILE, name="a ", vgpu=["nvidia_a40-24c"], gpu=["A100"])
    assert told == [
        "--name: name: 'a ' is no VM name: 1 to 80 characters, without '/', '\\', '%' and outer spaces",
        "vm.yaml:7: gpus: a VM never has a whole GPU and a vGPU at once; ask for one or the other",
    ]
    assert "vm.yaml:9: driver: an empty VM has no guest yet" in asked(FILE, guest_id="ubuntu64Guest")[0]


def test_a_vcenter_is_named_where_there_are_several_and_must_be_known() -> None:
    assert asked(FILE, known=TWO) == ["vm.yaml:1: vcenter: is missing; add it"]
    assert asked(FILE, known=TWO, vcenter="labb") == [
        "--vcenter: vcenter: there is no vCenter 'labb' in the configuration; did you mean 'lab'? it has: lab, east"
    ]
    assert vm_request(Path("vm.yaml"), FILE, VmOptions(vcenter="east"), TWO).vcenter == "east"


def test_what_the_configuration_does_not_have_is_told_with_what_it_has() -> None:
    text = (
        FILE.replace("credentials: ubuntu", "credentials: ubunto") + "customization: {cloud_init: {user_data: base}}\n"
    )
    assert asked(text) == [
        "vm.yaml:9: driver.credentials: there is no 'guest_credentials' entry 'ubunto' in the configuration; "
        "did you mean 'ubuntu'? it has: ubuntu",
        "vm.yaml:10: customization.cloud_init.user_data: there is no 'cloud_init' entry 'base' in the configuration; "
        "it has: none",
    ]


def test_what_is_no_mapping_of_keys_is_refused() -> None:
    assert asked("- a\n") == ["vm.yaml:1: the file must be a mapping of keys to values"]
    assert "this is not YAML" in asked("a: [")[0]
    assert asked(FILE.replace("{template: ubuntu}", "ubuntu"), disk="1G") == [
        "vm.yaml:3: source: input should be a valid dictionary or instance of VmSource, not 'ubuntu'"
    ]


def _state(**changes: object) -> VmState:
    ref = VmRef(vcenter="lab", instance_uuid="u", moid="vm-7", name="train-01")
    known = {"power_state": "poweredOn", "cluster_moid": "domain-c8", "cpus": 8, "memory_mib": 32768}
    return VmState(**{"ref": ref, "guest_id": "ubuntu64Guest", "tools_running": True} | known | changes)  # type: ignore[arg-type]


def test_a_change_keeps_everything_but_the_gpus() -> None:
    request = change_request(_state(), GpuOptions(vgpu=["nvidia_a40-24c"]), "teams/ai")
    assert request.gpus == (VgpuGpu(profile="nvidia_a40-24c"),)
    assert (request.name, request.vcenter, request.cluster, request.folder) == (
        "train-01", "lab", "domain-c8", "teams/ai",
    )  # fmt: skip
    assert (request.cpus, request.memory_mib, request.driver.policy) == (8, 32768, DriverPolicy.NONE)


def test_a_change_waits_for_a_guest_only_where_there_is_one() -> None:
    gpu = GpuOptions(gpu=["A100"])
    assert change_request(_state(), gpu).source.guest_id is None
    assert change_request(_state(tools_running=False), gpu).source.guest_id == "ubuntu64Guest"


def test_a_change_says_which_gpus() -> None:
    with pytest.raises(BadRequest, match="gpus: is missing; add it, or give --gpu, --vgpu or --static"):
        change_request(_state(), GpuOptions())
    with pytest.raises(BadRequest, match=r"--gpu A10O: gpus\[0\]\.model: no GPU model is called 'A10O'; did you mean"):
        change_request(_state(), GpuOptions(gpu=["A10O"]))
