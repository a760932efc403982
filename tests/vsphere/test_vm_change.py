"""Settings, GPU devices and hardware version of a powered-off VM."""

from collections.abc import Iterator

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, Conflict, Unreachable
from contracts.fleet import VmGpu
from contracts.machine import VmRef
from contracts.vms import VmSource
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from tests.vsphere.lab_vms import A100, Lab, dynamic, passthrough_host
from tests.vsphere.targets import GPU, OTHER_GPU
from vsphere.sessions import SessionPool
from vsphere.vm_change import configure_vm, set_gpus, upgrade_hardware
from vsphere.vm_power import power_on_placed

MMIO = {"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": "128"}
A40 = VmGpu(key=0, kind="vgpu", profile="nvidia_a40-24c")


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


@pytest.fixture
def vcsim_lab(vcsim: World) -> Iterator[Lab]:
    """Enhanced DirectPath devices are vcsim's only."""
    with SessionPool(vcsim.settings()) as pool, pool.session() as si:
        made = Lab(si, vcsim)
        yield made
        made.clean_up()


def test_settings_are_written_once(lab: Lab) -> None:
    ref = lab.make()
    params = {**MMIO, "memoryReservationLockedToMax": "TRUE", "numCPUs": "4", "memoryMB": "8192"}
    lab.done(configure_vm(lab.si, ref, params, lab.state(ref).change_version))
    state = lab.state(ref)
    assert {key: state.extra_config[key] for key in MMIO} == MMIO
    assert (state.cpus, state.memory_mib, state.memory_reserved_all) == (4, 8192, True)
    assert lab.read(ref, "config.memoryAllocation.reservation") == 8192
    assert configure_vm(lab.si, ref, params, state.change_version) is None


def test_a_key_keeps_its_spelling(lab: Lab) -> None:
    ref = lab.make()
    lab.done(configure_vm(lab.si, ref, {"pciPassthru.use64BitMMIO": "FALSE"}, ""))
    lab.done(configure_vm(lab.si, ref, MMIO, ""))
    kept = {key: value for key, value in lab.state(ref).extra_config.items() if key.startswith("pci")}
    assert kept == {"pciPassthru.use64BitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": "128"}


def test_a_setting_that_is_none_is_refused(lab: Lab) -> None:
    with pytest.raises(BadRequest, match="no such setting: memory; known: memoryReservationLockedToMax"):
        configure_vm(lab.si, lab.make(), {"memory": "1"}, "")


def test_gpu_devices_become_the_wanted_ones_and_others_stay(lab: Lab) -> None:
    ref = lab.make(lab.request(network="VM Network"))
    before = {device.key for device in lab.read(ref, "config.hardware.device")}
    lab.done(set_gpus(lab.si, ref, [dynamic("Training"), dynamic("Training"), dynamic()], ""))
    three = lab.state(ref).gpus
    assert [(gpu.allowed, gpu.label) for gpu in three] == [((A100,), "Training")] * 2 + [((A100,), "")]
    version = lab.state(ref).change_version
    assert set_gpus(lab.si, ref, [dynamic(), dynamic("Training"), dynamic("Training")], version) is None
    lab.done(set_gpus(lab.si, ref, [dynamic("Training"), dynamic("Inference")], version))
    two = lab.state(ref).gpus
    assert sorted(gpu.label for gpu in two) == ["Inference", "Training"]
    # One of the two equal ones was right and has stayed.
    assert {gpu.key for gpu in two if gpu.label == "Training"} <= {gpu.key for gpu in three}
    lab.done(set_gpus(lab.si, ref, [A40], ""))
    assert [(gpu.kind, gpu.profile) for gpu in lab.state(ref).gpus] == [("vgpu", "nvidia_a40-24c")]
    lab.done(set_gpus(lab.si, ref, [], ""))
    assert lab.state(ref).gpus == ()
    assert {device.key for device in lab.read(ref, "config.hardware.device")} == before


def test_devices_that_are_no_gpus_of_ours_are_never_touched(vcsim_lab: Lab) -> None:
    lab, passthrough = vcsim_lab, vim.vm.device.VirtualPCIPassthrough
    ref = lab.make()
    other = passthrough(key=-1, backing=passthrough.DvxBackingInfo(deviceClass="smartnic"))
    change = vim.vm.device.VirtualDeviceSpec(operation="add", device=other)
    machine = vim.VirtualMachine(ref.moid, lab.si._stub)
    lab.done(str(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change]))._moId))
    lab.done(set_gpus(lab.si, ref, [dynamic("Training")], ""))
    lab.done(set_gpus(lab.si, ref, [], ""))
    assert [gpu.kind for gpu in lab.state(ref).gpus] == ["other"]


def test_a_static_device_is_taken_as_its_host_offers_it(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    home = passthrough_host(simulator, gpu_lab.si, f"static-{gpu_lab.number}")
    ref = gpu_lab.make(host_moid=home.ref.moid)
    wanted = [VmGpu(key=0, kind="static", sbdf=sbdf) for sbdf in (GPU, OTHER_GPU)]
    gpu_lab.done(set_gpus(gpu_lab.si, ref, wanted, ""))
    found = gpu_lab.read(ref, "config.hardware.device")
    backings = [each.backing for each in found if isinstance(each, vim.vm.device.VirtualPCIPassthrough)]
    assert [(each.id, each.deviceId, each.vendorId & 0xFFFF) for each in backings] == [
        (GPU, "20f1", 0x10DE), (OTHER_GPU, "20f1", 0x10DE),
    ]  # fmt: skip
    assert all(each.systemId for each in backings)
    gpu_lab.done(power_on_placed(gpu_lab.si, ref, home.ref.moid))
    assert set(gpu_lab.state(ref).assigned_gpus) == {GPU, OTHER_GPU}
    with pytest.raises(Conflict, match="it is poweredOn, and only a VM that is off is changed"):
        set_gpus(gpu_lab.si, ref, [], "")


def test_a_static_device_that_the_host_does_not_offer_is_told(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    home = passthrough_host(simulator, gpu_lab.si, f"static-{gpu_lab.number}")
    ref = gpu_lab.make(host_moid=home.ref.moid)
    with pytest.raises(BadRequest, match=rf"no device 0000:99:00.0 .* it offers {GPU}, {OTHER_GPU}"):
        set_gpus(gpu_lab.si, ref, [VmGpu(key=0, kind="static", sbdf="0000:99:00.0")], "")


def test_a_change_made_on_older_news_is_refused(gpu_lab: Lab) -> None:
    ref = gpu_lab.make()
    old = gpu_lab.state(ref).change_version
    gpu_lab.done(configure_vm(gpu_lab.si, ref, {"pciPassthru.use64bitMMIO": "TRUE"}, old))
    for task in (
        configure_vm(gpu_lab.si, ref, MMIO, old),
        set_gpus(gpu_lab.si, ref, [dynamic("Training")], old),
    ):
        end = gpu_lab.finish(task)
        assert isinstance(end.cause, Conflict), end
        assert "ConcurrentAccess" in end.error
    assert gpu_lab.state(ref).gpus == ()


def test_what_others_own_and_templates_are_refused(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    ref = gpu_lab.make()
    simulator.act("set_managed_by", vm=ref.name, extension="com.example.agent")
    for change in (
        lambda: configure_vm(gpu_lab.si, ref, MMIO, ""),
        lambda: set_gpus(gpu_lab.si, ref, [dynamic()], ""),
        lambda: power_on_placed(gpu_lab.si, ref),
    ):
        with pytest.raises(Conflict, match=r"the extension com\.example\.agent owns it"):
            change()
    simulator.act("set_managed_by", vm=ref.name, extension="")
    gpu_lab.as_template(ref)
    with pytest.raises(Conflict, match="it is a template"):
        set_gpus(gpu_lab.si, ref, [dynamic()], "")


def test_what_is_gone_or_another_vm_is_told(lab: Lab, world: World) -> None:
    gone = VmRef(vcenter=world.name, instance_uuid="", moid="vm-999999", name="gone")
    with pytest.raises(BadRequest, match=r"configure VM gone .* no longer in the inventory"):
        configure_vm(lab.si, gone, MMIO, "")
    ref = lab.make()
    with pytest.raises(Conflict, match=f"{ref.moid} is another VM now"):
        set_gpus(lab.si, ref.model_copy(update={"instance_uuid": "0" * 36}), [dynamic()], "")


def test_a_lost_answer_of_a_change_is_looked_after(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    ref = gpu_lab.make()
    simulator.add_fault(method="ReconfigVM_Task", drop="after", times=1)
    # The first one may still be at it when the second looks.
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        set_gpus(gpu_lab.si, ref, [dynamic("Training")], "")
    if (task := set_gpus(gpu_lab.si, ref, [dynamic("Training")], "")) is not None:
        gpu_lab.finish(task)
    assert set_gpus(gpu_lab.si, ref, [dynamic("Training")], "") is None
    assert len(gpu_lab.state(ref).gpus) == 1


def test_the_hardware_version_only_goes_up(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    name = gpu_lab.add_template(simulator, hardware_version=15)
    ref = gpu_lab.make(gpu_lab.request(source=VmSource(template=name)))
    assert gpu_lab.state(ref).hardware_version == 15
    gpu_lab.done(upgrade_hardware(gpu_lab.si, ref, "vmx-17"))
    assert gpu_lab.state(ref).hardware_version == 17
    assert upgrade_hardware(gpu_lab.si, ref, "vmx-17") is None
    assert upgrade_hardware(gpu_lab.si, ref, "vmx-15") is None
    with pytest.raises(BadRequest, match="'newest' is no hardware version"):
        upgrade_hardware(gpu_lab.si, ref, "newest")
