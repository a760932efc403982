"""`gpuwright ha forecast`: what it tells, and that simulated HA then does just that."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cli.main import run
from tests.cli.conftest import GpuSite
from vsphere.inventory import find_host, read_host
from vsphere.passthrough import set_passthrough

A100 = "10de:20f1"


@contextmanager
def in_maintenance(site: GpuSite, host: str) -> Iterator[None]:
    site.simulator.act("set_maintenance", host=host, on=True)
    try:
        yield
    finally:
        site.simulator.act("set_maintenance", host=host, on=False)


def told(site: GpuSite, capsys: pytest.CaptureFixture[str], *arguments: str, status: int) -> Any:
    """What the command says with `--json`."""
    assert run(["ha", "forecast", "--config", site.config, "--json", *arguments]) == status
    return json.loads(capsys.readouterr().out)


def test_a_cluster_with_a_spare_host_loses_nothing(gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ha", "forecast", "--config", gpu_site.config, "--cluster", gpu_site.cluster]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "host\tGPU VMs\twould not come back\tmissing GPUs",
        f"{gpu_site.hosts[0]}\t2\t0\tnone",
        f"{gpu_site.hosts[1]}\t2\t0\tnone",
        "gpu-02 (site): if any one of 2 hosts fails, all of its GPU VMs come back",
    ]


def test_without_the_spare_host_the_worst_is_told_in_full(
    gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, spare = gpu_site.hosts
    with in_maintenance(gpu_site, spare):
        assert run(["ha", "forecast", "--config", gpu_site.config, "--cluster", gpu_site.cluster]) == 2
        out = capsys.readouterr().out
        (one,) = told(gpu_site, capsys, "--host", second, status=2)
    short = f"2 × {A100} label {gpu_site.label}"
    assert f"{first}\t2\t2\t{short}" in out
    assert f"If {first} fails:" in out
    assert f"s-1\tmedium\tno: no-free-gpu\tasks for {A100} label {gpu_site.label}: {second}: in use: " in out
    assert f"{spare}: it is in maintenance mode" in out
    assert "s-3\t" not in out
    assert out.splitlines()[-1] == (
        f"gpu-02 (site): if {first} fails, 2 of its 2 GPU VMs would not come back; missing: {short}; "
        "2 of 2 hosts would leave some off"
    )
    (only,) = one["hosts"]
    assert (one["cluster"], only["host"]["name"], only["lost"]) == ("gpu-02", second, 2)
    assert {vm["name"]: vm["reason"] for vm in only["vms"]} == {"s-3": "no-free-gpu", "s-4": "no-free-gpu"}


def test_one_host_is_told_vm_by_vm(gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]) -> None:
    first, _, spare = gpu_site.hosts
    assert run(["ha", "forecast", "--config", gpu_site.config, "--host", first]) == 0
    out = capsys.readouterr().out
    for name in ("s-1", "s-2"):
        assert f"{name}\tmedium\tyes\t{spare} has room for it" in out
    assert out.splitlines()[-1] == f"gpu-02 (site): if {first} fails, all of its GPU VMs come back"


def test_wrong_options_are_told(gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("--host", "esx-s9.gpu.test"), "esx-s1.gpu.test"),
        (("--cluster", "gpu-99"), "has no cluster 'gpu-99'"),
        (("--host", gpu_site.hosts[0], "--cluster", "gpu-01"), "is in gpu-02, and not in 'gpu-01'"),
        (("--vcenter", "west"), "there is no vCenter 'west'"),
    ):
        assert run(["ha", "forecast", "--config", gpu_site.config, *arguments]) == 1
        assert words in capsys.readouterr().err


def test_ha_does_what_was_forecast(gpu_site: GpuSite, capsys: pytest.CaptureFixture[str]) -> None:
    """Two VMs and a static one fail over to a host with one free GPU: the one of higher priority has it."""
    simulator, cluster, label = gpu_site.simulator, "gpu-01", "Fail"
    hosts = ("esx-f1.gpu.test", "esx-f2.gpu.test")
    simulator.act("set_drs", cluster=cluster, behavior="fullyAutomated")
    si = simulator.connect()
    try:
        for name, count in zip(hosts, (3, 1), strict=True):
            simulator.act("add_host", cluster=cluster, name=name, gpus=[A100] * count, rebind_without_reboot=True)
            ref = find_host(si, "site", name)
            gpus = [graphics.sbdf for graphics in read_host(si, ref).graphics]
            for gpu in gpus:
                assert set_passthrough(si, ref, gpu, True, label, apply_now=True)
            if count == 3:
                pinned = gpus[2]
    finally:
        simulator.disconnect(si)
    simulator.act("add_vm", host=hosts[0], name="f-pinned", gpu="static", device=pinned, on=True)
    for name in ("f-low", "f-high"):
        simulator.act("add_vm", host=hosts[0], name=name, gpu="dynamic", label=label, on=True)
    simulator.act("set_vm_ha", vm="f-high", restart_priority="high")

    (found,) = told(gpu_site, capsys, "--host", hosts[0], status=2)
    vms = {vm["name"]: (vm["comes_back"], vm["host"], vm["reason"]) for vm in found["hosts"][0]["vms"]}
    assert vms == {
        "f-pinned": (False, "", "static-pinned"),
        "f-low": (False, "", "no-free-gpu"),
        "f-high": (True, hosts[1], ""),
    }
    assert [(each["needed"], each["missing"]) for each in found["hosts"][0]["shortages"]] == [(2, 1)]

    simulator.act("fail_host", host=hosts[0])

    def on(name: str) -> tuple[str, str]:
        (vm,) = simulator.act("list_vms", prefix=name)
        return vm["host"], vm["power_state"]

    deadline = time.monotonic() + 60
    while on("f-high") != (hosts[1], "poweredOn") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert on("f-high") == (hosts[1], "poweredOn")
    assert on("f-low")[0] == hosts[0]
    assert on("f-pinned")[0] == hosts[0]
    (after,) = told(gpu_site, capsys, "--cluster", cluster, status=2)
    assert [(each["host"]["name"], each["lost"]) for each in after["hosts"]] == [(hosts[1], 1)]
