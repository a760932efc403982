"""VMs are made once: empty, cloned, or from a content library; with the mark of their run."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import Conflict, NeedsHuman, Unreachable
from contracts.machine import RUN_KEY
from contracts.vms import CloudInit, Customization, StaticIp, VmSource
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from tests.vsphere.lab_vms import Lab, dynamic
from vsphere import libraries, vm_build
from vsphere.hosts import current_time
from vsphere.vm_build import create_vm
from vsphere.vm_change import set_gpus
from vsphere.vm_state import find_made_by


@pytest.fixture
def lab(si: vim.ServiceInstance, world: World) -> Iterator[Lab]:
    made = Lab(si, world)
    yield made
    made.clean_up()


@pytest.fixture
def gpu_lab(gpu_si: vim.ServiceInstance, simulated: World, simulator: SimulatorProcess) -> Iterator[Lab]:
    made = Lab(gpu_si, simulated)
    yield made
    simulator.clear_faults()
    made.clean_up()


def devices(lab: Lab, ref: Any, kind: type) -> list[Any]:
    return [each for each in lab.read(ref, "config.hardware.device") if isinstance(each, kind)]


def count_named(lab: Lab, name: str) -> int:
    found = lab.govc("find", "/", "-type", "m", "-name", name)
    return len(found or [])


def test_an_empty_vm_is_made_as_gpus_need_it(lab: Lab, world: World) -> None:
    network = "DC0_DVPG0" if world.name == "vcsim" else "GPU Network"
    ref = lab.make(lab.request(network=network))
    state = lab.state(ref)
    assert (state.made_by, state.half_made, state.power_state) == (lab.run, False, "poweredOff")
    assert (state.firmware, state.hardware_version, state.guest_id) == ("efi", 21, "ubuntu64Guest")
    assert (state.cpus, state.memory_mib, state.memory_reserved_all) == (2, 4096, True)
    assert state.gpus == ()
    assert state.extra_config == {RUN_KEY: lab.run}
    (disk,) = devices(lab, ref, vim.vm.device.VirtualDisk)
    assert (disk.capacityInKB, disk.backing.thinProvisioned) == (8 * 2**20, True)
    (card,) = devices(lab, ref, vim.vm.device.VirtualVmxnet3)
    if world.name == "vcsim":
        assert card.backing.port.portgroupKey.startswith("dvportgroup-")
        assert card.backing.port.switchUuid
    else:
        assert card.backing.deviceName == "GPU Network"


def test_a_second_call_of_the_run_makes_nothing_and_other_runs_are_refused(lab: Lab) -> None:
    request = lab.request()
    target = lab.target(request)
    ref = lab.make(request)
    assert create_vm(lab.si, request, target, lab.run) is None
    with pytest.raises(Conflict, match=rf"VM of that name already \({ref.moid}, .*run {lab.run} made it"):
        create_vm(lab.si, request, target, "another/run")
    assert find_made_by(lab.si, lab.world.name, "another/run", target.folder, request.name) is None


def test_a_name_that_was_there_before_is_told(lab: Lab, world: World) -> None:
    request = lab.request(name="DC0_C0_RP0_VM0" if world.name == "vcsim" else "app-00001")
    with pytest.raises(Conflict, match=r"no run of gpuwright made it; choose another name"):
        create_vm(lab.si, request, lab.target(request), lab.run)


def test_govc_sees_the_gpu_vm_that_was_asked_for(lab: Lab, world: World) -> None:
    """vcsim accepts the whole specification of a GPU VM, and govc shows what was asked for."""
    request = lab.request(network="VM Network")
    ref = lab.make(request)
    task = set_gpus(lab.si, ref, [dynamic("Training"), dynamic("Training")], lab.state(ref).change_version)
    lab.done(task)
    (shown,) = lab.govc("vm.info", ref.name)["virtualMachines"]
    config = shown["config"]
    assert (config["firmware"], config["version"], config["guestId"]) == ("efi", "vmx-21", "ubuntu64Guest")
    assert (config["hardware"]["numCPU"], config["hardware"]["memoryMB"]) == (2, 4096)
    assert config["memoryReservationLockedToMax"] is True
    assert config["memoryAllocation"]["reservation"] == 4096
    extra = {option["key"]: option["value"] for option in config["extraConfig"]}
    assert extra[RUN_KEY] == lab.run
    found = lab.govc("device.info", "-vm", ref.name)["devices"]
    gpus = [each for each in found if each["type"] == "VirtualPCIPassthrough"]
    assert [each["backing"]["customLabel"] for each in gpus] == ["Training", "Training"]
    allowed = [each["backing"]["allowedDevice"] for each in gpus]
    assert allowed == [[{"vendorId": 0x10DE, "deviceId": 0x20F1}]] * 2
    assert len({each["key"] for each in gpus}) == 2
    assert len([each for each in found if each["type"] == "VirtualDisk"]) == 1
    assert lab.state(ref).gpus[0].allowed == ("10de:20f1",)


def test_a_clone_leaves_its_sources_gpus_behind(lab: Lab) -> None:
    source = lab.make(lab.request(name=f"source-{lab.number}", network="VM Network"))
    lab.done(set_gpus(lab.si, source, [dynamic("Training")], ""))
    lab.as_template(source)
    request = lab.request(source=VmSource(template=source.name), cpus=4, memory_mib=8192, network="VM Network")
    target = lab.target(request)
    assert len(target.source_gpu_keys) == 1
    lab.run = f"{lab.run}-clone"
    ref = lab.make(request)
    state = lab.state(ref)
    assert (state.made_by, state.gpus, state.template) == (lab.run, (), False)
    assert (state.cpus, state.memory_mib) == (4, 8192)
    assert len(devices(lab, ref, vim.vm.device.VirtualDisk)) == 1


def test_a_lost_answer_makes_one_vm(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    request = gpu_lab.request()
    target = gpu_lab.target(request)
    since = current_time(gpu_lab.si)
    simulator.add_fault(method="CreateVM_Task", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        create_vm(gpu_lab.si, request, target, gpu_lab.run, since=since)
    if (task := create_vm(gpu_lab.si, request, target, gpu_lab.run, since=since)) is not None:
        gpu_lab.done(task)
    assert create_vm(gpu_lab.si, request, target, gpu_lab.run, since=since) is None
    assert gpu_lab.find(request, target) is not None
    assert count_named(gpu_lab, request.name) == 1


def test_a_lost_answer_of_a_clone_is_followed(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    request = gpu_lab.request(source=VmSource(template=gpu_lab.add_template(simulator)))
    target = gpu_lab.target(request)
    since = current_time(gpu_lab.si)
    simulator.add_fault(method="CloneVM_Task", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        create_vm(gpu_lab.si, request, target, gpu_lab.run, since=since)
    if (task := create_vm(gpu_lab.si, request, target, gpu_lab.run, since=since)) is not None:
        gpu_lab.done(task)
    assert gpu_lab.find(request, target) is not None
    assert [entry["what"] for entry in simulator.act("vm_ledger", prefix=request.name)] == ["added"]


def test_two_calls_for_one_name_make_one_vm(gpu_lab: Lab) -> None:
    request = gpu_lab.request()
    target = gpu_lab.target(request)
    first = create_vm(gpu_lab.si, request, target, gpu_lab.run)
    second = create_vm(gpu_lab.si, request, target, f"{gpu_lab.run}-other")
    ends = [gpu_lab.finish(first), gpu_lab.finish(second)]
    assert sorted(end.state for end in ends) == ["error", "success"]
    (lost,) = (end for end in ends if end.state == "error")
    assert isinstance(lost.cause, Conflict)
    assert "DuplicateName" in lost.error
    winners = [gpu_lab.find(request, target, run) for run in (gpu_lab.run, f"{gpu_lab.run}-other")]
    assert len([winner for winner in winners if winner]) == 1


def test_linux_guests_are_customised(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    wanted = Customization(
        host_name="node-1", domain="gpu.test", ip=StaticIp(address="10.1.2.3/24", gateway="10.1.2.1", dns=("10.1.2.2",))
    )
    request = gpu_lab.request(source=VmSource(template=gpu_lab.add_template(simulator)), customization=wanted)
    ref = gpu_lab.make(request)
    gpu_lab.done(vim.VirtualMachine(ref.moid, gpu_lab.si._stub).PowerOnVM_Task(None)._moId)
    gpu_lab.await_guest(ref)
    (shown,) = simulator.act("list_vms", prefix=ref.name)
    assert (shown["host_name"], shown["ip_address"]) == ("node-1", "10.1.2.3")


def test_cloud_init_gets_the_text_of_the_caller(lab: Lab) -> None:
    wanted = Customization(
        host_name="node-2",
        ip=StaticIp(address="10.1.2.4/24", gateway="10.1.2.1", dns=("10.1.2.2",)),
        cloud_init=CloudInit(user_data="nodes"),
    )
    text = "#cloud-config\nssh_authorized_keys: [ä]\n"
    ref = lab.make(lab.request(customization=wanted), user_data=text)
    extra = {option.key: str(option.value) for option in lab.read(ref, "config.extraConfig")}
    assert extra["guestinfo.metadata.encoding"] == extra["guestinfo.userdata.encoding"] == "base64"
    assert base64.b64decode(extra["guestinfo.userdata"]).decode() == text
    metadata = json.loads(base64.b64decode(extra["guestinfo.metadata"]))
    assert metadata["local-hostname"] == "node-2"
    assert metadata["instance-id"].startswith("gpuwright-")
    assert metadata["network"]["ethernets"]["first"]["addresses"] == ["10.1.2.4/24"]
    assert RUN_KEY in extra
    # What the look keeps of it holds no secrets.
    assert set(lab.state(ref).extra_config) == {RUN_KEY}


@pytest.mark.parametrize("kind", ["ovf", "vm-template"])
def test_a_library_item_becomes_a_vm_of_the_request(gpu_lab: Lab, simulator: SimulatorProcess, kind: str) -> None:
    source = gpu_lab.add_template(simulator, gpu="dynamic")
    item = f"{kind}-{gpu_lab.number}"
    simulator.act("add_library_item", library="golden", name=item, kind=kind, source=source)
    request = gpu_lab.request(
        source=VmSource(library_item=f"golden/{item}"),
        network="GPU Network",
        folder="gpu-vms",
        customization=Customization(host_name="from-library"),
    )
    ref = gpu_lab.make(request)
    state = gpu_lab.state(ref)
    assert (state.made_by, state.half_made, state.gpus) == (gpu_lab.run, False, ())
    assert (state.cpus, state.memory_mib, state.memory_reserved_all) == (2, 4096, True)
    (card,) = devices(gpu_lab, ref, vim.vm.device.VirtualEthernetCard)
    assert card.backing.deviceName == "GPU Network"
    assert create_vm(gpu_lab.si, request, gpu_lab.target(request), gpu_lab.run) is None


def test_a_half_made_vm_of_a_library_is_finished_by_the_next_try(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    source = gpu_lab.add_template(simulator)
    simulator.act("add_library_item", library="golden", name=f"half-{gpu_lab.number}", kind="ovf", source=source)
    request = gpu_lab.request(source=VmSource(library_item=f"golden/half-{gpu_lab.number}"), memory_mib=12288)
    target = gpu_lab.target(request)
    simulator.add_fault(method="ReconfigVM_Task", drop="before", times=1)
    with pytest.raises(Unreachable):
        create_vm(gpu_lab.si, request, target, gpu_lab.run)
    ref = gpu_lab.find(request, target)
    assert ref is not None
    half = gpu_lab.state(ref)
    assert (half.made_by, half.half_made) == (gpu_lab.run, True)
    with pytest.raises(Conflict, match=f"run {gpu_lab.run} made it"):
        create_vm(gpu_lab.si, request, target, "another/run")
    gpu_lab.done(create_vm(gpu_lab.si, request, target, gpu_lab.run))
    state = gpu_lab.state(ref)
    assert (state.made_by, state.half_made, state.memory_mib) == (gpu_lab.run, False, 12288)
    assert count_named(gpu_lab, request.name) == 1


@pytest.mark.parametrize("kind", ["ovf", "vm-template"])
def test_a_lost_answer_of_a_deploy_makes_one_vm(
    gpu_lab: Lab, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = gpu_lab.add_template(simulator)
    item = f"lost-{kind}-{gpu_lab.number}"
    simulator.act("add_library_item", library="golden", name=item, kind=kind, source=source)
    request = gpu_lab.request(source=VmSource(library_item=f"golden/{item}"))
    target = gpu_lab.target(request)
    with monkeypatch.context() as patch:
        deploy = libraries.Libraries.deploy

        def lost(*arguments: Any) -> str:
            deploy(*arguments)
            raise Unreachable("got no usable answer")

        patch.setattr(libraries.Libraries, "deploy", lost)
        with pytest.raises(Unreachable):
            create_vm(gpu_lab.si, request, target, gpu_lab.run)
    with monkeypatch.context() as patch:
        # The first deploy ends between the look at the name and the second deploy.
        looks = iter([None])
        find = vm_build.find_child
        patch.setattr(vm_build, "find_child", lambda *arguments: next(looks, find(*arguments)))
        gpu_lab.done(create_vm(gpu_lab.si, request, target, gpu_lab.run))
    ref = gpu_lab.find(request, target)
    assert ref is not None
    assert not gpu_lab.state(ref).half_made
    assert [entry["what"] for entry in simulator.act("vm_ledger", prefix=request.name)] == ["added"]


def test_a_folder_may_have_the_name(gpu_lab: Lab) -> None:
    request = gpu_lab.request(name="gpu-vms")
    with pytest.raises(Conflict, match="its folder has a Folder of that name"):
        create_vm(gpu_lab.si, request, gpu_lab.target(request), gpu_lab.run)


def test_vcenters_words_about_a_deploy_are_kept(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    source = gpu_lab.add_template(simulator)
    simulator.act("add_library_item", library="golden", name=f"full-{gpu_lab.number}", kind="ovf", source=source)
    request = gpu_lab.request(source=VmSource(library_item=f"golden/full-{gpu_lab.number}"), datastore="full-01")
    with pytest.raises(NeedsHuman, match=rf"deploy {request.name}: .*full-01"):
        create_vm(gpu_lab.si, request, gpu_lab.target(request), gpu_lab.run)
    assert gpu_lab.find(request, gpu_lab.target(request)) is None
