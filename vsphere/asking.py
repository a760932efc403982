"""What a host has to be asked for besides its properties. An answer that does not come is named, never fatal."""

from collections.abc import Callable, Mapping
from typing import Any

from pyVmomi import vim

from contracts.errors import GpuwrightError
from contracts.host import HostRef
from vsphere import esxcli
from vsphere.faults import translated
from vsphere.host_state import Asked, several_share
from vsphere.host_vms import runs_vgpu
from vsphere.sessions import content

__all__ = ["ask_host"]

Values = Mapping[str, Any]


def ask_host(
    si: vim.ServiceInstance, ref: HostRef, host: Values, vms: Mapping[str, Values], unread: list[str]
) -> Asked:
    """Kernel settings, storage devices and packages always; the rest only where it can matter.

    Lockdown exceptions in lockdown mode, vSAN resync where vSAN is on, profiles by card where several kinds share,
    `vgpu.hotmigrate.enabled` where a vGPU VM runs. What fails is added to `unread`.
    """

    def attempt(what: str, call: Callable[[], Any]) -> Any:
        try:
            with translated(f"read {what} of host {ref.name} of {ref.vcenter}"):
                return call()
        except GpuwrightError as error:
            unread.append(str(error))
            return None

    def ask(what: str, manager: Any, method: str) -> Any:
        if manager is None:
            unread.append(f"{what}: vCenter offers no such manager for host {ref.name}")
            return None
        return attempt(what, getattr(manager, method))

    executer = attempt("esxcli", lambda: esxcli.find_executer(si, ref))

    def run(*command: str) -> Any:
        if executer is None:
            return None
        return attempt(" ".join(command), lambda: esxcli.run(si, ref, command, executer=executer))

    images, graphics = host.get("configManager.imageConfigManager"), host.get("configManager.graphicsManager")
    locked = str(host.get("config.lockdownMode") or "lockdownDisabled") != "lockdownDisabled"
    access = host.get("configManager.hostAccessManager")
    return Asked(
        # The whole list: older releases answer a question for one unknown setting with an error.
        kernel_rows=run("system", "settings", "kernel", "list"),
        device_rows=run("storage", "core", "device", "list"),
        resync_rows=run("vsan", "debug", "resync", "summary", "get")
        if host.get("config.vsanHostConfig.enabled")
        else None,
        packages=ask("packages", images, "FetchSoftwarePackages"),
        acceptance_level=ask("acceptance level", images, "QueryHostAcceptanceLevel"),
        lockdown_exceptions=(ask("lockdown exceptions", access, "QueryLockdownExceptions") or ()) if locked else (),
        profiles=ask("vGPU profiles by card", graphics, "RetrieveVgpuProfileInfo") if several_share(host) else None,
        vgpu_hot_migrate=attempt("vgpu.hotmigrate.enabled", lambda: _hot_migrate(si)) if runs_vgpu(vms) else None,
    )


def _hot_migrate(si: vim.ServiceInstance) -> bool:
    try:
        options = content(si).setting.QueryOptions("vgpu.hotmigrate.enabled")
    except vim.fault.InvalidName:
        # vCenter knows the option only once somebody has set it; without it vGPU VMs stay.
        return False
    return any(str(option.value).lower() == "true" for option in options)
