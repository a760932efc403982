"""Who a VM is and how it is: found by name or by the mark of the run that made it, and read with its GPUs' proof."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pyVmomi import vim, vmodl

from contracts.errors import BadRequest, GpuwrightError
from contracts.fleet import FleetGpu
from contracts.host import HostRef
from contracts.machine import RUN_KEY, VmRef, VmState
from vsphere import esxcli
from vsphere.faults import translated
from vsphere.fleet import vm_gpus
from vsphere.host_state import pci_functions
from vsphere.names import Named, inventory_path, pick
from vsphere.properties import Read, read_below, read_properties
from vsphere.sessions import content
from vsphere.vm_target import hardware_version

__all__ = ["annotation_mark", "find_child", "find_made_by", "find_vm", "mark_of", "read_vm", "ref_of"]

_VM_PATHS = (
    "name",
    "config.instanceUuid",
    "config.annotation",
    "config.extraConfig",
    "config.template",
    "config.managedBy",
    "config.firmware",
    "config.version",
    "config.guestId",
    "config.changeVersion",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "config.memoryAllocation.reservation",
    "config.memoryReservationLockedToMax",
    "runtime.host",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.bootTime",
    "runtime.question",
    "guest.toolsRunningStatus",
    "guest.guestOperationsReady",
    "guest.guestFamily",
    "guest.ipAddress",
    "guest.hostName",
)
_HOST_PATHS = (
    "name",
    "parent",
    "runtime.connectionState",
    "config.graphicsInfo",
    "config.pciPassthruInfo",
    "config.assignableHardwareBinding",
    "configManager.imageConfigManager",
    "hardware.pciDevice",
)
_KEPT_KEYS = ("pcipassthru.", "gpuwright.")
_NAME_PATHS: dict[Any, Sequence[str]] = {
    vim.VirtualMachine: ["name", "parent", "config.instanceUuid"],
    vim.Folder: ["name", "parent"],
    vim.Datacenter: ["name", "parent"],
}
_WHOLE = ("static", "dynamic")


def find_vm(si: vim.ServiceInstance, vcenter: str, wanted: str, folder: str | None = None) -> VmRef:
    """A VM by instance UUID, moid, name, or name with folders before it; `folder` narrows names.

    Raises `BadRequest` with close matches when there is none, or more than one.
    """
    with translated(f"find VM {wanted} on {vcenter}"):
        if _is_uuid(wanted):
            found = list(content(si).searchIndex.FindAllByUuid(None, wanted, True, True) or [])
            if len(found) == 1:
                return ref_of(vcenter, _identity(si, found[0]))
        tree = read_below(si, content(si).rootFolder, _NAME_PATHS)
    vms = {moid: read for moid, read in sorted(tree.items()) if isinstance(read.obj, vim.VirtualMachine)}
    problems: list[str] = []
    named = [Named(moid, inventory_path(moid, tree)) for moid in vms]
    name = f"{folder.strip('/')}/{wanted}" if folder is not None and wanted not in vms else wanted
    chosen = pick("VM", name, named, f"vCenter {vcenter}", problems)
    if chosen is None:
        raise BadRequest("; ".join(problems))
    return ref_of(vcenter, vms[chosen.moid])


def _is_uuid(wanted: str) -> bool:
    try:
        UUID(wanted)
    except ValueError:
        return False
    return True


def _identity(si: vim.ServiceInstance, machine: Any) -> Read:
    paths: dict[Any, Sequence[str]] = {vim.VirtualMachine: ["name", "config.instanceUuid"]}
    return read_properties(si, machine, paths)[machine._moId]


def ref_of(vcenter: str, read: Read) -> VmRef:
    """The reference of a VM whose name and instance UUID were read."""
    uuid = str(read.get("config.instanceUuid") or "")
    return VmRef(vcenter=vcenter, instance_uuid=uuid, moid=read.obj._moId, name=str(read.get("name", "")))


def annotation_mark(run: str) -> str:
    """What a deploy from a content library writes into the annotation: it cannot write extra configuration."""
    return f"{RUN_KEY}={run}"


def mark_of(read: Read) -> tuple[str, bool]:
    """The run that made a VM, and whether it is half made, from its `config.extraConfig` and `config.annotation`."""
    options = {option.key: str(option.value) for option in read.get("config.extraConfig") or ()}
    if marked := options.get(RUN_KEY):
        return marked, False
    for line in str(read.get("config.annotation") or "").splitlines():
        if line.startswith(f"{RUN_KEY}="):
            return line.removeprefix(f"{RUN_KEY}="), True
    return "", False


def find_child(si: vim.ServiceInstance, folder_moid: str, name: str) -> Read | None:
    """What in the folder has that name: its name, instance UUID, annotation and extra configuration."""
    found = content(si).searchIndex.FindChild(vim.Folder(folder_moid, si._stub), name)
    if found is None:
        return None
    paths = ["name"]
    if isinstance(found, vim.VirtualMachine):
        paths += ["config.instanceUuid", "config.annotation", "config.extraConfig"]
    try:
        return read_properties(si, found, {type(found): paths})[found._moId]
    except vmodl.fault.ManagedObjectNotFound:
        # It went between the two calls.
        return None


def find_made_by(si: vim.ServiceInstance, vcenter: str, run: str, folder_moid: str, name: str) -> VmRef | None:
    """The VM of that name in the folder if this run made it, half made ones too: what a lost answer left behind."""
    with translated(f"look for VM {name} of run {run} on {vcenter}"):
        read = find_child(si, folder_moid, name)
    if read is None or not isinstance(read.obj, vim.VirtualMachine) or mark_of(read)[0] != run:
        return None
    return ref_of(vcenter, read)


def read_vm(si: vim.ServiceInstance, ref: VmRef) -> VmState | None:
    """The VM as it is, and what its host says about its GPUs; None when it is gone.

    A VM with that moid and another instance UUID is another VM. What could not be read is named in `unread`.
    """
    with translated(f"read VM {ref.name} of {ref.vcenter}"):
        machine = vim.VirtualMachine(ref.moid, si._stub)
        try:
            read = read_properties(si, machine, {vim.VirtualMachine: _VM_PATHS})[ref.moid]
        except vmodl.fault.ManagedObjectNotFound:
            return None
        if ref.instance_uuid and read.get("config.instanceUuid") not in (None, ref.instance_uuid):
            return None
        host = _host(si, read)
    unread = [f"{each.obj._moId} {path}: {why}" for each in (read, host) if each for path, why in each.missing.items()]
    proof = _proof(si, ref, read, host, unread)
    made_by, half_made = mark_of(read)
    managed_by, question = read.get("config.managedBy"), read.get("runtime.question")
    memory = int(read.get("config.hardware.memoryMB") or 0)
    reserved = int(read.get("config.memoryAllocation.reservation") or 0)
    here, cluster = read.get("runtime.host"), host.get("parent") if host is not None else None
    return VmState(
        ref=VmRef(
            vcenter=ref.vcenter,
            instance_uuid=str(read.get("config.instanceUuid") or ref.instance_uuid),
            moid=ref.moid,
            name=str(read.get("name", ref.name)),
        ),
        made_by=made_by,
        half_made=half_made,
        power_state=str(read.get("runtime.powerState") or "poweredOff"),
        connection_state=str(read.get("runtime.connectionState") or "connected"),
        template=bool(read.get("config.template")),
        managed_by=managed_by.extensionKey if managed_by is not None else "",
        host_moid=here._moId if here is not None else "",
        host_name=str(host.get("name", "")) if host is not None else "",
        cluster_moid=cluster._moId if isinstance(cluster, vim.ClusterComputeResource) else "",
        firmware=str(read.get("config.firmware") or "bios"),
        hardware_version=hardware_version(read.get("config.version")),
        guest_id=str(read.get("config.guestId") or ""),
        cpus=int(read.get("config.hardware.numCPU") or 0),
        memory_mib=memory,
        memory_reserved_all=bool(read.get("config.memoryReservationLockedToMax")) or 0 < memory <= reserved,
        extra_config={
            option.key: str(option.value)
            for option in read.get("config.extraConfig") or ()
            if option.key.casefold().startswith(_KEPT_KEYS)
        },
        gpus=vm_gpus(read.get("config.hardware.device") or (), ref.moid, proof.cards),
        change_version=str(read.get("config.changeVersion") or ""),
        boot_time=read.get("runtime.bootTime"),
        question=str(question.text) if question is not None else "",
        tools_running=read.get("guest.toolsRunningStatus") == "guestToolsRunning",
        guest_operations_ready=bool(read.get("guest.guestOperationsReady")),
        guest_family=str(read.get("guest.guestFamily") or ""),
        ip_address=str(read.get("guest.ipAddress") or ""),
        host_name_in_guest=str(read.get("guest.hostName") or ""),
        assigned_gpus=proof.assigned,
        assigned_labels=proof.labels,
        host_vgpu_manager=proof.manager,
        unread=tuple(unread),
    )


def _host(si: vim.ServiceInstance, vm: Read) -> Read | None:
    """The VM's host, with what it says about devices where the VM has GPUs."""
    reference = vm.get("runtime.host")
    if reference is None:
        return None
    paths = _HOST_PATHS if vm_gpus(vm.get("config.hardware.device") or (), vm.obj._moId) else ("name", "parent")
    try:
        return read_properties(si, reference, {vim.HostSystem: paths})[reference._moId]
    except vmodl.fault.ManagedObjectNotFound:
        # It was removed between the two reads.
        return None


class _Proof:
    """What a host says about one VM's GPUs."""

    def __init__(self) -> None:
        self.cards: tuple[FleetGpu, ...] = ()
        self.assigned: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.manager = ""


def _proof(si: vim.ServiceInstance, ref: VmRef, vm: Read, host: Read | None, unread: list[str]) -> _Proof:
    proof = _Proof()
    on = str(vm.get("runtime.powerState")) == "poweredOn"
    gpus = vm_gpus(vm.get("config.hardware.device") or (), ref.moid)
    if host is None or not gpus:
        return proof
    shared = any(gpu.kind == "vgpu" for gpu in gpus)
    connected = str(host.get("runtime.connectionState")) == "connected"
    host_ref = HostRef(vcenter=ref.vcenter, key=host.obj._moId, moid=host.obj._moId, name=str(host.get("name", "")))
    if shared and connected:
        proof.manager = _manager(host_ref, host, unread)
    if not on:
        return proof
    functions = {function.sbdf: function for function in pci_functions(host.values, {})}
    bound = _bound(host.values, ref.moid)
    # Whole devices by the VM's own settings too: bindings name PCI addresses from 9.1 on only.
    bound |= {gpu.assigned for gpu in gpus if gpu.kind == "dynamic" and gpu.assigned}
    bound |= {gpu.sbdf for gpu in gpus if gpu.kind == "static" and gpu.sbdf in functions}
    if connected and len(bound) < (1 if shared else len([gpu for gpu in gpus if gpu.kind in _WHOLE])):
        bound |= _listed(si, host_ref, str(vm.get("name", ref.name)), functions, unread)
    proof.cards = tuple(
        FleetGpu(
            sbdf=sbdf,
            vendor_device=functions[sbdf].vendor_device,
            name=functions[sbdf].name,
            passthru_active=functions[sbdf].passthru_active,
            vm_moids=(ref.moid,),
        )
        for sbdf in sorted(bound & set(functions))
    )
    unread += [f"{sbdf} is bound to it, and {host_ref.name} lists no such device" for sbdf in bound - set(functions)]
    proof.assigned = {sbdf: functions[sbdf].vendor_device for sbdf in sorted(bound & set(functions))}
    proof.labels = {
        sbdf: functions[sbdf].hardware_label or ""
        for sbdf in sorted(bound & set(functions))
        if functions[sbdf].passthru_active
    }
    return proof


def _bound(host: Mapping[str, Any], moid: str) -> set[str]:
    """By `assignableHardwareBinding` and `graphicsInfo`."""
    bindings = host.get("config.assignableHardwareBinding") or ()
    found = {each.pciId.lower() for each in bindings if each.vm is not None and each.vm._moId == moid and each.pciId}
    cards = host.get("config.graphicsInfo") or ()
    return found | {card.pciId.lower() for card in cards if moid in {vm._moId for vm in card.vm or ()}}


def _listed(
    si: vim.ServiceInstance, host: HostRef, name: str, functions: Mapping[str, Any], unread: list[str]
) -> set[str]:
    """By `esxcli graphics vm list`, whose fields differ between releases: the addresses in the VM's row."""
    try:
        rows = esxcli.run(si, host, ["graphics", "vm", "list"])
    except GpuwrightError as error:
        unread.append(f"graphics VM list: {error}")
        return set()
    mine = [" ".join(row.values()).lower() for row in rows if name in row.values()]
    return {sbdf for sbdf in functions if any(sbdf in said for said in mine)}


def _manager(host: HostRef, read: Read, unread: list[str]) -> str:
    """The version of the vGPU Manager among the host's packages."""
    manager = read.get("configManager.imageConfigManager")
    if manager is None:
        unread.append(f"packages: vCenter offers no such manager for host {host.name}")
        return ""
    try:
        with translated(f"read packages of host {host.name} of {host.vcenter}"):
            packages = manager.FetchSoftwarePackages() or ()
    except GpuwrightError as error:
        unread.append(str(error))
        return ""
    names = [each for each in packages if any(part in each.name.casefold() for part in ("vgpu", "aie"))]
    return next((str(each.version) for each in names if each.vendor.casefold().startswith(("nvd", "nvidia"))), "")
