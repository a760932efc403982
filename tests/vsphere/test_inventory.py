"""Who the hosts are and how they are, on both worlds."""

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest
from contracts.host import BootDevice, HostRef
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from vsphere.inventory import find_host, host_index, index_hosts, read_host
from vsphere.properties import Read
from vsphere.sessions import SessionPool


def test_the_index_has_every_host_with_key_and_cluster(si: vim.ServiceInstance, world: World) -> None:
    index = host_index(si, world.name)
    in_cluster = [host for host in index.hosts if host.cluster_name]
    assert {host.ref.name for host in in_cluster} >= set(world.hosts)
    assert {host.cluster_name for host in in_cluster} == {world.cluster}
    assert len({host.ref.key for host in index.hosts}) == len(index.hosts)
    assert all(index.by_moid[host.ref.moid] is host for host in index.hosts)


def test_a_host_is_found_by_name_key_and_moid(si: vim.ServiceInstance, world: World) -> None:
    host = find_host(si, world.name, world.hosts[0].upper())
    assert host.name == world.hosts[0]
    assert find_host(si, world.name, host.key) == find_host(si, world.name, host.moid) == host


def test_an_unknown_host_is_answered_with_close_names(si: vim.ServiceInstance, world: World) -> None:
    mistyped = world.hosts[0].replace("0", "O", 1)
    with pytest.raises(BadRequest, match=rf"no host '{mistyped}'.*did you mean .*{world.hosts[0]}"):
        find_host(si, world.name, mistyped)


def found(*hosts: tuple[str, str, str]) -> dict[str, Read]:
    return {
        moid: Read(vim.HostSystem(moid), {"name": name, "summary.hardware.uuid": uuid}) for moid, name, uuid in hosts
    }


def test_hosts_with_the_same_uuid_get_keys_of_their_own() -> None:
    index = index_hosts("lab", found(("host-1", "a", "UUID-X"), ("host-2", "b", "uuid-x"), ("host-3", "c", "uuid-y")))
    assert [host.ref.key for host in index.hosts] == ["uuid-x.host-1", "uuid-x.host-2", "uuid-y"]


def test_hosts_without_uuid_go_by_moid_and_equal_names_ask_for_a_key() -> None:
    index = index_hosts("lab", found(("host-1", "a", ""), ("host-2", "A", "uuid-y")))
    assert [host.ref.key for host in index.hosts] == ["host-1", "uuid-y"]
    with pytest.raises(BadRequest, match=r"2 hosts .* use a key: host-1, uuid-y"):
        index.find("a")


def test_the_state_of_a_host_is_read(si: vim.ServiceInstance, world: World, host: HostRef) -> None:
    state = read_host(si, host)
    assert state.ref == host
    assert state.cluster is not None
    assert state.cluster.name == world.cluster
    assert (state.connection_state, state.power_state, state.api_version) == ("connected", "poweredOn", "8.0.2.0")
    assert state.boot_time is not None
    assert state.version.startswith("8.0")
    assert [function.vendor_device for function in state.pci if function.vendor_device.startswith("8086:")]
    assert any("uplink vmnic0" in (function.used_by_esxi or "") for function in state.pci)
    assert any("storage adapter vmhba0" in (function.used_by_esxi or "") for function in state.pci)


def test_what_vcsim_cannot_answer_is_named_as_unread(vcsim: World) -> None:
    with SessionPool(vcsim.settings()) as pool, pool.session() as si:
        state = read_host(si, find_host(si, "vcsim", vcsim.hosts[0]))
    assert state.kernel_no_iommu is None
    assert state.boot_device is None
    assert any("esxcli system settings kernel list" in text for text in state.unread)
    assert any("esxcli storage core device list" in text for text in state.unread)


def test_a_gpu_host_is_read_whole(gpu_si: vim.ServiceInstance) -> None:
    state = read_host(gpu_si, find_host(gpu_si, "simulated", "esx-01-02.gpu.test"))
    assert state.unread == ()
    assert state.kernel_no_iommu is False
    assert state.boot_device is not None
    assert state.boot_device.is_usb is False
    assert [(gpu.sbdf, gpu.configured_type, gpu.framebuffer_mib) for gpu in state.graphics] == [
        ("0000:81:00.0", "shared", 40960),
        ("0000:e2:00.0", "shared", 40960),
    ]
    gpu = next(function for function in state.pci if function.sbdf == "0000:81:00.0")
    assert (gpu.vendor_device, gpu.class_id, gpu.passthru_capable) == ("10de:20f1", 0x0302, True)
    assert gpu.used_by_esxi is None


def test_the_iommu_off_and_a_usb_boot_device_show(simulator: SimulatorProcess, gpu_si: vim.ServiceInstance) -> None:
    simulator.act("add_host", cluster="gpu-01", name="usb.gpu.test", iommu=False, usb_boot=True)
    state = read_host(gpu_si, find_host(gpu_si, "simulated", "usb.gpu.test"))
    assert state.kernel_no_iommu is True
    assert not any(function.passthru_capable for function in state.pci)
    assert state.boot_device == BootDevice(name="mpx.vmhba32:C0:T0:L0", is_usb=True)
    usb = next(function for function in state.pci if "boot device mpx" in (function.used_by_esxi or ""))
    assert usb.class_id == 0x0C03


def test_a_disconnected_host_is_read_as_far_as_vcenter_knows(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance
) -> None:
    simulator.act("add_host", cluster="gpu-01", name="off.gpu.test")
    simulator.act("disconnect_host", host="off.gpu.test")
    state = read_host(gpu_si, find_host(gpu_si, "simulated", "off.gpu.test"))
    assert state.connection_state != "connected"
    assert any(f"the host is {state.connection_state}" in what for what in state.unread)
    assert state.vibs is None
    assert state.kernel_no_iommu is None


def test_a_refused_esxcli_read_is_named_as_unread(simulator: SimulatorProcess, gpu_si: vim.ServiceInstance) -> None:
    host = find_host(gpu_si, "simulated", "esx-01-02.gpu.test")
    simulator.add_fault(method="ExecuteSoap", error="HostConnectFault", message="The agent is busy.")
    try:
        state = read_host(gpu_si, host)
    finally:
        simulator.clear_faults()
    busy = [text for text in state.unread if "The agent is busy." in text]
    for command in ("system settings kernel list", "storage core device list"):
        assert any(text.startswith(f"esxcli {command} ") for text in busy)


def test_a_host_that_left_is_told_with_what_to_do(si: vim.ServiceInstance, host: HostRef) -> None:
    with pytest.raises(BadRequest, match=r"no longer in the inventory .* look it up by name"):
        read_host(si, host.model_copy(update={"moid": "host-999999"}))
