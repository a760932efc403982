"""A powered-off VM is changed: its settings, its GPU devices, its hardware version, by one call each, sent once.

Each change looks first and is left out when it is made already. vCenter refuses one made on older news than
`change_version`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, Conflict, NotSupported
from contracts.fleet import VmGpu
from contracts.machine import VmRef
from vsphere.faults import translated
from vsphere.fleet import vm_gpus
from vsphere.properties import Read, knows, read_properties
from vsphere.sessions import api_version
from vsphere.tasks import running_task
from vsphere.vm_target import hardware_version

__all__ = ["check_ours", "configure_vm", "read_same", "set_gpus", "upgrade_hardware"]

LOCKED = "memoryReservationLockedToMax"
CPUS, MEMORY = "numCPUs", "memoryMB"
_ALWAYS = ("config.changeVersion", "config.instanceUuid", "config.managedBy", "config.template", "runtime.powerState")
_Passthrough = vim.vm.device.VirtualPCIPassthrough


def configure_vm(si: vim.ServiceInstance, ref: VmRef, params: Mapping[str, str], change_version: str) -> str | None:
    """Write settings: `memoryReservationLockedToMax`, `numCPUs`, `memoryMB`, and extra configuration by dotted keys.

    Locking the memory writes the reservation too, because it is vSphere's client that does so otherwise. Returns the
    task, or None when all is as wanted. Raises `BadRequest` for another setting, `Conflict` for a VM that is on, that
    somebody owns or that was changed since `change_version`.
    """
    what = f"configure VM {ref.name} of {ref.vcenter}"
    unknown = [key for key in params if "." not in key and key not in (LOCKED, CPUS, MEMORY)]
    if unknown:
        raise BadRequest(
            f"{what}: no such setting: {', '.join(unknown)}; known: {LOCKED}, {CPUS}, {MEMORY}, dotted keys"
        )
    with translated(what):
        paths = [
            "config.extraConfig",
            "config.hardware.memoryMB",
            "config.hardware.numCPU",
            "config.memoryAllocation.reservation",
            "config.memoryReservationLockedToMax",
        ]
        machine, read = read_same(si, ref, paths, what)
        spec = _settings(read, params)
        if spec is None:
            return None
        _check_changeable(read, what)
        return _reconfigure(si, machine, read, spec, change_version)


def _reconfigure(si: vim.ServiceInstance, machine: Any, read: Read, spec: Any, change_version: str) -> str:
    """Start the change, unless one goes on: that may be ours whose answer was lost, and the next look finds out.

    It is bound to the version that was read, so that one that ended meanwhile is never made a second time.
    """
    if (running := running_task(si, machine, "reconfigure")) is not None:
        return running
    spec.changeVersion = change_version or read.get("config.changeVersion")
    return str(machine.ReconfigVM_Task(spec)._moId)


def _settings(read: Read, params: Mapping[str, str]) -> vim.vm.ConfigSpec | None:
    spec, changed = vim.vm.ConfigSpec(), False
    options = {option.key: str(option.value) for option in read.get("config.extraConfig") or ()}
    # vSphere reads keys whatever their letter case: one that is there keeps its spelling.
    spelled = {key.casefold(): key for key in options}
    extra = {spelled.get(key.casefold(), key): value for key, value in params.items() if "." in key}
    extra = {key: value for key, value in extra.items() if options.get(key, "") != value}
    if extra:
        spec.extraConfig = [vim.option.OptionValue(key=key, value=value) for key, value in sorted(extra.items())]
        changed = True
    has = int(read.get("config.hardware.memoryMB") or 0)
    memory = int(params.get(MEMORY, has))
    if memory != has:
        spec.memoryMB, changed = memory, True
    if CPUS in params and int(params[CPUS]) != read.get("config.hardware.numCPU"):
        spec.numCPUs, changed = int(params[CPUS]), True
    locked = params.get(LOCKED, "").upper() == "TRUE"
    reserved = int(read.get("config.memoryAllocation.reservation") or 0)
    if locked and not (read.get("config.memoryReservationLockedToMax") and reserved >= memory):
        spec.memoryReservationLockedToMax, changed = True, True
        spec.memoryAllocation = vim.ResourceAllocationInfo(reservation=memory)
    return spec if changed else None


def set_gpus(si: vim.ServiceInstance, ref: VmRef, devices: Sequence[VmGpu], change_version: str) -> str | None:
    """Give the VM these GPU devices and no other; devices that are right and all other kinds are left alone.

    Returns the task, or None when it has them. Raises `BadRequest` for a static device that its host does not offer,
    `NotSupported` for Dynamic DirectPath I/O below API 7.0, and what `configure_vm` raises.
    """
    what = f"set the GPUs of VM {ref.name} of {ref.vcenter}"
    with translated(what):
        machine, read = read_same(si, ref, ["config.hardware.device", "environmentBrowser", "runtime.host"], what)
        hardware = read.get("config.hardware.device") or ()
        wanted = [_identity(each) for each in devices]
        doomed = []
        for gpu in vm_gpus(hardware, ref.moid):
            if gpu.kind == "other":
                continue
            if _identity(gpu) in wanted:
                wanted.remove(_identity(gpu))
            else:
                doomed.append(gpu.key)
        missing = []
        for each in devices:
            if _identity(each) in wanted:
                wanted.remove(_identity(each))
                missing.append(each)
        if not doomed and not missing:
            return None
        _check_changeable(read, what)
        offered = _offered(read) if any(each.kind == "static" for each in missing) else {}
        changes = [
            vim.vm.device.VirtualDeviceSpec(operation="remove", device=device)
            for device in hardware
            if device.key in doomed
        ]
        for index, each in enumerate(missing):
            device = _Passthrough(key=-200 - index, backing=_backing(si, each, offered, what))
            changes.append(vim.vm.device.VirtualDeviceSpec(operation="add", device=device))
        return _reconfigure(si, machine, read, vim.vm.ConfigSpec(deviceChange=changes), change_version)


def _identity(gpu: VmGpu) -> tuple[str, tuple[str, ...], str, str, str]:
    return gpu.kind, tuple(sorted(gpu.allowed)), gpu.label, gpu.sbdf.lower(), gpu.profile


def _offered(read: Read) -> dict[str, Any]:
    """The devices in passthrough of the VM's host, by address."""
    target = read.get("environmentBrowser").QueryConfigTarget(read.get("runtime.host"))
    return {each.pciDevice.id.lower(): each for each in (target.pciPassthrough if target is not None else None) or ()}


def _backing(si: vim.ServiceInstance, gpu: VmGpu, offered: Mapping[str, Any], what: str) -> Any:
    if gpu.kind == "vgpu":
        return _Passthrough.VmiopBackingInfo(vgpu=gpu.profile)
    if gpu.kind == "dynamic":
        if not knows(si, _Passthrough.DynamicBackingInfo, "allowedDevice"):
            raise NotSupported(f"{what}: Dynamic DirectPath I/O needs vSphere API 7.0, this one is {api_version(si)}")
        allowed = [
            _Passthrough.AllowedDevice(vendorId=int(vendor, 16), deviceId=int(device, 16))
            for vendor, _, device in (pair.partition(":") for pair in gpu.allowed)
        ]
        return _Passthrough.DynamicBackingInfo(deviceName="", allowedDevice=allowed, customLabel=gpu.label or None)
    if gpu.kind != "static":
        raise BadRequest(f"{what}: gpuwright adds no devices of kind {gpu.kind}")
    found = offered.get(gpu.sbdf.lower())
    if found is None:
        known = ", ".join(sorted(offered)) or "none"
        raise BadRequest(
            f"{what}: its host offers no device {gpu.sbdf} for passthrough; it offers {known}. Prepare the host, or "
            "make the VM on the host that has the device"
        )
    return _Passthrough.DeviceBackingInfo(
        id=found.pciDevice.id,
        deviceId=f"{found.pciDevice.deviceId & 0xFFFF:x}",
        systemId=found.systemId,
        vendorId=found.pciDevice.vendorId,
        deviceName=found.pciDevice.deviceName or "",
    )


def upgrade_hardware(si: vim.ServiceInstance, ref: VmRef, version: str) -> str | None:
    """Raise the hardware version to `version` (`vmx-17`), for which there is no way back; None when it is as new.

    Returns the task, a running one's included. Raises `BadRequest` for what is no version, and what `configure_vm`
    raises.
    """
    what = f"upgrade the hardware version of VM {ref.name} of {ref.vcenter}"
    if not hardware_version(version):
        raise BadRequest(f"{what}: {version!r} is no hardware version; write it like 'vmx-17'")
    with translated(what):
        machine, read = read_same(si, ref, ["config.version"], what)
        if hardware_version(read.get("config.version")) >= hardware_version(version):
            return None
        _check_changeable(read, what)
        if (running := running_task(si, machine, "upgrade")) is not None:
            return running
        return str(machine.UpgradeVM_Task(version)._moId)


def read_same(si: vim.ServiceInstance, ref: VmRef, paths: Sequence[str], what: str) -> tuple[Any, Read]:
    """The VM with these properties and those that `check_ours` needs.

    Raises `BadRequest` when it is gone, `Conflict` when another VM has its moid.
    """
    machine = vim.VirtualMachine(ref.moid, si._stub)
    wanted = [*paths, *_ALWAYS]
    try:
        read = read_properties(si, machine, {vim.VirtualMachine: wanted})[ref.moid]
    except vmodl.fault.ManagedObjectNotFound as fault:
        raise BadRequest(f"{what}: it ({ref.moid}) is no longer in the inventory") from fault
    uuid = read.get("config.instanceUuid")
    if ref.instance_uuid and uuid is not None and uuid != ref.instance_uuid:
        raise Conflict(f"{what}: {ref.moid} is another VM now (instance UUID {uuid}); look again")
    return machine, read


def check_ours(read: Read, what: str) -> None:
    """Raise `Conflict` for a VM that an extension owns, and for a template."""
    owner = read.get("config.managedBy")
    if owner is not None and owner.extensionKey:
        raise Conflict(f"{what}: the extension {owner.extensionKey} owns it; use that product's own tools")
    if read.get("config.template"):
        raise Conflict(f"{what}: it is a template")


def _check_changeable(read: Read, what: str) -> None:
    check_ours(read, what)
    if read.get("runtime.powerState") != "poweredOff":
        raise Conflict(f"{what}: it is {read.get('runtime.powerState')}, and only a VM that is off is changed")
