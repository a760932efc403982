"""What keeps a VM on its host, and what VMs are for."""

from typing import Any

import pytest
from pyVmomi import vim

from contracts.host import AffinityRule, HostVm, VgpuProfile, VmKind
from vsphere.host_vms import affinity_rules, drs_overrides, host_vms, runs_vgpu

Passthrough = vim.vm.device.VirtualPCIPassthrough
STATIC = Passthrough(
    backing=Passthrough.DeviceBackingInfo(
        deviceName="A100", id="0000:81:00.0", deviceId="20f1", systemId="s", vendorId=4318
    )
)
DYNAMIC = Passthrough(backing=Passthrough.DynamicBackingInfo(deviceName="A100"))
VGPU = Passthrough(backing=Passthrough.VmiopBackingInfo(vgpu="nvidia_a40-24c"))
DVX = Passthrough(backing=Passthrough.DvxBackingInfo(deviceClass="nic"))


def vm(*devices: Any, **values: Any) -> HostVm:
    options = {key: values.pop(key) for key in ("rules", "profiles", "hot_migrate", "overrides") if key in values}
    found = {"name": "train", "runtime.powerState": "poweredOn", "config.hardware.device": list(devices)} | values
    return host_vms({"vm-1": found}, (), host_moid="host-1", **options)[0]


def test_devices_that_hold_a_vm_are_named() -> None:
    assert vm().can_move
    assert vm(DVX).can_move
    static, dynamic = vm(STATIC), vm(DYNAMIC)
    assert (static.static_passthrough, static.dynamic_passthrough, static.can_move) == (True, False, False)
    assert (dynamic.static_passthrough, dynamic.dynamic_passthrough, dynamic.can_move) == (False, True, False)
    assert static.stays_because == "it has a DirectPath I/O device"


@pytest.mark.parametrize(
    ("hot_migrate", "supported", "can_move"),
    [(True, True, True), (True, False, False), (False, True, False), (None, True, False)],
)
def test_a_vgpu_vm_moves_only_where_vcenter_and_profile_allow(
    hot_migrate: bool | None, supported: bool, can_move: bool
) -> None:
    profiles = [VgpuProfile(name="nvidia_a40-24c", migrate_supported=supported)]
    seen = vm(VGPU, profiles=profiles, hot_migrate=hot_migrate)
    assert (seen.can_move, seen.vgpu_profiles) == (can_move, ("nvidia_a40-24c",))
    assert bool(seen.stays_because) is not can_move


def test_the_whole_devices_of_a_running_vm_are_told_by_its_own_settings() -> None:
    allowed = [Passthrough.AllowedDevice(vendorId=0x10DE, deviceId=0x20F1)]
    assigned = Passthrough(
        backing=Passthrough.DynamicBackingInfo(
            deviceName="A100", assignedId="0000:C1:00.0", allowedDevice=allowed, customLabel="Training"
        )
    )
    seen = vm(STATIC, assigned)
    assert seen.passthrough == ("0000:81:00.0", "0000:c1:00.0")
    assert [(want.allowed, want.label) for want in seen.wants] == [(("10de:20f1",), "Training")]
    assert vm(STATIC, assigned, **{"runtime.powerState": "poweredOff"}).passthrough == ()


def test_whether_a_guest_can_be_asked_to_shut_down_is_read() -> None:
    assert vm(**{"guest.toolsRunningStatus": "guestToolsRunning"}).tools_running
    assert not vm(**{"guest.toolsRunningStatus": "guestToolsNotRunning"}).tools_running
    question = vim.vm.QuestionInfo(id="1", text="Moved or copied?", choice=vim.option.ChoiceOption())
    assert vm(**{"runtime.question": question}).question == "Moved or copied?"


def test_fault_tolerance_keeps_a_vm() -> None:
    assert vm(**{"runtime.faultToleranceState": "notConfigured"}).can_move
    tolerant = vm(**{"runtime.faultToleranceState": "running"})
    assert (tolerant.fault_tolerant, tolerant.can_move) == (True, False)


def managed(extension: str, kind: str, **values: Any) -> VmKind:
    return vm(**{"config.managedBy": vim.ext.ManagedByInfo(extensionKey=extension, type=kind)} | values).kind


def test_what_a_vm_is_for_is_told_by_its_owner() -> None:
    assert managed("com.vmware.vim.eam", "cluster-agent") is VmKind.VCLS
    assert managed("com.vmware.vim.eam", "", name="vCLS-1234") is VmKind.VCLS
    assert managed("com.vmware.vim.eam", "agent") is VmKind.AGENT
    assert managed("com.example", "x") is VmKind.WORKLOAD
    assert vm(name="vCLS-made-by-a-person").kind is VmKind.WORKLOAD
    assert vm(**{"config.template": True}).kind is VmKind.TEMPLATE


def test_only_a_running_vgpu_vm_makes_vcenters_option_interesting() -> None:
    def runs(state: str, device: Any) -> bool:
        return runs_vgpu({"vm-1": {"runtime.powerState": state, "config.hardware.device": [device]}})

    assert (runs("poweredOn", VGPU), runs("poweredOff", VGPU), runs("poweredOn", STATIC)) == (True, False, False)


def config(**rule: Any) -> vim.cluster.ConfigInfoEx:
    groups = [
        vim.cluster.VmGroup(name="site-a-vms", vm=[vim.VirtualMachine("vm-1")]),
        vim.cluster.HostGroup(name="site-a", host=[vim.HostSystem("host-1")]),
    ]
    made = vim.cluster.VmHostRuleInfo(name="stay", vmGroupName="site-a-vms", **({"enabled": True} | rule))
    return vim.cluster.ConfigInfoEx(group=groups, rule=[made, vim.cluster.AntiAffinityRuleSpec(enabled=True)])


def test_a_mandatory_rule_to_this_host_alone_pins_a_vm() -> None:
    hosts = ["host-1", "host-2"]
    (rule,) = affinity_rules(config(affineHostGroupName="site-a", mandatory=True), hosts, ["vm-1"])
    assert rule == AffinityRule(name="stay", mandatory=True, vm_moids=("vm-1",), host_moids=("host-1",))
    assert vm(rules=[rule]).stays_because == "rule 'stay' keeps it on this host"
    assert vm(rules=[rule.model_copy(update={"mandatory": False})]).can_move
    assert vm(rules=[rule.model_copy(update={"host_moids": ("host-1", "host-2")})]).can_move
    (away,) = affinity_rules(config(antiAffineHostGroupName="site-a"), hosts, ["vm-1"])
    assert (away.mandatory, away.host_moids) == (False, ("host-2",))


def test_rules_that_are_off_or_about_others_do_not_count() -> None:
    assert affinity_rules(config(affineHostGroupName="site-a", enabled=False), ["host-1"], ["vm-1"]) == ()
    assert affinity_rules(config(affineHostGroupName="site-a"), ["host-1"], ["vm-2"]) == ()
    assert affinity_rules(None, [], ["vm-1"]) == ()


def test_drs_overrides_are_those_that_differ() -> None:
    def entry(moid: str, **fields: Any) -> Any:
        return vim.cluster.DrsVmConfigInfo(key=vim.VirtualMachine(moid), **fields)

    entries = [
        entry("vm-1", enabled=False),
        entry("vm-2", enabled=True, behavior="manual"),
        entry("vm-3", behavior="fullyAutomated"),
    ]
    found = drs_overrides(vim.cluster.ConfigInfoEx(drsVmConfig=entries))
    assert found == {"vm-1": "disabled", "vm-2": "manual"}
    assert vm(overrides=found).drs_override == "disabled"
