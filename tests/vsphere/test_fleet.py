"""The fleet as a few property reads give it, held against what attribute by attribute says."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest
from contracts.fleet import FleetGpu, GpuFleet
from contracts.vms import DynamicGpu, VmRequest, VmSource
from planning.placement import place
from tests.support.ha_spec import Cluster, Host
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from vsphere.fleet import read_fleet, vm_gpus
from vsphere.sessions import SessionPool, content
from vsphere.settings import VCenterSettings


@pytest.fixture(scope="module")
def fleet_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionPool]:
    """Two clusters of three hosts with two GPUs; four VMs run with a GPU each."""
    password = tmp_path_factory.mktemp("fleet") / "password"
    with SimulatorProcess(clusters=2, hosts=3, gpus=2, vms=6, gpu_vms=4, time_scale=300) as running:
        password.write_text(running.password)
        settings = VCenterSettings(
            name="fleet",
            url=f"https://{running.host}:{running.port}",
            user=running.user,
            password_file=password,
            ca_file=running.ca_file,
        )
        with SessionPool(settings) as pool:
            yield pool


@pytest.fixture
def si(fleet_pool: SessionPool) -> Iterator[vim.ServiceInstance]:
    with fleet_pool.session() as lent:
        yield lent


def everything(si: vim.ServiceInstance, kind: type) -> dict[str, object]:
    view = content(si).viewManager.CreateContainerView(content(si).rootFolder, [kind], True)
    return {found._moId: found for found in view.view}


def test_hosts_their_gpus_and_their_memory_are_what_each_host_says(si: vim.ServiceInstance) -> None:
    fleet = read_fleet(si, "fleet")
    hosts = everything(si, vim.HostSystem)
    assert {host.ref.moid for host in fleet.hosts} == set(hosts)
    for host in fleet.hosts:
        truth: vim.HostSystem = hosts[host.ref.moid]
        passthrough = {entry.id: entry for entry in truth.config.pciPassthruInfo}
        cards = truth.config.graphicsInfo
        assert [gpu.sbdf for gpu in host.gpus] == [card.pciId for card in cards]
        for gpu, card in zip(host.gpus, cards, strict=True):
            assert gpu.passthru_active == passthrough[card.pciId].passthruActive
            assert gpu.label == (passthrough[card.pciId].hardwareLabel or "")
            assert gpu.active_type == card.graphicsType
            assert gpu.framebuffer_mib == card.memorySizeInKB // 1024
        running = [vm for vm in truth.vm if vm.runtime.powerState == "poweredOn"]
        reserved = sum(
            vm.config.hardware.memoryMB
            if vm.config.memoryReservationLockedToMax
            else vm.config.memoryAllocation.reservation
            for vm in running
        )
        assert host.reserved_mib == reserved
        assert host.memory_mib == truth.hardware.memorySize // 2**20


def test_exactly_the_vms_with_gpu_devices_are_in_it(si: vim.ServiceInstance) -> None:
    fleet = read_fleet(si, "fleet")
    vms = everything(si, vim.VirtualMachine)
    truth = {moid: gpus for moid, vm in vms.items() if (gpus := vm_gpus(vm.config.hardware.device, moid))}
    assert {vm.moid for vm in fleet.vms} == set(truth)
    assert len(fleet.vms) == 4
    for vm in fleet.vms:
        assert vm.name == vms[vm.moid].name
        assert vm.instance_uuid == vms[vm.moid].config.instanceUuid
        assert vm.host_moid == vms[vm.moid].runtime.host._moId
        assert vm.path == vms[vm.moid].config.files.vmPathName
        assert vm.folder_moid == vms[vm.moid].parent._moId
        assert vm.pool_moid == vms[vm.moid].resourcePool._moId
        assert [gpu.kind for gpu in vm.gpus] == [gpu.kind for gpu in truth[vm.moid]]
        for gpu in vm.gpus:
            holder = _gpu(fleet, vm.host_moid, gpu.assigned)
            assert vm.moid in holder.vm_moids


def _gpu(fleet: GpuFleet, host_moid: str, sbdf: str) -> FleetGpu:
    return next(gpu for host in fleet.hosts if host.ref.moid == host_moid for gpu in host.gpus if gpu.sbdf == sbdf)


def test_one_cluster_is_the_part_of_the_whole_that_is_in_it(si: vim.ServiceInstance) -> None:
    whole, part = read_fleet(si, "fleet"), read_fleet(si, "fleet", "gpu-01")
    cluster = part.clusters[0]
    assert [found.name for found in part.clusters] == ["gpu-01"]
    assert part.hosts == tuple(host for host in whole.hosts if host.cluster_moid == cluster.moid)
    moids = {host.ref.moid for host in part.hosts}
    assert part.vms == tuple(vm for vm in whole.vms if vm.host_moid in moids)
    again = read_fleet(si, "fleet", cluster.moid)
    assert again.model_copy(update={"read_at": part.read_at}) == part


def test_a_cluster_that_is_not_there_is_told_with_those_that_are(si: vim.ServiceInstance) -> None:
    with pytest.raises(BadRequest, match=r"no cluster 'gpu-99'.*gpu-01, gpu-02"):
        read_fleet(si, "fleet", "gpu-99")


def test_what_is_read_is_enough_to_place_by(si: vim.ServiceInstance) -> None:
    fleet = read_fleet(si, "fleet")
    for cluster in fleet.clusters:
        gpus = [gpu for host in fleet.hosts if host.cluster_moid == cluster.moid for gpu in host.gpus]
        wish = DynamicGpu(match=gpus[0].vendor_device)
        request = VmRequest(
            name="x", vcenter="fleet", cluster=cluster.name, source=VmSource(guest_id="ubuntu64Guest"), gpus=(wish,)
        )
        free = sum(gpu.passthru_active and not gpu.vm_moids for gpu in gpus)
        assert place(fleet, request).room == free


def test_a_vcenter_without_gpus_has_an_empty_fleet(vcsim: World) -> None:
    with SessionPool(vcsim.settings()) as pool, pool.session() as lent:
        fleet = read_fleet(lent, "vcsim")
    assert not fleet.vms
    assert not fleet.hosts


def test_each_card_has_the_profiles_of_its_own_model_where_several_models_share(tmp_path: Path) -> None:
    shared = [
        {"address": "0000:81:00.0", "model": "10de:20f1", "mode": "vgpu", "label": ""},
        {"address": "0000:e2:00.0", "model": "10de:2235", "mode": "vgpu", "label": ""},
    ]
    cluster = asdict(Cluster("mixed", (Host("esx-mixed"),), ()))
    cluster["hosts"][0]["gpus"] = shared
    with SimulatorProcess(clusters=0, hosts=0, vms=0) as running:
        running.act("build_clusters", spec=[cluster])
        (tmp_path / "password").write_text(running.password)
        settings = VCenterSettings(
            name="mixed",
            url=f"https://{running.host}:{running.port}",
            user=running.user,
            password_file=tmp_path / "password",
            ca_file=running.ca_file,
        )
        with SessionPool(settings) as pool, pool.session() as lent:
            fleet = read_fleet(lent, "mixed")
            running.add_fault(method="RetrieveVgpuProfileInfo", error="vmodl.fault.SystemError", times=9)
            silent = read_fleet(lent, "mixed")
    a100, a40 = fleet.hosts[0].gpus
    assert {name.partition("-")[0] for name in a100.profiles} == {"grid_a100"}
    assert {name.partition("-")[0] for name in a40.profiles} == {"nvidia_a40"}
    assert [gpu.profiles for gpu in silent.hosts[0].gpus] == [(), ()]
    (told,) = silent.unread
    assert told.startswith(f"{fleet.hosts[0].ref.moid} vGPU profiles by card: ")
