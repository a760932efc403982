"""VMs are found by name, identity and mark, and read with their hosts' proof of their GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest
from contracts.fleet import VmGpu
from contracts.machine import VmRef
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World, running_vcsim
from tests.vsphere.lab_vms import A100, Lab, dynamic, passthrough_host, vgpu_host
from tests.vsphere.targets import GPU
from vsphere import vm_state
from vsphere.vm_change import configure_vm, set_gpus
from vsphere.vm_power import power_on_placed
from vsphere.vm_state import find_made_by, find_vm, read_vm

MANAGER = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"


@pytest.fixture(scope="session")
def vcsim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A vcsim of its own: once somebody has used esxcli there, it panics when it is asked for a VM by UUID."""
    with running_vcsim(tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="session", params=["vcsim", "simulated"])
def world(request: pytest.FixtureRequest) -> World:
    """Each of the two worlds."""
    return request.getfixturevalue(request.param)


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


def test_a_vm_is_found_by_whatever_names_it(lab: Lab, world: World) -> None:
    ref = lab.make()
    for wanted in (ref.name, ref.name.upper(), ref.instance_uuid, ref.moid, f"DC0/vm/{ref.name}"):
        assert find_vm(lab.si, world.name, wanted) == ref
    assert find_vm(lab.si, world.name, ref.name, "DC0/vm") == ref
    with pytest.raises(BadRequest, match=f"VM 'elsewhere/{ref.name}' is not in vCenter {world.name}"):
        find_vm(lab.si, world.name, ref.name, "elsewhere")
    with pytest.raises(BadRequest, match=f"VM '{ref.name}x' is not in vCenter {world.name}; did you mean"):
        find_vm(lab.si, world.name, f"{ref.name}x")


def test_equal_names_are_told_apart_by_their_folders(gpu_lab: Lab) -> None:
    first = gpu_lab.make()
    second = gpu_lab.make(gpu_lab.request(folder="gpu-vms"))
    assert first.name == second.name
    with pytest.raises(BadRequest, match=rf"not the only one .*DC0/vm/gpu-vms/{first.name} \({second.moid}\)"):
        find_vm(gpu_lab.si, "simulated", first.name)
    assert find_vm(gpu_lab.si, "simulated", first.name, "gpu-vms") == second


def test_the_mark_tells_who_made_it(lab: Lab, world: World) -> None:
    request = lab.request()
    target = lab.target(request)
    assert find_made_by(lab.si, world.name, lab.run, target.folder, request.name) is None
    ref = lab.make(request)
    assert find_made_by(lab.si, world.name, lab.run, target.folder, request.name) == ref
    assert find_made_by(lab.si, world.name, "another/run", target.folder, request.name) is None


def test_what_is_gone_is_none_and_a_reused_moid_is_another_vm(lab: Lab, world: World) -> None:
    assert read_vm(lab.si, VmRef(vcenter=world.name, instance_uuid="", moid="vm-999999", name="gone")) is None
    ref = lab.make()
    assert read_vm(lab.si, ref.model_copy(update={"instance_uuid": "0" * 36})) is None


def test_a_running_vm_with_whole_gpus_is_read_with_its_devices_and_labels(
    gpu_lab: Lab, simulator: SimulatorProcess
) -> None:
    label = f"state-{gpu_lab.number}"
    home = passthrough_host(simulator, gpu_lab.si, label)
    ref = gpu_lab.make()
    gpu_lab.done(set_gpus(gpu_lab.si, ref, [dynamic(label), dynamic(label)], ""))
    off = gpu_lab.state(ref)
    assert [(gpu.kind, gpu.allowed, gpu.label, gpu.assigned) for gpu in off.gpus] == [
        ("dynamic", (A100,), label, "")
    ] * 2
    assert (off.assigned_gpus, off.assigned_labels) == ({}, {})
    gpu_lab.done(power_on_placed(gpu_lab.si, ref))
    on = gpu_lab.state(ref)
    assert (on.power_state, on.host_name, on.host_moid) == ("poweredOn", home.ref.name, home.ref.moid)
    assert set(on.assigned_gpus.values()) == {A100}
    assert len(on.assigned_gpus) == 2
    assert set(on.assigned_labels.values()) == {label}
    assert {gpu.assigned for gpu in on.gpus} == set(on.assigned_gpus)
    assert (on.unread, on.host_vgpu_manager) == ((), "")
    assert on.boot_time is not None


def test_a_running_vgpu_vm_is_read_with_its_card_and_its_hosts_manager(
    gpu_lab: Lab, simulator: SimulatorProcess
) -> None:
    home = vgpu_host(simulator, gpu_lab.si, MANAGER)
    profile = next(iter(home.graphics(GPU).profiles))
    ref = gpu_lab.make()
    gpu_lab.done(set_gpus(gpu_lab.si, ref, [VmGpu(key=0, kind="vgpu", profile=profile)], ""))
    gpu_lab.done(configure_vm(gpu_lab.si, ref, {"pciPassthru.use64bitMMIO": "TRUE"}, ""))
    gpu_lab.done(power_on_placed(gpu_lab.si, ref))
    state = gpu_lab.state(ref)
    assert [gpu.profile for gpu in state.gpus] == [profile]
    assert list(state.assigned_gpus.values()) == [A100]
    assert state.gpus[0].assigned in state.assigned_gpus
    assert state.assigned_labels == {}
    assert state.host_vgpu_manager == "550.54.16-1OEM.800.1.0.20613240"
    assert state.extra_config["pciPassthru.use64bitMMIO"] == "TRUE"
    assert state.unread == ()


def test_esxcli_tells_the_card_where_properties_do_not(
    gpu_lab: Lab, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = vgpu_host(simulator, gpu_lab.si, MANAGER)
    ref = gpu_lab.make()
    profile = next(iter(home.graphics(GPU).profiles))
    gpu_lab.done(set_gpus(gpu_lab.si, ref, [VmGpu(key=0, kind="vgpu", profile=profile)], ""))
    gpu_lab.done(power_on_placed(gpu_lab.si, ref))
    told = gpu_lab.state(ref).assigned_gpus
    # A release whose graphics list and bindings name no VMs.
    monkeypatch.setattr(vm_state, "_bound", lambda host, moid: set())
    assert gpu_lab.state(ref).assigned_gpus == told
    assert len(told) == 1
    simulator.add_fault(method="ExecuteSoap", error="HostCommunication")
    silent = gpu_lab.state(ref)
    assert silent.assigned_gpus == {}
    assert any("graphics VM list" in said for said in silent.unread)


def test_what_a_host_does_not_answer_is_named(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    home = vgpu_host(simulator, gpu_lab.si, MANAGER)
    ref = gpu_lab.make()
    profile = next(iter(home.graphics(GPU).profiles))
    gpu_lab.done(set_gpus(gpu_lab.si, ref, [VmGpu(key=0, kind="vgpu", profile=profile)], ""))
    gpu_lab.done(power_on_placed(gpu_lab.si, ref))
    simulator.add_fault(method="fetchSoftwarePackages", error="HostCommunication")
    state = gpu_lab.state(ref)
    assert state.host_vgpu_manager == ""
    assert any("read packages of host" in said for said in state.unread)


def test_a_question_is_read(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    request = gpu_lab.request()
    simulator.act("set_question", vm=request.name, text="msg.cdromdisconnect: continue?")
    ref = gpu_lab.make(request)
    assert power_on_placed(gpu_lab.si, ref) is not None
    gpu_lab.await_question(ref)
    state = gpu_lab.state(ref)
    assert (state.question, state.tools_running) == ("msg.cdromdisconnect: continue?", False)


def test_looking_costs_few_calls_however_much_is_asked(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    label = f"calls-{gpu_lab.number}"
    passthrough_host(simulator, gpu_lab.si, label)
    request = gpu_lab.request(
        network="GPU Network", datastore="nfs-01", folder="gpu-vms", resource_pool="gpu-workloads"
    )
    with counted(gpu_lab.si) as calls:
        gpu_lab.target(request)
    # A view made, read and destroyed; what the cluster reaches; hardware versions; the options of one.
    assert len(calls) == 6, calls
    ref = gpu_lab.make(request)
    gpu_lab.done(set_gpus(gpu_lab.si, ref, [dynamic(label)], ""))
    gpu_lab.done(power_on_placed(gpu_lab.si, ref))
    with counted(gpu_lab.si) as calls:
        assert len(gpu_lab.state(ref).assigned_gpus) == 1
    assert calls == ["RetrievePropertiesEx", "RetrievePropertiesEx"]


@contextmanager
def counted(si: vim.ServiceInstance) -> Iterator[list[str]]:
    """The names of the calls that are sent meanwhile."""
    calls: list[str] = []
    send = si._stub.SerializeRequest

    def serialize(mo: Any, info: Any, args: Any) -> Any:
        calls.append(info.wsdlName)
        return send(mo, info, args)

    si._stub.SerializeRequest = serialize
    try:
        yield calls
    finally:
        del si._stub.SerializeRequest
