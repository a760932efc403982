"""GPU VMs and where they could run, as people read it."""

from rich.console import Console, RenderableType

from cli.vm_show import gpu_text, placement_text, vm_plan_text, vm_report_text, vm_rows
from contracts.fleet import FleetCluster, FleetHost, FleetVm, GpuFleet, VmGpu
from contracts.host import HostRef
from contracts.machine import HostFit, Placement, VmRef
from contracts.plan import Blocker, Plan
from contracts.provision import GpuVmReport, VmOutcome, VmPlan, VmStage, VmWork


def shown(text: RenderableType) -> str:
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        console.print(text)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def host(number: int) -> HostRef:
    return HostRef(vcenter="lab", key=f"k{number}", moid=f"host-{number}", name=f"esx-{number:02}")


def fit(number: int, why: str = "") -> HostFit:
    sbdfs = () if why else ("0000:81:00.0", "0000:e2:00.0")
    return HostFit(host=host(number), fits=not why, sbdfs=sbdfs, why=why, code=why and "in-use")


def test_hosts_that_could_take_it_come_first_and_the_others_are_grouped_by_their_reason() -> None:
    rare = [fit(1, "it is in maintenance mode")]
    common = [fit(number, "in use: 0000:81:00.0") for number in range(10, 20)]
    lines = shown(placement_text(Placement(hosts=(*rare, *common, fit(2), fit(3)), room=5))).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "esx-02",
        "esx-03",
        "esx-10, esx-11, esx-12, esx-13, esx-14, esx-15 and 4 more",
        "esx-01",
        "Room for 5 such VMs now.",
    ]
    assert lines[1].endswith("yes            0000:81:00.0, 0000:e2:00.0")
    assert lines[3].endswith("no             in use: 0000:81:00.0")


def test_a_plan_tells_limits_once_and_what_is_in_the_way_with_its_fix() -> None:
    blocker = Blocker(code="no-room", text="none of [2] hosts", fix="retire a VM")
    plan = Plan(blockers=(blocker,), notes=("what it cannot do: no vMotion", "bound by its address"))
    look = VmPlan(state=None, plan=plan, plan_hash="x", cannot=("no vMotion",))
    text = shown(vm_plan_text(look, "train-01 on lab", VmWork.PROVISION))
    assert "In the way: none of [2] hosts\n  fix: retire a VM" in text
    assert "Note: bound by its address" in text
    assert text.count("no vMotion") == 1
    done = shown(vm_plan_text(VmPlan(state=None, plan=Plan(), plan_hash="x"), "t", VmWork.RETIRE))
    assert "Nothing to do: there is no such VM any more." in done


def test_a_report_tells_where_the_vm_is_and_what_was_proven() -> None:
    report = GpuVmReport(
        work=VmWork.PROVISION,
        name="train-01",
        vcenter="lab",
        requester="cli:alice",
        stage=VmStage.FINISHED,
        outcome=VmOutcome.PROVISIONED,
        vm=VmRef(vcenter="lab", instance_uuid="uuid-1", moid="vm-7", name="train-01"),
        host="esx-01",
        ip_address="10.0.0.7",
        proof=("0000:81:00.0 (10de:20f1) is bound to it",),
        cannot=("no vMotion",),
        placement=Placement(hosts=(fit(1),)),
    )
    text = shown(vm_report_text(report))
    assert "train-01 on lab: provision: provisioned" in text
    assert "host esx-01, address 10.0.0.7, instance UUID uuid-1" in text
    assert "Proven:\n✔ 0000:81:00.0 (10de:20f1) is bound to it" in text
    assert "could take it" not in text
    refused = report.model_copy(
        update={"outcome": VmOutcome.REFUSED, "placement": Placement(hosts=(fit(1, "in use: x"),))}
    )
    assert "in use: x" in shown(vm_report_text(refused))


def test_vms_are_listed_with_what_they_asked_for_and_what_they_hold() -> None:
    gpu = VmGpu(key=1, kind="dynamic", allowed=("10de:20f1",), label="Training", assigned="0000:81:00.0")
    on = FleetVm(moid="vm-1", instance_uuid="u1", name="b", host_moid="host-1", powered_on=True, gpus=(gpu,))
    off = on.model_copy(
        update={
            "moid": "vm-2", "name": "a", "powered_on": False,
            "gpus": (VmGpu(key=1, kind="vgpu", profile="nvidia_a40-24c"),),
        }
    )  # fmt: skip
    gone = off.model_copy(update={"moid": "vm-3", "name": "c", "connection_state": "orphaned", "host_moid": "host-9"})
    golden = off.model_copy(update={"moid": "vm-4", "name": "d", "template": True})
    fleet = GpuFleet(
        vcenter="lab",
        clusters=(FleetCluster(moid="domain-c8", name="gpu-01"),),
        hosts=(FleetHost(ref=host(1), cluster_moid="domain-c8"),),
        vms=(on, off, gone, golden),
    )
    rows = {str(row["name"]): row for row in vm_rows(fleet)}
    assert [(name, row["power"], row["host"]) for name, row in rows.items()] == [
        ("c", "orphaned", "host-9"),
        ("a", "off", "esx-01"),
        ("b", "on", "esx-01"),
        ("d", "template", "esx-01"),
    ]
    assert rows["b"]["gpus"] == ["dynamic 10de:20f1,label=Training"]
    assert (rows["b"]["assigned"], rows["a"]["assigned"]) == (["0000:81:00.0"], [])


def test_devices_read_as_they_are_asked_for() -> None:
    assert gpu_text(VmGpu(key=1, kind="static", sbdf="0000:81:00.0")) == "static 0000:81:00.0"
    assert (
        gpu_text(VmGpu(key=1, kind="dynamic", allowed=("10de:20f1", "10de:20b0"))) == "dynamic 10de:20f1 or 10de:20b0"
    )
    assert gpu_text(VmGpu(key=1, kind="other")) == "other"
