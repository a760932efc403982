"""Copies of VMs: where they go, what they keep, and who their guests become."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.simulator.vm_site import GPU_SETTINGS, PASSTHROUGH, PLAIN, VmSite

Custom = vim.vm.customization
Relocate = vim.vm.RelocateSpec
Passthrough = vim.vm.device.VirtualPCIPassthrough


def linux(name: str = "node-7", ip: str | None = "10.9.8.7", adapters: int = 1) -> Any:
    generator = Custom.FixedIp(ipAddress=ip) if ip else Custom.DhcpIpGenerator()
    settings = Custom.IPSettings(ip=generator, subnetMask="255.255.255.0" if ip else None, gateway=["10.9.8.1"])
    return Custom.Specification(
        identity=Custom.LinuxPrep(hostName=Custom.FixedName(name=name), domain="gpu.test"),
        globalIPSettings=Custom.GlobalIPSettings(),
        nicSettingMap=[Custom.AdapterMapping(adapter=settings) for _ in range(adapters)],
    )


def up(site: VmSite, vm: Any) -> Any:
    assert site.ended(vm.PowerOnVM_Task()).state == "success"
    site.until(lambda: vm.guest.guestOperationsReady)
    return vm


def told(site: VmSite, vm: Any) -> list[str]:
    by = vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self")
    found = site.content.eventManager.QueryEvents(vim.event.EventFilterSpec(entity=by, disableFullMessage=False))
    names = [type(event).__name__.rpartition(".")[2] for event in found]
    return sorted(name for name in names if name.startswith("Customization"))


@pytest.mark.parametrize("ip", ["10.9.8.7", None])
def test_a_guest_becomes_who_the_customization_says(vm_site: VmSite, ip: str | None) -> None:
    vm = vm_site.clone("customized", customization=linux(ip=ip)).result
    assert vm.guest.customizationInfo.customizationStatus == "TOOLSDEPLOYPKG_PENDING"
    up(vm_site, vm)
    assert (vm.guest.hostName, vm.guest.customizationInfo.customizationStatus) == ("node-7", "TOOLSDEPLOYPKG_SUCCEEDED")
    assert vm.guest.ipAddress == ip or (ip is None and vm.guest.ipAddress.startswith("10.100."))
    assert told(vm_site, vm) == ["CustomizationStartedEvent", "CustomizationSucceeded"]
    assert vm_site.run(vm, "hostname") == (0, "node-7\n")
    vm_site.remove(vm)


def test_a_customization_fails_with_an_event_and_the_guest_stays_as_it_was(vm_site: VmSite) -> None:
    vm_site.act("fail_customization", vm="misfit", reason="The script ended with 1.")
    vm = up(vm_site, vm_site.clone("misfit", customization=linux()).result)
    assert told(vm_site, vm) == ["CustomizationFailed", "CustomizationStartedEvent"]
    assert (vm.guest.hostName, vm.guest.customizationInfo.errorMsg) == ("misfit", "The script ended with 1.")
    vm_site.remove(vm)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (linux(adapters=2), vim.fault.NicSettingMismatch),
        (linux(ip="10.9.8.700"), vim.fault.CustomizationFault),
        (linux(name="no such host"), vim.fault.CustomizationFault),
    ],
)
def test_an_impossible_customization_is_refused_before_the_copy(vm_site: VmSite, spec: Any, fault: Any) -> None:
    assert isinstance(vm_site.clone("impossible", customization=spec).error, fault)
    assert vm_site.named("impossible") is None


@pytest.mark.parametrize("encoding", ["", "base64", "gzip+base64"])
def test_cloud_init_reads_its_keys(vm_site: VmSite, encoding: str) -> None:
    meta = "instance-id: one\nlocal-hostname: cloudy\nnetwork:\n  version: 2\n  ethernets:\n    nic0:\n"
    meta += "      addresses: [10.7.7.7/24]\n"
    user = "#cloud-config\nusers: [{name: ada, plain_text_passwd: love}]\nwrite_files: [{path: /etc/motd, content: hi}]"
    values = {"guestinfo.metadata": meta, "guestinfo.userdata": user}
    for key, value in tuple(values.items()):
        raw = gzip.compress(value.encode()) if encoding.startswith("gzip") else value.encode()
        values[key] = base64.b64encode(raw).decode() if encoding else value
        values[f"{key}.encoding"] = encoding
    extra = [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]
    vm = up(vm_site, vm_site.clone("clouded", config=vim.vm.ConfigSpec(extraConfig=extra)).result)
    assert (vm.guest.hostName, vm.guest.ipAddress) == ("cloudy", "10.7.7.7")
    assert vm_site.run(vm, "cat /etc/motd") == (0, "hi")
    ada = vim.vm.guest.NamePasswordAuthentication(username="ada", password="love", interactiveSession=False)
    vm_site.ops.authManager.ValidateCredentialsInGuest(vm, ada)
    vm_site.remove(vm)


def test_a_copy_goes_where_it_is_told(vm_site: VmSite) -> None:
    folder = vm_site.named("gpu-vms")
    (pool,) = vm_site.cluster.resourcePool.resourcePool
    stores = {store.name: store for store in vm_site.datacenter.datastore}
    adapter = vim.vm.device.VirtualVmxnet3(
        key=4000, controllerKey=100, backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(
            deviceName="GPU Network"
        ),
    )  # fmt: skip
    change = [vim.vm.device.VirtualDeviceSpec(operation="edit", device=adapter)]
    location = Relocate(pool=pool, host=vm_site.hosts[PASSTHROUGH], datastore=stores["nfs-01"])
    wanted = vim.vm.CloneSpec(
        location=location, template=False, powerOn=False, config=vim.vm.ConfigSpec(deviceChange=change, numCPUs=6)
    )
    free = stores["nfs-01"].summary.freeSpace
    vm = vm_site.ended(vm_site.named("templates/ubuntu").CloneVM_Task(folder, "placed", wanted)).result
    assert (vm.parent, vm.resourcePool, vm.runtime.host.name) == (folder, pool, PASSTHROUGH)
    assert ([store.name for store in vm.datastore], [net.name for net in vm.network]) == (["nfs-01"], ["GPU Network"])
    assert (vm.config.hardware.numCPU, pool.vm) == (6, [vm])
    assert stores["nfs-01"].summary.freeSpace == free - vm.summary.storage.committed
    vm_site.remove(vm)
    assert stores["nfs-01"].summary.freeSpace == free


def test_a_copy_finds_no_room_and_leaves_nothing_behind(vm_site: VmSite) -> None:
    full = next(store for store in vm_site.datacenter.datastore if store.name == "full-01")
    location = Relocate(pool=vm_site.cluster.resourcePool, datastore=full)
    info = vm_site.clone("crowded", location=location)
    assert (type(info.error), info.error.datastore) == (vim.fault.NoDiskSpace, "full-01")
    assert vm_site.named("crowded") is None
    assert isinstance(vm_site.clone("poolless", location=Relocate()).error, vmodl.fault.InvalidArgument)
    linked = Relocate(pool=vm_site.cluster.resourcePool, diskMoveType="createNewChildDiskBacking")
    assert isinstance(vm_site.clone("unlinked", location=linked).error, vmodl.fault.InvalidArgument)


def test_a_template_with_devices_passes_them_on_and_is_not_powered_on(vm_site: VmSite) -> None:
    vm_site.act("add_template", name="loaded", host=PLAIN, gpu="dynamic")
    vm = vm_site.clone("inherits", source="templates/loaded").result
    assert [type(each.backing) for each in vm.config.hardware.device if isinstance(each, Passthrough)] == [
        Passthrough.DynamicBackingInfo
    ]
    template = vm_site.named("templates/loaded")
    assert isinstance(vm_site.ended(template.PowerOnVM_Task()).error, vim.fault.InvalidState)
    for each in (vm, template):
        vm_site.remove(each)


def test_a_stripped_copy_gets_its_gpu_and_runs_with_it(vm_site: VmSite) -> None:
    vm = vm_site.clone("built").result
    backing = Passthrough.DynamicBackingInfo(
        deviceName="", allowedDevice=[Passthrough.AllowedDevice(vendorId=0x10DE, deviceId=0x20F1)],
        customLabel="Training",
    )  # fmt: skip
    device = vim.vm.device.VirtualDeviceSpec(operation="add", device=Passthrough(key=-1, backing=backing))
    spec = vim.vm.ConfigSpec(deviceChange=[device], memoryReservationLockedToMax=True, extraConfig=GPU_SETTINGS)
    assert vm_site.ended(vm.ReconfigVM_Task(spec)).state == "success"
    up(vm_site, vm)
    assert vm.runtime.host.name == PASSTHROUGH
    vm_site.remove(vm)


def test_a_new_vm_has_no_more_devices_than_its_hardware_allows(vm_site: VmSite) -> None:
    backing = Passthrough.DynamicBackingInfo(
        deviceName="", allowedDevice=[Passthrough.AllowedDevice(vendorId=0x10DE, deviceId=0x20F1)]
    )
    for version, count, fault in (("vmx-19", 17, vim.fault.InvalidDeviceSpec),
                                  ("vmx-14", 1, vim.fault.DeviceUnsupportedForVmVersion)):  # fmt: skip
        changes = [
            vim.vm.device.VirtualDeviceSpec(operation="add", device=Passthrough(key=-1 - index, backing=backing))
            for index in range(count)
        ]
        spec = vim.vm.ConfigSpec(name="greedy", version=version, guestId="ubuntu64Guest", deviceChange=changes)
        task = vm_site.datacenter.vmFolder.CreateVM_Task(spec, vm_site.cluster.resourcePool, None)
        assert isinstance(vm_site.ended(task).error, fault)
    assert vm_site.named("greedy") is None
