"""Plans for GPU VMs: a model of a VM carries them out, and every one must come to its end without harm."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.fleet import VmGpu
from contracts.host import HostRef
from contracts.machine import GuestEvidence, GuestGpu, HostFit, Placement, VmRef, VmState, VmTarget
from contracts.plan import Plan, Risk, Step, StepKind
from contracts.provision import VmWork
from contracts.vms import (
    DriverKind,
    DriverPackage,
    DriverPolicy,
    DynamicGpu,
    GpuWish,
    GuestDriver,
    StaticGpu,
    VgpuGpu,
    VmRequest,
    VmSource,
)
from planning.machine import VmSight, needs_guest, plan_vm, proof_of
from planning.machine_rules import cannot_do, devices_of, same_devices, silent_causes
from planning.mmio import MMIO_SIZE, USE_MMIO

A100 = "10de:20f1"
BOOT = datetime(2026, 1, 1, tzinfo=UTC)
ROOM = Placement(
    hosts=(
        HostFit(host=HostRef(vcenter="vc", key="k", moid="host-1", name="esx-1"), fits=True, sbdfs=("0000:81:00.0",)),
    )
)
TARGET = VmTarget(
    datacenter="dc", cluster="domain-c1", cluster_name="gpu-01", folder="group-v1", pool="resgroup-1",
    newest_hardware=21, gpu_limits={13: 16, 17: 16, 20: 32, 21: 64},
)  # fmt: skip
REF = VmRef(vcenter="vc", instance_uuid="uuid-1", moid="vm-1", name="train-1")
PACKAGE = DriverPackage(kind=DriverKind.GRID, version="550.54.15", url="https://depot/x-grid.run", sha256="0" * 64)
DRIVERS = [
    GuestDriver(),
    GuestDriver(policy=DriverPolicy.VERIFY, credentials="ubuntu"),
    GuestDriver(policy=DriverPolicy.INSTALL, credentials="ubuntu", package=PACKAGE),
]
WISHES: list[tuple[GpuWish, ...]] = [
    (DynamicGpu(match=A100, label="Training"),),
    (DynamicGpu(model="A100", count=2),),
    (StaticGpu(host="esx-1", sbdf="0000:81:00.0"),),
    (VgpuGpu(profile="nvidia_a40-24c"),),
    (VgpuGpu(profile="nvidia_a40-48c", count=2),),
]


def request(gpus: tuple[GpuWish, ...], driver: GuestDriver = DRIVERS[0], empty: bool = False) -> VmRequest:
    source = VmSource(guest_id="ubuntu64Guest", disk_gib=40) if empty else VmSource(template="ubuntu-efi")
    return VmRequest(
        name="train-1",
        vcenter="vc",
        cluster="gpu-01",
        source=source,
        gpus=gpus,
        driver=GuestDriver() if empty else driver,
    )


def state(**more: object) -> VmState:
    given: dict[str, object] = {
        "ref": REF, "made_by": "run-1", "power_state": "poweredOff", "firmware": "efi", "hardware_version": 21,
        "guest_id": "ubuntu64Guest", "cpus": 4, "memory_mib": 16384, "host_name": "esx-1", "host_moid": "host-1",
    }  # fmt: skip
    return VmState.model_validate(given | more)


class Model:
    """A VM that does what steps say, and refuses what vSphere would refuse."""

    def __init__(self, wanted: VmRequest | None, there: VmState | None, target: VmTarget = TARGET, drv: bool = False):
        self.wanted, self.state, self.target, self.driver = wanted, there, target, drv
        self.shut_down = False
        self.guest: GuestEvidence | None = None
        self.done: list[Step] = []

    def sight(self) -> VmSight:
        return VmSight(
            state=self.state, target=self.target, placement=ROOM, run="run-1", guest=self.guest,
            shut_down=self.shut_down, reported_mib={"0000:81:00.0": 40960},
        )  # fmt: skip

    def look(self, work: VmWork) -> Plan:
        if needs_guest(work, self.wanted, self.sight()):
            assert self.state is not None
            seen = tuple(GuestGpu(name="A100", driver_version="550.54.15") for _ in self.state.gpus)
            self.guest = GuestEvidence(
                gpus=seen if self.driver else (),
                error="" if self.driver else "command not found",
                driver_installed=self.driver,
                boot_time=self.state.boot_time,
            )
        return plan_vm(work, self.wanted, self.sight())

    def carry_out(self, step: Step) -> None:
        self.done.append(step)
        there = self.state
        if step.kind is StepKind.CREATE_VM:
            assert there is None
            self.state = state(hardware_version=self.target.source_hardware or self.target.newest_hardware)
            return
        assert there is not None, f"{step.kind} without a VM"
        change: dict[str, object] = {}
        match step.kind:
            case StepKind.CONFIGURE_VM:
                assert not there.powered_on
                extra = {key: value for key, value in step.params.items() if key.startswith("pciPassthru")}
                change = {"extra_config": there.extra_config | extra, "memory_reserved_all": True}
            case StepKind.SET_VM_GPUS:
                assert not there.powered_on
                gpus = devices_of(self.wanted.gpus) if self.wanted and step.params["gpus"] else ()
                assert not any(gpu.kind == "dynamic" for gpu in gpus) or there.hardware_version >= 17
                change = {"gpus": gpus}
            case StepKind.UPGRADE_HARDWARE:
                assert not there.powered_on
                change = {"hardware_version": int(step.params["version"].removeprefix("vmx-"))}
            case StepKind.POWER_ON_VM:
                assert not there.powered_on
                assert there.memory_reserved_all
                bound = [gpu.model_copy(update={"assigned": f"0000:8{n}:00.0"}) for n, gpu in enumerate(there.gpus)]
                pairs = {gpu.assigned: (gpu.allowed or (A100,))[0] for gpu in bound}
                labels = {gpu.assigned: gpu.label for gpu in bound if gpu.label}
                change = {
                    "power_state": "poweredOn", "boot_time": BOOT, "gpus": tuple(bound), "assigned_gpus": pairs,
                    "assigned_labels": labels, "tools_running": False,
                }  # fmt: skip
            case StepKind.AWAIT_GUEST:
                change = {"tools_running": True}
            case StepKind.INSTALL_GUEST_DRIVER:
                assert there.tools_running
                self.driver, self.guest = True, None
            case StepKind.SHUT_DOWN_GUEST:
                self.shut_down = True
                change = {"power_state": "poweredOff", "tools_running": False, "boot_time": None, "assigned_gpus": {}}
            case StepKind.DELETE_VM:
                self.state = None
                return
        self.state = there.model_copy(update=change)

    def converge(self, work: VmWork) -> Plan:
        for _ in range(20):
            plan = self.look(work)
            if not plan.steps:
                return plan
            self.carry_out(plan.steps[0])
        raise AssertionError(f"no end: {[step.kind for step in self.done]}")


requests = st.builds(request, st.sampled_from(WISHES), st.sampled_from(DRIVERS[::2]), st.booleans())


@given(requests, st.sampled_from([0, 13, 17, 20]), st.booleans())
def test_making_a_vm_comes_to_its_end_with_nothing_left_to_do(
    wanted: VmRequest, source_hardware: int, driver_in_image: bool
) -> None:
    target = TARGET.model_copy(update={"source_hardware": source_hardware})
    model = Model(wanted, None, target, driver_in_image)
    first = model.look(VmWork.PROVISION)
    last = model.converge(VmWork.PROVISION)
    assert last.done, last.blockers
    assert model.state is not None
    assert model.state.powered_on
    assert same_devices(model.state.gpus, devices_of(wanted.gpus))
    # Nothing runs that was not in the plan that people saw.
    assert {step.id for step in model.done} <= {step.id for step in first.steps}
    assert not silent_causes(model.state, {A100: 40960})[0].startswith("its MMIO")


@given(requests, requests, st.booleans(), st.sampled_from([13, 17, 21]))
def test_changing_a_vm_comes_to_its_end_and_leaves_it_on_or_off_as_it_was(
    before: VmRequest, after: VmRequest, on: bool, hardware: int
) -> None:
    model = Model(after, state(made_by="", hardware_version=hardware, gpus=devices_of(before.gpus)), drv=True)
    if on:
        assert model.state is not None
        model.state = model.state.model_copy(update={"memory_reserved_all": True})
        model.carry_out(Step(kind=StepKind.POWER_ON_VM, target="", reason="", change="", risk=Risk.SAFE))
        model.done.clear()
    last = model.converge(VmWork.CHANGE)
    assert last.done, last.blockers
    assert model.state is not None
    assert model.state.powered_on == on
    assert same_devices(model.state.gpus, devices_of(after.gpus))
    touching = {StepKind.SET_VM_GPUS, StepKind.CONFIGURE_VM, StepKind.SHUT_DOWN_GUEST, StepKind.UPGRADE_HARDWARE}
    assert all(step.risk is not Risk.SAFE for step in model.done if step.kind in touching)


@given(st.sampled_from(WISHES), st.booleans())
def test_retiring_shuts_down_gives_back_and_deletes_in_that_order(gpus: tuple[GpuWish, ...], on: bool) -> None:
    model = Model(None, state(made_by="", gpus=devices_of(gpus), power_state="poweredOn" if on else "poweredOff"))
    model.converge(VmWork.RETIRE)
    kinds = [step.kind for step in model.done]
    assert kinds == [
        *([StepKind.SHUT_DOWN_GUEST] if on else []), StepKind.SET_VM_GPUS, StepKind.DELETE_VM
    ]  # fmt: skip
    assert all(step.risk is not Risk.SAFE for step in model.done)
    assert model.state is None


@pytest.mark.parametrize(("maker", "removed"), [("run-1", True), ("run-2", False), ("", False)])
def test_undoing_removes_only_what_this_run_made(maker: str, removed: bool) -> None:
    plan = plan_vm(VmWork.UNDO, None, VmSight(state=state(made_by=maker), run="run-1"))
    assert bool(plan.steps) == removed


def test_a_vm_of_the_same_name_that_others_made_is_left_alone() -> None:
    plan = plan_vm(VmWork.PROVISION, request(WISHES[0]), VmSight(state=state(made_by=""), target=TARGET, run="run-1"))
    assert not plan.steps
    assert plan.blockers[0].code == "name-taken"


def test_nobody_logs_in_to_the_guest_of_a_vm_that_others_made() -> None:
    theirs = state(made_by="", power_state="poweredOn", boot_time=BOOT, tools_running=True, gpus=devices_of(WISHES[0]))
    sight = VmSight(state=theirs, target=TARGET, run="run-1")
    assert not needs_guest(VmWork.PROVISION, request(WISHES[0], DRIVERS[1]), sight)


@given(requests)
def test_asking_again_for_a_vm_that_is_as_asked_for_does_nothing(wanted: VmRequest) -> None:
    model = Model(wanted, None, drv=True)
    model.converge(VmWork.PROVISION)
    assert model.state is not None
    again = Model(wanted, model.state.model_copy(update={"made_by": "an earlier run"}), drv=True)
    assert again.look(VmWork.PROVISION).done
    bigger = wanted.model_copy(update={"cpus": wanted.cpus + 1})
    assert Model(bigger, again.state, drv=True).look(VmWork.PROVISION).blockers[0].code == "name-taken"


@pytest.mark.parametrize(
    ("there", "code"),
    [
        ({"managed_by": "com.vmware.vim.eam"}, "managed"),
        ({"template": True}, "template"),
        ({"firmware": "bios"}, "firmware-bios"),
        ({"question": "Did you move it or copy it?"}, "question"),
        ({"connection_state": "orphaned"}, "vm-unreachable"),
    ],
)
def test_vms_that_may_not_be_changed_are_named_with_the_reason(there: dict[str, object], code: str) -> None:
    plan = plan_vm(VmWork.CHANGE, request(WISHES[0]), VmSight(state=state(**there), placement=ROOM, target=TARGET))
    assert code in {blocker.code for blocker in plan.blockers}


@pytest.mark.parametrize(
    ("target", "gpus", "code"),
    [
        ({"source_firmware": "bios"}, WISHES[0], "source-bios"),
        ({"source_guest_id": "otherGuest"}, WISHES[0], "guest-32-bit"),
        ({"gpu_limits": {21: 1}}, WISHES[1], "too-many-devices"),
        ({}, (DynamicGpu(model="Voodoo 2"),), "unknown-model"),
    ],
)
def test_a_source_or_wish_that_cannot_work_is_told_before_anything_is_made(
    target: dict[str, object], gpus: tuple[GpuWish, ...], code: str
) -> None:
    sight = VmSight(state=None, target=TARGET.model_copy(update=target), placement=ROOM, run="run-1")
    assert code in {blocker.code for blocker in plan_vm(VmWork.PROVISION, request(gpus), sight).blockers}


def test_a_clone_whose_hardware_is_too_old_needs_an_approved_upgrade() -> None:
    target = TARGET.model_copy(update={"source_hardware": 13})
    plan = plan_vm(VmWork.PROVISION, request(WISHES[0]), VmSight(state=None, target=target, placement=ROOM))
    upgrade = next(step for step in plan.steps if step.kind is StepKind.UPGRADE_HARDWARE)
    assert upgrade.risk is Risk.DESTRUCTIVE
    assert "no way back" in upgrade.change


def test_no_room_is_told_with_the_reasons_of_the_hosts() -> None:
    full = HostFit(host=ROOM.hosts[0].host, fits=False, why="in use: 0000:81:00.0", code="in-use")
    sight = VmSight(state=None, target=TARGET, placement=Placement(hosts=(full,)))
    blocker = plan_vm(VmWork.PROVISION, request(WISHES[0]), sight).blockers[0]
    assert (blocker.code, blocker.error) == ("no-room", "Conflict")
    assert "esx-1: in use: 0000:81:00.0" in blocker.text


def test_a_device_with_the_wrong_label_is_not_called_done() -> None:
    gpu = VmGpu(key=1, kind="dynamic", allowed=(A100,), label="Training", assigned="0000:81:00.0")
    there = state(
        power_state="poweredOn", boot_time=BOOT, gpus=(gpu,), tools_running=True, assigned_gpus={"0000:81:00.0": A100},
        assigned_labels={"0000:81:00.0": "Other"}, memory_reserved_all=True,
    )  # fmt: skip
    plan = plan_vm(VmWork.PROVISION, request(WISHES[0]), VmSight(state=there, target=TARGET, run="run-1"))
    assert plan.blockers[0].code == "not-as-asked"
    assert "'Other'" in plan.blockers[0].text


def test_what_a_guest_showed_before_its_last_boot_proves_nothing() -> None:
    old = GuestEvidence(gpus=(GuestGpu(name="A100"),), boot_time=datetime(2025, 1, 1, tzinfo=UTC))
    there = state(power_state="poweredOn", boot_time=BOOT, tools_running=True, gpus=devices_of(WISHES[0]))
    wanted = request(WISHES[0], DRIVERS[1])
    assert needs_guest(VmWork.PROVISION, wanted, VmSight(state=there, target=TARGET, run="run-1", guest=old))
    assert not any("nvidia-smi" in line for line in proof_of(there, old))


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"firmware": "bios"}, "firmware is BIOS"),
        ({"guest_id": "otherGuest"}, "not a 64-bit one"),
        ({"extra_config": {}}, "MMIO space is too small (pciPassthru.use64bitMMIO is not TRUE)"),
        ({"extra_config": {USE_MMIO: "TRUE", MMIO_SIZE: "64"}}, "is 64, and 128 is needed"),
        ({"memory_reserved_all": False}, "not all of its memory is reserved"),
        ({}, "VMware Tools"),
    ],
)
def test_why_a_guest_never_answers_is_named(there: dict[str, object], words: str) -> None:
    right: dict[str, object] = {
        "gpus": devices_of(WISHES[0]), "memory_reserved_all": True,
        "extra_config": {USE_MMIO: "TRUE", MMIO_SIZE: "128"},
    }  # fmt: skip
    assert words in silent_causes(state(**(right | there)), {A100: 40960})[0]


def test_what_a_vm_cannot_do_is_told_by_its_mode() -> None:
    said = {
        kind: " ".join(cannot_do(gpus)) for kind, gpus in zip("dsv", (WISHES[0], WISHES[2], WISHES[3]), strict=True)
    }
    assert "stays powered off" in said["s"]
    assert "only where a GPU of its kind and label is free" in said["d"]
    assert "vgpu.hotmigrate" in said["v"]
