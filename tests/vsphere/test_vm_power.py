"""VMs are powered on where DRS places them, and deleted by who made them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyVmomi import vim

from contracts.errors import Conflict, NeedsHuman, Unreachable
from contracts.machine import VmRef
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from tests.vsphere.lab_vms import Lab, dynamic, passthrough_host
from vsphere.vm_change import set_gpus
from vsphere.vm_power import delete_vm, power_on_placed
from vsphere.vm_state import read_vm


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
    simulator.act("set_drs", cluster=simulated.cluster, behavior="fullyAutomated")
    made.clean_up()


@pytest.fixture
def labelled(gpu_lab: Lab) -> VmRef:
    """A VM that wants a GPU with a label of its own."""
    ref = gpu_lab.make()
    gpu_lab.done(set_gpus(gpu_lab.si, ref, [dynamic(f"power-{gpu_lab.number}")], ""))
    return ref


def test_a_vm_is_powered_on_once(lab: Lab) -> None:
    ref = lab.make()
    lab.done(power_on_placed(lab.si, ref))
    assert lab.state(ref).powered_on
    assert power_on_placed(lab.si, ref) is None


def test_drs_finds_the_host_with_the_device(gpu_lab: Lab, simulator: SimulatorProcess, labelled: VmRef) -> None:
    home = passthrough_host(simulator, gpu_lab.si, f"power-{gpu_lab.number}")
    assert gpu_lab.state(labelled).host_moid != home.ref.moid
    gpu_lab.done(power_on_placed(gpu_lab.si, labelled))
    assert gpu_lab.state(labelled).host_moid == home.ref.moid


def test_a_power_on_that_drs_does_not_attempt_is_told_in_its_words(gpu_lab: Lab, labelled: VmRef) -> None:
    with pytest.raises(
        Conflict, match=rf"power on VM {labelled.name} .*DRS did not attempt it: InsufficientResourcesFault: .*no free"
    ):
        power_on_placed(gpu_lab.si, labelled)
    assert not gpu_lab.state(labelled).powered_on


def test_a_mere_recommendation_needs_a_human(
    gpu_lab: Lab, simulator: SimulatorProcess, simulated: World, labelled: VmRef
) -> None:
    passthrough_host(simulator, gpu_lab.si, f"power-{gpu_lab.number}")
    simulator.act("set_drs", cluster=simulated.cluster, behavior="manual")
    with pytest.raises(NeedsHuman, match=r"DRS only recommends it \(Power on .* on change-.*apply the recommendation"):
        power_on_placed(gpu_lab.si, labelled)
    assert not gpu_lab.state(labelled).powered_on


def test_without_drs_the_vm_runs_where_it_is(
    gpu_lab: Lab, simulator: SimulatorProcess, simulated: World, labelled: VmRef
) -> None:
    simulator.act("set_drs", cluster=simulated.cluster, behavior="manual", enabled=False)
    end = gpu_lab.finish(power_on_placed(gpu_lab.si, labelled))
    assert isinstance(end.cause, Conflict)
    assert "InsufficientResourcesFault" in end.error


def test_a_vm_that_waits_for_an_answer_is_told(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    request = gpu_lab.request()
    simulator.act("set_question", vm=request.name, text="Was this VM moved or copied?")
    ref = gpu_lab.make(request)
    task = power_on_placed(gpu_lab.si, ref)
    assert task is not None
    gpu_lab.await_question(ref)
    with pytest.raises(NeedsHuman, match=r"it waits for an answer: Was this VM moved or copied\?"):
        power_on_placed(gpu_lab.si, ref)
    # Undoing does not wait for it.
    gpu_lab.done(delete_vm(gpu_lab.si, ref, gpu_lab.run))
    gpu_lab.vms.clear()


def test_a_lost_answer_of_a_power_on_is_followed(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    ref = gpu_lab.make()
    simulator.add_fault(method="PowerOnMultiVM_Task", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        power_on_placed(gpu_lab.si, ref)
    if (task := power_on_placed(gpu_lab.si, ref)) is not None:
        gpu_lab.done(task)
    assert gpu_lab.state(ref).powered_on


def test_a_vm_that_came_up_while_drs_was_asked_is_on(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    ref = gpu_lab.make()
    machine = vim.VirtualMachine(ref.moid, gpu_lab.si._stub)
    # An earlier try, whose answer was lost, ends between the look and the question to DRS.
    simulator.add_fault(method="PowerOnMultiVM_Task", delay_s=3, times=1)
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(power_on_placed, gpu_lab.si, ref)
        time.sleep(0.5)
        gpu_lab.done(str(machine.PowerOnVM_Task(None)._moId))
        assert asked.result() is None
    assert gpu_lab.state(ref).powered_on


def test_only_its_maker_removes_a_running_vm(lab: Lab) -> None:
    ref = lab.make()
    lab.done(power_on_placed(lab.si, ref))
    with pytest.raises(Conflict, match=f"run another/run did not make it \\({lab.run}\\), so it stays"):
        delete_vm(lab.si, ref, "another/run")
    with pytest.raises(Conflict, match="it is poweredOn; shut it down first"):
        delete_vm(lab.si, ref, None)
    lab.done(delete_vm(lab.si, ref, lab.run))
    assert read_vm(lab.si, ref) is None
    assert delete_vm(lab.si, ref, lab.run) is None


def test_a_vm_without_a_mark_is_no_runs(lab: Lab, world: World) -> None:
    ref = lab.make()
    machine = vim.VirtualMachine(ref.moid, lab.si._stub)
    unmarked = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="gpuwright.run", value="")])
    lab.done(str(machine.ReconfigVM_Task(unmarked)._moId))
    for run in (lab.run, ""):
        with pytest.raises(Conflict, match="did not make it \\(no run did\\), so it stays"):
            delete_vm(lab.si, ref, run)
    # Retiring one that is off needs no mark.
    lab.done(delete_vm(lab.si, ref, None))
    lab.vms.clear()


def test_a_lost_answer_of_a_deletion_is_followed(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    ref = gpu_lab.make()
    simulator.add_fault(method="Destroy_Task", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        delete_vm(gpu_lab.si, ref, gpu_lab.run)
    if (task := delete_vm(gpu_lab.si, ref, gpu_lab.run)) is not None:
        gpu_lab.finish(task)
    assert read_vm(gpu_lab.si, ref) is None
