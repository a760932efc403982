"""Services of a host: SSH opened for a purpose and closed again, and the X server restarted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from pyVmomi import vim

from contracts.errors import BadRequest, GpuwrightError, NotSupported
from contracts.host import HostRef
from vsphere.faults import translated
from vsphere.properties import read_properties

__all__ = ["SSH", "XORG", "restart_service", "set_service", "ssh_opened"]

SSH = "TSM-SSH"
XORG = "xorg"
"""`vim.host.Service.key`s."""

_log = structlog.get_logger(__name__)


def set_service(si: vim.ServiceInstance, host: HostRef, key: str, running: bool) -> bool:
    """Start or stop a service; False when it is so already. Its start-up policy is left alone.

    Raises `BadRequest` (no such service), `NotSupported` (no service system), `NeedsHuman` (refused), `Unreachable`
    when it is unknown whether it was done: then call again.
    """
    what = f"{'start' if running else 'stop'} service {key} on host {host.name} of {host.vcenter}"
    with translated(what):
        system, service = _find(si, host, key, what)
        if service.running == running:
            return False
        if running:
            system.StartService(key)
        else:
            system.StopService(key)
    return True


def restart_service(si: vim.ServiceInstance, host: HostRef, key: str) -> bool:
    """Restart a running service, or start a stopped one; True always, because each call restarts.

    Below ESXi 7.0 U1 a restart of `xorg` may put a new graphics type into force; from then on vGPU does not need it.
    Raises what `set_service` raises.
    """
    what = f"restart service {key} on host {host.name} of {host.vcenter}"
    with translated(what):
        system, service = _find(si, host, key, what)
        if service.running:
            system.RestartService(key)
        else:
            system.StartService(key)
    return True


@contextmanager
def ssh_opened(si: vim.ServiceInstance, host: HostRef, ran_before: bool | None = None) -> Iterator[bool]:
    """SSH runs within the block and is as it was before after it, whatever happens in it. Gives whether it ran before.

    `ran_before` is what was recorded before the first try: after a crash the service that is found running may be the
    one that the crashed try opened. None takes what is found. When closing fails, the block's own error is raised and
    the failure is logged; without an error in the block, the failure to close is raised.
    """
    opened = set_service(si, host, SSH, True)
    leave = (not opened) if ran_before is None else ran_before
    failed = True
    try:
        yield leave
        failed = False
    finally:
        if not leave:
            try:
                set_service(si, host, SSH, False)
            except GpuwrightError as error:
                _log.error("ssh_left_open", vcenter=host.vcenter, host=host.name, error=str(error))
                if not failed:
                    raise


def _find(si: vim.ServiceInstance, host: HostRef, key: str, what: str) -> tuple[Any, Any]:
    paths = ["config.service", "configManager.serviceSystem"]
    read = read_properties(si, vim.HostSystem(host.moid, si._stub), {vim.HostSystem: paths})[host.moid]
    system, info = read.get("configManager.serviceSystem"), read.get("config.service")
    if system is None or info is None:
        raise NotSupported(f"{what}: vCenter offers no services of this host")
    for service in info.service:
        if service.key == key:
            return system, service
    known = ", ".join(sorted(service.key for service in info.service))
    raise BadRequest(f"{what}: the host has no such service; it has {known or 'none'}")
