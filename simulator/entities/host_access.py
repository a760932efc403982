"""A host's services and its lockdown mode as vSphere shows them."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.core import Call, method, prop
from simulator.entities.host_manager import HostManager
from simulator.laws import services
from simulator.laws.passthrough import require_connected
from simulator.world import Host

__all__ = ["HostAccessManager", "ServiceSystem", "service_info"]


def service_info(host: Host) -> Any:
    return vim.host.ServiceInfo(
        service=[
            vim.host.Service(
                key=service.key,
                label=service.label,
                required=False,
                uninstallable=False,
                running=service.running,
                ruleset=["sshServer"] if service.key == "TSM-SSH" else [],
                policy=service.policy,
            )
            for service in host.services.values()
        ]
    )


class ServiceSystem(HostManager):
    vim_type = vim.host.ServiceSystem
    prefix = "serviceSystem"

    @prop("serviceInfo")
    def service_info(self) -> Any:
        return service_info(self.host)

    @method("StartService")
    def start(self, call: Call, id: str) -> None:
        services.start(self.world, self.host, id)

    @method("StopService")
    def stop(self, call: Call, id: str) -> None:
        services.stop(self.world, self.host, id)

    @method("RestartService")
    def restart(self, call: Call, id: str) -> None:
        services.restart(self.world, self.host, id)

    @method("UpdateServicePolicy")
    def set_policy(self, call: Call, id: str, policy: str) -> None:
        services.set_policy(self.world, self.host, id, policy)

    @method("RefreshServices")
    def refresh(self, call: Call) -> None:
        require_connected(self.world, self.host)


class HostAccessManager(HostManager):
    vim_type = vim.host.HostAccessManager
    prefix = "hostAccessManager"

    @prop("lockdownMode")
    def lockdown_mode(self) -> str:
        return self.host.lockdown_mode

    @method("ChangeLockdownMode")
    def change_lockdown_mode(self, call: Call, mode: str) -> None:
        require_connected(self.world, self.host)
        services.set_lockdown(self.world, self.host, str(mode))

    @method("QueryLockdownExceptions")
    def query_lockdown_exceptions(self, call: Call) -> list[str]:
        require_connected(self.world, self.host)
        return list(self.host.lockdown_exceptions)

    @method("UpdateLockdownExceptions")
    def update_lockdown_exceptions(self, call: Call, users: list[str] | None = None) -> None:
        require_connected(self.world, self.host)
        self.host.lockdown_exceptions = list(users or ())
        self.world.changed(self.host)
