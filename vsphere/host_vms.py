"""A host's VMs and what keeps them there: devices, fault tolerance, overrides and rules. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from pyVmomi import vim

from contracts.evacuation import WantedDevice
from contracts.host import AffinityRule, HostVm, VgpuProfile, VmKind

__all__ = ["VM_PATHS", "affinity_rules", "drs_overrides", "held_devices", "host_vms", "runs_vgpu", "wanted_devices"]

VM_PATHS = (
    "name",
    "runtime.powerState",
    "runtime.faultToleranceState",
    "config.template",
    "config.managedBy",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "guest.toolsRunningStatus",
    "runtime.question",
    "datastore",
)

_AGENT_MANAGER = "com.vmware.vim.eam"
Values = Mapping[str, Any]


def host_vms(
    vms: Mapping[str, Values],
    bindings: Iterable[Any],
    *,
    host_moid: str,
    rules: Iterable[AffinityRule] = (),
    overrides: Mapping[str, str] | None = None,
    profiles: Iterable[VgpuProfile] = (),
    hot_migrate: bool | None = None,
) -> tuple[HostVm, ...]:
    """VMs from their properties by moid and the host's `assignableHardwareBinding`.

    A vGPU VM counts as movable only when vCenter allows it (`hot_migrate`) and each of its profiles can migrate.
    """
    bound: dict[str, list[str]] = {}
    for binding in bindings:
        if binding.vm is not None and binding.pciId:
            bound.setdefault(binding.vm._moId, []).append(binding.pciId.lower())
    migratable = {profile.name for profile in profiles if profile.migrate_supported}
    fixed: dict[str, str] = {}
    for rule in rules:
        if rule.mandatory and not set(rule.host_moids) - {host_moid}:
            fixed.update((moid, f"rule {rule.name!r} keeps it on this host") for moid in rule.vm_moids)
    made = []
    for moid, vm in sorted(vms.items()):
        backings = _backings(vm)
        vgpus = tuple(str(backing.vgpu) for backing in backings if isinstance(backing, _PASSTHROUGH.VmiopBackingInfo))
        static = any(isinstance(backing, _PASSTHROUGH.DeviceBackingInfo) for backing in backings)
        dynamic = any(isinstance(backing, _PASSTHROUGH.DynamicBackingInfo) for backing in backings)
        tolerant = str(vm.get("runtime.faultToleranceState") or "notConfigured") != "notConfigured"
        reasons = [
            "it has a DirectPath I/O device" if static else "",
            "it has a Dynamic DirectPath I/O device" if dynamic else "",
            _vgpu_stays(vgpus, migratable, hot_migrate),
            "it is fault tolerant" if tolerant else "",
            fixed.get(moid, ""),
        ]
        managed_by, question = vm.get("config.managedBy"), vm.get("runtime.question")
        powered_on = str(vm.get("runtime.powerState")) == "poweredOn"
        held = {*bound.get(moid, ()), *(held_devices(vm) if powered_on else ())}
        made.append(
            HostVm(
                moid=moid,
                name=str(vm.get("name", moid)),
                powered_on=powered_on,
                passthrough=tuple(sorted(held)),
                kind=_kind(vm),
                managed_by=managed_by.extensionKey if managed_by is not None else "",
                fault_tolerant=tolerant,
                memory_mib=int(vm.get("config.hardware.memoryMB") or 0),
                static_passthrough=static,
                dynamic_passthrough=dynamic,
                vgpu_profiles=vgpus,
                drs_override=(overrides or {}).get(moid),
                can_move=not any(reasons),
                stays_because="; ".join(filter(None, reasons)),
                tools_running=str(vm.get("guest.toolsRunningStatus")) == "guestToolsRunning",
                question=question.text if question is not None else "",
                wants=wanted_devices(vm),
                datastores=tuple(sorted(store._moId for store in vm.get("datastore") or ())),
            )
        )
    return tuple(made)


def runs_vgpu(vms: Mapping[str, Values]) -> bool:
    """A powered-on VM has a vGPU."""
    return any(
        str(vm.get("runtime.powerState")) == "poweredOn"
        and any(isinstance(backing, _PASSTHROUGH.VmiopBackingInfo) for backing in _backings(vm))
        for vm in vms.values()
    )


def affinity_rules(config: Any, host_moids: Iterable[str], vm_moids: Iterable[str]) -> tuple[AffinityRule, ...]:
    """The enabled VM-host rules of a `cluster.ConfigInfoEx` about these VMs; `host_moids` are the cluster's hosts."""
    groups = {group.name: group for group in (config.group if config is not None else None) or ()}
    here, hosts = set(vm_moids), list(host_moids)
    found = []
    for rule in (config.rule if config is not None else None) or ():
        if not isinstance(rule, vim.cluster.VmHostRuleInfo) or not rule.enabled:
            continue
        vms = [vm._moId for vm in getattr(groups.get(rule.vmGroupName), "vm", None) or ()]
        if not here.intersection(vms):
            continue
        affine, anti = (
            {host._moId for host in getattr(groups.get(name), "host", None) or ()}
            for name in (rule.affineHostGroupName, rule.antiAffineHostGroupName)
        )
        allowed = [moid for moid in hosts if (not rule.affineHostGroupName or moid in affine) and moid not in anti]
        found.append(
            AffinityRule(
                name=rule.name or "", mandatory=bool(rule.mandatory), vm_moids=tuple(vms), host_moids=tuple(allowed)
            )
        )
    return tuple(found)


def drs_overrides(config: Any) -> dict[str, str]:
    """VM moid → how DRS treats it otherwise: `disabled`, `manual`, `partiallyAutomated`; full automation is none."""
    found = {}
    for entry in (config.drsVmConfig if config is not None else None) or ():
        behavior = "disabled" if entry.enabled is False else str(entry.behavior or "fullyAutomated")
        if behavior != "fullyAutomated":
            found[str(entry.key._moId)] = behavior
    return found


_PASSTHROUGH = vim.vm.device.VirtualPCIPassthrough


def held_devices(vm: Values) -> set[str]:
    """SBDFs of the whole devices that the VM holds while it is on.

    By its own settings, because `assignableHardwareBinding` names PCI addresses (`pciId`) from 9.1 on only.
    """
    held = set()
    for backing in _backings(vm):
        if isinstance(backing, _PASSTHROUGH.DynamicBackingInfo):
            held.add(backing.assignedId)
        elif isinstance(backing, _PASSTHROUGH.DeviceBackingInfo):
            held.add(backing.id)
    return {sbdf.lower() for sbdf in held if sbdf}


def wanted_devices(vm: Values) -> tuple[WantedDevice, ...]:
    """The VM's Dynamic DirectPath I/O devices."""
    return tuple(
        WantedDevice(
            allowed=tuple(
                f"{device.vendorId & 0xFFFF:04x}:{device.deviceId & 0xFFFF:04x}" for device in backing.allowedDevice
            ),
            label=backing.customLabel or "",
        )
        for backing in _backings(vm)
        if isinstance(backing, _PASSTHROUGH.DynamicBackingInfo)
    )


def _backings(vm: Values) -> list[Any]:
    return [device.backing for device in vm.get("config.hardware.device") or () if isinstance(device, _PASSTHROUGH)]


def _vgpu_stays(vgpus: tuple[str, ...], migratable: set[str], hot_migrate: bool | None) -> str:
    if not vgpus:
        return ""
    if not hot_migrate:
        return "it has a vGPU, and vgpu.hotmigrate.enabled is " + ("unknown" if hot_migrate is None else "false")
    fixed = sorted(set(vgpus) - migratable)
    return f"its vGPU profile {', '.join(fixed)} does not support vMotion" if fixed else ""


def _kind(vm: Values) -> VmKind:
    if vm.get("config.template"):
        return VmKind.TEMPLATE
    managed_by = vm.get("config.managedBy")
    if managed_by is None or not managed_by.extensionKey:
        return VmKind.WORKLOAD
    if managed_by.type == "cluster-agent" or str(vm.get("name", "")).startswith("vCLS"):
        return VmKind.VCLS
    return VmKind.AGENT if managed_by.extensionKey == _AGENT_MANAGER else VmKind.WORKLOAD
