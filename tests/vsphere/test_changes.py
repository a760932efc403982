"""Passthrough, labels, graphics types, maintenance and reboots: what is written, what is kept, what is sent once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, Busy, Conflict, NeedsHuman, NotSupported, Unreachable
from contracts.host import HostRef
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from tests.vsphere.targets import GPU, OTHER_GPU, Target
from vsphere import hosts, passthrough
from vsphere.graphics import set_graphics_type, set_host_graphics
from vsphere.inventory import find_host, read_host
from vsphere.passthrough import set_passthrough
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from vsphere.tasks import HostRuntime, TaskOutcome, await_host, await_task


@pytest.fixture
def target(simulator: SimulatorProcess, gpu_si: vim.ServiceInstance) -> Iterator[Target]:
    yield Target(simulator, gpu_si)
    simulator.clear_faults()


def test_passthrough_and_label_are_requested_once(target: Target) -> None:
    assert set_passthrough(target.si, target.ref, GPU, True, "Training")
    gpu = target.gpu()
    assert (gpu.passthru_enabled, gpu.passthru_active, gpu.hardware_label) == (True, False, "Training")
    # Already right: a call now would fail.
    target.simulator.add_fault(method="UpdatePassthruConfig", error="HostConfigFault")
    assert not set_passthrough(target.si, target.ref, GPU, True, "Training")
    assert not set_passthrough(target.si, target.ref, GPU, True)


def test_a_label_change_keeps_passthrough_and_the_other_way_round(target: Target) -> None:
    set_passthrough(target.si, target.ref, GPU, True, "Training")
    assert set_passthrough(target.si, target.ref, GPU, True, "Inference")
    assert (target.gpu().passthru_enabled, target.gpu().hardware_label) == (True, "Inference")
    assert set_passthrough(target.si, target.ref, GPU, False)
    assert (target.gpu().passthru_enabled, target.gpu().hardware_label) == (False, "Inference")
    assert set_passthrough(target.si, target.ref, GPU, False, "")
    assert target.gpu().hardware_label is None
    assert not target.gpu(OTHER_GPU).passthru_enabled


def test_apply_now_takes_effect_where_the_host_can(simulator: SimulatorProcess, gpu_si: vim.ServiceInstance) -> None:
    target = Target(simulator, gpu_si, rebind_without_reboot=True)
    assert target.state.rebind_without_reboot
    assert set_passthrough(gpu_si, target.ref, GPU, True, apply_now=True)
    assert target.gpu().passthru_active
    assert not set_passthrough(gpu_si, target.ref, GPU, True, apply_now=True)


def test_passthrough_is_switched_for_the_dependent_bridge_too(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance
) -> None:
    target = Target(simulator, gpu_si, gpu_shares_bridge_with_nic=True, rebind_without_reboot=True)
    shared = next(
        f for f in target.state.pci if f.dependent_device not in (None, f.sbdf) and f.vendor_device[:4] == "10de"
    )
    assert set_passthrough(gpu_si, target.ref, shared.sbdf, True, "Training")
    assert target.gpu(shared.dependent_device or "").passthru_enabled
    assert (target.gpu(shared.sbdf).passthru_enabled, target.gpu(shared.sbdf).hardware_label) == (True, "Training")


def test_a_label_leaves_the_bridge_and_its_other_functions_alone(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance
) -> None:
    target = Target(simulator, gpu_si, gpu_shares_bridge_with_nic=True)
    gpu = next(
        f for f in target.state.pci if f.dependent_device not in (None, f.sbdf) and f.vendor_device[:4] == "10de"
    )
    config = vim.host.PciPassthruConfig
    system = vim.HostSystem(target.ref.moid, gpu_si._stub).configManager.pciPassthruSystem
    system.UpdatePassthruConfig([config(id=gpu.dependent_device, passthruEnabled=True)])
    system.UpdatePassthruConfig([config(id=gpu.sbdf, passthruEnabled=False)])
    before = {f.sbdf: f.passthru_enabled for f in target.state.pci}
    assert before[gpu.dependent_device or ""]
    assert passthrough.set_label(gpu_si, target.ref, gpu.sbdf, "Training")
    assert {f.sbdf: f.passthru_enabled for f in target.state.pci} == before
    assert target.gpu(gpu.sbdf).hardware_label == "Training"
    assert not passthrough.set_label(gpu_si, target.ref, gpu.sbdf, "Training")


def test_an_unknown_device_is_answered_with_those_that_could(target: Target) -> None:
    with pytest.raises(BadRequest, match=f"no such device .*{GPU}"):
        set_passthrough(target.si, target.ref, "0000:ff:00.0", True)


def test_a_device_that_cannot_be_passed_through_is_not_supported(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance
) -> None:
    target = Target(simulator, gpu_si, iommu=False)
    with pytest.raises(NotSupported, match="passthruCapable is false"):
        set_passthrough(gpu_si, target.ref, GPU, True)


def test_vcenters_refusal_keeps_its_words(target: Target) -> None:
    words = "Host does not support passthrough configuration"
    target.simulator.add_fault(method="UpdatePassthruConfig", error="HostConfigFault", message=words)
    with pytest.raises(NeedsHuman, match=words):
        set_passthrough(target.si, target.ref, GPU, True)


def test_a_lost_passthrough_answer_is_unknown_and_the_next_try_looks(target: Target) -> None:
    target.simulator.add_fault(method="UpdatePassthruConfig", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        set_passthrough(target.si, target.ref, GPU, True, "Training")
    assert not set_passthrough(target.si, target.ref, GPU, True, "Training")


def test_values_that_do_not_read_back_need_a_human(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "_READ_BACK_S", 1)
    # A vCenter that accepts and forgets, as one does with fields that it does not know.
    nothing = [vim.host.PciPassthruConfig(id=GPU, passthruEnabled=False)]
    monkeypatch.setattr(passthrough, "_configs", lambda *_: nothing)
    with pytest.raises(NeedsHuman, match=r"accepted it, but .* passthruEnabled=False"):
        set_passthrough(target.si, target.ref, GPU, True)


def test_labels_need_a_vcenter_that_knows_them(tmp_path: Path) -> None:
    with SimulatorProcess(clusters=1, hosts=1, gpus=1, vms=0, api_version="7.0.1.0") as old:
        file = tmp_path / "password"
        file.write_text(old.password)
        settings = VCenterSettings(
            name="old", url=f"{old.host}:{old.port}", user=old.user, password_file=file, ca_file=old.ca_file
        )
        with SessionPool(settings) as pool, pool.session() as si:
            host = find_host(si, "old", "esx-01-01.gpu.test")
            state = read_host(si, host)
            assert state.api_version == "7.0.1.0"
            with pytest.raises(NotSupported, match=r"labels need vSphere API 7\.0\.2, old speaks 7\.0\.1\.0"):
                set_passthrough(si, host, state.graphics[0].sbdf, True, "Training")
            assert set_passthrough(si, host, state.graphics[0].sbdf, True)


def test_a_graphics_type_is_written_and_everything_else_kept(target: Target) -> None:
    manager = vim.HostSystem(target.ref.moid, target.si._stub).configManager.graphicsManager
    kept = vim.host.GraphicsConfig.DeviceType(deviceId=OTHER_GPU, graphicsType="sharedDirect", vgpuMode="sameSize")
    own = vim.host.GraphicsConfig.DeviceType(deviceId=GPU, graphicsType="shared")
    config = vim.host.GraphicsConfig(
        hostDefaultGraphicsType="sharedDirect", sharedPassthruAssignmentPolicy="consolidation", deviceType=[kept, own]
    )
    manager.UpdateGraphicsConfig(config)
    assert set_graphics_type(target.si, target.ref, GPU, "sharedDirect")
    state = target.state
    assert [device.configured_type for device in state.graphics] == ["sharedDirect", "sharedDirect"]
    assert (state.default_graphics_type, state.shared_passthru_assignment_policy) == ("sharedDirect", "consolidation")
    target.simulator.add_fault(method="UpdateGraphicsConfig", error="HostConfigFault")
    assert not set_graphics_type(target.si, target.ref, GPU, "sharedDirect")
    with pytest.raises(NeedsHuman, match="injected"):
        set_graphics_type(target.si, target.ref, OTHER_GPU, "shared")


def test_wrong_graphics_requests_are_named(target: Target) -> None:
    with pytest.raises(BadRequest, match=f"no such graphics device; the host has {GPU}, {OTHER_GPU}"):
        set_graphics_type(target.si, target.ref, "0000:19:00.0", "shared")
    with pytest.raises(BadRequest, match="silly"):
        set_graphics_type(target.si, target.ref, GPU, "silly")


def test_maintenance_mode_is_entered_and_left_once(si: vim.ServiceInstance, world: World) -> None:
    host = find_host(si, world.name, world.hosts[2])
    for start, wanted in (
        (hosts.exit_maintenance, False),
        (hosts.enter_maintenance, True),
        (hosts.exit_maintenance, False),
    ):
        if (task := start(si, host, 600)) is not None:
            assert await_task(si, task, lambda _: None, 60) == TaskOutcome("success")
        assert start(si, host, 600) is None
        assert read_host(si, host).in_maintenance is wanted


def test_recent_tasks_are_found_by_kind_and_time(si: vim.ServiceInstance, world: World) -> None:
    host = find_host(si, world.name, world.hosts[1])
    if (left := hosts.exit_maintenance(si, host, 600)) is not None:
        # Tests share the worlds.
        await_task(si, left, lambda _: None, 60)
    since = hosts.current_time(si)
    task = hosts.enter_maintenance(si, host, 600)
    assert task is not None
    assert await_task(si, task, lambda _: None, 60) == TaskOutcome("success")
    found = hosts.find_recent_tasks(si, host, hosts.ENTER_MAINTENANCE, since)
    assert [(recent.moid, recent.state) for recent in found] == [(task, "success")]
    assert hosts.find_recent_tasks(si, host, hosts.ENTER_MAINTENANCE, hosts.current_time(si)) == []
    assert hosts.find_recent_reboot(si, host, since) is None
    left = hosts.exit_maintenance(si, host, 600)
    assert left is not None
    await_task(si, left, lambda _: None, 60)


def test_a_reboot_is_ordered_once_and_seen_through(target: Target) -> None:
    before = target.state
    since = hosts.current_time(target.si)
    with pytest.raises(Conflict, match="not in maintenance mode"):
        hosts.reboot(target.si, target.ref, before.boot_time, since)
    target.enter_maintenance()
    target.simulator.add_fault(method="RebootHost_Task", drop="after", times=1)
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        hosts.reboot(target.si, target.ref, before.boot_time, since)
    task = hosts.reboot(target.si, target.ref, before.boot_time, since)
    assert task is not None
    assert await_task(target.si, task, lambda _: None, 60).state in ("success", "expired")
    beats: list[dict[str, Any]] = []

    def back(runtime: HostRuntime) -> bool:
        return runtime.connection_state == "connected" and runtime.boot_time != before.boot_time

    runtime = await_host(target.si, target.ref, back, beats.append, 60)
    assert runtime.in_maintenance
    assert beats[-1]["connection_state"] == "connected"
    assert hosts.reboot(target.si, target.ref, before.boot_time, since) is None
    reboots = hosts.find_recent_tasks(target.si, target.ref, hosts.REBOOT, since)
    assert [recent.moid for recent in reboots] == [task]


def test_a_host_that_stays_away_needs_a_human(target: Target) -> None:
    target.simulator.act("fail_host", host=target.ref.name)
    await_host(target.si, target.ref, lambda runtime: runtime.connection_state == "notResponding", lambda _: None, 30)
    with pytest.raises(NeedsHuman, match=rf"host {target.ref.name} .* is notResponding.* after 1 s of waiting"):
        await_host(target.si, target.ref, lambda runtime: runtime.connection_state == "connected", lambda _: None, 1)


def test_waiting_for_a_host_that_left_is_told(si: vim.ServiceInstance, host: HostRef) -> None:
    gone = host.model_copy(update={"moid": "host-999999"})
    with pytest.raises(BadRequest, match="no longer in the inventory"):
        await_host(si, gone, lambda _: True, lambda _: None, 1)


def test_a_task_that_vcenter_forgot_has_expired(si: vim.ServiceInstance) -> None:
    assert await_task(si, "task-999999", lambda _: None, 5) == TaskOutcome("expired")


def test_a_failed_task_ends_with_its_words(target: Target) -> None:
    target.simulator.act("hang_reboot", host=target.ref.name)
    system = vim.HostSystem(target.ref.moid, target.si._stub)
    task = system.ExitMaintenanceMode_Task(60)._moId
    outcome = await_task(target.si, task, lambda _: None, 30)
    assert outcome.state == "error"
    assert "maintenance" in outcome.error


def test_waiting_for_a_task_beats_and_has_a_deadline(simulator: SimulatorProcess, tmp_path: Path) -> None:
    # Five minutes of evacuation last five minutes here.
    with SimulatorProcess(clusters=1, hosts=2, gpus=1, vms=2, time_scale=1) as slow:
        file = tmp_path / "password"
        file.write_text(slow.password)
        settings = VCenterSettings(
            name="slow", url=f"{slow.host}:{slow.port}", user=slow.user, password_file=file, ca_file=slow.ca_file
        )
        with SessionPool(settings) as pool, pool.session() as si:
            host = find_host(si, "slow", "esx-01-01.gpu.test")
            task = hosts.enter_maintenance(si, host, 600)
            assert task is not None
            assert hosts.enter_maintenance(si, host, 600) == task
            beats: list[dict[str, Any]] = []
            with pytest.raises(Busy, match=f"task {task} on slow is still running after 2 s"):
                await_task(si, task, beats.append, 2, max_wait_s=1)
            assert len(beats) >= 2
            assert {(beat["task"], beat["state"]) for beat in beats} == {(task, "running")}


def test_a_boot_time_that_jitters_is_no_reboot() -> None:
    booted = datetime(2026, 1, 1, tzinfo=UTC)
    assert not hosts.rebooted(booted, booted + timedelta(microseconds=900_000))
    assert not hosts.rebooted(booted, None)
    assert hosts.rebooted(booted, booted + timedelta(seconds=2))


def test_host_graphics_are_written_once_and_every_device_kept(target: Target) -> None:
    set_graphics_type(target.si, target.ref, OTHER_GPU, "sharedDirect")
    assert set_host_graphics(target.si, target.ref, "sharedDirect", "consolidation")
    state = target.state
    assert (state.default_graphics_type, state.shared_passthru_assignment_policy) == ("sharedDirect", "consolidation")
    assert [device.configured_type for device in state.graphics] == ["shared", "sharedDirect"]
    assert set_host_graphics(target.si, target.ref, policy="performance")
    assert target.state.default_graphics_type == "sharedDirect"
    target.simulator.add_fault(method="UpdateGraphicsConfig", error="HostConfigFault")
    assert not set_host_graphics(target.si, target.ref, "sharedDirect", "performance")
    with pytest.raises(NeedsHuman, match="injected"):
        set_host_graphics(target.si, target.ref, "shared")


def test_a_wrong_graphics_default_is_named(target: Target) -> None:
    with pytest.raises(BadRequest, match="silly"):
        set_host_graphics(target.si, target.ref, "silly")


def test_a_vgpu_mode_needs_a_vcenter_that_knows_it(target: Target) -> None:
    assert target.state.api_version < "8.0.3"
    with pytest.raises(NotSupported, match=r"needs vSphere API 8\.0\.3"):
        set_graphics_type(target.si, target.ref, GPU, "sharedDirect", "mixedSize")
    assert target.graphics(GPU).configured_type == "shared"
