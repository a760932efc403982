"""What HA, DRS, rules and VMs say in a fleet read: of objects built by hand, and of a cluster that is reconfigured."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pyVmomi import vim

from contracts.fleet import FleetVm, GpuFleet
from tests.support.lab import vcenter_settings
from tests.support.simulator import SimulatorProcess
from vsphere.fleet import read_fleet
from vsphere.fleet_ha import ClusterPolicy, cluster_policy, fleet_cluster, power_on_recommendations
from vsphere.fleet_vms import fleet_vm
from vsphere.properties import Read
from vsphere.sessions import SessionPool, content
from vsphere.tasks import await_task

Settings = vim.cluster.DasVmSettings
VM, OTHER = vim.VirtualMachine("vm-1"), vim.VirtualMachine("vm-2")


def config(das: Any = None, overrides: Any = (), groups: Any = (), rules: Any = ()) -> Any:
    default = Settings(restartPriority="high", isolationResponse="powerOff")
    return vim.cluster.ConfigInfoEx(
        dasConfig=das or vim.cluster.DasConfigInfo(enabled=True, defaultVmSettings=default),
        drsConfig=vim.cluster.DrsConfigInfo(enabled=True, defaultVmBehavior="manual"),
        dasVmConfig=list(overrides),
        group=list(groups),
        rule=list(rules),
    )


def test_what_drs_may_do_with_a_vm_is_its_own_level_or_its_clusters_and_nothing_where_drs_is_off() -> None:
    own = [
        vim.cluster.DrsVmConfigInfo(key=VM, enabled=True, behavior="fullyAutomated"),
        vim.cluster.DrsVmConfigInfo(key=OTHER, enabled=False, behavior="partiallyAutomated"),
    ]
    info = config()
    info.drsVmConfig = own
    policy = cluster_policy(info)
    assert [policy.automation_of(moid) for moid in ("vm-1", "vm-2", "vm-3")] == ["fullyAutomated", "disabled", "manual"]
    info.drsConfig.enabled = False
    assert cluster_policy(info).automation_of("vm-1") == ""


def test_a_vm_without_settings_of_its_own_has_its_clusters() -> None:
    policy = cluster_policy(config())
    assert (policy.priority_of("vm-1"), policy.response_of("vm-1")) == ("high", "powerOff")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"dasSettings": Settings(restartPriority="disabled", isolationResponse="none")}, ("disabled", "none")),
        (
            {"dasSettings": Settings(restartPriority="clusterRestartPriority", isolationResponse="none")},
            ("high", "none"),
        ),
        ({"dasSettings": Settings(isolationResponse="clusterIsolationResponse")}, ("high", "powerOff")),
        ({"dasSettings": Settings(restartPriority="low")}, ("low", "powerOff")),
        ({"restartPriority": "low", "powerOffOnIsolation": False}, ("low", "none")),
        ({}, ("high", "powerOff")),
    ],
)
def test_a_vms_own_settings_come_before_its_clusters(entry: dict[str, Any], expected: tuple[str, str]) -> None:
    policy = cluster_policy(config(overrides=[vim.cluster.DasVmConfigInfo(key=VM, **entry)]))
    assert (policy.priority_of("vm-1"), policy.response_of("vm-1")) == expected
    assert (policy.priority_of("vm-2"), policy.response_of("vm-2")) == ("high", "powerOff")


def test_a_server_that_says_nothing_leaves_the_defaults() -> None:
    bare = FleetVm(moid="", instance_uuid="", name="", host_moid="", powered_on=False)
    for policy in (cluster_policy(None), cluster_policy(config(das=vim.cluster.DasConfigInfo(enabled=True)))):
        assert (policy.priority_of("x"), policy.response_of("x")) == (bare.restart_priority, bare.isolation_response)
    cluster = fleet_cluster("domain-c1", Read(None, {"name": "a"}))
    assert not cluster.ha_enabled
    assert cluster.ha_host_monitoring


GROUPS = [
    vim.cluster.VmGroup(name="vms", vm=[VM]),
    vim.cluster.HostGroup(name="hosts", host=[vim.HostSystem("host-1")]),
]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"affineHostGroupName": "hosts"}, ("host-2", "host-3")),
        ({"antiAffineHostGroupName": "hosts"}, ("host-1",)),
        ({"affineHostGroupName": "hosts", "mandatory": False}, ()),
        ({"affineHostGroupName": "hosts", "enabled": False}, ()),
        ({"affineHostGroupName": "no such group"}, ()),
        ({"affineHostGroupName": "hosts", "vmGroupName": "no such group"}, ()),
    ],
)
def test_mandatory_rules_bar_hosts(rule: dict[str, Any], expected: tuple[str, ...]) -> None:
    fields = {"key": 1, "name": "r", "enabled": True, "mandatory": True, "vmGroupName": "vms"} | rule
    policy = cluster_policy(config(groups=GROUPS, rules=[vim.cluster.VmHostRuleInfo(**fields)]))
    hosts = ["host-3", "host-1", "host-2"]
    assert policy.barred("vm-1", hosts) == expected
    assert policy.barred("vm-2", hosts) == ()


def test_recommendations_are_those_that_power_vms_on() -> None:
    place = vim.cluster.InitialPlacementAction(target=VM, targetHost=vim.HostSystem("host-1"))
    move = vim.cluster.MigrationAction(target=OTHER)
    fields = {"type": "V1", "time": datetime.now(UTC), "rating": 1, "reason": "powerOnVm", "reasonText": "Power on a"}
    told = [
        vim.cluster.Recommendation(key="1", action=[place], **fields),
        vim.cluster.Recommendation(key="2", action=[move], **fields),
    ]
    (found,) = power_on_recommendations(told)
    assert (found.key, found.vm_moid, found.host_moid, found.reason) == ("1", "vm-1", "host-1", "Power on a")
    assert power_on_recommendations(None) == ()


def option(key: str, value: str) -> tuple[str, Any]:
    return f'config.extraConfig["{key}"]', vim.option.OptionValue(key=key, value=value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([("pciPassthru.use64bitMMIO", "TRUE"), ("pciPassthru.64bitMMIOSizeGB", "128")], 128),
        ([("pciPassthru.use64BitMMIO", "true"), ("pciPassthru.64BitMMIOSizeGB", " 64 ")], 64),
        ([("pciPassthru.use64bitMMIO", "FALSE"), ("pciPassthru.64bitMMIOSizeGB", "128")], 0),
        ([("pciPassthru.64bitMMIOSizeGB", "128")], 0),
        ([("pciPassthru.use64bitMMIO", "TRUE"), ("pciPassthru.64bitMMIOSizeGB", "much")], 0),
        ([], 0),
    ],
)
def test_mmio_space_is_what_esxi_makes_of_the_settings(options: list[tuple[str, str]], expected: int) -> None:
    values = dict([option(key, value) for key, value in options]) | {"config.hardware.device": []}
    found = fleet_vm("vm-1", Read(VM, values), (), ClusterPolicy(), (), wanted=True)
    assert found is not None
    assert found.mmio_gib == expected


def test_an_inaccessible_vm_is_told_where_it_is_wanted_only() -> None:
    read = Read(VM, {"runtime.connectionState": "inaccessible", "runtime.host": vim.HostSystem("host-1")})
    assert fleet_vm("vm-1", read, (), ClusterPolicy(), (), wanted=False) is None
    found = fleet_vm("vm-1", read, (), ClusterPolicy(), (), wanted=True)
    assert found is not None
    assert (found.connection_state, found.host_moid, found.gpus, found.mmio_gib) == ("inaccessible", "host-1", (), None)


# -- a cluster that is reconfigured ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SimulatorProcess, SessionPool]]:
    """A cluster of three hosts with two GPUs and four GPU VMs."""
    with SimulatorProcess(clusters=1, hosts=3, gpus=2, vms=2, gpu_vms=4, time_scale=300, seed=3) as running:
        settings = vcenter_settings(running, tmp_path_factory.mktemp("ha"), name="ha")
        with SessionPool(settings) as pool:
            yield running, pool


@pytest.fixture
def si(site: tuple[SimulatorProcess, SessionPool]) -> Iterator[vim.ServiceInstance]:
    with site[1].session() as lent:
        yield lent


def by_moid(fleet: GpuFleet) -> dict[str, FleetVm]:
    return {vm.moid: vm for vm in fleet.vms}


def test_every_vm_and_host_is_as_its_own_properties_say(si: vim.ServiceInstance) -> None:
    before = si.CurrentTime()
    fleet = read_fleet(si, "ha")
    assert fleet.read_at is not None
    assert before <= fleet.read_at <= si.CurrentTime()
    assert fleet.unread == ()
    assert fleet.vms
    for vm in fleet.vms:
        truth = vim.VirtualMachine(vm.moid, si._stub)
        options = {each.key: each.value for each in truth.config.extraConfig}
        assert vm.power_state == truth.runtime.powerState
        assert vm.boot_time == truth.runtime.bootTime
        assert vm.tools_running == (truth.guest.toolsRunningStatus == "guestToolsRunning")
        assert vm.ha_protected == truth.runtime.dasVmProtection.dasProtected
        assert vm.mmio_gib == int(options.get("pciPassthru.64bitMMIOSizeGB", 0))
        assert vm.memory_reserved
        assert vm.question == ""
    assert any(vm.mmio_gib for vm in fleet.vms)
    for host in fleet.hosts:
        runtime = vim.HostSystem(host.ref.moid, si._stub).runtime
        assert host.power_state == runtime.powerState
        assert host.ha_state == runtime.dasHostState.state


def test_what_the_cluster_is_told_to_do_is_read_back(
    site: tuple[SimulatorProcess, SessionPool], si: vim.ServiceInstance
) -> None:
    simulator, _ = site
    fleet = read_fleet(si, "ha")
    (cluster,) = fleet.clusters
    assert (cluster.ha_enabled, cluster.ha_host_monitoring) == (True, True)
    chosen, other = fleet.vms[:2]
    own = vim.cluster.DasVmConfigInfo(
        key=vim.VirtualMachine(chosen.moid), dasSettings=Settings(restartPriority="highest")
    )
    spec = vim.cluster.ConfigSpecEx(
        dasConfig=vim.cluster.DasConfigInfo(
            hostMonitoring="disabled",
            admissionControlEnabled=True,
            defaultVmSettings=Settings(restartPriority="low", isolationResponse="shutdown"),
        ),
        dasVmConfigSpec=[vim.cluster.DasVmConfigSpec(operation="add", info=own)],
    )
    task = vim.ClusterComputeResource(cluster.moid, si._stub).ReconfigureComputeResource_Task(spec, True)
    assert await_task(si, task._moId, lambda _: None, 60).state == "success"
    names = {host.ref.moid: host.ref.name for host in fleet.hosts}
    name = "only-there"
    simulator.act(
        "add_vm_host_rule", cluster=cluster.name, name=name, vms=[chosen.name], hosts=[names[chosen.host_moid]]
    )
    again = read_fleet(si, "ha")
    (cluster,) = again.clusters
    assert (cluster.ha_host_monitoring, cluster.ha_admission_control) == (False, True)
    vms = by_moid(again)
    assert (vms[chosen.moid].restart_priority, vms[chosen.moid].isolation_response) == ("highest", "shutdown")
    assert (vms[other.moid].restart_priority, vms[other.moid].isolation_response) == ("low", "shutdown")
    assert vms[chosen.moid].barred == tuple(sorted(moid for moid in names if moid != chosen.host_moid))
    assert vms[other.moid].barred == ()


def test_a_question_that_waits_for_an_answer_is_read(
    site: tuple[SimulatorProcess, SessionPool], si: vim.ServiceInstance
) -> None:
    vm = read_fleet(si, "ha").vms[2]
    machine = vim.VirtualMachine(vm.moid, si._stub)
    assert await_task(si, machine.PowerOffVM_Task()._moId, lambda _: None, 60).state == "success"
    site[0].act("set_question", vm=vm.name, text="msg.uuid.altered: moved or copied?")
    machine.PowerOnVM_Task()
    deadline = time.monotonic() + 60
    while not (question := by_moid(read_fleet(si, "ha"))[vm.moid].question):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert question == "msg.uuid.altered: moved or copied?"


def test_where_drs_asks_before_it_powers_on_its_recommendation_is_read(
    site: tuple[SimulatorProcess, SessionPool], si: vim.ServiceInstance
) -> None:
    simulator, _ = site
    fleet = read_fleet(si, "ha")
    vm = fleet.vms[-1]
    (cluster,) = fleet.clusters
    machine = vim.VirtualMachine(vm.moid, si._stub)
    assert await_task(si, machine.PowerOffVM_Task()._moId, lambda _: None, 60).state == "success"
    simulator.act("set_drs", cluster=cluster.name, behavior="manual")
    root = content(si).rootFolder.childEntity[0]
    task = root.PowerOnMultiVM_Task([machine], [])
    assert await_task(si, task._moId, lambda _: None, 60).state == "success"
    again = read_fleet(si, "ha", cluster.name)
    (found,) = again.clusters[0].recommendations
    assert found.vm_moid == vm.moid
    assert found.host_moid in {host.ref.moid for host in again.hosts}
    assert vm.name in found.reason
    assert again.clusters[0].drs_automation == "manual"
    off = by_moid(again)[vm.moid]
    assert (off.power_state, off.powered_on, off.tools_running) == ("poweredOff", False, False)


def test_a_vm_that_no_longer_reserves_its_memory_is_read_where_it_is_asked_for(si: vim.ServiceInstance) -> None:
    plain = next(
        vm
        for vm in content(si).viewManager.CreateContainerView(content(si).rootFolder, [vim.VirtualMachine], True).view
        if not vm.config.memoryReservationLockedToMax
    )
    assert plain._moId not in by_moid(read_fleet(si, "ha"))
    found = by_moid(read_fleet(si, "ha", also=[plain._moId]))[plain._moId]
    assert not found.memory_reserved
    assert found.instance_uuid == plain.config.instanceUuid
