"""The oddities of the wire, without a server."""

from typing import Any

from pyVmomi import vim

from contracts.host import BootDevice, HostRef, HostState
from vsphere.host_state import Asked, cluster_ref, host_state, used_by_esxi

REF = HostRef(vcenter="lab", key="uuid-1", moid="host-1", name="esx-01")


def state(host: dict[str, Any], **more: Any) -> HostState:
    asked = {name: more.pop(name) for name in [*more] if name in Asked.__dataclass_fields__}
    return host_state(REF, "8.0.2.0", host, asked=Asked(**asked), **more)


def device(sbdf: str, vendor: int, device_id: int, class_id: int = 0x0302) -> vim.host.PciDevice:
    return vim.host.PciDevice(
        id=sbdf, vendorId=vendor, deviceId=device_id, classId=class_id, deviceName="x", parentBridge="0000:80:00.0"
    )


def test_nothing_known_is_not_taken_for_evidence() -> None:
    empty = state({})
    assert (empty.connection_state, empty.power_state, empty.in_maintenance) == ("disconnected", "unknown", False)
    assert empty.kernel_no_iommu is None
    assert empty.boot_device is None
    assert not empty.passthrough_supported
    assert empty.pci == empty.graphics == empty.vms == ()


def test_signed_pci_ids_are_unsigned_hex() -> None:
    (function,) = state({"hardware.pciDevice": [device("0000:AF:00.0", -32634, -1, -32765)]}).pci
    assert (function.vendor_device, function.class_id) == ("8086:ffff", 0x8003)
    assert function.sbdf == "0000:af:00.0"


def test_functions_are_joined_with_their_passthrough_info() -> None:
    info = vim.host.PciPassthruInfo(
        id="0000:AF:00.0",
        dependentDevice="0000:AE:00.0",
        passthruEnabled=True,
        passthruCapable=True,
        passthruActive=False,
        hardwareLabel="",
    )
    host = {
        "hardware.pciDevice": [device("0000:af:00.0", 0x10DE, 0x20F1), device("0000:b0:00.0", 0x10DE, 0x20F1)],
        "config.pciPassthruInfo": [info],
    }
    known, unknown = state(host).pci
    assert (known.passthru_capable, known.passthru_enabled, known.passthru_active) == (True, True, False)
    assert (known.dependent_device, known.hardware_label) == ("0000:ae:00.0", None)
    assert (unknown.passthru_capable, unknown.dependent_device) == (False, None)


def test_graphics_are_active_and_configured_and_may_lack_either() -> None:
    vm = vim.VirtualMachine("vm-1")
    infos = [
        vim.host.GraphicsInfo(
            deviceName="A100", pciId="0000:AF:00.0", graphicsType="basic", memorySizeInKB=42949672, vm=[vm]
        ),
        vim.host.GraphicsInfo(deviceName="VGA", pciId="0000:03:00.0", graphicsType="basic", memorySizeInKB=0),
    ]
    own = vim.host.GraphicsConfig.DeviceType(deviceId="0000:af:00.0", graphicsType="sharedDirect")
    config = vim.host.GraphicsConfig(
        hostDefaultGraphicsType="shared", sharedPassthruAssignmentPolicy="performance", deviceType=[own]
    )
    seen = state({"config.graphicsInfo": infos, "config.graphicsConfig": config})
    assert (seen.default_graphics_type, seen.shared_passthru_assignment_policy) == ("shared", "performance")
    a100, vga = seen.graphics
    assert (a100.configured_type, a100.framebuffer_mib, a100.vm_moids) == ("sharedDirect", 41943, ("vm-1",))
    assert (vga.configured_type, vga.framebuffer_mib, vga.vm_moids) == (None, 0, ())


def test_vms_show_the_devices_bound_to_them() -> None:
    def binding(moid: str, pci_id: str) -> vim.host.AssignableHardwareBinding:
        return vim.host.AssignableHardwareBinding(instanceId="x", vm=vim.VirtualMachine(moid), pciId=pci_id)

    host = {"config.assignableHardwareBinding": [binding("vm-1", "0000:E2:00.0"), binding("vm-1", "0000:81:00.0")]}
    vms = {
        "vm-2": {"name": "idle", "runtime.powerState": "poweredOff"},
        "vm-1": {"name": "train", "runtime.powerState": "poweredOn"},
    }
    train, idle = state(host, vms=vms).vms
    assert (train.name, train.powered_on, train.passthrough) == ("train", True, ("0000:81:00.0", "0000:e2:00.0"))
    assert (idle.name, idle.powered_on, idle.passthrough) == ("idle", False, ())


def test_the_running_value_of_no_iommu_counts() -> None:
    def running(value: str) -> bool | None:
        return state({}, kernel_rows=[{"Name": "noIOMMU", "Configured": "TRUE", "Runtime": value}]).kernel_no_iommu

    assert (running("FALSE"), running("true"), running("")) == (False, True, None)
    assert state({}, kernel_rows=[{"Name": "other", "Runtime": "TRUE"}]).kernel_no_iommu is None


def nic(number: int, pci: str) -> vim.host.PhysicalNic:
    return vim.host.PhysicalNic(key=f"key-vmnic{number}", device=f"vmnic{number}", pci=pci)


def test_uplinks_of_either_switch_are_in_use_and_idle_ports_are_not() -> None:
    used = used_by_esxi(
        {
            "config.network.pnic": [nic(0, "0000:19:00.0"), nic(1, "0000:19:00.1"), nic(2, "0000:4B:00.0")],
            "config.network.vswitch": [vim.host.VirtualSwitch(name="vSwitch0", key="k", pnic=["key-vmnic0"])],
            "config.network.proxySwitch": [
                vim.host.HostProxySwitch(dvsName="dvs-1", dvsUuid="u", key="p", pnic=["key-vmnic2", "key-gone"])
            ],
        },
        None,
    )
    assert used == {"0000:19:00.0": "uplink vmnic0 of vSwitch0", "0000:4b:00.0": "uplink vmnic2 of dvs-1"}


def test_adapters_with_disks_are_in_use_and_the_boot_device_is_named() -> None:
    topology = vim.host.ScsiTopology

    def interface(adapter: str, *luns: str) -> vim.host.ScsiTopology.Interface:
        found = [topology.Lun(key=f"l-{lun}", lun=0, scsiLun=f"key-{lun}") for lun in luns]
        return topology.Interface(key="i", adapter=adapter, target=[topology.Target(key="t", target=0, lun=found)])

    adapters = [
        vim.host.BlockHba(key=f"key-vmhba{n}", device=f"vmhba{n}", bus=0, status="unknown", model="x", pci=pci)
        for n, pci in enumerate(("0000:18:00.0", "0000:1A:00.0", "0000:1b:00.0"))
    ]
    host = {
        "config.storageDevice.hostBusAdapter": adapters,
        "config.storageDevice.scsiLun": [
            vim.host.ScsiLun(key=f"key-{name}", canonicalName=name, uuid="u", lunType="disk", deviceName="d")
            for name in ("naa.1", "naa.2")
        ],
        "config.storageDevice.scsiTopology": topology(
            adapter=[interface("key-vmhba0", "naa.1"), interface("key-vmhba1", "naa.2"), interface("key-vmhba2")]
        ),
    }
    boot = {"Device": "naa.1", "IsBootDevice": "true", "IsUSB": "false"}
    assert used_by_esxi(host, boot) == {
        "0000:18:00.0": "storage adapter vmhba0 of boot device naa.1",
        "0000:1a:00.0": "storage adapter vmhba1 of 1 disk(s)",
    }
    assert state(host, device_rows=[{"Device": "naa.2"}, boot]).boot_device == BootDevice(name="naa.1", is_usb=False)


def test_drs_counts_as_automatic_only_when_it_is_on() -> None:
    def cluster(enabled: bool, behavior: str) -> tuple[bool, bool]:
        drs = vim.cluster.DrsConfigInfo(enabled=enabled, defaultVmBehavior=behavior)
        config = vim.cluster.ConfigInfoEx(drsConfig=drs)
        made = cluster_ref("domain-1", {"name": "gpu", "configurationEx": config, "lifecycleManaged": True})
        assert made.lifecycle_managed
        return made.drs_enabled, made.drs_fully_automated

    assert cluster(True, "fullyAutomated") == (True, True)
    assert cluster(True, "manual") == (True, False)
    assert cluster(False, "fullyAutomated") == (False, False)
    assert cluster_ref("domain-1", {}).name == "domain-1"


def test_sriov_evidence_is_kept_apart_from_its_absence() -> None:
    common: dict[str, Any] = {
        "dependentDevice": "0000:af:00.0",
        "passthruEnabled": False,
        "passthruCapable": True,
        "passthruActive": False,
    }
    sriov = vim.host.SriovInfo(id="0000:af:00.0", sriovCapable=True, sriovEnabled=True, sriovActive=False, **common)
    plain = vim.host.PciPassthruInfo(id="0000:b0:00.0", **common)
    devices = [device(sbdf, 0x10DE, 0x20F1) for sbdf in ("0000:af:00.0", "0000:b0:00.0")]
    with_it, without = state({"hardware.pciDevice": devices, "config.pciPassthruInfo": [sriov, plain]}).pci
    assert (with_it.sriov_capable, with_it.sriov_enabled, with_it.sriov_active) == (True, True, False)
    assert (without.sriov_capable, without.sriov_enabled, without.sriov_active) == (None, None, None)


def shared(sbdf: str, kind: str = "sharedDirect", **fields: Any) -> vim.host.GraphicsInfo:
    return vim.host.GraphicsInfo(deviceName="x", pciId=sbdf, graphicsType=kind, memorySizeInKB=0, **fields)


def test_profiles_belong_to_the_kind_of_card_that_offers_them() -> None:
    host = {
        "hardware.pciDevice": [device("0000:81:00.0", 0x10DE, 0x20F1), device("0000:e2:00.0", 0x10DE, 0x2235)],
        "config.graphicsInfo": [shared("0000:81:00.0"), shared("0000:E2:00.0", vgpuMode="multiInstanceGpu")],
        "config.sharedPassthruGpuTypes": ["grid_a100-3-20c", "nvidia_a40-24c"],
    }
    profiles = [
        vim.vm.VgpuProfileInfo(name=name, profileName=name, deviceVendorId=device_id << 16 | 0x10DE)
        for name, device_id in (("grid_a100-3-20c", 0x20F1), ("nvidia_a40-24c", 0x2235))
    ]
    a100, a40 = state(host, profiles=profiles).graphics
    assert (a100.profiles, a40.profiles) == (("grid_a100-3-20c",), ("nvidia_a40-24c",))
    assert (a100.vgpu_mode, a40.vgpu_mode) == (None, "multiInstanceGpu")
    assert [gpu.profiles for gpu in state(host).graphics] == [(), ()]
    host["config.graphicsInfo"] = [shared("0000:81:00.0", "direct"), shared("0000:e2:00.0")]
    passed, sharing = state(host).graphics
    assert (passed.profiles, sharing.profiles) == ((), ("grid_a100-3-20c", "nvidia_a40-24c"))


def test_only_nvidias_packages_are_kept_and_none_read_is_not_none_there() -> None:
    def package(name: str, vendor: str, level: str) -> Any:
        return vim.host.SoftwarePackage(name=name, version="550.54-1OEM", vendor=vendor, acceptanceLevel=level)

    installed = [package("esx-base", "VMware", "vmware_certified"), package("NVD-AIE", "NVIDIA", "vmware_accepted")]
    vibs = state({}, packages=installed).vibs
    assert vibs is not None
    assert [(vib.name, vib.acceptance_level) for vib in vibs] == [("NVD-AIE", "vmware_accepted")]
    assert state({}, packages=[]).vibs == ()
    assert state({}).vibs is None


def test_services_vsan_and_acceptance_are_read() -> None:
    ssh = vim.host.Service(key="TSM-SSH", label="SSH", running=True, policy="off")
    seen = state(
        {"config.service": vim.host.ServiceInfo(service=[ssh]), "config.vsanHostConfig.enabled": True},
        resync_rows=[{"TotalBytesLeftToResync": "0 B", "TotalNumberOfResyncingObjects": "3"}],
        acceptance_level="PartnerSupported",
    )
    service = seen.service("TSM-SSH")
    assert service is not None
    assert (service.running, service.policy, seen.service("xorg")) == (True, "off", None)
    assert (seen.vsan_enabled, seen.vsan_resyncing_objects, seen.acceptance_level) == (True, 3, "partner")
    assert state({}).vsan_resyncing_objects is None


def test_ha_dpm_and_the_vgpu_evacuation_option_are_read() -> None:
    config = vim.cluster.ConfigInfoEx(
        drsConfig=vim.cluster.DrsConfigInfo(
            enabled=True, option=[vim.option.OptionValue(key="VgpuMMAutomationTimeoutSecs", value="-1")]
        ),
        dasConfig=vim.cluster.DasConfigInfo(
            enabled=True,
            admissionControlEnabled=True,
            admissionControlPolicy=vim.cluster.FailoverLevelAdmissionControlPolicy(failoverLevel=1),
        ),
        dpmConfigInfo=vim.cluster.DpmConfigInfo(enabled=True),
    )
    summary = vim.ClusterComputeResource.Summary(numHosts=4, numEffectiveHosts=3, currentFailoverLevel=0)
    made = cluster_ref("domain-1", {"configurationEx": config, "summary": summary}, vgpu_hot_migrate=False)
    assert (made.ha_admission_control, made.ha_failover_level, made.ha_current_failover_level) == (True, 1, 0)
    for info, level in (
        (vim.cluster.FailoverLevelAdmissionControlInfo(currentFailoverLevel=2), 2),
        (vim.cluster.FailoverResourcesAdmissionControlInfo(currentCpuFailoverResourcesPercent=50), None),
    ):
        summary.admissionControlInfo = info
        assert cluster_ref("domain-1", {"summary": summary}).ha_current_failover_level == level
    assert (made.hosts, made.effective_hosts, made.dpm_enabled) == (4, 3, True)
    assert (made.vgpu_evacuation_timeout_s, made.vgpu_hot_migrate) == (-1, False)
