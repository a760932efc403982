"""Power-ons that go wrong without a clear word, as in life."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from pyVmomi import vim, vmodl

from simulator import esxcli_types
from tests.simulator.vm_site import PASSTHROUGH, PLAIN, VGPU, VmSite


def power_on_many(site: VmSite, *vms: Any, options: list[Any] | None = None) -> Any:
    info = site.ended(site.datacenter.PowerOnMultiVM_Task(list(vms), options))
    assert info.state == "success"
    return info.result


@pytest.mark.parametrize(
    "spec",
    [
        vim.vm.ConfigSpec(firmware="bios"),
        vim.vm.ConfigSpec(guestId="otherGuest"),
        vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="pciPassthru.use64bitMMIO", value="")]),
        vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="pciPassthru.64bitMMIOSizeGB", value="")]),
        vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="pciPassthru.64bitMMIOSizeGB", value="32")]),
    ],
    ids=["bios", "32-bit", "not-64bit-mmio", "no-mmio-size", "small-mmio"],
)
@pytest.mark.parametrize(("host", "gpu"), [(PASSTHROUGH, "dynamic"), (VGPU, "vgpu")])
def test_a_vm_that_cannot_boot_runs_without_a_word(vm_site: VmSite, spec: Any, host: str, gpu: str) -> None:
    vm = vm_site.add("mute", host=host, gpu=gpu, on=False)
    assert vm_site.ended(vm.ReconfigVM_Task(spec)).state == "success"
    assert vm_site.ended(vm.PowerOnVM_Task()).state == "success"
    # By the time that another guest is up this one's would be, too.
    other = vm_site.add("speaking", host=PLAIN, gpu="none")
    assert (vm.runtime.powerState, vm.guest.toolsRunningStatus) == ("poweredOn", "guestToolsNotRunning")
    assert vm.runtime.question is None
    for each in (vm, other):
        vm_site.remove(each)


def test_some_releases_refuse_too_little_mmio_space(vm_site: VmSite) -> None:
    vm_site.act("set_names_small_mmio", host=PASSTHROUGH)
    vm = vm_site.add("refused", on=False)
    small = [vim.option.OptionValue(key="pciPassthru.64bitMMIOSizeGB", value="64")]
    vm_site.ended(vm.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=small)))
    info = vm_site.ended(vm.PowerOnVM_Task())
    assert info.error.msg == "Module 'DevicePowerOn' power on failed."
    vm_site.act("set_names_small_mmio", host=PASSTHROUGH, on=False)
    vm_site.remove(vm)


def test_an_empty_vm_runs_and_no_guest_comes_up_until_one_is_installed(vm_site: VmSite) -> None:
    files = vim.vm.FileInfo(vmPathName="[nfs-01]")
    spec = vim.vm.ConfigSpec(name="empty", numCPUs=2, memoryMB=2048, guestId="ubuntu64Guest", files=files)
    info = vm_site.ended(vm_site.datacenter.vmFolder.CreateVM_Task(spec, vm_site.cluster.resourcePool, None))
    vm = info.result
    assert [store.name for store in vm.datastore] == ["nfs-01"]
    vm_site.ended(vm.PowerOnVM_Task())
    other = vm_site.add("speaking", host=PLAIN, gpu="none")
    assert (vm.runtime.powerState, vm.guest.toolsStatus) == ("poweredOn", "toolsNotInstalled")
    vm_site.act("install_os", vm="empty")
    vm_site.ended(vm.ResetVM_Task())
    vm_site.until(lambda: vm.guest.guestOperationsReady)
    for each in (vm, other):
        vm_site.remove(each)


def test_a_vm_that_asks_keeps_its_power_on_waiting(vm_site: VmSite) -> None:
    vm_site.act("set_question", vm="curious", text="Did you move it or copy it?", choices=["Cancel", "I moved it"])
    vm = vm_site.add("curious", on=False)
    task = vm.PowerOnVM_Task()
    vm_site.until(lambda: vm.runtime.question)
    question = vm.runtime.question
    assert (question.text, task.info.state) == ("Did you move it or copy it?", "running")
    assert [choice.label for choice in question.choice.choiceInfo] == ["Cancel", "I moved it"]
    with pytest.raises(vim.fault.ConcurrentAccess):
        vm.AnswerVM("other", "1")
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.AnswerVM(question.id, "7")
    vm.AnswerVM(question.id, "0")
    assert isinstance(vm_site.ended(task).error, vmodl.fault.RequestCanceled)
    assert (vm.runtime.powerState, vm.runtime.question) == ("poweredOff", None)
    task = vm.PowerOnVM_Task()
    vm_site.until(lambda: vm.runtime.question)
    vm.AnswerVM(vm.runtime.question.id, "1")
    assert vm_site.ended(task).state == "success"
    vm_site.until(lambda: vm.guest.guestOperationsReady)
    vm_site.remove(vm)


def test_a_question_ends_with_the_vms_power(vm_site: VmSite) -> None:
    vm_site.act("set_question", vm="curious", text="Well?")
    vm = vm_site.add("curious", on=False)
    task = vm.PowerOnVM_Task()
    vm_site.until(lambda: vm.runtime.question)
    assert vm_site.ended(vm.PowerOffVM_Task()).state == "success"
    assert vm_site.ended(task).state == "error"
    vm_site.remove(vm)


def test_a_manual_drs_only_recommends(vm_site: VmSite) -> None:
    vm_site.act("set_drs", cluster="gpu-01", behavior="manual")
    vm = vm_site.add("advised", host=PLAIN, on=False)
    result = power_on_many(vm_site, vm)
    (found,) = result.recommendations
    assert (list(result.attempted), list(result.notAttempted), found.reason) == ([], [], "powerOnVm")
    assert (found.action[0].target, found.action[0].targetHost.name) == (vm, PASSTHROUGH)
    assert vm.runtime.powerState == "poweredOff"
    assert [each.key for each in vm_site.cluster.recommendation] == [found.key]
    vm_site.cluster.ApplyRecommendation(found.key)
    vm_site.until(lambda: vm.runtime.powerState == "poweredOn")
    assert (vm.runtime.host.name, vm_site.cluster.recommendation) == (PASSTHROUGH, [])
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm_site.cluster.ApplyRecommendation(found.key)
    vm_site.ended(vm.PowerOffVM_Task())
    option = vim.option.OptionValue(key="OverrideAutomationLevel", value="fullyAutomated")
    assert power_on_many(vm_site, vm, options=[option]).attempted[0].vm == vm
    vm_site.until(lambda: vm.runtime.powerState == "poweredOn")
    vm_site.act("set_drs", cluster="gpu-01", behavior="fullyAutomated")
    vm_site.remove(vm)


def test_partially_automated_drs_places_by_itself_and_what_has_no_place_is_not_attempted(vm_site: VmSite) -> None:
    vm_site.act("set_drs", cluster="gpu-01", behavior="partiallyAutomated")
    good = vm_site.add("good", host=PLAIN, on=False)
    bad = vm_site.add("bad", host=PLAIN, on=False, label="Nowhere")
    result = power_on_many(vm_site, good, bad)
    assert [each.vm for each in result.attempted] == [good]
    assert [type(each.fault) for each in result.notAttempted] == [vim.fault.InsufficientResourcesFault]
    vm_site.until(lambda: good.runtime.powerState == "poweredOn")
    vm_site.act("set_drs", cluster="gpu-01", behavior="fullyAutomated")
    for vm in (good, bad):
        vm_site.remove(vm)


def test_a_gpu_is_stolen_between_placement_and_power_on(vm_site: VmSite) -> None:
    vm = vm_site.add("robbed", host=PLAIN, on=False)
    vm_site.act("steal_gpu", vm="robbed")
    (attempt,) = power_on_many(vm_site, vm).attempted
    assert isinstance(vm_site.ended(attempt.task).error, vim.fault.InsufficientResourcesFault)
    thieves = [vm_site.vm(found["moid"]) for found in vm_site.act("list_vms", prefix="thief-")]
    assert len(thieves) == 3
    for each in (vm, *thieves):
        vm_site.remove(each)
    name = vm_site.act("take_gpu", host=PASSTHROUGH)
    (thief,) = vm_site.act("list_vms", prefix=name)
    assert thief["gpus"][0]["assigned_id"]
    vm_site.remove(vm_site.vm(thief["moid"]))


def test_three_witnesses_agree_on_the_assigned_gpu_and_its_label_can_change(vm_site: VmSite) -> None:
    vm = vm_site.add("witnessed", label="Training")
    host = vm.runtime.host
    (device,) = [each for each in vm.config.hardware.device if isinstance(each, vim.vm.device.VirtualPCIPassthrough)]
    bound = {each.vm: each.instanceId.partition(":")[2] for each in host.config.assignableHardwareBinding}
    executer = host._stub.InvokeMethod(host, esxcli_types.ManagedMethodExecuter.Retrieve.info, ())
    result = executer.ExecuteSoap("ha-cli-handler-graphics-vm", "urn:vim25/5.0", "vim.EsxCLI.graphics.vm.list", [])
    rows = ElementTree.fromstring(result.response)  # noqa: S314 - the simulator's own answer
    listed = {row.findtext("{*}VMName"): row.findtext("{*}AddressofDevice") for row in rows}
    assert device.backing.assignedId == bound[vm] == listed["witnessed"]
    label = {info.id: info.hardwareLabel for info in host.config.pciPassthruInfo}
    assert label[bound[vm]] == "Training"
    vm_site.act("relabel", host=host.name, device=bound[vm], label="Inference")
    label = {info.id: info.hardwareLabel for info in host.config.pciPassthruInfo}
    assert label[bound[vm]] == "Inference"
    vm_site.act("relabel", host=host.name, device=bound[vm], label="Training")
    vm_site.remove(vm)


def test_a_gpu_vm_has_snapshots_without_memory_only(vm_site: VmSite) -> None:
    vm = vm_site.add("snapped")
    refused = vm_site.ended(vm.CreateSnapshot_Task("with", "", True, False))
    assert isinstance(refused.error, vim.fault.SnapshotIncompatibleDeviceInVm)
    for name in ("first", "second"):
        assert vm_site.ended(vm.CreateSnapshot_Task(name, "", False, False)).state == "success"
    (root,) = vm.snapshot.rootSnapshotList
    assert (root.name, root.childSnapshotList[0].name) == ("first", "second")
    assert vm.snapshot.currentSnapshot == root.childSnapshotList[0].snapshot
    assert vm_site.ended(root.snapshot.RemoveSnapshot_Task(True, None)).state == "success"
    assert vm.snapshot is None
    vm_site.remove(vm)
    plain = vm_site.add("plain", host=PLAIN, gpu="none")
    assert vm_site.ended(plain.CreateSnapshot_Task("with", "", True, False)).state == "success"
    vm_site.remove(plain)


def test_a_retired_vm_gives_its_gpu_back(vm_site: VmSite) -> None:
    vm = vm_site.add("retired")
    host = vm.runtime.host
    assert vm in [each.vm for each in host.config.assignableHardwareBinding]
    vm.ShutdownGuest()
    vm_site.until(lambda: vm.runtime.powerState == "poweredOff")
    assert vm not in [each.vm for each in host.config.assignableHardwareBinding]
    assert vm_site.ended(vm.Destroy_Task()).state == "success"
    assert [entry["what"] for entry in vm_site.act("vm_ledger", prefix="retired")] == ["added", "removed"]


def test_who_manages_a_vm_is_told_and_stops_nobody(vm_site: VmSite) -> None:
    vm = vm_site.add("managed", host=PLAIN, gpu="none", on=False)
    vm_site.act("set_managed_by", vm="managed", extension="com.vmware.vcenter.wcp", kind="VirtualMachine")
    assert (vm.config.managedBy.extensionKey, vm.config.managedBy.type) == ("com.vmware.vcenter.wcp", "VirtualMachine")
    assert vm_site.ended(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="changed"))).state == "success"
    vm_site.remove(vm)
