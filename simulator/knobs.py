"""Actions that turn what is usually fixed about hosts and clusters: for tests and for the demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.depots import DEPOTS
from simulator.laws import bios, graphics, passthrough, services, vsan
from simulator.laws.packages import LEVELS
from simulator.world import VmHostRule, World

__all__ = ["knobs"]


def knobs(world: World) -> dict[str, Callable[..., Any]]:
    """The actions; hosts, clusters, VMs and devices are told by name or moid. They raise `KeyError`, `ValueError`."""

    def set_secure_boot(host: str, on: bool) -> None:
        found = world.host_named(host)
        found.secure_boot = on
        world.changed(found)

    def set_acceptance(host: str, level: str) -> None:
        """The level, whatever is installed."""
        if level not in LEVELS:
            raise ValueError(f"{level!r} is no acceptance level: use one of {', '.join(LEVELS)}")
        found = world.host_named(host)
        found.acceptance_level = level
        world.changed(found)

    def set_sriov(host: str, on: bool) -> None:
        """SR-IOV in the BIOS, as if it had been so at the last boot."""
        found = world.host_named(host)
        found.bios_sriov = on
        world.changed(found)

    def set_bios(host: str, attributes: dict[str, str]) -> None:
        """BIOS settings as if they had been so at the last boot."""
        found = world.host_named(host)
        bios.check(found, attributes)
        bios.set_now(found, attributes)
        passthrough.activate(found)
        world.changed(found)

    def set_lockdown(host: str, mode: str, exceptions: list[str] | None = None) -> None:
        found = world.host_named(host)
        if mode not in services.LOCKDOWN_MODES:
            raise ValueError(f"{mode!r} is no lockdown mode: use one of {', '.join(services.LOCKDOWN_MODES)}")
        services.set_lockdown(world, found, mode)
        if exceptions is not None:
            found.lockdown_exceptions = exceptions

    def set_version(host: str, version: str) -> None:
        """The ESXi version, as if the host had been installed with it."""
        if len(version.split(".")) != 3 or not version.replace(".", "").isdigit():
            raise ValueError(f"{version!r} is no ESXi version such as 8.0.3")
        found = world.host_named(host)
        found.version = version
        world.changed(found)

    def set_standby(host: str, mode: str) -> None:
        """DPM's standby: `none`, `entering`, `in` or `exiting`; in standby the host does not answer."""
        if mode not in ("none", "entering", "in", "exiting"):
            raise ValueError(f"{mode!r} is no standby mode: use none, entering, in or exiting")
        found = world.host_named(host)
        found.standby_mode = mode
        found.power_state = "standBy" if mode == "in" else "poweredOn"
        world.changed(found, found.compute)

    def set_forgets_mig(host: str, on: bool = True) -> None:
        world.host_named(host).forgets_mig = on

    def set_vgpu_migration(host: str, on: bool) -> None:
        """Whether running vGPUs can leave the host, as its driver says (`migrateSupported`)."""
        found = world.host_named(host)
        found.vgpu_migration = on
        world.changed(found)

    def set_drs_option(cluster: str, key: str, value: str) -> None:
        found = world.cluster_named(cluster)
        found.drs_options[key] = value
        world.changed(found)

    def set_package(host: str, depot: str | None) -> None:
        """A vGPU Manager is installed and runs, without the time that it takes; none, without a depot's name."""
        found = world.host_named(host)
        if depot is not None and depot not in DEPOTS:
            raise KeyError(f"no depot is named {depot!r}: known are {', '.join(sorted(DEPOTS))}")
        found.vibs = [vib for vib in found.vibs if not vib.provides_vgpu]
        found.vibs += [DEPOTS[depot].vib] if depot else []
        found.running_vibs = frozenset(found.vibs)
        graphics.activate(found)
        world.changed(found)

    def start_resync(cluster: str, seconds: float) -> None:
        vsan.start_resync(world, world.cluster_named(cluster), seconds)

    def set_dpm(cluster: str, on: bool) -> None:
        found = world.cluster_named(cluster)
        found.dpm_enabled = on
        world.changed(found)

    def set_admission_control(cluster: str, on: bool, failover_level: int = 1) -> None:
        found = world.cluster_named(cluster)
        found.admission_control, found.failover_level = on, failover_level
        world.changed(found)

    def add_vm_host_rule(
        cluster: str, name: str, vms: list[str], hosts: list[str], mandatory: bool = True, affine: bool = True
    ) -> None:
        """A DRS rule with groups of its own: these VMs on these hosts, or never on them."""
        found = world.cluster_named(cluster)
        found.vm_groups[f"{name}-vms"] = [world.vm_named(vm) for vm in vms]
        found.host_groups[f"{name}-hosts"] = [world.host_named(host) for host in hosts]
        found.vm_host_rules.append(VmHostRule(name, f"{name}-vms", f"{name}-hosts", mandatory, affine))
        world.changed(found)

    def remove_vm_host_rule(cluster: str, name: str) -> None:
        found = world.cluster_named(cluster)
        left = [rule for rule in found.vm_host_rules if rule.name != name]
        if len(left) == len(found.vm_host_rules):
            raise KeyError(f"{found.name} has no rule {name!r}")
        found.vm_host_rules = left
        world.changed(found)

    def set_fault_tolerant(vm: str, on: bool = True) -> None:
        found = world.vm_named(vm)
        found.fault_tolerant = on
        world.changed(found)

    def set_drs_override(vm: str, behavior: str | None) -> None:
        """`manual`, `partiallyAutomated`, `fullyAutomated`, `disabled`, or none."""
        found = world.vm_named(vm)
        found.drs_override = behavior
        world.changed(found, found.host.compute)

    def set_vcenter_option(key: str, value: bool | int | str) -> None:
        world.registry.settings[key] = value
        world.registry.touch(world.registry.objects["VpxSettings"])

    return {
        action.__name__: action
        for action in (
            set_secure_boot, set_acceptance, set_sriov, set_bios, set_lockdown, set_version, set_standby,
            set_forgets_mig, set_vgpu_migration, set_drs_option, set_package, start_resync, set_dpm,
            set_admission_control, add_vm_host_rule, remove_vm_host_rule, set_fault_tolerant, set_drs_override,
            set_vcenter_option,
        )
    }  # fmt: skip
