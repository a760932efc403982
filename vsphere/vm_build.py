"""VMs are made: empty, as a copy of a template, or from a content library; each by one call that is sent once.

Every VM gets the mark of its run. Creation and cloning write it into the extra configuration in the same call; a deploy
from a content library cannot, so there the annotation has it from the first moment, and the last of the calls that
finish the VM writes the extra configuration. A name is unique in its folder: whatever was lost on the way is found
again by name and mark, and two calls for one name never make two VMs.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pyVmomi import vim

from contracts.errors import Busy, Conflict
from contracts.machine import RUN_KEY, VmTarget
from contracts.vms import VmRequest
from vsphere.faults import translated
from vsphere.fleet import vm_gpus
from vsphere.libraries import libraries
from vsphere.properties import Read, read_properties
from vsphere.tasks import await_task, running_tasks
from vsphere.vm_guest_identity import customization_spec, guestinfo
from vsphere.vm_state import annotation_mark, find_child, mark_of

__all__ = ["copies_under_way", "create_vm"]

_SOURCE = ("config.hardware.device", "config.hardware.numCoresPerSocket")
_CUSTOMIZE_S = 120
_CONTROLLER, _DISK, _NIC = -101, -102, -103
"""Temporary keys of new devices."""
_device = vim.vm.device


def create_vm(
    si: vim.ServiceInstance,
    request: VmRequest,
    target: VmTarget,
    run: str,
    *,
    host_moid: str = "",
    user_data: str = "",
    since: datetime | None = None,
    timeout_s: float = 3600,
    heartbeat: Callable[[dict[str, Any]], None] = lambda _: None,
) -> str | None:
    """Start making the VM, powered off and without GPUs; the task to follow, or None when this run has made it.

    `host_moid` places it (static devices), `user_data` is cloud-init's text. `since` is for a
    retry, vCenter's time of the first try: a copy that was started since then and still runs is followed, because it
    may be the one whose answer was lost.
    `timeout_s` bounds a deploy from a content library, which ends before this returns (without beats: vCenter gives no
    task for it); `heartbeat` beats while a guest customisation is taken in.

    Raises `Conflict` when the name is taken, `Busy` while something else works on the VM, and `Unreachable` when it is
    unknown whether the call was carried out: then call again.
    """
    what = f"make VM {request.name} on {request.vcenter}"
    with translated(what):
        source = vim.VirtualMachine(target.template, si._stub) if target.template else None
        folder = vim.Folder(target.folder, si._stub)
        # Before the look at the name: a copy that ends in between is seen by one of the two.
        if since is not None and (
            # Tasks do not tell the name: this may be the lost copy, and the look after its end finds out.
            running := running_tasks(si, source or folder, "clone" if source else "createvm", since=since)
        ):
            return running[0]
        there = find_child(si, target.folder, request.name)
        if there is not None:
            if not _half_made(there, run, what):
                return None
            return _finish(si, there.obj, request, target, run, user_data, heartbeat)
        if target.library_item:
            moid = _deploy(si, request, target, run, host_moid, timeout_s, what)
            machine = vim.VirtualMachine(moid, si._stub)
            return _finish(si, machine, request, target, run, user_data, heartbeat)
        if source is not None:
            spec = _clone_spec(si, source, request, target, run, host_moid, user_data)
            return str(source.CloneVM_Task(folder, request.name, spec)._moId)
        config = _new_config(si, request, target, run, user_data)
        host = vim.HostSystem(host_moid, si._stub) if host_moid else None
        return str(folder.CreateVM_Task(config, vim.ResourcePool(target.pool, si._stub), host)._moId)


def _half_made(there: Read, run: str, what: str) -> bool:
    """Whether a VM of this run is unfinished; raises `Conflict` for what it did not make, `Busy` while one is made."""
    if not isinstance(there.obj, vim.VirtualMachine):
        raise Conflict(f"{what}: its folder has a {type(there.obj).__name__.rpartition('.')[2]} of that name")
    made_by, half = mark_of(there)
    if made_by == run:
        return half
    if not there.get("config.instanceUuid"):
        raise Busy(f"{what}: a VM of that name ({there.obj._moId}) is being made there; look again when that has ended")
    who = f"run {made_by} made it" if made_by else "no run of gpuwright made it"
    raise Conflict(
        f"{what}: its folder has a VM of that name already ({there.obj._moId}, instance UUID "
        f"{there.get('config.instanceUuid')}); {who}; choose another name"
    )


def copies_under_way(si: vim.ServiceInstance, folder: str, template: str) -> tuple[str, ...]:
    """The tasks that make VMs from a template, or without one in a folder: tasks do not tell the name."""
    entity = vim.VirtualMachine(template, si._stub) if template else vim.Folder(folder, si._stub)
    with translated("look for VMs that are being made"):
        return running_tasks(si, entity, "clone" if template else "createvm")


def _deploy(
    si: vim.ServiceInstance,
    request: VmRequest,
    target: VmTarget,
    run: str,
    host_moid: str,
    timeout_s: float,
    what: str,
) -> str:
    """The moid of the VM that the deploy of this or of an earlier try has made."""
    with libraries(si, timeout_s) as opened:
        try:
            return opened.deploy(target, request.name, annotation_mark(run), host_moid)
        except Conflict:
            # The deploy of an earlier try may have ended meanwhile.
            there = find_child(si, target.folder, request.name)
            if there is None or not _half_made(there, run, what):
                raise
            return str(there.obj._moId)


def _finish(
    si: vim.ServiceInstance,
    machine: Any,
    request: VmRequest,
    target: VmTarget,
    run: str,
    user_data: str,
    heartbeat: Callable[[dict[str, Any]], None],
) -> str:
    """What a deploy cannot say: the guest's identity first, everything else and the mark with the call that is last."""
    read = read_properties(si, machine, {vim.VirtualMachine: _SOURCE})[machine._moId]
    wanted = request.customization
    if wanted is not None and wanted.cloud_init is None:
        spec = customization_spec(wanted, len(_adapters(read)))
        task = str(machine.CustomizeVM_Task(spec)._moId)
        end = await_task(si, task, heartbeat, _CUSTOMIZE_S)
        # It is pending when an earlier try got as far as this.
        if end.cause is not None and "CustomizationPending" not in end.error:
            raise end.cause
    return str(machine.ReconfigVM_Task(_copy_config(si, read, request, target, run, user_data))._moId)


def _clone_spec(
    si: vim.ServiceInstance,
    source: Any,
    request: VmRequest,
    target: VmTarget,
    run: str,
    host_moid: str,
    user_data: str,
) -> vim.vm.CloneSpec:
    read = read_properties(si, source, {vim.VirtualMachine: _SOURCE})[source._moId]
    location = vim.vm.RelocateSpec(pool=vim.ResourcePool(target.pool, si._stub))
    if target.datastore:
        location.datastore = vim.Datastore(target.datastore, si._stub)
    if host_moid:
        location.host = vim.HostSystem(host_moid, si._stub)
    config = _copy_config(si, read, request, target, run, user_data)
    spec = vim.vm.CloneSpec(location=location, config=config, powerOn=False, template=False)
    wanted = request.customization
    if wanted is not None and wanted.cloud_init is None:
        added = any(change.operation == "add" for change in config.deviceChange)
        spec.customization = customization_spec(wanted, len(_adapters(read)) + added)
    return spec


def _copy_config(
    si: vim.ServiceInstance, read: Read, request: VmRequest, target: VmTarget, run: str, user_data: str
) -> vim.vm.ConfigSpec:
    """What a copy has otherwise than its source: none of its GPUs, the network and size of the request, the mark."""
    devices = read.get("config.hardware.device") or ()
    spec = _sized(request, run, user_data)
    cores = int(read.get("config.hardware.numCoresPerSocket") or 1)
    if request.cpus % cores:
        spec.numCoresPerSocket = 1
    doomed = {gpu.key for gpu in vm_gpus(devices, read.obj._moId) if gpu.kind != "other"}
    spec.deviceChange = [
        _device.VirtualDeviceSpec(operation="remove", device=device) for device in devices if device.key in doomed
    ]
    if target.network:
        card = next(iter(_adapters(read)), None)
        backing = _network_backing(si, target.network)
        if card is None:
            spec.deviceChange.append(_new_adapter(backing))
        else:
            card.backing = backing
            spec.deviceChange.append(_device.VirtualDeviceSpec(operation="edit", device=card))
    return spec


def _sized(request: VmRequest, run: str, user_data: str) -> vim.vm.ConfigSpec:
    """Size, memory all reserved, and the mark. Hot add does not go with GPU devices."""
    extra = {RUN_KEY: run}
    wanted = request.customization
    if wanted is not None and wanted.cloud_init is not None:
        extra |= guestinfo(wanted, request.name, run, user_data)
    return vim.vm.ConfigSpec(
        numCPUs=request.cpus,
        memoryMB=request.memory_mib,
        memoryReservationLockedToMax=True,
        memoryAllocation=vim.ResourceAllocationInfo(reservation=request.memory_mib),
        cpuHotAddEnabled=False,
        memoryHotAddEnabled=False,
        extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in extra.items()],
    )


def _new_config(
    si: vim.ServiceInstance, request: VmRequest, target: VmTarget, run: str, user_data: str
) -> vim.vm.ConfigSpec:
    """An empty VM: EFI, because GPUs need it before a guest OS is installed; a thin disk and a network adapter."""
    store = read_properties(si, vim.Datastore(target.datastore, si._stub), {vim.Datastore: ["name"]})
    spec = _sized(request, run, user_data)
    spec.name = request.name
    spec.guestId = request.source.guest_id
    spec.version = f"vmx-{target.newest_hardware:02d}"
    spec.firmware = "efi"
    spec.files = vim.vm.FileInfo(vmPathName=f"[{store[target.datastore].get('name')}]")
    spec.deviceChange = []
    if request.source.disk_gib is not None:
        controller = _device.ParaVirtualSCSIController(key=_CONTROLLER, busNumber=0, sharedBus="noSharing")
        disk = _device.VirtualDisk(
            key=_DISK,
            controllerKey=_CONTROLLER,
            unitNumber=0,
            capacityInKB=request.source.disk_gib * 2**20,
            backing=_device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent", thinProvisioned=True),
        )
        spec.deviceChange += [
            _device.VirtualDeviceSpec(operation="add", device=controller),
            _device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk),
        ]
    if target.network:
        spec.deviceChange.append(_new_adapter(_network_backing(si, target.network)))
    return spec


def _adapters(read: Read) -> list[Any]:
    return [each for each in read.get("config.hardware.device") or () if isinstance(each, _device.VirtualEthernetCard)]


def _new_adapter(backing: Any) -> vim.vm.device.VirtualDeviceSpec:
    connectable = _device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=False)
    card = _device.VirtualVmxnet3(key=_NIC, backing=backing, connectable=connectable, addressType="assigned")
    return _device.VirtualDeviceSpec(operation="add", device=card)


def _network_backing(si: vim.ServiceInstance, moid: str) -> Any:
    """Of a standard network by name; of a distributed port group by its key and its switch's UUID."""
    if not moid.startswith("dvportgroup-"):
        network = vim.Network(moid, si._stub)
        name = read_properties(si, network, {vim.Network: ["name"]})[moid].get("name")
        return _device.VirtualEthernetCard.NetworkBackingInfo(deviceName=name, network=network)
    group = vim.dvs.DistributedVirtualPortgroup(moid, si._stub)
    paths = ["key", "config.distributedVirtualSwitch"]
    read = read_properties(si, group, {vim.dvs.DistributedVirtualPortgroup: paths})[moid]
    switch = read.get("config.distributedVirtualSwitch")
    uuid = read_properties(si, switch, {vim.DistributedVirtualSwitch: ["uuid"]})[switch._moId].get("uuid")
    port = vim.dvs.PortConnection(portgroupKey=read.get("key"), switchUuid=uuid)
    return _device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
