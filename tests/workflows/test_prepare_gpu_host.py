"""PrepareGpuHost from start to proof, against a simulated vCenter and a real Temporal server."""

import asyncio

from pyVmomi import vim

from contracts.approvals import ApprovalState
from contracts.prepare import Outcome, Stage, StepStatus
from tests.support.lab import Lab
from workflows.prepare_gpu_host import PrepareGpuHost


async def test_a_fresh_host_is_prepared_and_proven_by_active_values(lab: Lab) -> None:
    host = lab.add_host()
    before = lab.witness(host)
    report = await lab.prepare(host)
    assert report.outcome is Outcome.PREPARED
    assert [record.step.kind for record in report.steps] == [
        "enter-maintenance",
        "enable-passthrough",
        "reboot",
        "exit-maintenance",
    ]
    assert all(record.status is StepStatus.DONE for record in report.steps)
    assert all(gpu.right and gpu.mode == "passthrough" and gpu.label == "Training" for gpu in report.gpus)
    seen = lab.witness(host)
    assert (seen["enabled"], seen["active"], seen["label"]) == (True, True, "Training")
    assert (seen["maintenance"], seen["connection"]) == (False, "connected")
    assert seen["boot_time"] > before["boot_time"]
    assert lab.reboots(host) == 1


async def test_nothing_disruptive_happens_before_a_person_approves(lab: Lab) -> None:
    host = lab.add_host()
    handle = await lab.start(host)
    approval = await lab.asked(handle)
    assert approval.state is ApprovalState.PENDING
    assert approval.plan.steps[0].kind == "enter-maintenance"
    await asyncio.sleep(1)
    seen = lab.witness(host)
    assert (seen["enabled"], seen["maintenance"], seen["label"]) == (False, False, None)
    assert not lab.vcenter_events(host, vim.event.EnteringMaintenanceModeEvent)
    await lab.decide(handle, approval, verdict="deny")
    report = await handle.result()
    assert report.outcome is Outcome.DENIED
    assert lab.reboots(host) == 0


async def test_a_host_that_is_right_gets_no_step_no_approval_and_no_reboot(lab: Lab) -> None:
    host = lab.add_host()
    await lab.prepare(host)
    boot_time = lab.witness(host)["boot_time"]
    handle = await lab.start(host)
    report = await handle.result()
    assert report.outcome is Outcome.ALREADY_RIGHT
    assert not report.steps
    assert not report.approvals
    assert lab.witness(host)["boot_time"] == boot_time


async def test_a_host_that_can_rebind_devices_is_not_rebooted(lab: Lab) -> None:
    host = lab.add_host(rebind_without_reboot=True)
    report = await lab.prepare(host)
    assert report.outcome is Outcome.PREPARED
    assert "reboot" not in [record.step.kind for record in report.steps]
    assert lab.witness(host)["active"]
    assert lab.reboots(host) == 0


async def test_a_wrong_label_alone_is_mended_without_approval_or_maintenance(lab: Lab) -> None:
    host = lab.add_host()
    await lab.prepare(host)
    gpu = lab.witness(host)["gpu"]
    si = lab.simulator.connect()
    try:
        system = lab.system(host, si).configManager.pciPassthruSystem
        system.UpdatePassthruConfig(
            [vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True, hardwareLabel="Somebody's")]
        )
    finally:
        lab.simulator.disconnect(si)
    report = await (await lab.start(host)).result()
    assert [record.step.kind for record in report.steps] == ["set-hardware-label"]
    assert not report.approvals
    assert lab.witness(host)["label"] == "Training"
    assert lab.witness(host)["active"]


async def test_maintenance_mode_of_someone_else_is_not_exited(lab: Lab) -> None:
    host = lab.add_host()
    lab.simulator.act("set_maintenance", host=host.name, on=True)
    report = await lab.prepare(host)
    assert report.outcome is Outcome.PREPARED
    assert lab.witness(host)["maintenance"]


async def test_gpus_on_a_host_with_vms_are_prepared_after_the_vms_moved_away(lab: Lab) -> None:
    si = lab.simulator.connect()
    try:
        hosts = si.content.rootFolder.childEntity[0].hostFolder.childEntity[0].host
        busy = next(host for host in hosts if any(vm.runtime.powerState == "poweredOn" for vm in host.vm))
        name, vms = busy.name, [vm._moId for vm in busy.vm]
        ref = lab.find(name)
        report = await lab.prepare(ref)
        assert report.outcome is Outcome.PREPARED
        for moid in vms:
            vm = vim.VirtualMachine(moid, si._stub)
            assert vm.runtime.powerState == "poweredOn"
            assert vm.runtime.host._moId != ref.moid
    finally:
        lab.simulator.disconnect(si)


async def test_the_temporal_ui_tells_the_story(lab: Lab) -> None:
    host = lab.add_host()
    handle = await lab.start(host)
    await lab.asked(handle)
    pending = [
        run.id async for run in lab.client.list_workflows(f'GpuApproval = "pending" AND GpuHost = "{host.name}"')
    ]
    assert pending == [handle.id]
    details = (await handle.query("__temporal_workflow_metadata")).current_details
    assert "| enter-maintenance |" in details
    assert "gpuwright approvals approve" in details
    await lab.decide(handle, (await handle.query(PrepareGpuHost.report)).approvals[-1])
    await handle.result()
    found = (await handle.describe()).typed_search_attributes
    values = {pair.key.name: pair.value for pair in found}
    assert values["GpuStage"] == Stage.FINISHED
    assert values["GpuApproval"] == ApprovalState.APPROVED
    assert values["GpuMode"] == "passthrough"
    assert values["GpuCluster"] == "gpu-01"
    summaries = [
        lab.client.data_converter.payload_converter.from_payload(event.user_metadata.summary, str)
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert summaries
    assert f"reboot {host.name}" in summaries
