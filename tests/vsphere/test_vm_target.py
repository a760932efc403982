"""The names of a request as moids."""

from collections.abc import Iterator

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest
from contracts.vms import CloudInit, Customization, DynamicGpu, StaticGpu, VmSource
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from tests.vsphere.lab_vms import A100, Lab
from vsphere.properties import read_properties
from vsphere.vm_target import hardware_version


@pytest.fixture
def lab(si: vim.ServiceInstance, world: World) -> Iterator[Lab]:
    made = Lab(si, world)
    yield made
    made.clean_up()


@pytest.fixture
def gpu_lab(gpu_si: vim.ServiceInstance, simulated: World) -> Iterator[Lab]:
    made = Lab(gpu_si, simulated)
    yield made
    made.clean_up()


def name_of(lab: Lab, kind: type, moid: str) -> str:
    read = read_properties(lab.si, kind(moid, lab.si._stub), {kind: ["name"]})[moid]
    return str(read.get("name"))


def test_names_become_moids(lab: Lab, world: World) -> None:
    of_vcsim = world.name == "vcsim"
    wanted = {
        "network": "dc0_dvpg0" if of_vcsim else "gpu network",
        "datastore": "LocalDS_0" if of_vcsim else "nfs-01",
        "folder": "DC0/vm" if of_vcsim else "gpu-vms",
        "resource_pool": "Resources" if of_vcsim else "Resources/gpu-workloads",
    }
    target = lab.target(lab.request(**wanted))
    assert target.cluster_name == world.cluster
    assert name_of(lab, vim.ClusterComputeResource, target.cluster) == world.cluster
    assert name_of(lab, vim.Datacenter, target.datacenter) == "DC0"
    assert name_of(lab, vim.Datastore, target.datastore) == wanted["datastore"]
    assert name_of(lab, vim.Folder, target.folder) == wanted["folder"].rpartition("/")[2]
    assert name_of(lab, vim.ResourcePool, target.pool) == wanted["resource_pool"].rpartition("/")[2]
    network = vim.dvs.DistributedVirtualPortgroup if of_vcsim else vim.Network
    assert name_of(lab, network, target.network).casefold() == wanted["network"]
    assert target.newest_hardware >= 20
    assert (target.template, target.library_item, target.source_hardware) == ("", "", 0)


def test_moids_are_names_too(lab: Lab) -> None:
    request = lab.request()
    target = lab.target(request)
    again = {"cluster": target.cluster, "datastore": target.datastore, "folder": target.folder}
    assert lab.target(request.model_copy(update=again)) == target


def test_every_wrong_name_is_told_at_once_with_close_matches(lab: Lab, world: World) -> None:
    request = lab.request(
        cluster=world.cluster[:-1] + "x",
        folder="nowhere",
        datastore="nfs-02",
        network="VM Netwrk",
        resource_pool="Resource",
        source=VmSource(template="golden"),
        gpus=(StaticGpu(host=world.hosts[0] + "x", sbdf="0000:81:00.0"),),
    )
    with pytest.raises(BadRequest) as caught:
        lab.target(request)
    told = str(caught.value)
    assert f"cluster '{request.cluster}' is not in vCenter {world.name}; did you mean {world.cluster}" in told
    assert "network 'VM Netwrk' is not in any cluster; did you mean VM Network" in told
    assert "resource pool 'Resource' is not in any cluster; did you mean Resources" in told
    assert "folder 'nowhere' is not in datacenter DC0" in told
    assert "datastore 'nfs-02' is not in any cluster" in told
    assert "template 'golden' is not in datacenter DC0" in told
    assert f"host '{request.gpus[0].host}' is not in any cluster; did you mean" in told  # type: ignore[union-attr]


def test_a_vm_is_no_template(lab: Lab, world: World) -> None:
    name = "DC0_C0_RP0_VM0" if world.name == "vcsim" else "app-00001"
    with pytest.raises(BadRequest, match=f"template '{name}' .* a VM has that name, and it is no template"):
        lab.target(lab.request(source=VmSource(template=name)))


def test_the_datastore_with_most_room_that_gpu_hosts_share_is_taken(gpu_lab: Lab) -> None:
    target = gpu_lab.target(gpu_lab.request())
    # `full-01` and `nfs-01` are shared too, and smaller.
    assert name_of(gpu_lab, vim.Datastore, target.datastore) == "vsan-01"


def test_device_limits_are_those_of_the_hardware_versions_that_matter(
    gpu_lab: Lab, simulator: SimulatorProcess
) -> None:
    assert gpu_lab.target(gpu_lab.request()).gpu_limits == {21: 64}
    name = gpu_lab.add_template(simulator, hardware_version=15, firmware="bios")
    target = gpu_lab.target(gpu_lab.request(source=VmSource(template=f"templates/{name}")))
    assert (target.source_hardware, target.source_firmware, target.source_guest_id) == (15, "bios", "ubuntu64Guest")
    assert target.gpu_limits == {15: 16, 17: 16}


def test_a_templates_own_gpus_are_known(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    name = gpu_lab.add_template(simulator, gpu="dynamic")
    target = gpu_lab.target(gpu_lab.request(source=VmSource(template=name)))
    assert target.template
    assert len(target.source_gpu_keys) == 1


def test_library_items_are_found_by_name(gpu_lab: Lab, simulator: SimulatorProcess) -> None:
    name = gpu_lab.add_template(simulator)
    for kind in ("ovf", "vm-template"):
        simulator.act("add_library_item", library="golden", name=f"ubuntu-{kind}", kind=kind, source=name)
        item = f"golden/ubuntu-{kind}"
        target = gpu_lab.target(gpu_lab.request(source=VmSource(library_item=item)))
        assert target.library_item
        assert target.library_item_type == kind
    # The template behind the item says what the copy will be.
    assert (target.source_firmware, target.source_hardware) == ("efi", 20)
    with pytest.raises(BadRequest, match=r"library item 'ubuntu' is not in library golden; did you mean ubuntu-ovf"):
        gpu_lab.target(gpu_lab.request(source=VmSource(library_item="golden/ubuntu")))
    with pytest.raises(BadRequest, match=r"content library 'goldn' is not in vCenter; did you mean golden"):
        gpu_lab.target(gpu_lab.request(source=VmSource(library_item="goldn/ubuntu-ovf"), cluster="gpu-01"))


def test_an_empty_vm_has_no_guest_to_customise(lab: Lab) -> None:
    with pytest.raises(BadRequest, match="an empty VM has no guest"):
        lab.target(lab.request(customization=Customization(host_name="a")))
    assert lab.target(lab.request(customization=Customization(cloud_init=CloudInit(user_data="nodes")))).cluster


def test_a_request_by_model_needs_no_other_names(lab: Lab) -> None:
    assert lab.target(lab.request(gpus=(DynamicGpu(match=A100, count=2),))).folder


def test_hardware_versions_are_numbers() -> None:
    assert [hardware_version(key) for key in ("vmx-09", "vmx-21", None, "xen")] == [9, 21, 0, 0]
