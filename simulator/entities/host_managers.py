"""The managers below a host's `configManager` that clients call."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, method, prop
from simulator.entities import host_graphics
from simulator.entities import host_hardware as hardware
from simulator.entities.host_access import HostAccessManager, ServiceSystem
from simulator.entities.host_manager import HostManager
from simulator.entities.host_software import ImageConfigManager, PatchManager
from simulator.hardware import default_advanced_settings
from simulator.laws import graphics, passthrough
from simulator.laws.passthrough import require_connected
from simulator.world import Host, World

__all__ = ["host_managers"]


class PciPassthruSystem(HostManager):
    vim_type = vim.host.PciPassthruSystem
    prefix = "pciPassthruSystem"

    @prop("pciPassthruInfo")
    def pci_passthru_info(self) -> list[Any]:
        return host_graphics.passthru_info(self.host)

    @method("UpdatePassthruConfig")
    def update_passthru_config(self, call: Call, config: list[Any]) -> None:
        passthrough.update(self.world, self.host, config, call.api_version)

    @method("Refresh")
    def refresh(self, call: Call) -> None:
        passthrough.refresh(self.world, self.host)


class GraphicsManager(HostManager):
    vim_type = vim.host.GraphicsManager
    prefix = "graphicsManager"

    @prop("graphicsInfo")
    def graphics_info(self) -> list[Any]:
        return host_graphics.graphics_info(self.world, self.host)

    @prop("graphicsConfig")
    def graphics_config(self) -> Any:
        return host_graphics.graphics_config(self.host)

    @prop("sharedPassthruGpuTypes")
    def shared_passthru_gpu_types(self) -> list[str]:
        return host_graphics.offered_profiles(self.host)

    @prop("sharedGpuCapabilities")
    def shared_gpu_capabilities(self) -> list[Any]:
        return host_graphics.profile_capabilities(self.host)

    @method("UpdateGraphicsConfig")
    def update_graphics_config(self, call: Call, config: Any) -> None:
        graphics.update(self.world, self.host, config)

    @method("RefreshGraphicsManager")
    def refresh(self, call: Call) -> None:
        require_connected(self.world, self.host)

    @method("IsSharedGraphicsActive")
    def is_shared_graphics_active(self, call: Call) -> bool:
        return any(card.active_type == "shared" for card in self.host.gpus.values())

    @method("RetrieveVgpuProfileInfo")
    def retrieve_vgpu_profile_info(self, call: Call) -> list[Any]:
        return host_graphics.profile_info(self.host)


class AdvancedOptions(HostManager):
    vim_type = vim.option.OptionManager
    prefix = "EsxHostAdvSettings"

    @prop("setting")
    def setting(self) -> list[Any]:
        settings = default_advanced_settings() | self.host.advanced
        return [vim.option.OptionValue(key=key, value=value) for key, value in sorted(settings.items())]

    @method("QueryOptions")
    def query_options(self, call: Call, name: str | None = None) -> list[Any]:
        """Options by name, or by prefix when the name ends with a dot."""
        found = [
            option
            for option in self.setting()
            if not name or option.key == name or (name.endswith(".") and option.key.startswith(name))
        ]
        if not found:
            raise vim.fault.InvalidName(name=name, msg=f"{self.host.name} has no advanced setting {name!r}.")
        return found

    @method("UpdateOptions")
    def update_options(self, call: Call, changedValue: list[Any]) -> None:
        known = default_advanced_settings()
        for option in changedValue:
            if option.key not in known:
                raise vim.fault.InvalidName(name=option.key, msg=f"{self.host.name} has no setting {option.key!r}.")
            if type(option.value) is not type(known[option.key]) and not isinstance(option.value, int):
                raise vmodl.fault.InvalidArgument(invalidProperty=option.key, msg=f"{option.key}: wrong type of value.")
        self.host.advanced.update({option.key: option.value for option in changedValue})
        self.world.changed(self.host)


class StorageSystem(HostManager):
    vim_type = vim.host.StorageSystem
    prefix = "storageSystem"

    @prop("storageDeviceInfo")
    def storage_device_info(self) -> Any:
        return hardware.storage_device_info(self.host)


class NetworkSystem(HostManager):
    vim_type = vim.host.NetworkSystem
    prefix = "networkSystem"

    @prop("networkInfo")
    def network_info(self) -> Any:
        return hardware.network_info(self.host)


_KINDS = (
    PciPassthruSystem, GraphicsManager, ImageConfigManager, PatchManager, AdvancedOptions, StorageSystem,
    NetworkSystem, ServiceSystem, HostAccessManager,
)  # fmt: skip


def host_managers(world: World, host: Host) -> list[Managed]:
    """All managers of a host."""
    return [kind(world, host) for kind in _KINDS]
