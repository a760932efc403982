"""`gpuwright fleet`: hosts × GPUs as people and scripts read them."""

import json

import pytest
from rich.console import Console

from cli.fleet_matrix import GpuState, cells, matrix_summary, matrix_table
from cli.main import USAGE, run
from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetVm, GpuFleet, VmGpu
from contracts.host import HostRef
from tests.cli.conftest import GpuSite

A100 = "10de:20f1"


def gpu(bus: int, **fields: object) -> FleetGpu:
    return FleetGpu.model_validate(
        {"sbdf": f"0000:{bus:02x}:00.0", "vendor_device": A100, "name": "GA100", "active_type": "shared", **fields}
    )


def whole(bus: int, label: str = "Training", *by: str) -> FleetGpu:
    return gpu(bus, passthru_active=True, active_type="direct", label=label, vm_moids=by)


def host(number: int, *gpus: FleetGpu, **fields: object) -> FleetHost:
    ref = HostRef(vcenter="lab", key=f"k{number}", moid=f"host-{number}", name=f"esx-{number:02}.gpu.example.com")
    return FleetHost.model_validate({"ref": ref, "cluster_moid": "domain-c1", "gpus": gpus, **fields})


def vm(number: int) -> FleetVm:
    device = VmGpu(key=1, kind="dynamic", allowed=(A100,))
    return FleetVm(
        moid=f"vm-{number}",
        instance_uuid=f"u{number}",
        name=f"train-{number:02}",
        host_moid="host-1",
        powered_on=True,
        gpus=(device,),
    )


def fleet(*hosts: FleetHost) -> GpuFleet:
    clusters = (FleetCluster(moid="domain-c1", name="gpu-01"),)
    return GpuFleet(vcenter="lab", clusters=clusters, hosts=hosts, vms=tuple(vm(number) for number in range(1, 9)))


def drawn(world: GpuFleet, width: int = 80) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(matrix_table(list(cells(world))))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_alike_gpus_of_a_host_share_a_line_and_a_terminal_of_80_columns_is_enough() -> None:
    there = host(1, *(whole(16 + number, "Training", f"vm-{number}") for number in range(1, 7)), whole(30), whole(31))
    mixed = host(2, gpu(1, active_type="sharedDirect", vm_moids=("vm-7", "vm-8")), gpu(2), in_maintenance=True)
    lines = drawn(fleet(there, mixed))
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["host", "GPUs", "mode", "label", "free", "users"]
    assert lines[1].startswith("esx-01.gpu.example.com 8× A100 passthrough Training    2 train-01, train-02,")
    assert "".join(lines[1:4]).count("train-") == 6
    second = next(line for line in lines if line.startswith("esx-02"))
    assert second.split() == ["esx-02.gpu.example.com", "1×", "A100", "vGPU", "0", "train-07,", "train-08"]
    rest = lines[lines.index(second) + 1 :]
    assert rest[0] == "maintenance"
    assert rest[1].split() == ["1×", "A100", "default", "0"]


def test_long_names_are_folded_and_not_cut() -> None:
    long = host(1, whole(1, "Training", "vm-1"))
    long = long.model_copy(update={"ref": long.ref.model_copy(update={"name": "esx-" + "0123456789" * 5})})
    lines = drawn(fleet(long))
    assert max(map(len, lines)) <= 80
    assert "".join(line.split()[0] for line in lines[1:]) == long.ref.name
    assert "train-01" in "".join(lines)


def test_fifty_hosts_take_a_line_each_and_are_summed_up() -> None:
    world = fleet(*(host(number, whole(1), whole(2), whole(3, "Training", "vm-1")) for number in range(1, 51)))
    assert len(drawn(world)) == 51
    assert matrix_summary(list(cells(world))) == "50 hosts, 150 GPUs: 50 in use, 100 free, 0 pending, 0 in default mode"


@pytest.mark.parametrize(
    ("one", "fields", "mode", "states"),
    [
        (whole(1), {}, "passthrough", {GpuState.FREE}),
        (whole(1, "", "vm-1"), {}, "passthrough", {GpuState.IN_USE}),
        (whole(1), {"standby": True}, "passthrough", {GpuState.OUT}),
        (whole(1), {"connection_state": "notResponding"}, "passthrough", {GpuState.OUT}),
        (gpu(1), {}, "default", {GpuState.DEFAULT}),
        (gpu(1, pending=True), {}, "default", {GpuState.DEFAULT, GpuState.PENDING}),
        (gpu(1, active_type="sharedDirect"), {}, "vGPU", {GpuState.FREE}),
        (gpu(1, active_type="sharedDirect", pending=True), {}, "vGPU", {GpuState.PENDING}),
        (gpu(1, active_type="sharedDirect", vgpu_mode="multiInstanceGpu"), {}, "MIG", {GpuState.FREE}),
    ],
)
def test_mode_and_state_follow_from_what_is_in_force(
    one: FleetGpu, fields: dict[str, object], mode: str, states: set[GpuState]
) -> None:
    cell = next(cells(fleet(host(1, one, **fields))))
    assert (cell.mode, cell.states) == (mode, states)


def test_the_matrix_of_a_vcenter_is_printed_a_gpu_a_line_where_no_terminal_is(
    gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fleet", "--config", gpu_site.config, "--cluster", gpu_site.cluster]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("\t")[2:] == ["host", "host_state", "gpu", "model", "mode", "label", "in_force", "users"]
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines[:-1]]
    assert len(rows) == 6
    assert {row["host"] for row in rows} == set(gpu_site.hosts)
    assert {row["mode"] for row in rows} == {"passthrough"}
    assert {row["label"] for row in rows} == {gpu_site.label}
    assert sorted(name for row in rows if (name := row["users"])) == sorted(gpu_site.vms)
    assert lines[-1] == "3 hosts, 6 GPUs: 4 in use, 2 free, 0 pending, 0 in default mode"


def test_gpus_are_chosen_by_label_and_by_state(gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]) -> None:
    def chosen(*arguments: str) -> list[dict[str, object]]:
        assert run(["fleet", "--config", gpu_site.config, "--json", *arguments]) == 0
        return list(json.loads(capsys.readouterr().out))

    free = chosen("--label", gpu_site.label, "--state", "free")
    assert [cell["host"] for cell in free] == [gpu_site.hosts[2]] * 2
    assert all(cell["states"] == ["free"] and cell["users"] == [] for cell in free)
    used = chosen("--state", "in-use", "--vcenter", gpu_site.vcenter, "--cluster", gpu_site.cluster)
    assert sorted(name for cell in used for name in cell["users"]) == sorted(gpu_site.vms)  # type: ignore[attr-defined]
    untouched = chosen("--label", "", "--state", "default")
    assert untouched
    assert not {cell["host"] for cell in untouched} & set(gpu_site.hosts)
    assert chosen("--label", "Nobody's") == []


def test_wrong_options_are_told(gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", gpu_site.config]
    assert run(["fleet", *config, "--cluster", "gpu-99"]) == 1
    assert "has no cluster 'gpu-99'" in capsys.readouterr().err
    assert run(["fleet", *config, "--vcenter", "west"]) == 1
    assert "there is no vCenter 'west'" in capsys.readouterr().err
    assert run(["fleet", "--vcenter", "west", "drift", *config]) == 1
    assert "put the options after `fleet drift`" in capsys.readouterr().err
    assert run(["fleet"]) == USAGE
    assert "--config" in capsys.readouterr().err
