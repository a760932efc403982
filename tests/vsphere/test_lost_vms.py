"""What brings lost GPU VMs back, in a simulated cluster of its own: hosts fail here."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import Conflict, GpuwrightError, NeedsHuman, NotSupported, Unreachable
from contracts.fleet import VmGpu
from contracts.host import HostRef
from contracts.machine import VmRef, VmState
from tests.simulator.vm_site import MANAGER, PASSTHROUGH, PLAIN, PROFILE, VGPU, VmSite
from tests.support.simulator import SimulatorProcess
from vsphere import lost_vms
from vsphere.graphics import set_graphics_type, set_host_graphics
from vsphere.inventory import find_host
from vsphere.lost_vms import Goal, Registration
from vsphere.passthrough import set_passthrough
from vsphere.properties import read_properties
from vsphere.tasks import await_task
from vsphere.vm_state import read_vm

A100 = "10de:20f1"
GPU, OTHER_GPU = "0000:81:00.0", "0000:e2:00.0"
_NUMBERS = count(1)


class Ward:
    """A cluster whose last host is in passthrough with the label Training, and the second one offers vGPUs."""

    def __init__(self, site: VmSite) -> None:
        self.site, self.si, self.act = site, site.si, site.act
        self.cluster = site.cluster._moId

    def goal(self, name: str = PASSTHROUGH) -> Goal:
        found = find_host(self.si, "ward", name)
        return Goal(found.moid, found.name, self.cluster)

    def fresh_host(self, *labels: str) -> HostRef:
        """Another host of the cluster, with a GPU in passthrough for each label."""
        name = f"spare-{next(_NUMBERS):02}.gpu.test"
        self.act("add_host", cluster="gpu-01", name=name, rebind_without_reboot=True)
        found = find_host(self.si, "ward", name)
        for sbdf, label in zip((GPU, OTHER_GPU), labels, strict=False):
            assert set_passthrough(self.si, found, sbdf, True, label, apply_now=True)
        return found

    def add(self, host: str, gpu: str = "none", **more: Any) -> VmRef:
        name = f"lost-{next(_NUMBERS):02}"
        if gpu == "vgpu":
            more = {"profile": PROFILE} | more
        return self.ref(self.act("add_vm", host=host, name=name, gpu=gpu, **more))

    def ref(self, moid: str) -> VmRef:
        read = read_properties(
            self.si, vim.VirtualMachine(moid, self.si._stub), {vim.VirtualMachine: ["name", "config.instanceUuid"]}
        )[moid]
        return VmRef(vcenter="ward", instance_uuid=read.get("config.instanceUuid"), moid=moid, name=read.get("name"))

    def now(self, ref: VmRef) -> VmRef:
        found = lost_vms.find_by_uuid(self.si, "ward", ref.instance_uuid)
        assert found is not None
        return found

    def state(self, ref: VmRef) -> VmState:
        found = read_vm(self.si, self.now(ref))
        assert found is not None
        return found

    def machine(self, ref: VmRef) -> Any:
        return vim.VirtualMachine(ref.moid, self.si._stub)

    def done(self, task: str | None) -> None:
        assert task is not None
        end = await_task(self.si, task, lambda _: None, 60)
        assert end.state == "success", end

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def order(self, ref: VmRef, old: HostRef, goal: Goal) -> Registration:
        machine = self.machine(ref)
        return Registration(
            path=machine.config.files.vmPathName,
            name=ref.name,
            folder_moid=machine.parent._moId,
            pool_moid=machine.resourcePool._moId,
            old_host=Goal(old.moid, old.name, self.cluster),
            goal=goal,
        )

    def fail(self, host: HostRef, act: str = "fail_host") -> None:
        self.act(act, host=host.name)
        found = vim.HostSystem(host.moid, self.si._stub)
        self.until(lambda: found.runtime.connectionState == "notResponding")

    def register(self, ref: VmRef, order: Registration) -> bool:
        return lost_vms.register(self.si, "ward", ref.instance_uuid, order, lambda _: None, 60)


@pytest.fixture(scope="module")
def site() -> Iterator[VmSite]:
    with SimulatorProcess(clusters=1, hosts=3, gpus=4, vms=0, gpu_vms=1, time_scale=300) as running:
        found = VmSite(running)
        yield found
        found.close()


@pytest.fixture
def ward(site: VmSite) -> Iterator[Ward]:
    made = Ward(site)
    yield made
    site.simulator.clear_faults()
    made.act("set_drs", cluster="gpu-01", behavior="fullyAutomated")


@pytest.fixture
def pinned(ward: Ward) -> tuple[VmRef, HostRef]:
    """A VM with a static device, and its host, which is dead."""
    host = ward.fresh_host("Training")
    ref = ward.add(host.name, "static", device=GPU)
    return ref, host


def dynamic(sbdf: str = GPU, label: str = "Training") -> VmGpu:
    return VmGpu(key=0, kind="dynamic", allowed=(A100,), label=label, sbdf=sbdf)


def test_a_pinned_vm_of_a_dead_host_runs_elsewhere_on_a_gpu_of_its_kind(
    ward: Ward, pinned: tuple[VmRef, HostRef]
) -> None:
    ref, host = pinned
    order = ward.order(ref, host, ward.goal())
    ward.fail(host)
    assert ward.register(ref, order)
    assert not ward.register(ref, order)
    here = ward.now(ref)
    assert here.moid != ref.moid
    assert not ward.state(ref).powered_on
    ward.done(lost_vms.convert(ward.si, here, [dynamic()], 17))
    assert lost_vms.convert(ward.si, here, [dynamic()], 17) is None
    (gpu,) = ward.state(ref).gpus
    assert (gpu.kind, gpu.allowed, gpu.label) == ("dynamic", (A100,), "Training")
    ward.done(lost_vms.power_on(ward.si, here, ward.goal()))
    assert lost_vms.power_on(ward.si, here, ward.goal()) is None
    state = ward.state(ref)
    assert (state.powered_on, state.host_name) == (True, PASSTHROUGH)
    assert set(state.assigned_labels.values()) == {"Training"}


@pytest.mark.parametrize("dropped", ["UnregisterVM", "RegisterVM_Task"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_while_registering_leaves_one_vm(
    ward: Ward, pinned: tuple[VmRef, HostRef], dropped: str, when: str
) -> None:
    ref, host = pinned
    order = ward.order(ref, host, ward.goal())
    ward.fail(host)
    ward.site.simulator.add_fault(method=dropped, drop=when, times=1)
    with pytest.raises(Unreachable):
        ward.register(ref, order)
    # It may have come to its end meanwhile.
    ward.register(ref, order)
    assert ward.state(ref).host_name == PASSTHROUGH
    assert [vm.name for vm in ward.site.datacenter.vmFolder.childEntity if vm.name == ref.name] == [ref.name]


def test_nothing_is_taken_from_a_host_that_is_not_known_to_be_dead(ward: Ward, pinned: tuple[VmRef, HostRef]) -> None:
    ref, host = pinned
    order = ward.order(ref, host, ward.goal())
    with pytest.raises(Conflict, match=f"{host.name} is connected, and HA says connectedToMaster of it"):
        ward.register(ref, order)
    ward.fail(host, "disconnect_host")
    with pytest.raises(Conflict, match=f"{host.name} is notResponding, and HA says connectedToMaster .*may run there"):
        ward.register(ref, order)
    assert ward.now(ref) == ref


def test_a_vm_leaves_the_inventory_only_for_a_place_that_can_have_it(ward: Ward, pinned: tuple[VmRef, HostRef]) -> None:
    ref, host = pinned
    order = ward.order(ref, host, ward.goal())
    ward.fail(host)
    for wrong, words in (
        (replace(order, goal=replace(order.goal, name="esx-99")), "esx-99 in .* was approved"),
        (replace(order, goal=replace(order.goal, cluster_moid="domain-c99")), "domain-c99 was approved"),
        (replace(order, goal=replace(order.goal, moid=host.moid, name=host.name)), ""),
        (replace(order, path="[other] x/x.vmx"), r"its file is \[.*not \[other\]"),
        (replace(order, old_host=ward.goal(PLAIN)), f"on another host than {PLAIN}"),
    ):
        if words:
            with pytest.raises(Conflict, match=words):
                ward.register(ref, wrong)
        else:
            assert not ward.register(ref, wrong)
    assert ward.now(ref) == ref


def test_a_vm_that_could_not_be_registered_is_told_with_its_path(ward: Ward, pinned: tuple[VmRef, HostRef]) -> None:
    ref, host = pinned
    order = ward.order(ref, host, ward.goal())
    ward.fail(host)
    ward.site.simulator.add_fault(method="RegisterVM_Task", error="DuplicateName", times=1)
    with pytest.raises(NeedsHuman, match=r"DuplicateName.*no longer in the inventory: register \[.*\.vmx by hand"):
        ward.register(ref, order)
    assert lost_vms.find_by_uuid(ward.si, "ward", ref.instance_uuid) is None
    # Somebody made the name free: the same step again brings it back.
    assert ward.register(ref, order)


def test_only_the_devices_that_were_approved_are_converted(ward: Ward) -> None:
    host = ward.fresh_host("Training", "Training")
    ref = ward.add(host.name, "static", device=GPU, on=False)
    with pytest.raises(Conflict, match=f"its static devices are {GPU} now"):
        lost_vms.convert(ward.si, ref, [dynamic(OTHER_GPU)], 17)
    with pytest.raises(NotSupported, match="needs hardware version 99, and it has"):
        lost_vms.convert(ward.si, ref, [dynamic()], 99)
    ward.done(lost_vms.convert(ward.si, ref, [dynamic()], 17))
    with pytest.raises(Conflict, match="neither its static devices nor what was to replace them"):
        lost_vms.convert(ward.si, ref, [dynamic(label="Other")], 17)


def test_a_vm_is_powered_on_where_that_was_approved(ward: Ward) -> None:
    home, other = ward.fresh_host(), ward.fresh_host("Elsewhere")
    ref = ward.add(home.name, "dynamic", label="Elsewhere", device=GPU, on=False)
    ward.act("set_drs", cluster="gpu-01", behavior="manual")
    goal = Goal(other.moid, other.name, ward.cluster)
    with pytest.raises(Conflict, match="was approved"):
        lost_vms.power_on(ward.si, ref, replace(goal, name=home.name))
    ward.done(lost_vms.power_on(ward.si, ref, goal))
    assert ward.state(ref).host_name == other.name


def test_a_lost_answer_of_a_power_on_is_followed(ward: Ward) -> None:
    host = ward.fresh_host("Lonely")
    ref = ward.add(host.name, "dynamic", label="Lonely", device=GPU, on=False)
    ward.site.simulator.add_fault(method="PowerOnVM_Task", drop="after", times=1)
    goal = Goal(host.moid, host.name, ward.cluster)
    with pytest.raises(Unreachable):
        lost_vms.power_on(ward.si, ref, goal)
    if (task := lost_vms.power_on(ward.si, ref, goal)) is not None:
        ward.done(task)
    assert ward.state(ref).powered_on


def test_a_recommendation_is_applied_while_it_is_the_one_that_was_approved(ward: Ward) -> None:
    host = ward.fresh_host("Advised")
    ref = ward.add(PLAIN, "dynamic", label="Advised", device=GPU, on=False)
    ward.act("set_drs", cluster="gpu-01", behavior="manual")
    ward.done(str(ward.site.datacenter.PowerOnMultiVM_Task([ward.machine(ref)], None)._moId))
    (advice,) = ward.site.cluster.recommendation
    goal = Goal(host.moid, host.name, ward.cluster)
    for key, where in (("999", goal), (advice.key, ward.goal())):
        with pytest.raises(Conflict, match="DRS no longer recommends that"):
            lost_vms.apply_recommendation(ward.si, ref, ward.cluster, key, where)
    ward.site.simulator.add_fault(method="ApplyRecommendation", drop="after", times=1)
    with pytest.raises(Unreachable):
        lost_vms.apply_recommendation(ward.si, ref, ward.cluster, advice.key, goal)
    applied, task = lost_vms.apply_recommendation(ward.si, ref, ward.cluster, advice.key, goal)
    assert not applied
    if task is not None:
        ward.done(task)
    assert ward.state(ref).host_name == host.name
    assert lost_vms.apply_recommendation(ward.si, ref, ward.cluster, advice.key, goal) == (False, None)


def test_a_recommendation_is_applied_for_a_vm_that_is_still_shown_as_it_was_on_its_lost_host(ward: Ward) -> None:
    host, other = ward.fresh_host("Shown"), ward.fresh_host("Shown")
    ref = ward.add(host.name, "dynamic", label="Shown", device=GPU)
    machine = ward.machine(ref)
    ward.until(lambda: bool(machine.runtime.dasVmProtection.dasProtected))
    ward.act("set_drs", cluster="gpu-01", behavior="manual")
    ward.fail(host)
    ward.until(lambda: any(each.action[0].target._moId == ref.moid for each in ward.site.cluster.recommendation))
    assert (machine.runtime.powerState, machine.runtime.connectionState) == ("poweredOn", "disconnected")
    (key,) = (each.key for each in ward.site.cluster.recommendation if each.action[0].target._moId == ref.moid)
    goal = Goal(other.moid, other.name, ward.cluster)
    applied, task = lost_vms.apply_recommendation(ward.si, ref, ward.cluster, key, goal)
    assert applied
    if task is not None:
        ward.done(task)
    ward.until(lambda: ward.state(ref).host_name == other.name)
    assert lost_vms.apply_recommendation(ward.si, ref, ward.cluster, key, goal) == (False, None)


def test_only_running_vgpu_vms_make_room(ward: Ward) -> None:
    ward.act("set_vcenter_option", key="vgpu.hotmigrate.enabled", value=True)
    light = ward.add(VGPU, "vgpu")
    host = ward.fresh_host("Whole")
    whole = ward.add(host.name, "dynamic", label="Whole", device=GPU)
    off = ward.add(VGPU, "vgpu", on=False)
    acts: list[Callable[[VmRef], Any]] = [
        lambda ref: lost_vms.suspend(ward.si, ref),
        lambda ref: lost_vms.move(ward.si, ref, ward.goal()),
    ]
    for act in acts:
        with pytest.raises(Conflict, match="only a VM whose GPUs are vGPUs makes room; it has dynamic"):
            act(whole)
        with pytest.raises(Conflict, match="it is poweredOff now"):
            act(off)
    assert lost_vms.move(ward.si, light, ward.goal(VGPU)) is None
    task = lost_vms.move(ward.si, light, ward.goal())
    assert task is not None
    end = await_task(ward.si, task, lambda _: None, 60)
    assert "MigrationFault" in end.error, "the other host shares no card"
    ward.done(lost_vms.suspend(ward.si, light))
    assert lost_vms.suspend(ward.si, light) is None
    assert ward.state(light).power_state == "suspended"
    with pytest.raises(Conflict, match="it is suspended now"):
        lost_vms.power_on(ward.si, light, ward.goal(VGPU))


def test_a_running_vgpu_vm_moves_to_the_host_that_was_approved(ward: Ward) -> None:
    ward.act("set_vcenter_option", key="vgpu.hotmigrate.enabled", value=True)
    light, other = ward.add(VGPU, "vgpu"), ward.fresh_host()
    for sbdf in (GPU, OTHER_GPU):
        set_graphics_type(ward.si, other, sbdf, "sharedDirect")
    set_host_graphics(ward.si, other, "sharedDirect")
    ward.act("set_package", host=other.name, depot=MANAGER)
    goal = Goal(other.moid, other.name, ward.cluster)
    ward.site.simulator.add_fault(method="RelocateVM_Task", drop="after", times=1)
    with pytest.raises(Unreachable):
        lost_vms.move(ward.si, light, goal)
    if (task := lost_vms.move(ward.si, light, goal)) is not None:
        ward.done(task)
    assert lost_vms.move(ward.si, light, goal) is None
    state = ward.state(light)
    assert (state.powered_on, state.host_name) == (True, other.name)


def test_what_an_extension_owns_is_left_alone(ward: Ward) -> None:
    owned = ward.add(VGPU, "vgpu", managed_by="com.vmware.wcp")
    host = ward.fresh_host("Owned")
    pinned = ward.add(host.name, "static", device=GPU, managed_by="com.vmware.wcp")
    order = ward.order(pinned, host, ward.goal())
    ward.fail(host)
    acts: list[Callable[[], Any]] = [
        lambda: lost_vms.suspend(ward.si, owned),
        lambda: lost_vms.move(ward.si, owned, ward.goal()),
        lambda: ward.register(pinned, order),
    ]
    for act in acts:
        with pytest.raises(GpuwrightError, match=r"the extension com\.vmware\.wcp owns it"):
            act()
